"""What changes from step to step of a training, as a pure function of its settings."""

from __future__ import annotations

from sparton.optim.schedules import (
    averaging_momentum,
    halving,
    halving_momentum,
    ramp,
    scaled_rate,
    warmup_cosine,
)
from sparton.ucluster.settings import TrainSettings
from sparton.ucluster.step import Schedule


def schedule_at(settings: TrainSettings, workers: int, epoch: int, step: int, steps: int, skipped: int = 0) -> Schedule:
    """Return the schedule of a step.

    Parameters
    ----------
    settings
        The schedules' kinds and limits.
    workers
        Size of the world; with ``settings.batch_size`` it gives the jets that a step sees.
    epoch, step
        Both from 0.
    steps
        Steps of every epoch.
    skipped
        Earlier steps that changed nothing: moving averages do not count them.
    """
    before = epoch * steps + step
    samples = before * workers * settings.batch_size
    if settings.momentum_schedule == "halving":
        momentum = halving_momentum(samples, settings.halving_samples, settings.momentum_max)
    else:
        momentum = averaging_momentum(before - skipped, settings.momentum_max)
    if settings.rate_schedule == "halving":
        rate = _halving(settings, workers, samples)
    else:
        rate = _cosine(settings, workers, epoch, step, steps)
    if epoch < settings.pretrain_epochs:
        return Schedule(rate, momentum, alpha=0.0, beta=0.0)
    joint_epoch = epoch - settings.pretrain_epochs
    alpha = ramp(joint_epoch, settings.joint_epochs, settings.alpha_start, settings.alpha_end)
    return Schedule(rate, momentum, alpha, settings.beta)


def _halving(settings: TrainSettings, workers: int, samples: int) -> float:
    """Return the learning rate of both phases as one staircase."""
    start = scaled_rate(settings.learning_rate, workers, settings.linear_scaling)
    return halving(samples, start, settings.halving_samples, min(settings.min_learning_rate, start))


def _cosine(settings: TrainSettings, workers: int, epoch: int, step: int, steps: int) -> float:
    """Return the learning rate where each phase has a cosine of its own, the first one with a warm-up."""
    joint = epoch >= settings.pretrain_epochs
    phase_epoch = epoch - settings.pretrain_epochs if joint else epoch
    total = steps * (settings.joint_epochs if joint else settings.pretrain_epochs)
    own = settings.joint_learning_rate if joint else settings.learning_rate
    peak = scaled_rate(own, workers, settings.linear_scaling)
    warmup_steps = 0 if joint else min(settings.warmup_steps, total - 1)
    first = own if settings.warmup_from == "one_worker" else 0.0
    floor = min(settings.min_learning_rate, peak)
    return warmup_cosine(phase_epoch * steps + step, total, peak, warmup_steps, floor, first, settings.warmup)

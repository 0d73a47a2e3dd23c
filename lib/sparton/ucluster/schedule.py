"""What changes from step to step of a training, as a pure function of its settings."""

from __future__ import annotations

from typing import NamedTuple

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


class Skipped(NamedTuple):
    """Steps so far that changed nothing since gradients overflowed: of the training, and of the phase at work.

    Where another number of workers has made some of them, it is the steps of the world at work with as many rows.
    """

    whole: int = 0
    phase: int = 0


NOTHING_SKIPPED = Skipped()


def schedule_at(
    settings: TrainSettings, workers: int, epoch: int, step: int, steps: int, skipped: Skipped = NOTHING_SKIPPED
) -> Schedule:
    """Return the schedule of a step.

    Steps that changed nothing count for none of what goes by steps: learning rate, warm-up and moving averages go on
    where they were (algorithms.md a.1). α goes by epochs.

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
        Earlier steps that changed nothing.
    """
    taken = max(epoch * steps + step - skipped.whole, 0)
    samples = taken * workers * settings.batch_size
    if settings.momentum_schedule == "halving":
        momentum = halving_momentum(samples, settings.halving_samples, settings.momentum_max)
    else:
        momentum = averaging_momentum(taken, settings.momentum_max)
    if settings.rate_schedule == "halving":
        rate = _halving(settings, workers, samples)
    else:
        rate = _cosine(settings, workers, epoch, step - skipped.phase, steps)
    if epoch < settings.pretrain_epochs:
        return Schedule(rate, momentum, alpha=0.0, beta=0.0)
    joint_epoch = epoch - settings.pretrain_epochs
    alpha = ramp(joint_epoch, settings.joint_epochs, settings.alpha_start, settings.alpha_end)
    return Schedule(rate, momentum, alpha, settings.beta)


def _halving(settings: TrainSettings, workers: int, samples: int) -> float:
    """Return the learning rate of both phases as one staircase."""
    start = scaled_rate(settings.learning_rate, workers, settings.linear_scaling)
    return halving(samples, start, settings.halving_samples, min(settings.min_learning_rate, start))


def changed_rates(settings: TrainSettings, before: int, after: int) -> list[str]:
    """Return, in words, which learning rates another number of workers changes: none that are not scaled with it.

    Parameters
    ----------
    settings
        Of the training.
    before, after
        The numbers of workers.
    """
    if not settings.linear_scaling:
        return []
    cosine = settings.rate_schedule == "cosine"
    peaks = [scaled_rate(settings.learning_rate, workers, True) for workers in (before, after)]
    changes = [f"{'the peak of ' if cosine else ''}train.learning_rate is {peaks[1]:g} instead of {peaks[0]:g}"]
    if cosine and settings.joint_epochs:
        joint = [scaled_rate(settings.joint_learning_rate, workers, True) for workers in (before, after)]
        changes.append(f"that of train.joint_learning_rate is {joint[1]:g} instead of {joint[0]:g}")
    return changes


def changed_by_steps(settings: TrainSettings, before: int, after: int) -> list[str]:
    """Return, in words, what changes in the course of a training where more or fewer workers make larger steps.

    Parameters are those of :func:`changed_rates`.
    """
    changes = [] if settings.linear_scaling else ["learning rates are not scaled with it (train.linear_scaling is off)"]
    if settings.rate_schedule == "cosine" and settings.warmup_steps and settings.pretrain_epochs:
        rows = [settings.warmup_steps * workers * settings.batch_size for workers in (before, after)]
        changes.append(f"the warm-up of {settings.warmup_steps} steps takes {rows[1]:,} rows instead of {rows[0]:,}")
    if settings.momentum_schedule == "mean":
        changes.append("moving averages span as many steps, which have other numbers of rows")
    return changes


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

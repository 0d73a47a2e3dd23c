"""The schedules of a training: the published ones of the committed configuration, and what the settings refuse."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from sparton.config import load_config
from sparton.errors import ConfigError
from sparton.pipeline import PipelineSettings
from sparton.ucluster.progress import Progress
from sparton.ucluster.schedule import Skipped, changed_by_steps, changed_rates, schedule_at
from sparton.ucluster.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / ".." / "shared" / "data" / "ucluster_wztop" / "log_dkm.txt"
STEPS = 591  # of the published run in an epoch: 302,664 jets in batches of 512, the rest left out


@pytest.fixture(scope="module")
def settings() -> PipelineSettings:
    return load_config(PipelineSettings, ROOT / "conf" / "ucluster_published.yaml")


def test_published_configuration_has_the_published_values(settings: PipelineSettings) -> None:
    model, train, features = settings.model, settings.train, settings.prepare.features
    assert model.network == "published"
    assert (model.n_clusters, model.embedding, model.neighbours, model.epsilon) == (3, 3, 10, 1e-3)
    assert (model.attention, model.first_block, model.second_block) == ((16, 128), (64, 128), (256, 256))
    assert model.head == (256, 128)
    assert (train.batch_size * settings.launch.workers, train.pretrain_epochs, train.joint_epochs) == (512, 21, 179)
    assert (train.focal_gamma, train.focal_scale, train.beta, train.balance) == (4, 10, 10, 0)
    assert (train.adam_epsilon, train.linear_scaling) == (1e-8, False)
    assert (features.n_particles, len(features.mass_bin_edges), features.mass_bin_edges[-1]) == (100, 20, 200)
    assert settings.prepare.mass_window == (10, 200)
    assert sorted(settings.prepare.labels or ()) == ["W", "Z", "t"]


def test_published_schedules(settings: PipelineSettings) -> None:
    """The formulas of the published script, with all that they depend on, in its own order of steps."""
    for epoch in range(200):
        for step in (0, 1, STEPS - 1):
            found = schedule_at(settings.train, 1, epoch, step, STEPS)
            stair = (epoch * STEPS + step) * 512 // 500_000
            assert found.learning_rate == pytest.approx(max(1e-3 * 0.5**stair, 1e-5))
            assert found.momentum == pytest.approx(min(0.99, 1 - 0.5 * 0.5**stair))
            assert found.alpha == pytest.approx(5 * (epoch - 19) if epoch > 20 else 0)
            assert found.beta == (10 if epoch > 20 else 0)


def test_schedules_count_the_jets_of_all_workers(settings: PipelineSettings) -> None:
    quarter = settings.train.model_copy(update={"batch_size": 128})
    for epoch, step in ((0, 0), (1, 385), (1, 386), (30, 7)):
        assert schedule_at(quarter, 4, epoch, step, STEPS) == schedule_at(settings.train, 1, epoch, step, STEPS)
    first, second = (schedule_at(quarter, 4, 1, step, STEPS).learning_rate for step in (385, 386))
    assert (first, second) == (1e-3, 5e-4)


def test_learning_rates_are_those_that_the_published_run_logged(settings: PipelineSettings) -> None:
    if not LOG.exists():
        pytest.skip(f"{LOG} is not there")
    logged = [float(line.split()[-1]) for line in LOG.read_text().splitlines() if line.startswith("learning rate")]
    found = [schedule_at(settings.train, 1, epoch, STEPS - 1, STEPS).learning_rate for epoch in range(len(logged))]
    assert len(logged) == 200
    assert found == pytest.approx(logged, abs=5.1e-7)  # six decimals were logged


def test_default_schedules_fall_in_each_phase_and_rise_in_alpha() -> None:
    settings = TrainSettings(pretrain_epochs=2, joint_epochs=3, warmup_steps=5)
    found = [schedule_at(settings, 1, epoch, step, 10) for epoch in range(5) for step in range(10)]
    assert found[4].learning_rate == settings.learning_rate
    assert found[20].learning_rate == settings.joint_learning_rate
    assert found[19].learning_rate == found[-1].learning_rate == settings.min_learning_rate
    assert [schedule.alpha for schedule in found[20::10]] == [10, 25, 40]
    assert all(one.momentum <= other.momentum for one, other in pairwise(found))


@pytest.mark.parametrize("schedule", ["cosine", "halving"])
def test_what_goes_by_steps_does_not_count_skipped_ones(schedule: str) -> None:
    """Whatever was skipped in either phase, a step is what it would be as that number among those that count."""
    settings = TrainSettings.model_validate(
        {"pretrain_epochs": 3, "joint_epochs": 3, "warmup_steps": 5, "rate_schedule": schedule, "halving_samples": 900}
    )
    plain = [schedule_at(settings, 1, epoch, step, 10) for epoch in range(6) for step in range(10)]
    assert len({found.learning_rate for found in plain}) > 6
    for skipped in (1, 3):
        found = schedule_at(settings, 1, 0, 3, 10, Skipped(skipped, skipped))
        assert found == plain[3 - skipped]
    assert schedule_at(settings, 1, 2, 4, 10, Skipped(7, 7)) == plain[24 - 7]
    joint = schedule_at(settings, 1, 4, 5, 10, Skipped(9, 2))
    assert joint.momentum == plain[45 - 9].momentum
    assert joint.alpha == plain[45].alpha
    assert joint.learning_rate == plain[45 - (2 if schedule == "cosine" else 9)].learning_rate
    assert schedule_at(settings, 1, 0, 0, 10, Skipped(1, 1)) == plain[0]  # asked for after a skipped step


def steps_of(progress: Progress, skipped: list[bool]) -> None:
    for each in skipped:
        progress.add([0.0] * 4 + [1.0, float(each)])


def test_skipped_steps_count_by_their_rows_where_another_world_takes_over() -> None:
    """Of 20 steps of 10 rows 6 were skipped, 4 of them in the joint phase: 3, and 2, steps of 20 rows."""
    progress = Progress.start(1, 10)
    steps_of(progress, [True, True] + [False] * 8)
    assert progress.skipped_steps() == Skipped(2, 2)
    progress.next_epoch()
    progress.next_phase()
    steps_of(progress, [True] * 4 + [False] * 6)
    assert progress.skipped_steps() == Skipped(6, 4)
    assert progress.means().skipped == 4  # of this epoch's steps, whoever made them

    progress = Progress.of(json.loads(json.dumps(progress.to_json())))
    progress.position = progress.position.taken_over(2, 10)
    assert progress.skipped_steps() == Skipped(3, 2)
    settings = TrainSettings(pretrain_epochs=1, joint_epochs=2, warmup_steps=5)
    one, two = (
        schedule_at(settings, workers, 1, steps, steps, found)
        for workers, steps, found in ((1, 10, Skipped(6, 4)), (2, 5, progress.skipped_steps()))
    )
    rows = [int(each.momentum / (1 - each.momentum) + 0.5) * size for each, size in ((one, 10), (two, 20))]
    assert rows[0] == rows[1] == (20 - 6) * 10  # of which moving averages are the mean

    steps_of(progress, [True])
    assert progress.skipped_steps() == Skipped(4, 3)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"linear_scaling": True, "learning_rate": 1e-3, "joint_learning_rate": 5e-4, "warmup_steps": 10},
            [
                "the peak of train.learning_rate is 0.004 instead of 0.002",
                "that of train.joint_learning_rate is 0.002 instead of 0.001",
                "the warm-up of 10 steps takes 5,120 rows instead of 2,560",
                "moving averages span as many steps, which have other numbers of rows",
            ],
        ),
        (
            {"rate_schedule": "halving", "momentum_schedule": "halving", "linear_scaling": True},
            ["train.learning_rate is 0.008 instead of 0.004"],
        ),
        (
            {"warmup_steps": 0, "momentum_schedule": "halving"},
            ["learning rates are not scaled with it (train.linear_scaling is off)"],
        ),
    ],
)
def test_what_another_world_changes_is_named(values: dict[str, object], says: list[str]) -> None:
    settings = TrainSettings.model_validate({"learning_rate": 2e-3, "batch_size": 128, **values})
    assert [*changed_rates(settings, 2, 4), *changed_by_steps(settings, 2, 4)] == says


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.pretrain_epochs=0"], "needs start_from"),
        (["train.pretrain_epochs=0", "train.joint_epochs=0", "train.start_from=a"], "at least one epoch"),
        (["train.rate_schedule=linear"], "'cosine' or 'halving'"),
        (["train.precision=half"], "'float32', 'bfloat16' or 'float16'"),
        (["train.exchange_precision=bfloat16"], "'float32' or 'float16'"),
        (["train.loss_scale.minimum=1e6"], "minimum <= initial <= maximum"),
        (["model.network=publsihed"], "'default' or 'published'"),
    ],
)
def test_settings_without_a_meaning_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(PipelineSettings, None, overrides)


def test_warmup_from_the_rate_of_one_worker() -> None:
    settings = TrainSettings(
        pretrain_epochs=2, warmup_steps=4, warmup="exponential", warmup_from="one_worker", linear_scaling=True
    )
    rates = [schedule_at(settings, 16, 0, step, 10).learning_rate for step in range(5)]
    assert rates == pytest.approx([2e-3 * factor for factor in (2, 4, 8, 16, 16)])
    with pytest.raises(ConfigError, match="exponential cannot start from 0"):
        TrainSettings(warmup="exponential")

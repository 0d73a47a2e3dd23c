"""Training end to end in one process: it learns, resumes bit by bit, agrees with itself on several ranks."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pytest

from sparton import storage
from sparton.data.manifest import read_manifest
from sparton.data.prepare import PrepareSettings, write_training_set
from sparton.data.settings import TRAIN
from sparton.distributed import checkpoint
from sparton.distributed.launch import LaunchSettings, launch
from sparton.distributed.simulate import simulate
from sparton.distributed.world import Connection
from sparton.errors import ConfigError, DataError, TrainingError
from sparton.optim.settings import LossScaleSettings
from sparton.ucluster import bundle
from sparton.ucluster.curve import CurveRow
from sparton.ucluster.progress import Progress
from sparton.ucluster.selection import Selection
from sparton.ucluster.settings import ModelSettings, TrainSettings
from sparton.ucluster.start import check_selection
from sparton.ucluster.step import TrainStep
from sparton.ucluster.train import Trainer, TrainingSummary, train
from tests.clouds import SMALL
from tests.synthetic import jets_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

JETS = 700
TRAINING = TrainSettings(batch_size=64, pretrain_epochs=2, joint_epochs=2, learning_rate=3e-3, centroid_rows=200)

STEPS = 8  # of an epoch, by one rank

TIMED = {"jets_per_second", "seconds"}
"""Columns of the curve that differ from run to run."""

WITH_LANES = TRAINING.model_copy(update={"batch_size": 60, "lanes": 12, "joint_epochs": 1})
"""The same batches for 1, 2, 3 and 4 workers, where ``batch_size`` is 60, 30, 20 and 15."""

LOSSES = 1e-5
"""What the order of FP32 sums may change of a loss in a whole training. Found were 5e-7."""

SUMMATION = 5e-4
"""The same of a variable, in units of its largest value or, if that is more, of what six steps can move it: Adam's
step hangs on a gradient's sign where the gradient is all rounding.

Found were at most 4e-5. A gradient or normalisation of half the batch changes weights by a few learning rates, some
1e-2, and so do other batches.
"""

CENTROIDS = 5e-3
"""The same for centroids, where decisions amplify rounding: which jet is nearest to which, when the search ends.

Found were 2e-5 and, with other rounding, 1.2e-3. Centroids of half of the jets would be off by some 1e-1.
"""


@pytest.fixture(scope="module")
def training_set(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("set")
    jets = spark.createDataFrame(jets_table(JETS).to_pandas())
    settings = PrepareSettings.model_validate(
        {"mass_window": None, "features": {"n_particles": 16}, "rows_per_shard": 100, "seed": 3}
    )
    write_training_set(spark, jets, settings, str(folder / "set"))
    return str(folder / "set")


def run(
    training_set: str, folder: Path, training: TrainSettings = TRAINING, connection: Connection | None = None
) -> TrainingSummary:
    arguments = (str(folder / "checkpoints"), str(folder / "bundle"), SMALL, training)
    return train(connection or Connection.local(), training_set, *arguments)


def weights(folder: Path) -> list[np.ndarray]:
    return list(named_weights(folder).values())


def named_weights(folder: Path) -> dict[str, np.ndarray]:
    return {variable.path: np.array(variable) for variable in bundle.load(str(folder / "bundle")).model.variables}


def curve_text(folder: Path) -> str:
    return (folder / "bundle" / "training_curve.csv").read_text()


def curve(folder: Path) -> list[dict[str, str]]:
    """Return the training curve without what was timed."""
    rows = csv.DictReader(io.StringIO(curve_text(folder)))
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(training_set: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(training_set, folder)
    return folder


@pytest.fixture(scope="module")
def other_seed(training_set: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    run(training_set, folder, TRAINING.model_copy(update={"seed": 6}))
    return folder


def test_training_learns_and_leaves_bundle_curve_and_checkpoints(uninterrupted: Path) -> None:
    rows = curve(uninterrupted)
    assert [row["phase"] for row in rows] == ["pretrain", "pretrain", "joint", "joint"]
    assert float(rows[-1]["train_focal"]) < float(rows[0]["train_focal"])
    assert rows[0]["alpha"] == ""
    assert float(rows[2]["alpha"]) == TRAINING.alpha_start
    assert float(rows[3]["alpha"]) == TRAINING.alpha_end
    assert 0 < float(rows[-1]["smallest_cluster"]) <= 1 / 3
    assert int(rows[-1]["step"]) == 4 * STEPS
    assert len(checkpoint.steps(str(uninterrupted / "checkpoints"))) == TRAINING.checkpoints_kept
    centroids = bundle.load(str(uninterrupted / "bundle")).centroids
    assert len(np.unique(centroids.round(4), axis=0)) == SMALL.n_clusters


def test_the_report_of_time_adds_up(uninterrupted: Path) -> None:
    metrics = json.loads((uninterrupted / "bundle" / "metrics.json").read_text())
    shares = [metrics[f"{part}_share"] for part in ("input", "compute", "exchange", "other")]
    assert sum(shares) == pytest.approx(1)
    assert shares[2] == 0
    assert metrics["workers"] == metrics["efficiency_outside_exchange"] == 1
    steps = sum(float(row["seconds"]) for row in csv.DictReader(io.StringIO(curve_text(uninterrupted))))
    assert metrics["worker_s"] == metrics["efficiency_corrected_worker_s"] == metrics["mean_training_s"] > steps


def test_speed_leaves_out_the_step_that_is_traced(
    training_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step of each process, by a clock that jumps in it; a single step has no speed then."""
    hours, step, clock = [0.0], TrainStep.__call__, time.perf_counter

    def first(self: TrainStep, *arguments: Any) -> Any:
        if not hasattr(self, "called"):
            hours[0] += 3600
        self.called = True  # type: ignore[attr-defined]
        return step(self, *arguments)

    monkeypatch.setattr(TrainStep, "__call__", first)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + hours[0])
    training = TRAINING.model_copy(update={"pretrain_epochs": 2, "joint_epochs": 0, "checkpoint_seconds": 0.0})
    with killed_after(3):
        run(training_set, tmp_path, training)
    summary = run(training_set, tmp_path, training)
    rows = list(csv.DictReader(io.StringIO(curve_text(tmp_path))))
    assert all(float(row["seconds"]) < 3600 for row in rows)
    jets = [float(row["jets_per_second"]) * float(row["seconds"]) for row in rows]
    total = read_manifest(training_set).rows(TRAIN)
    assert jets == pytest.approx([total - 2 * TRAINING.batch_size, total], rel=0.01)
    assert summary.jets_per_second == pytest.approx(sum(jets) / sum(float(row["seconds"]) for row in rows), rel=0.01)
    assert summary.times.mean.other > 3600 > summary.times.mean.in_steps
    metrics = json.loads((tmp_path / "bundle" / "metrics.json").read_text())
    assert metrics["jets_per_second"] == summary.jets_per_second
    assert "seconds" not in metrics

    whole = training.model_copy(update={"batch_size": total, "pretrain_epochs": 1})
    assert run(training_set, tmp_path / "whole", whole).jets_per_second is None


def test_without_joint_epochs_the_clusters_are_those_of_the_pretrained_embedding(
    training_set: str, tmp_path: Path
) -> None:
    run(training_set, tmp_path, TRAINING.model_copy(update={"pretrain_epochs": 1, "joint_epochs": 0}))
    centroids = bundle.load(str(tmp_path / "bundle")).centroids
    assert len(np.unique(centroids.round(4), axis=0)) == SMALL.n_clusters


@contextlib.contextmanager
def killed_after(steps: int) -> Iterator[None]:
    """Let a training in this process die when it has made this many steps, and would make the next one."""
    original = Progress.add

    def add(progress: Progress, losses: list[float]) -> None:
        if progress.steps == steps:
            raise KeyboardInterrupt
        original(progress, losses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "add", add)
        with pytest.raises(KeyboardInterrupt):
            yield


def assert_same_training(found: Path, expected: Path) -> None:
    """Compare what trainings with the same batches have come to: the losses of each epoch, and all variables."""
    curves = curve(found), curve(expected)
    assert [row["step"] for row in curves[0]] == [row["step"] for row in curves[1]]
    for name in ("train_focal", "val_focal", "train_clustering", "val_clustering"):
        losses = [[float(row[name] or 0) for row in rows] for rows in curves]
        np.testing.assert_allclose(*losses, rtol=LOSSES, err_msg=name)
    one, other = named_weights(found), named_weights(expected)
    assert list(one) == list(other)
    for name, value in other.items():
        tolerance = CENTROIDS if name.endswith("centroids") else SUMMATION
        limit = tolerance * max(np.abs(value).max(), 6 * TRAINING.learning_rate) + 1e-6
        np.testing.assert_allclose(one[name], value, rtol=0, atol=limit, err_msg=name)


def assert_equal_bits(one: Path, other: Path) -> None:
    for first, second in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("seconds", "deaths"),
    [
        pytest.param(0.0, (1, 13), id="within an epoch, twice"),
        pytest.param(0.0, (16, 22), id="before the first centroids and after them"),
        pytest.param(3600.0, (20,), id="where the epoch begins"),
    ],
)
def test_resumed_training_ends_with_the_same_bits(
    training_set: str, tmp_path: Path, uninterrupted: Path, seconds: float, deaths: tuple[int, ...]
) -> None:
    """However often it dies, weights and curve are those of the uninterrupted one, whatever is saved how often."""
    training = TRAINING.model_copy(update={"checkpoint_seconds": seconds, "checkpoints_kept": 3})
    for steps in deaths:
        with killed_after(steps):
            run(training_set, tmp_path, training)
        saved = checkpoint.steps(str(tmp_path / "checkpoints"))
        assert saved[-1:] == ([steps] if seconds == 0 else [steps - steps % STEPS])
    assert not (tmp_path / "bundle").exists()
    summary = run(training_set, tmp_path, training)
    assert summary.steps == 4 * STEPS
    assert_equal_bits(tmp_path, uninterrupted)
    assert curve(tmp_path) == curve(uninterrupted)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    training_set: str, tmp_path: Path, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = TRAINING.model_copy(update={"checkpoint_seconds": 0.0})
    with killed_after(14):
        run(training_set, tmp_path, training)
    last = tmp_path / "checkpoints" / "step-000000014" / "state.npz"
    last.write_bytes(last.read_bytes()[:-100])
    with caplog.at_level(logging.INFO):
        run(training_set, tmp_path, training)
    assert "step-000000014" in caplog.text
    assert "resuming in epoch 2 of 4, at step 6 of 8" in caplog.text
    assert_equal_bits(tmp_path, uninterrupted)


def test_another_number_of_workers_goes_on_with_the_rows_that_are_left(
    training_set: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One rank reads 3 batches of 64 of the epoch's jets, two read what is left; both say what that changes."""
    training = TRAINING.model_copy(update={"checkpoint_seconds": 0.0})
    rows = read_manifest(training_set).rows(TRAIN)
    with killed_after(STEPS + 3):
        run(training_set, tmp_path, training)
    with caplog.at_level(logging.INFO):
        first, second = simulate(2, lambda connection: run(training_set, tmp_path, training, connection))
    assert "the checkpoint is of a world of 1, this one has 2 workers" in caplog.text
    assert "a step takes 128 rows instead of 64; an epoch has 4 steps instead of 8; rows come in another order" in (
        caplog.text
    )
    assert "learning rates are not scaled with it (train.linear_scaling is off); the warm-up of 50" in caplog.text
    assert rows > 7 * 64
    rest = -(-(rows - 3 * 64) // 128)
    assert first.steps == second.steps == STEPS + 3 + rest + 2 * -(-rows // 128)
    assert first.last["val_focal"] == pytest.approx(second.last["val_focal"])
    assert float(curve(tmp_path)[-1]["train_focal"]) < float(curve(tmp_path)[0]["train_focal"])
    (alone, before), (both, after) = first.times.worlds
    assert (alone, both) == (1, 2)
    assert before.exchange == 0 < min(before.compute, after.compute, after.exchange)
    metrics = json.loads((tmp_path / "bundle" / "metrics.json").read_text())
    assert metrics["worker_s"] == pytest.approx(before.total + 2 * after.total)
    assert metrics["mean_training_s"] == pytest.approx(before.total + after.total)


@pytest.fixture(scope="module")
def with_lanes(training_set: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that trains with lanes."""
    folder = tmp_path_factory.mktemp("lanes")
    run(training_set, folder, WITH_LANES)
    return folder


def test_with_lanes_another_number_of_workers_goes_on_with_the_same_batches(
    training_set: str, tmp_path: Path, with_lanes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = WITH_LANES.model_copy(update={"checkpoint_seconds": 0.0})
    steps = int(curve(with_lanes)[0]["step"])
    with killed_after(steps + 3):
        run(training_set, tmp_path, training)
    half = training.model_copy(update={"batch_size": 30})
    with caplog.at_level(logging.INFO):
        simulate(2, lambda connection: run(training_set, tmp_path, half, connection))
    assert "this one has 2 workers: with the same 12 lanes and 60 rows in a step it goes on" in caplog.text
    assert f"resuming in epoch 2 of 3, at step 4 of {steps}" in caplog.text
    assert_same_training(tmp_path, with_lanes)


def test_training_that_starts_from_a_bundle_resumes_to_the_same_bits(
    training_set: str, tmp_path: Path, uninterrupted: Path, other_seed: Path
) -> None:
    """The centroids of the bundle are kept; a checkpoint of a training from another bundle is refused."""
    start = str(uninterrupted / "bundle")
    further = TRAINING.model_copy(update={"pretrain_epochs": 0, "start_from": start})
    trainer = Trainer(Connection.local(), training_set, str(tmp_path / "none"), SMALL, further)
    trainer._place_centroids()
    for one, other in zip(trainer.model.variables, weights(uninterrupted), strict=True):
        np.testing.assert_array_equal(one, other)
    run(training_set, tmp_path / "whole", further)
    with killed_after(STEPS):
        run(training_set, tmp_path / "parts", further)
    elsewhere = further.model_copy(update={"start_from": str(other_seed / "bundle")})
    with pytest.raises(TrainingError, match="the checkpoint is of other settings or data"):
        run(training_set, tmp_path / "parts", elsewhere)
    shutil.copytree(start, tmp_path / "copy")
    run(training_set, tmp_path / "parts", further.model_copy(update={"start_from": str(tmp_path / "copy")}))
    assert_equal_bits(tmp_path / "whole", tmp_path / "parts")


SELECTED = TRAINING.model_copy(update={"select": "least_loss", "joint_epochs": 3})
TOLD = {1: 0.5, 2: 0.4, 3: 3.0, 4: 1.0, 5: 2.0}
"""Validation losses by epoch of which the least joint one is neither the first nor the last."""


def test_the_epoch_of_the_least_validation_loss_is_kept_to_the_bit(
    training_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is what it was when that epoch ended, resumed after it or not, and the curve goes on to the end."""
    seen: dict[int, list[np.ndarray]] = {}
    offer = Selection.offer
    monkeypatch.setattr(
        Selection, "offer", lambda self, row: offer(self, dataclasses.replace(row, val_focal=TOLD[row.epoch]))
    )

    class Watched(Trainer):
        def epoch_ended(self, row: CurveRow) -> None:
            seen[row.epoch] = [np.array(variable) for variable in self.model.variables]

    folder = tmp_path / "whole"
    trainer = Watched(Connection.local(), training_set, str(folder / "checkpoints"), SMALL, SELECTED)
    summary = trainer.run(str(folder / "bundle"))
    best = 4
    assert (summary.kept, summary.epochs) == (best, 5)
    for found, expected in zip(weights(folder), seen[best], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert json.loads((folder / "bundle" / "metrics.json").read_text())["epoch"] == best
    loaded = bundle.load(str(folder / "bundle"))
    np.testing.assert_array_equal(loaded.centroids, np.array(loaded.model.centroids))

    with killed_after(STEPS * best + 3):
        run(training_set, tmp_path / "parts", SELECTED)
    assert run(training_set, tmp_path / "parts", SELECTED).kept == best
    assert_equal_bits(folder, tmp_path / "parts")
    assert curve(tmp_path / "parts") == curve(folder)


def test_ranks_keep_the_same_epoch(training_set: str, tmp_path: Path) -> None:
    short = SELECTED.model_copy(update={"pretrain_epochs": 1, "joint_epochs": 2, "batch_size": 40})
    first, second = simulate(2, lambda connection: run(training_set, tmp_path, short, connection))
    losses = [float(row["val_focal"]) for row in curve(tmp_path)[1:]]
    assert first.kept == second.kept == 2 + int(np.argmin(losses))


def test_selection_needs_jets_to_go_by(training_set: str) -> None:
    manifest = read_manifest(training_set)
    without = manifest.model_copy(update={"splits": {TRAIN: manifest.splits[TRAIN]}})
    with pytest.raises(ConfigError, match=r"needs jets in a split 'val', the set has .* in 'train'; prepare it with"):
        check_selection(SELECTED, without)


def test_other_seeds_give_other_models(uninterrupted: Path, other_seed: Path) -> None:
    pairs = zip(weights(uninterrupted), weights(other_seed), strict=True)
    assert any(not np.array_equal(one, other) for one, other in pairs)


def test_first_centroids_do_not_depend_on_the_number_of_ranks(training_set: str, tmp_path: Path) -> None:
    def place(connection: Connection) -> np.ndarray:
        trainer = Trainer(connection, training_set, str(tmp_path / "none"), SMALL, TRAINING)
        connection.collectives.broadcast(trainer.step.variables)
        trainer._place_centroids()
        return np.array(trainer.model.centroids)

    alone = place(Connection.local())
    for centroids in simulate(3, place):
        np.testing.assert_allclose(centroids, alone, atol=1e-4)


def test_ranks_train_one_model(training_set: str, tmp_path: Path) -> None:
    short = TRAINING.model_copy(update={"pretrain_epochs": 1, "joint_epochs": 1, "batch_size": 40})
    summaries = simulate(2, lambda connection: run(training_set, tmp_path, short, connection))
    assert summaries[0].steps == summaries[1].steps
    assert summaries[0].last["val_focal"] == pytest.approx(summaries[1].last["val_focal"])
    assert all(np.isfinite(variable).all() for variable in weights(tmp_path))


HALF = TRAINING.model_copy(
    update={
        "precision": "float16",
        "exchange_precision": "float16",
        # So large that the first steps overflow, and growing so fast that later ones do.
        "loss_scale": LossScaleSettings(initial=2.0**20, interval=4),
    }
)


def test_half_precision_resumes_to_the_same_bits_and_tells_what_it_skipped(training_set: str, tmp_path: Path) -> None:
    summary = run(training_set, tmp_path / "whole", HALF)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "whole" / "bundle" / "training_curve.csv").read_text())))
    assert summary.skipped == sum(int(row["skipped"]) for row in rows) > 4
    assert float(rows[0]["loss_scale"]) < HALF.loss_scale.initial
    assert float(rows[-1]["train_focal"]) < float(rows[0]["train_focal"])
    often = HALF.model_copy(update={"checkpoint_seconds": 0.0})
    with killed_after(21):
        run(training_set, tmp_path / "parts", often)
    resumed = run(training_set, tmp_path / "parts", often)
    assert resumed.skipped == summary.skipped
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    for one, other in zip(weights(tmp_path / "whole"), weights(tmp_path / "parts"), strict=True):
        np.testing.assert_array_equal(one, other)


def two_trainings(
    connection: Connection, training_set: str, folders: dict[str, Path], model: ModelSettings, trainings: dict[str, Any]
) -> dict[str, TrainingSummary]:
    """What one launch does, since each costs half a minute."""
    return {
        name: train(
            connection, training_set, str(folder / "checkpoints"), str(folder / "bundle"), model, trainings[name]
        )
        for name, folder in folders.items()
    }


def test_two_horovod_workers_train_what_one_process_trains(
    spark: SparkSession, training_set: str, tmp_path: Path, with_lanes: Path
) -> None:
    """In full precision they do with the same lanes: a whole training, both phases and first centroids.

    In half precision the ranks skip the same steps; they compare their variables, the loss scale too, after each epoch.
    """
    full = WITH_LANES.model_copy(update={"batch_size": 30})
    trainings = {"full": full, "half": HALF.model_copy(update={"pretrain_epochs": 4, "joint_epochs": 1})}
    folders = {name: tmp_path / name for name in trainings}
    workers = LaunchSettings(workers=2, start_timeout_s=240, threads_per_worker=1)
    first, second = launch(two_trainings, (training_set, folders, SMALL, trainings), spark, workers)
    assert first["full"].steps == second["full"].steps
    assert bundle.read_description(str(folders["full"] / "bundle")).training["workers"] == 2
    assert_same_training(folders["full"], with_lanes)
    times = first["full"].times
    assert times == second["full"].times
    assert 0 < times.mean.exchange < times.mean.total
    assert 0 < times.efficiency < 1

    skipped = first["half"].skipped
    assert skipped is not None
    assert 0 < skipped == second["half"].skipped < first["half"].steps
    trained = {name: value for name, value in named_weights(folders["half"]).items() if "moving" not in name}
    assert first["half"].exchange_bytes == 2 * sum(value.size for value in trained.values())
    assert first["half"].last["val_focal"] == pytest.approx(second["half"].last["val_focal"])
    assert all(np.isfinite(value).all() for value in named_weights(folders["half"]).values())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [3, 4])
def test_more_horovod_workers_train_what_one_process_trains(
    training_set: str, tmp_path: Path, with_lanes: Path, workers: int
) -> None:
    own = WITH_LANES.model_copy(update={"batch_size": 60 // workers})
    places = (str(tmp_path / "checkpoints"), str(tmp_path / "bundle"))
    horovodrun(tmp_path, TRAINS, workers, training_set, *places, SMALL.model_dump_json(), own.model_dump_json())
    assert_same_training(tmp_path, with_lanes)


def horovodrun(folder: Path, program: str, workers: int, *arguments: str) -> str:
    """Run a program by so many processes and return what they print."""
    (folder / "program.py").write_text(program)
    command = ["horovodrun", "-np", str(workers), "--gloo", "--network-interfaces", "lo", sys.executable]
    ended = subprocess.run(
        [*command, str(folder / "program.py"), *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


TRAINS = """
import sys
from sparton.distributed.world import connect
from sparton.ucluster.settings import ModelSettings, TrainSettings
from sparton.ucluster.train import train

settings = ModelSettings.model_validate_json(sys.argv[4]), TrainSettings.model_validate_json(sys.argv[5])
train(connect(), *sys.argv[1:4], *settings)
"""

TWICE = """
import sys
from sparton.config import load_config
from sparton.pipeline import PipelineSettings, train

settings = load_config(PipelineSettings, None, sys.argv[3:])
for _ in range(2):
    result = train(settings, input=sys.argv[1], output=sys.argv[2])
    print("ended", result.skipped, result.summary.get("workers"), result.summary.get("rank"), flush=True)
"""


def test_horovodrun_starts_what_trains_together(training_set: str, tmp_path: Path) -> None:
    """Rank 0 publishes one bundle; a second call finds it up to date, and tells the other rank so."""
    settings = {
        "workspace": str(tmp_path),
        "launch.workers": 2,
        "train.pretrain_epochs": 1,
        "train.joint_epochs": 0,
        "train.batch_size": 64,
        "train.centroid_rows": 200,
    } | {f"model.{key}": value for key, value in SMALL.model_dump(mode="json", exclude_defaults=True).items()}
    assigned = [f"{key}={value}" for key, value in settings.items()]
    printed = horovodrun(tmp_path, TWICE, 2, training_set, str(tmp_path / "model"), *assigned)
    said = sorted(line.partition("ended ")[2] for line in printed.splitlines() if "ended " in line)
    assert said == ["False 2 None", "False None 1", "True 2 None", "True None 1"]
    assert bundle.read_description(str(tmp_path / "model")).training["workers"] == 2


def test_centroids_of_a_classifier_need_a_class_for_each_cluster(training_set: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.n_clusters=3 classes, the set has 20; .*mass_peaks=3"):
        run(training_set, tmp_path, TRAINING.model_copy(update={"centroids": "classifier"}))


@pytest.mark.parametrize(("setting", "values"), [("seed", (1, 2)), ("batch_size", (30, 60))])
def test_ranks_that_were_given_other_settings_do_not_train(
    training_set: str, tmp_path: Path, setting: str, values: tuple[int, int]
) -> None:
    """Each process of horovodrun reads its own configuration; with other seeds it would read other rows, and train."""

    def rank(connection: Connection) -> TrainingSummary:
        own = WITH_LANES.model_copy(update={setting: values[connection.world.rank]})
        return run(training_set, tmp_path, own, connection)

    with pytest.raises(TrainingError, match=r"the section model or train of ranks \[1\] differs from that of rank 0"):
        simulate(2, rank)
    assert not list(tmp_path.iterdir())


def test_checkpoint_of_other_settings_is_refused(training_set: str, uninterrupted: Path) -> None:
    with pytest.raises(TrainingError, match="the checkpoint is of other settings or data"):
        run(training_set, uninterrupted, TRAINING.model_copy(update={"beta": 0.7}))


def test_infinite_loss_names_the_step_and_the_way_out(training_set: str, tmp_path: Path) -> None:
    wild = TRAINING.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) in epoch 1, step \d+; there is no checkpoint yet"):
        run(training_set, tmp_path, wild)
    assert not storage.exists(str(tmp_path / "bundle"))


def test_damaged_shard_is_named_before_training(training_set: str, tmp_path: Path) -> None:
    damaged = tmp_path / "set"
    shutil.copytree(training_set, damaged)
    shard = damaged / "split=val" / "shard-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"split=val/shard-00000\.parquet.*restore the file or prepare the set again"):
        run(str(damaged), tmp_path)


def test_labels_are_never_read(training_set: str, tmp_path: Path, uninterrupted: Path) -> None:
    """The same set without its label column trains to the same bits."""
    import pyarrow.parquet as pq

    copy = tmp_path / "set"
    shutil.copytree(training_set, copy)
    manifest = storage.read_json(str(copy / "_manifest.json"))
    for shards in manifest["splits"].values():
        for shard in shards:
            path = copy / shard["path"]
            table = pq.read_table(path, partitioning=None)
            pq.write_table(table.drop_columns(["label"]), path)
            shard["bytes"] = path.stat().st_size
            shard["sha256"] = storage.sha256(str(path))
    storage.write_json(str(copy / "_manifest.json"), manifest)
    run(str(copy), tmp_path / "without")
    assert_equal_bits(tmp_path / "without", uninterrupted)


def test_unknown_model_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        ModelSettings.model_validate({"clusters": 3})

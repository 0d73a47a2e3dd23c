"""Kill -9 of a worker, an executor and the driver, within an epoch and around it: the weights are those of no kill."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from sparton.config import load_config
from sparton.data.prepare import PrepareSettings, write_training_set
from sparton.distributed import checkpoint
from sparton.distributed.launch import LaunchSettings, launch
from sparton.pipeline.settings import PipelineSettings
from sparton.ucluster import bundle
from sparton.ucluster.train import train
from tests.clouds import SMALL
from tests.kill_program import MOMENTS
from tests.synthetic import jets_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

WORKERS = 2
EPOCHS = 4
STEPS = 8  # of an epoch: each rank has some 235 jets in batches of 32
SETTINGS = [
    "train.batch_size=32",
    "train.pretrain_epochs=2",
    "train.joint_epochs=2",
    "train.checkpoint_seconds=0",
    "train.centroid_rows=200",
    *(f"model.{name}={value}" for name, value in SMALL.model_dump(mode="json", exclude_defaults=True).items()),
]
START_S, END_S = 180.0, 300.0  # for a launch to make its first step, and for a training to end; on a busy machine


@pytest.fixture(scope="module")
def training_set(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("set") / "set")
    jets = spark.createDataFrame(jets_table(700).to_pandas())
    settings = PrepareSettings.model_validate(
        {"mass_window": None, "features": {"n_particles": 16}, "rows_per_shard": 100, "seed": 3}
    )
    write_training_set(spark, jets, settings, folder)
    return folder


class Command:
    """``sparton train`` on a cluster whose executors are processes of their own."""

    def __init__(self, training_set: str, workspace: Path) -> None:
        self.workspace = workspace
        program = str(Path(sys.executable).parent / "sparton")
        options = ["--workspace", str(workspace), "--workers", str(WORKERS), "--retries", "5"]
        cluster = ["--master", f"local-cluster[{WORKERS},1,1024]"]
        overrides = [word for setting in SETTINGS for word in ("--set", setting)]
        self.arguments = [program, "train", "--input", training_set, *options, *cluster, *overrides]
        self.log = workspace / "log"

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; what it says is added to the log."""
        with self.log.open("ab") as stream:
            return subprocess.Popen(self.arguments, stdout=stream, stderr=subprocess.STDOUT)

    def steps(self) -> int:
        """Return how many steps the last checkpoint has had."""
        folders = list((self.workspace / "checkpoints").glob("[!.]*"))
        return max([0, *(step for folder in folders for step in checkpoint.steps(str(folder)))])

    def wait(self, process: subprocess.Popen[bytes], reached: Callable[[], bool], seconds: float) -> None:
        """Return when something is so; the process must still run then."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert process.poll() is None, self.log.read_text()[-5000:]
            assert time.monotonic() < deadline, self.log.read_text()[-5000:]
            time.sleep(0.02)


def descendants(process: subprocess.Popen[bytes], mark: str) -> list[psutil.Process]:
    """Return the processes below one whose command line has a mark."""

    def marked() -> Iterator[psutil.Process]:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if mark in " ".join(child.cmdline()):
                    yield child
            except psutil.Error:
                continue

    return list(marked())


@pytest.mark.timeout(1200)  # five launches of two workers, one after the other
def test_kills_change_no_weight(spark: SparkSession, training_set: str, tmp_path: Path) -> None:
    """A worker dies in pre-training, an executor in the joint phase, and then the driver; the command is repeated."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"moments drawn with seed {seed}")
    moments = random.Random(seed)
    command = Command(training_set, tmp_path)
    running = command.start()
    kills = (
        (moments.randrange(2, 2 * STEPS - 4), "sparton.distributed.child"),
        (moments.randrange(2 * STEPS + 1, 3 * STEPS - 2), "CoarseGrainedExecutorBackend"),
        (moments.randrange(3 * STEPS, 4 * STEPS - 3), ""),
    )
    for moment, victim in kills:
        command.wait(running, lambda moment=moment: command.steps() >= moment, START_S)  # type: ignore[misc]
        if victim:
            os.kill(moments.choice(descendants(running, victim)).pid, signal.SIGKILL)
        else:
            running.kill()
    running.wait(60)
    assert not (tmp_path / "model").exists()
    reached = command.steps()
    assert 3 * STEPS <= reached < EPOCHS * STEPS
    assert command.start().wait(END_S) == 0, command.log.read_text()[-5000:]

    said = command.log.read_text()
    assert "killed by signal 9" in said
    assert "was lost with its executor" in said
    resumed = [int(step) for step in re.findall(rf"resuming in epoch 4 of 4, at step (\d+) of {STEPS}", said)]
    assert resumed[-1] > reached - 3 * STEPS  # orphans may have ended another step before they noticed

    settings = load_config(PipelineSettings, None, SETTINGS)
    workers = LaunchSettings(workers=WORKERS, start_timeout_s=240)
    folders = (str(tmp_path / "whole-checkpoints"), str(tmp_path / "whole"))
    launch(train, (training_set, *folders, settings.model, settings.train), spark, workers)
    assert_equal_bits(tmp_path / "model", tmp_path / "whole")


def assert_equal_bits(one: Path, other: Path) -> None:
    first, second = (bundle.load(str(folder)).model.variables for folder in (one, other))
    for variable, expected in zip(first, second, strict=True):
        np.testing.assert_array_equal(np.array(variable), np.array(expected), err_msg=variable.path)


ROOT = Path(__file__).resolve().parents[2]
SHORT = [*SETTINGS, "train.pretrain_epochs=1", "train.joint_epochs=1", "train.checkpoint_seconds=3600"]


def killed(
    way: str, victim: str, rank: int | None, training_set: str, folder: Path, moments: tuple[str, ...], *more: str
) -> subprocess.CompletedProcess[str]:
    """Run tests/kill_program.py in a workspace; an outcome that has a status is no kill of the program."""
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    words = [way, victim, "" if rank is None else str(rank), str(folder / "notes"), training_set, ",".join(moments)]
    assigned = [f"workspace={folder}", "launch.threads_per_worker=1", *SHORT, *more]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kill_program.py"), *words, *assigned],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_kills_around_the_epochs_change_no_weight(training_set: str, tmp_path: Path) -> None:
    """One process, killed at start-up, in evaluation, while a checkpoint is written, after the last step, and before
    the bundle is published, each time in a new run."""
    ended = killed("process", "worker", None, training_set, tmp_path / "killed", MOMENTS)
    died = ["ended -9"] * len(MOMENTS)
    assert [line for line in ended.stdout.splitlines() if line.startswith("ended")] == [*died, "ended 0"], ended.stderr
    assert sorted(path.name for path in (tmp_path / "killed" / "notes").iterdir()) == sorted(MOMENTS)
    left = {path.name for path in (tmp_path / "killed").iterdir()} - {"notes", "runs", "model", "checkpoints"}
    assert not left
    assert not list((tmp_path / "killed" / "checkpoints").iterdir())
    assert killed("process", "worker", None, training_set, tmp_path / "whole", ()).returncode == 0
    assert_equal_bits(tmp_path / "killed" / "model", tmp_path / "whole" / "model")


@pytest.fixture(scope="module")
def whole_by_two(training_set: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two workers train that nobody kills."""
    folder = tmp_path_factory.mktemp("two")
    ended = killed("spark", "worker", None, training_set, folder, (), *ON_SPARK)
    assert ended.returncode == 0, ended.stderr[-5000:]
    return folder / "model"


ON_SPARK = ("spark.master=local[2]", "launch.workers=2", "launch.start_timeout_s=240")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("rank", "moments"),
    [(1, ("start-up", "evaluation", "last step")), (0, ("evaluation", "checkpoint", "last step"))],
)
def test_kills_of_a_worker_around_the_epochs(
    training_set: str, whole_by_two: Path, tmp_path: Path, rank: int, moments: tuple[str, ...]
) -> None:
    """The launch starts again by itself."""
    ended = killed("spark", "worker", rank, training_set, tmp_path, moments, *ON_SPARK, "launch.retries=3")
    assert ended.returncode == 0, ended.stderr[-5000:]
    assert sorted(path.name for path in (tmp_path / "notes").iterdir()) == sorted(moments)
    assert_equal_bits(tmp_path / "model", whole_by_two)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_of_the_driver_around_the_epochs(training_set: str, whole_by_two: Path, tmp_path: Path) -> None:
    """Workers end with it, wherever they are; the same call goes on."""
    for count in range(1, len(MOMENTS) + 1):
        ended = killed("spark", "driver", 0, training_set, tmp_path, MOMENTS, *ON_SPARK)
        assert ended.returncode == -signal.SIGKILL, ended.stderr[-5000:]
        assert len(list((tmp_path / "notes").iterdir())) == count
        assert not (tmp_path / "model").exists()
    assert killed("spark", "driver", 0, training_set, tmp_path, MOMENTS, *ON_SPARK).returncode == 0
    assert_equal_bits(tmp_path / "model", whole_by_two)

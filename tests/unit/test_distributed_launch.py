from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from sparton.config import validate
from sparton.distributed import Connection, devices, environment, external, interrupts
from sparton.distributed.horovod_spark import Tail
from sparton.distributed.launch import LaunchSettings, chosen, launch, needs_spark
from sparton.distributed.seen import where_seen
from sparton.errors import ConfigError, DataError, TrainingError, UsageError, WorkerError, is_mendable
from tests import launchers

SCRIPT = Path(__file__).resolve().parents[2] / "conf" / "discover_gpus.sh"


def test_one_worker_runs_in_this_process() -> None:
    def train(connection: Connection, scale: int) -> tuple[int, int, int]:
        return os.getpid(), connection.world.size, scale

    assert launch(train, [3]) == [(os.getpid(), 1, 3)]


def test_threads_of_one_worker_are_limited() -> None:
    code = (
        "from sparton.distributed.launch import LaunchSettings, launch\n"
        "import tensorflow as tf\n"
        "def threads(connection): return tf.config.threading.get_intra_op_parallelism_threads()\n"
        "print(launch(threads, settings=LaunchSettings(threads_per_worker=3)))\n"
        "print(launch(threads))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["[3]", "[3]"]


def test_threads_that_come_too_late_are_said(caplog: pytest.LogCaptureFixture) -> None:
    import tensorflow as tf

    tf.constant(1.0) + 1  # TensorFlow runs now
    assert launch(lambda connection: 7, settings=LaunchSettings(threads_per_worker=5)) == [7]
    assert "threads_per_worker=5 has no effect" in caplog.text


@pytest.mark.parametrize(
    ("local_rank", "visible", "assigned", "chosen"),
    [
        (0, 0, (), None),
        (0, 4, (), 0),
        (3, 4, (), 3),
        (3, 2, (), 1),  # shared in turn
        (1, 1, (), 0),  # a container that sees its own GPU only
        (0, 4, ("2",), 2),  # what Spark has assigned
        (1, 1, ("3",), 0),  # assigned by the host's count, seen as the only one
        (1, 2, ("GPU-2f3a",), 1),
        (1, 0, ("0",), None),
    ],
)
def test_a_process_takes_one_gpu(local_rank: int, visible: int, assigned: tuple[str, ...], chosen: int | None) -> None:
    assert devices.choose_gpu(local_rank, visible, assigned) == chosen


@pytest.mark.parametrize(
    ("hosts", "assigned", "kept"),
    [
        ("ab", ("0", "0"), ("0", "0")),  # two machines
        ("aa", ("0", "1"), ("0", "1")),
        ("aa", ("0", "0"), ("", "")),  # each executor has found the machine's first one
        ("aab", ("0", "0", "0"), ("", "", "0")),
        ("aa", ("", ""), ("", "")),
        ("aa", ("01", "12"), ("", "")),
    ],
)
def test_gpus_that_tasks_of_a_host_share_are_nobodys_own(
    hosts: str, assigned: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    assert tuple("".join(devices.own_gpus(hosts, assigned, task)) for task in range(len(hosts))) == kept


def test_gpus_that_tensorflow_does_not_see_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        devices.pin_gpu(0)
        assert caplog.text == ""
        devices.pin_gpu(0, ["3"])
    assert "Spark has assigned GPU 3, but TensorFlow" in caplog.text
    assert "built without CUDA; install tensorflow[and-cuda]" in caplog.text


def test_gpus_that_are_taken_already_are_an_error_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's own words; it has no GPU here, so it is asked to hide a CPU instead."""
    tf.constant(1.0) + 1  # TensorFlow runs now
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])

    def refuse(device: str, kind: str) -> None:
        tf.config.set_logical_device_configuration(
            tf.config.get_visible_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )

    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    with pytest.raises(TrainingError, match=r"has taken the GPUs .*cannot be modified after being initialized.*inside"):
        devices.pin_gpu(0)


def discovered(folder: Path, nvidia_smi: str | None) -> dict[str, Any]:
    """Return what the discovery script says where ``nvidia-smi`` is a shell script, or missing."""
    for program in ("sed", "paste", "sh"):
        found = shutil.which(program)
        assert found is not None
        (folder / program).symlink_to(found)
    if nvidia_smi is not None:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
        (folder / "nvidia-smi").chmod(0o755)
    ended = subprocess.run([SCRIPT], env={"PATH": str(folder)}, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return dict(json.loads(ended.stdout))


@pytest.mark.parametrize(
    ("nvidia_smi", "addresses"),
    [
        (None, []),
        ("echo 0; echo 1; echo ' 10'", ["0", "1", "10"]),
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9", []),
        ("echo No devices were found", []),
    ],
)
def test_the_discovery_script_lists_the_gpus_or_none(
    tmp_path: Path, nvidia_smi: str | None, addresses: list[str]
) -> None:
    assert discovered(tmp_path, nvidia_smi) == {"name": "gpu", "addresses": addresses}


def test_errors_of_one_worker_keep_their_kind() -> None:
    def missing(connection: Connection) -> None:
        raise DataError("no such set")

    def broken(connection: Connection) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(DataError, match="no such set"):
        launch(missing)
    with pytest.raises(TrainingError, match="rank 0 of 1: ZeroDivisionError: a bug"):
        launch(broken)


@pytest.mark.parametrize("launcher", ["auto", "barrier", "spark"])
def test_several_workers_need_spark(launcher: str) -> None:
    settings = LaunchSettings.model_validate({"workers": 2, "launcher": launcher})
    with pytest.raises(TrainingError, match=r"launch.launcher=(barrier|spark): 2 workers need a Spark session"):
        launch(lambda connection: None, settings=settings)


@pytest.mark.parametrize(
    ("variables", "values", "name"),
    [
        ({}, {}, "process"),
        ({}, {"workers": 2}, "barrier"),
        ({}, {"workers": 2, "launcher": "spark"}, "spark"),
        ({}, {"workers": 1, "launcher": "barrier"}, "barrier"),  # an executor may have the GPU that the driver lacks
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"}, {"workers": 2}, "external"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, {"workers": 2}, "external"),
        ({"PMI_RANK": "1", "PMI_SIZE": "3"}, {}, "external"),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, {"workers": 2}, "barrier"),  # srun with one task, which is the driver
    ],
)
def test_auto_takes_what_fits(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], values: dict[str, object], name: str
) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    settings = LaunchSettings.model_validate(values)
    assert chosen(settings) == name
    assert needs_spark(settings) == (name in ("barrier", "spark"))


def test_the_number_of_workers_is_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"nothing in the environment says that horovodrun, mpirun or srun"):
        external.join(LaunchSettings(launcher="external"))
    monkeypatch.setenv("HOROVOD_RANK", "1")
    monkeypatch.setenv("HOROVOD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"launch.workers=2, but 3 processes were started; make them equal"):
        external.join(LaunchSettings(workers=2))


def test_a_process_that_is_no_rank_outlives_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook that names the launcher by mistake must not end with it: nobody else waits for its end."""
    monkeypatch.setattr(external, "_end_soon", lambda: pytest.fail("the process would end"))
    with pytest.raises(ConfigError, match=r"nothing in the environment says that horovodrun, mpirun or srun"):
        launch(lambda connection: connection, settings=LaunchSettings(launcher="external"))


def test_a_world_of_one_is_a_world() -> None:
    """As a script starts that is given the number of processes."""
    program = """
from sparton.distributed.launch import LaunchSettings, launch

settings = LaunchSettings(launcher="external", workers=1)
print(*launch(lambda connection: connection.world, settings=settings))
launch(lambda connection: 1 / 0, settings=settings)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.stdout == "World(rank=0, size=1, local_rank=0)\n"
    assert "TrainingError: rank 0 of 1: ZeroDivisionError: division by zero" in ended.stderr


@pytest.mark.parametrize("variable", ["HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"])
def test_workers_of_a_host_share_its_cores(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setattr(os, "environ", {variable: "3"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    devices.limit_worker_threads(None)
    assert {os.environ[name] for name in devices.THREAD_VARIABLES} == {"4"}
    devices.limit_worker_threads(7)
    assert {os.environ[name] for name in devices.THREAD_VARIABLES} == {"7"}


def test_a_rank_that_does_not_see_the_drivers_folders_ends_before_it_trains(tmp_path: Path) -> None:
    """It would write the bundle to a disk of its own host, and the driver would publish an empty folder."""

    def train(connection: Connection, word: str) -> str:
        return word

    call = ((str(tmp_path), "memory://no-folders"), train, "trained")
    assert launch(where_seen, call) == ["trained"]
    with pytest.raises(TrainingError, match=r"elsewhere: host .* does not see .* --workspace and --output"):
        launch(where_seen, ([str(tmp_path / "elsewhere")], *call[1:]))


def test_what_is_no_training_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparton.pipeline import PipelineSettings, generate

    monkeypatch.setenv("HOROVOD_RANK", "1")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    with pytest.raises(
        UsageError, match=r"2 processes were started, which would all run .generate.; start 'train' or 'cluster' alone"
    ):
        generate(PipelineSettings())


class Attempts:
    """A function that fails some times, each time with the next error."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, connection: Connection) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def test_a_lost_worker_is_replaced_as_often_as_allowed(caplog: pytest.LogCaptureFixture) -> None:
    assert launch(Attempts(OSError("a disk"), WorkerError("lost")), settings=LaunchSettings(retries=2)) == [3]
    assert "rank 0 of 1: OSError: a disk; starting again, from the last checkpoint (retry 1 of 2)" in caplog.messages
    assert "lost; starting again, from the last checkpoint (retry 2 of 2)" in caplog.messages
    attempts = Attempts(WorkerError("first"), WorkerError("second"))
    with pytest.raises(WorkerError, match="second"):
        launch(attempts, settings=LaunchSettings(retries=1))
    assert attempts.calls == 2


@pytest.mark.parametrize(
    "error", [DataError("bad"), ConfigError("bad"), TrainingError("the focal loss is nan"), ValueError("bug")]
)
def test_what_no_retry_mends_is_not_tried_again(error: Exception) -> None:
    attempts = Attempts(error)
    with pytest.raises((DataError, ConfigError, TrainingError)):
        launch(attempts, settings=LaunchSettings(retries=5))
    assert attempts.calls == 1
    assert not is_mendable(error)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"workers": 0}, "workers"),
        ({"start_timeout_s": 0}, "start_timeout_s"),
        ({"worker": 2}, "did you mean 'workers'"),
        ({"retries": -1}, "retries"),
        ({"port": 70000}, "port"),
        ({"launcher": "barier"}, "did you mean 'barrier'"),
        ({"launcher": "process", "workers": 2}, "launcher=process runs one worker"),
        ({"stall_check_s": 60, "stall_shutdown_s": 60}, "stall_shutdown_s=60 must exceed stall_check_s=60"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        validate(LaunchSettings, values, "launch")


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD", "AZURE_STORAGE_ACCOUNT_KEY"])
def test_secrets_are_refused_and_not_shown(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is a secret, .* spark\.executorEnv\.{name}") as refused:
        validate(LaunchSettings, {"environment": {name: "sesame"}}, "launch")
    assert "sesame" not in str(refused.value)
    allowed = {"TOKENIZERS_PARALLELISM": "false", "AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token", "MONKEY": "x"}
    assert validate(LaunchSettings, {"environment": allowed}, "launch").environment == allowed


def test_stalls_end_by_default_and_the_user_has_the_last_word() -> None:
    assert environment.of_worker(LaunchSettings())["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "300"
    own = LaunchSettings(stall_shutdown_s=90, environment={"HOROVOD_GLOO_TIMEOUT_SECONDS": "7", "NCCL_DEBUG": "INFO"})
    variables = environment.of_worker(own)
    assert variables["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "90"
    assert variables["HOROVOD_GLOO_TIMEOUT_SECONDS"] == "7"
    assert variables["NCCL_DEBUG"] == "INFO"


def test_the_page_says_what_each_launcher_keeps() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"
    assert launchers.table() in page.read_text()
    assert all(set(point.unless) < set(launchers.LAUNCHERS) for point in launchers.POINTS.values())


def test_the_last_output_is_kept() -> None:
    tail = Tail()
    for number in range(100):
        tail.write(f"line {number}\n")
    lines = tail.lines()
    assert lines[-1] == "line 99"
    assert len(lines) < 100


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (None, RuntimeError)]
)
def test_signals_mean_what_they_did(number: signal.Signals | None, raised: type[BaseException]) -> None:
    before = [signal.getsignal(n) for n in interrupts.SIGNALS]

    def as_horovod_does() -> None:
        for n in interrupts.SIGNALS:
            signal.signal(n, lambda *_: None)
        if number is not None:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        raise RuntimeError("one or more processes exited with non-zero status")

    with pytest.raises(raised), interrupts.preserved():
        as_horovod_does()
    assert [signal.getsignal(n) for n in interrupts.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1

"""The process that watches a worker: output, results, deaths and their causes, and that nothing outlives anything.

The worlds have one rank, so that no worker imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from sparton.distributed import link, relay, supervisor
from sparton.distributed.relay import Address, Relay
from sparton.distributed.supervisor import Order
from sparton.distributed.worker import Task
from sparton.distributed.world import Connection

cloudpickle.register_pickle_by_value(sys.modules[__name__])

LOOPBACK = "127.0.0.1"
ALONE = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}
LIMIT_S = 60.0
MEMORY_GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
MEMORY_LIMITS = ("memory.limit_in_bytes", "memory.max")


def order(address: Address, fn: Callable[..., Any], *args: Any, **changes: Any) -> Order:
    task = Task(fn, args, address, logging.INFO, False, None, 60, 300, 0)
    settings: dict[str, Any] = {"environment": {}, "paths": [], "python": None, "all_ranks_log": False}
    return Order(task=cloudpickle.dumps(task), driver=address, **settings | changes)


def run(fn: Callable[..., Any], *args: Any, **changes: Any) -> tuple[bytes | None, Relay]:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        return supervisor.run(order(address, fn, *args, **changes), 0, ALONE, []), line


def reason(line: Relay) -> str:
    cause = line.cause()
    assert cause is not None
    return cause.reason


def speaking(connection: Connection, word: str) -> dict[str, Any]:
    print(f"printed {word}")
    os.write(2, b"written\n")
    logging.getLogger("sparton.test").info("logged")
    secrets = [name for name in os.environ if "SECRET" in name]
    return {"word": word, "own": os.environ.get("OWN"), "command": psutil.Process().cmdline(), "secrets": secrets}


def test_a_worker_gives_its_result_and_all_that_it_says(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_HOROVOD_SECRET_KEY", "_SPARK_AUTH_SECRET", "PYTHON_WORKER_FACTORY_SECRET"):
        monkeypatch.setenv(name, "sesame")
    with caplog.at_level(logging.INFO):
        pickled, line = run(speaking, "jets", environment={"OWN": "set"})
    assert pickled is not None
    result = cloudpickle.loads(pickled)
    assert (result["word"], result["own"], result["secrets"]) == ("jets", "set", [])
    assert result["command"][1:4] == ["-u", "-m", "sparton.distributed.child"]  # and nothing that it was sent
    assert line.cause() is None
    assert {"rank 0: printed jets", "rank 0: written", "rank 0: logged"} <= set(caplog.messages)


def broken(connection: Connection) -> None:
    raise KeyError("no jets")


def test_an_error_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    result, line = run(broken)
    cause = line.cause()
    assert result is None
    assert cause is not None
    assert cause.reason == "KeyError: 'no jets'"
    assert cause.final  # a program does again what it did


def dying(connection: Connection, how: str) -> None:
    print("last words", flush=True)
    if how == "exit":
        os._exit(3)
    if how == "leave":
        os._exit(0)
    os.kill(os.getpid(), getattr(signal, how))


@pytest.mark.parametrize(
    ("how", "expected", "unheard"),
    [
        ("SIGKILL", r"the process was killed by signal 9 \(SIGKILL\)", False),
        ("SIGABRT", r"the process was killed by signal 6 \(SIGABRT\)", True),
        ("exit", "the process ended with exit status 3", True),
        ("leave", "the process ended with exit status 0", True),
    ],
)
def test_a_silent_end_is_told_by_the_supervisor(how: str, expected: str, unheard: bool) -> None:
    result, line = run(dying, how)
    cause = line.cause()
    assert result is None
    assert cause is not None
    assert re.fullmatch(expected, cause.reason)
    assert (cause.unheard, cause.final) == (unheard, False)
    assert "last words" in line.tail(0)


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group whose processes may hold 300 MB."""
    for base, limit in zip(MEMORY_GROUPS, MEMORY_LIMITS, strict=True):
        group = base / f"sparton-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                (group / limit).write_text(str(300_000_000))
                yield group
                wait_until_removed(group)
                return
            group.rmdir()
    pytest.skip("no right to limit the memory of a process")


def wait_until_removed(group: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


def hungry(connection: Connection, group: str) -> None:
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20) * 10))


def test_the_kernels_kill_for_lack_of_memory_is_said(memory_group: Path) -> None:
    _, line = run(hungry, str(memory_group))
    said = r"the process was killed by signal 9 \(SIGKILL\): out of memory, by the kernel \(it held \d+\.\d GB\)"
    assert re.match(said, reason(line))
    assert "spark.executor.memoryOverhead" in reason(line)


def test_a_python_that_is_not_there_is_named() -> None:
    result, line = run(broken, python="/nonexistent/python")
    assert result is None
    assert reason(line) == "the process ended with exit status 127 before it reached the driver"
    assert line.tail(0) == ["/nonexistent/python: No such file or directory"]


def test_a_worker_that_cannot_start_leaves_its_output() -> None:
    _, line = run(broken, environment={"PYTHONHOME": "/nonexistent"})
    assert reason(line) == "the process ended with exit status 1 before it reached the driver"
    assert any("encodings" in text for text in line.tail(0))


def sleeping(connection: Connection, note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    time.sleep(600)


SUPERVISOR = """
import sys, cloudpickle
from sparton.distributed import supervisor
order = cloudpickle.loads(sys.stdin.buffer.read())
supervisor.run(order, 0, {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}, [])
"""


def process_of(note: Path) -> psutil.Process:
    deadline = time.monotonic() + LIMIT_S
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline, "the worker has not started"
        time.sleep(0.05)
    return psutil.Process(int(note.read_text()))


@contextlib.contextmanager
def supervised(address: Address, note: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor in a process of its own, whose worker sleeps."""
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdin=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(cloudpickle.dumps(order(address, sleeping, str(note))))
            process.stdin.close()
            yield process
        finally:
            process.kill()


def test_a_worker_dies_with_its_supervisor_and_the_driver_hears_it(tmp_path: Path) -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address), supervised(address, tmp_path / "note") as process:
        worker = process_of(tmp_path / "note")
        process.kill()
        worker.wait(10)
        for _ in range(100):
            if line.cause() is not None:
                break
            time.sleep(0.05)
        assert reason(line) == "the process was lost with its executor"


def test_both_end_when_the_driver_is_gone(tmp_path: Path) -> None:
    with contextlib.ExitStack() as held:
        driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
        held.callback(driver.kill)
        assert driver.stdout is not None
        port, secret = driver.stdout.readline().split()
        process = held.enter_context(supervised(Address(LOOPBACK, int(port), bytes.fromhex(secret)), tmp_path / "note"))
        worker = process_of(tmp_path / "note")
        driver.kill()
        worker.wait(LIMIT_S)
        assert process.wait(LIMIT_S) == 0
        driver.stdout.close()
        driver.wait()


DRIVER = """
import time
from sparton.distributed import relay
with relay.listen("127.0.0.1", "127.0.0.1") as (line, address):
    print(address.port, address.secret.hex(), flush=True)
    time.sleep(600)
"""


def test_a_task_that_spark_starts_again_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its world is gone; the first one keeps its place."""
    monkeypatch.setattr(link, "ABORT_GRACE_S", 0.2)
    monkeypatch.setattr(supervisor, "KILL_GRACE_S", 0.2)
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address), supervised(address, tmp_path / "first"):
        first = process_of(tmp_path / "first")
        again = threading.Thread(
            target=supervisor.run, args=(order(address, sleeping, str(tmp_path / "b")), 0, ALONE, [])
        )
        again.start()
        again.join(LIMIT_S)
        assert not again.is_alive()
        assert first.is_running()
        assert line.cause() is None

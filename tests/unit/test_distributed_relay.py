from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sparton.distributed import link as line_to_driver
from sparton.distributed import relay, wire, worker
from sparton.distributed.link import DriverLink
from sparton.distributed.relay import Address
from sparton.errors import TrainingError, WorkerError

LOOPBACK = "127.0.0.1"


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def join(address: Address, rank: int, role: str = relay.WORKER) -> DriverLink:
    return DriverLink(address, rank, lambda: None, role)


def test_sealed_messages_come_back() -> None:
    message = {"kind": "log", "text": "line one\nline two é", "level": 20}
    line = wire.seal(b"key", message)
    assert line.count(b"\n") == 1
    assert wire.unseal(b"key", line) == message


@pytest.mark.parametrize("line", [b"", b"\n", b"x", b"0" * 64 + b" {}\n", wire.seal(b"other", {"kind": "hello"})])
def test_foreign_messages_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="authentication"):
        wire.unseal(b"key", line)


def test_a_changed_message_is_refused() -> None:
    line = wire.seal(b"key", {"rank": 1}).replace(b"1}", b"2}")
    with pytest.raises(ValueError, match="authentication"):
        wire.unseal(b"key", line)


def test_long_texts_keep_their_end() -> None:
    assert wire.clip("a" * wire.MAX_TEXT + "reason").endswith("areason")
    assert len(wire.clip("x" * 10 * wire.MAX_TEXT)) < wire.MAX_TEXT + 10


def test_records_arrive_while_the_worker_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        link = join(address, 3)
        record = logging.LogRecord("sparton.train", logging.INFO, "", 0, "epoch %d", (7,), None)
        line_to_driver.DriverHandler(link).handle(record)
        wait_for(lambda: caplog.records)
        assert (caplog.records[0].name, caplog.records[0].levelno) == ("sparton.train", logging.INFO)
        assert caplog.records[0].getMessage() == "rank 3: epoch 7"
        link.end("done")
        assert line.cause() is None


def test_the_log_says_once_where_all_workers_have_started(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started() -> list[str]:
        return [text for text in caplog.messages if "have started" in text]

    with caplog.at_level(logging.INFO), relay.listen(LOOPBACK, LOOPBACK, workers=3) as (_, address):
        for rank, host in ((2, "b"), (0, "c"), (1, "b")):
            assert not started()
            monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
            join(address, rank, relay.SUPERVISOR)
        wait_for(started)
        join(address, 0)
        join(address, 0, relay.SUPERVISOR)  # a task that Spark repeats
    assert started() == ["3 workers have started on hosts c, b: loading TensorFlow, connecting"]


def test_many_hosts_are_counted() -> None:
    names = [f"h{number}" for number in range(20) for _ in range(2)]
    assert relay._listed(names) == "hosts h0, h1, h2, h3, h4, h5, h6, h7 and 12 more"
    assert relay._listed(names[:2]) == "host h0"


def test_a_process_is_heard_before_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = relay.Relay.serve

    def late(*args: Any) -> None:
        time.sleep(0.3)  # as on a busy driver, while a process may come and end
        serve(*args)

    monkeypatch.setattr(relay.Relay, "serve", late)
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        join(address, 0)
        assert line.started() == 1


def test_a_reported_failure_is_known_when_the_worker_goes_on() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        link = join(address, 1)
        link.end("failure", reason="ValueError: x", traceback="...", echo=False, final=True)
        assert line.cause() == relay.Failure(1, "ValueError: x", "...", final=True)


def test_the_cause_is_the_first_failure_that_is_no_echo() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        for rank, echo in ((0, True), (2, False), (1, False)):
            join(address, rank).end("failure", reason=f"E{rank}", traceback="", echo=echo, final=False)
        cause = line.cause()
    assert cause is not None
    assert cause.rank == 2


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ([0], "waited 300 s in a collective for ranks [1, 2], which did not take part"),
        ([0, 1, 2], "waited 300 s in a collective while all ranks wait in different ones"),
    ],
)
def test_a_stall_names_the_ranks_that_are_absent(
    waiting: list[int], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        links = [join(address, rank) for rank in range(3)]
        links[2].send("waiting")
        links[2].send("resumed")
        wait_for(lambda: "rank 2 goes on" in caplog.text)
        for rank in waiting:
            links[rank].send("waiting")
        wait_for(lambda: caplog.text.count("waits in a collective") == 1 + len(waiting))
        links[0].end("stalled", seconds=300.2, traceback="in step")
        cause = line.cause()
        for link in links[1:]:
            link.end("done")
    assert cause == relay.Failure(0, reason, "in step")


def test_a_worker_without_the_secret_is_not_heard(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        with socket.create_connection((address.host, address.port)) as stranger:
            stranger.sendall(wire.seal(b"guess", {"kind": "hello", "rank": 0}))
            stranger.sendall(wire.seal(b"guess", {"kind": "failure", "reason": "", "traceback": "", "echo": False}))
            assert stranger.recv(100) == b""  # the driver hangs up
        assert line.cause() is None


def test_a_stranger_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one who never ends the line; a worker may be silent for as long as it computes."""
    monkeypatch.setattr(relay, "HELLO_TIMEOUT_S", 0.5)
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        for words in (b"", b"hello"):
            with socket.create_connection((address.host, address.port), 30) as stranger:
                stranger.sendall(words)
                assert stranger.recv(100) == b""  # the driver hangs up
        worker = join(address, 0)
        time.sleep(1.0)
        assert line.cause() is None
        worker.end("done")


def test_the_secret_is_not_shown() -> None:
    assert "sesame" not in repr(Address("driver", 1, b"sesame"))


def test_an_unreachable_driver_is_named() -> None:
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        address = Address(LOOPBACK, unused.getsockname()[1], b"")
    expected = r"rank 0 on \S+ cannot reach the driver at 127.0.0.1:\d+ .*spark.driver.host"
    with pytest.raises(WorkerError, match=expected):
        join(address, 0)


COMPUTING_WORKER = """
import sys, time
from sparton.distributed import link, worker
from sparton.distributed.relay import Address
link.ABORT_GRACE_S = 0.2
worker.report_to(Address("127.0.0.1", int(sys.argv[1]), bytes.fromhex(sys.argv[2])), int(sys.argv[3]))
print("connected", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def computing_worker(address: Address, rank: int) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", COMPUTING_WORKER, str(address.port), address.secret.hex(), str(rank)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"
            yield process
        finally:
            process.kill()


def test_a_failure_stops_a_worker_that_computes(caplog: pytest.LogCaptureFixture) -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (_, address), computing_worker(address, 0) as process:
        join(address, 1).end("failure", reason="E", traceback="", echo=False, final=False)
        assert process.wait(timeout=10) == relay.EXIT_ABORTED
        told = 'rank 0: stopped here:\n  File "<string>"'
        wait_for(lambda: any(record.getMessage().startswith(told) for record in caplog.records))


def test_a_worker_killed_without_a_word_is_a_failure_and_stops_the_others() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address), computing_worker(address, 0) as process:
        with computing_worker(address, 1) as other:
            process.kill()
            wait_for(line.cause)
            assert other.wait(timeout=10) == relay.EXIT_ABORTED
        cause = line.cause()
    assert cause is not None
    assert cause.rank == 0
    assert cause.reason == "the process was lost with its executor"


def test_a_worker_that_dies_before_it_connects_is_the_cause_and_stops_the_others() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address), computing_worker(address, 1) as early:
        line.process_exited(0, 137)
        assert early.wait(timeout=10) == relay.EXIT_ABORTED
        with computing_worker(address, 2) as late:
            assert late.wait(timeout=10) == relay.EXIT_ABORTED
        assert line.cause() == relay.Failure(
            0, "the process was killed by signal 9 (SIGKILL) before it reached the driver"
        )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "ended with exit status 1 before"),
        (137, "killed by signal 9 (SIGKILL) before"),
        (None, "lost with its executor"),
    ],
)
def test_early_ends_are_described(code: int | None, reason: str) -> None:
    line = relay.Relay(b"")
    line.process_exited(4, code)
    cause = line.cause()
    assert cause is not None
    assert (cause.rank, cause.unheard) == (4, code == 1)
    assert reason in cause.reason


def test_exits_after_a_report_add_nothing() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        link = join(address, 1)
        link.end("done")
        line.exited(1, 1)
        line.process_exited(0, 0)
        assert line.cause() is None


def test_a_supervisor_has_the_last_word_about_a_worker_that_says_none() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        watch = join(address, 0, relay.SUPERVISOR)
        with computing_worker(address, 0) as process:
            process.kill()
            process.wait()
            time.sleep(0.2)
            assert line.cause() is None  # the supervisor is about to tell more
        watch.end("exited", code=137, killed_for="out of memory", memory=5)
        assert line.cause() == relay.Failure(0, "the process was killed by signal 9 (SIGKILL): out of memory")
        line.process_exited(0, 1)
        assert line.failed_for() > 0
        assert line.memory() == [5]


def test_what_a_worker_has_reported_is_not_said_again_by_its_supervisor() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        watch = join(address, 0, relay.SUPERVISOR)
        join(address, 0).end("failure", reason="ValueError: x", traceback="...", echo=False, final=False)
        watch.end("exited", code=1, killed_for=None, memory=7)
        assert line.cause() == relay.Failure(0, "ValueError: x", "...")


def test_a_lost_executor_is_noticed_when_its_supervisor_falls_silent() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (line, address):
        watch = join(address, 1, relay.SUPERVISOR)
        watch._socket.shutdown(socket.SHUT_RDWR)
        wait_for(line.cause)
        assert line.cause() == relay.Failure(1, "the process was lost with its executor before it reached the driver")


def test_a_worker_that_is_left_ends_with_the_launch() -> None:
    """Its executor may be gone, with nobody there to end it."""
    with contextlib.ExitStack() as held:
        with relay.listen(LOOPBACK, LOOPBACK) as (_, address):
            process = held.enter_context(computing_worker(address, 0))
        assert process.wait(timeout=30) == relay.EXIT_ABORTED


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        expected = pytest.raises(TrainingError, match=rf"launch.port={port}: the driver cannot listen there")
        with expected, relay.listen(LOOPBACK, LOOPBACK, port):
            pass


def test_a_worker_ends_when_the_driver_is_gone() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        address = Address(LOOPBACK, server.getsockname()[1], b"key")
        with computing_worker(address, 0) as process:
            server.accept()[0].close()
            assert process.wait(timeout=10) == relay.EXIT_ABORTED


@pytest.mark.parametrize(
    ("error", "echo"),
    [
        (RuntimeError("Horovod has been shut down. This was caused by an exception on one of the ranks"), True),
        (RuntimeError("[/x/third_party/compatible17_gloo/gloo/transport/tcp/pair.cc:589] Read error"), True),
        (ValueError("no jets"), False),
    ],
)
def test_echoes_are_recognised(error: Exception, echo: bool) -> None:
    assert worker.is_echo(error) is echo

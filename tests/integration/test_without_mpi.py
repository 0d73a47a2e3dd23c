"""Processes that no horovodrun has started: what ``mpirun`` and ``srun`` tell them, and where they meet."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sparton.distributed import rendezvous, wire
from sparton.distributed.rendezvous import MEETING
from tests.mpi import MPICH, OPEN_MPI, free_port, run_both, run_rank

PROGRAM = """
import json, os, sys
from sparton.distributed.launch import LaunchSettings, launch
from sparton.errors import SpartonError

def function(connection):
    import tensorflow as tf
    total, = connection.collectives.allreduce_sum([tf.ones([2]) * (connection.world.rank + 1)])
    world, direct = connection.world, connection.collectives._direct is not None
    return world.rank, world.local_rank, total.numpy().tolist(), direct

try:
    print("answer", json.dumps(launch(function, settings=LaunchSettings(workers=2, **json.loads(sys.argv[1])))))
except SpartonError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(error.exit_status)
"""


@pytest.mark.parametrize("names", [MPICH, OPEN_MPI])
def test_processes_of_mpirun_train_together_without_mpi(names: tuple[str, str, str]) -> None:
    where = f'{{"rendezvous": "localhost:{free_port()}"}}'
    for rank, (status, output) in enumerate(run_both(["-c", PROGRAM, where], names)):
        assert status == 0, output
        assert f"answer [[{rank}, {rank}, [3.0, 3.0], true]]" in output


def test_without_a_place_to_meet_the_way_out_is_told() -> None:
    status, output = run_rank(1, ["-c", PROGRAM, "{}"])
    assert status == 2
    assert "ConfigError: rank 1 of 2: Horovod is built without MPI here" in output
    assert "--set launch.rendezvous=HOST:PORT" in output


def test_who_waits_in_vain_says_for_whom() -> None:
    where = f"127.0.0.1:{free_port()}"
    status, output = run_rank(1, ["-c", PROGRAM, f'{{"rendezvous": "{where}", "start_timeout_s": 2}}'])
    assert status == 1
    assert f"WorkerError: rank 0 does not listen at launch.rendezvous={where} within" in output


def test_processes_of_another_job_are_not_heard() -> None:
    where = f'{{"rendezvous": "127.0.0.1:{free_port()}", "start_timeout_s": 6}}'
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda rank: run_rank(rank, ["-c", PROGRAM, where], SLURM_JOB_ID=str(rank)), range(2)))
    assert [status for status, _ in ended] == [1, 1]
    assert "ranks [1] of 2 have not come" in ended[0][1]
    assert "rank 0 waits for others" in ended[1][1] or "does not listen" in ended[1][1]


def test_a_host_that_nobody_knows_is_named() -> None:
    status, output = run_rank(1, ["-c", PROGRAM, '{"rendezvous": "nobody.invalid:29400"}'])
    assert status == 2
    assert "ConfigError: launch.rendezvous=nobody.invalid:29400: host" in output


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        status, output = run_rank(0, ["-c", PROGRAM, f'{{"rendezvous": "{where}"}}'])
    assert status == 2
    assert f"ConfigError: launch.rendezvous={where}: rank 0, on {socket.gethostname()}, cannot listen there" in output


@pytest.fixture
def server() -> Iterator[rendezvous.Server]:
    with rendezvous.serving("127.0.0.1", accepted=lambda value: value.startswith(b"known")) as found:
        yield found


def asked(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_strangers_may_leave_what_is_accepted_and_nothing_else(server: rendezvous.Server) -> None:
    assert asked(server.port, "PUT", "/global/0", b"known")[0] == 403
    assert asked(server.port, "GET", "/global/0")[0] == 403
    assert asked(server.port, "PUT", f"/{MEETING}/0", b"unknown")[0] == 200
    assert server.value(MEETING, "0") is None
    assert asked(server.port, "GET", "/global/0")[0] == 403
    long = str(wire.MAX_LINE + 1)
    assert asked(server.port, "PUT", f"/{MEETING}/0", b"known", **{"Content-Length": long})[0] == 403
    assert asked(server.port, "PUT", f"/{MEETING}/0", b"known 1")[0] == 200
    assert asked(server.port, "PUT", f"/{MEETING}/0", b"known 2")[0] == 200
    assert asked(server.port, "GET", f"/{MEETING}/0") == (200, b"known 1")
    assert asked(server.port, "GET", "/global/0")[0] == 404  # who has left something is heard


def test_a_silent_stranger_keeps_nobody_waiting(server: rendezvous.Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        before = time.monotonic()
        assert asked(server.port, "PUT", f"/{MEETING}/0", b"known")[0] == 200
        assert time.monotonic() - before < 2


def test_a_server_that_nobody_meets_at_hears_no_strangers() -> None:
    with rendezvous.serving("127.0.0.1") as server:
        assert asked(server.port, "PUT", f"/{MEETING}/0", b"known")[0] == 403

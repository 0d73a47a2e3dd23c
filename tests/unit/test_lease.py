"""One writer at a time: live locks are respected, dead ones are taken over, losers publish nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from sparton import lease, publication, storage
from sparton.errors import DataError

WRITER = """
import sys, time
from sparton import publication
with publication.publish(sys.argv[1]) as staging:
    print("writing", flush=True)
    time.sleep(60)
"""


def writer(output: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(output)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def publish(output: Path, text: str) -> None:
    with publication.publish(str(output)) as staging:
        storage.write_text(storage.join(staging, "a"), text)


def test_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = writer(output)
    try:
        with pytest.raises(DataError, match=rf"{output}: another run \(process {first.pid} on .*wait for its end"):
            publish(output, "second")
    finally:
        first.kill()
        first.wait()
    assert not output.exists()


def test_lock_and_leftovers_of_a_killed_writer_are_swept(tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = writer(output)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {".out.lock", "out.staging"}
    publish(output, "second")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (output / "a").read_text() == "second"


@pytest.mark.parametrize("base", ["{tmp_path}", "memory://leases"])
def test_lock_of_another_machine_counts_until_it_is_old(base: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").store.clear()
    output = base.format(tmp_path=tmp_path) + "/out"
    lock = storage.join(storage.parent(output), ".out.lock")
    elsewhere = dataclasses.replace(lease.Owner.mine(), host="elsewhere", kernel="another boot")
    storage.write_json(lock, dataclasses.asdict(elsewhere))
    with pytest.raises(DataError, match="on elsewhere"), publication.publish(output):
        pass
    storage.write_json(lock, dataclasses.asdict(elsewhere) | {"renewed": time.time() - lease.STALE_S - 1})
    with publication.publish(output) as staging:
        storage.write_text(storage.join(staging, "a"), "new")
        assert json.loads(storage.read_text(lock))["host"] != "elsewhere"
    assert storage.list_files(output) == ["a"]
    assert not storage.exists(lock)


def test_owner_that_lost_its_lock_publishes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    publish(output, "old")

    def lose() -> None:
        with publication.publish(str(output)) as staging:
            storage.write_text(storage.join(staging, "a"), "late")
            storage.write_json(str(tmp_path / ".out.lock"), dataclasses.asdict(lease.Owner.mine()))

    with pytest.raises(DataError, match="another run took over"):
        lose()
    assert (output / "a").read_text() == "old"
    assert (tmp_path / ".out.lock").exists()  # the other's


def test_lock_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.02)
    lock = tmp_path / ".out.lock"
    with publication.publish(str(tmp_path / "out")):
        first = json.loads(lock.read_text())
        deadline = time.monotonic() + 10
        while json.loads(lock.read_text())["renewed"] == first["renewed"] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert json.loads(lock.read_text())["renewed"] > first["renewed"]
        assert json.loads(lock.read_text())["token"] == first["token"]


def test_unreadable_lock_counts_by_its_age(tmp_path: Path) -> None:
    lock = tmp_path / ".out.lock"
    lock.write_text("{")
    with pytest.raises(DataError, match="an unknown host"):
        publish(tmp_path / "out", "new")
    old = time.time() - lease.STALE_S - 1
    os.utime(lock, (old, old))
    publish(tmp_path / "out", "new")
    assert (tmp_path / "out" / "a").read_text() == "new"

"""One writer at a time: a lock file beside an output that says who writes, renewed while that process lives.

A lock whose owner is dead is taken over: at once where the owner ran under the same kernel and can be looked up, else
when it has not been renewed for :data:`STALE_S`. An owner that lost its lock learns so before it publishes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from sparton.errors import DataError, naming

RENEW_S = 30.0
STALE_S = 300.0
SETTLE_S = 0.3
"""Time after which a lock on storage without exclusive creation is read back: of two writers the later one wins."""

ATTEMPTS = 5


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a lock: ``token`` names the holder, ``renewed`` is its last sign of life (s since 1970)."""

    token: str
    host: str
    kernel: str
    pid: int
    process: str
    renewed: float

    @classmethod
    def mine(cls) -> Owner:
        """Return this process as an owner with a new token."""
        pid = os.getpid()
        return cls(uuid.uuid4().hex, socket.gethostname(), _kernel(), pid, _process(pid), time.time())

    def is_dead(self) -> bool:
        """Tell whether the owner has ended or has not been heard of for too long."""
        if self.kernel and self.kernel == _kernel():
            return _process(self.pid) != self.process
        return time.time() - self.renewed > STALE_S


@contextlib.contextmanager
def held(filesystem: Any, path: str, what: str) -> Iterator[Callable[[], None]]:
    """Hold the lock file ``path`` while the block runs; yields a function that checks that it is still held.

    Parameters
    ----------
    filesystem
        fsspec's file system of the path.
    path
        The lock file, in the form of the file system.
    what
        The output that it protects, for messages.

    Raises
    ------
    DataError
        If another run holds it; also from the function, if another run has taken it over.
    """
    mine = Owner.mine()
    sweep(filesystem, path)
    _take(filesystem, path, mine, what)
    ended = threading.Event()
    thread = threading.Thread(target=_keep, args=(filesystem, path, mine, ended), daemon=True)
    thread.start()

    def check() -> None:
        found = _read(filesystem, path)
        if found is None or found.token != mine.token:
            raise DataError(f"{what}: another run took over while this one was not heard of; nothing was published")

    try:
        yield check
    finally:
        ended.set()
        thread.join()
        _discard(filesystem, path, mine.token)


def sweep(filesystem: Any, path: str) -> None:
    """Remove what processes left beside the lock file ``path`` that died while they took it or gave it back."""
    if not isinstance(filesystem, LocalFileSystem):
        return  # nothing is written aside there
    for aside in glob.glob(f"{glob.escape(path)}.*"):
        found = _read(filesystem, aside)
        if found is not None and found.is_dead():
            with contextlib.suppress(FileNotFoundError):
                os.remove(aside)


def _take(filesystem: Any, path: str, mine: Owner, what: str) -> None:
    for _ in range(ATTEMPTS):
        if _create(filesystem, path, mine):
            return
        found = _read(filesystem, path)
        if found is None:
            continue
        if not found.is_dead():
            since = time.strftime("%H:%M:%S", time.localtime(found.renewed))
            raise DataError(
                f"{what}: another run (process {found.pid} on {found.host}, last heard of at {since}) is writing it; "
                f"wait for its end, or give this one another output and workspace. Its lock, {path}, ends with it"
            )
        _discard(filesystem, path, found.token)
    raise DataError(f"{what}: the lock {path} is wanted by other runs, too; try again")


def _create(filesystem: Any, path: str, mine: Owner) -> bool:
    """Make the lock file with its content unless there is one."""
    if isinstance(filesystem, LocalFileSystem):
        aside = _write_aside(path, mine)
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here
            return _create_exclusively(path, mine)
        finally:
            os.remove(aside)
        return True
    if filesystem.exists(path):
        return False
    filesystem.pipe_file(path, _content(mine))
    time.sleep(SETTLE_S)
    found = _read(filesystem, path)
    return found is not None and found.token == mine.token


def _create_exclusively(path: str, mine: Owner) -> bool:
    try:
        with naming(path), open(path, "xb") as stream:
            stream.write(_content(mine))
    except FileExistsError:
        return False
    return True


def _keep(filesystem: Any, path: str, mine: Owner, ended: threading.Event) -> None:
    """Renew the lock until the end, unless it is another's."""
    while not ended.wait(RENEW_S):
        with contextlib.suppress(OSError):  # the next renewal tries again, and publication checks
            found = _read(filesystem, path)
            if found is None or found.token != mine.token:
                return
            renewed = dataclasses.replace(mine, renewed=time.time())
            if isinstance(filesystem, LocalFileSystem):
                os.replace(_write_aside(path, renewed), path)
            else:
                filesystem.pipe_file(path, _content(renewed))


def _discard(filesystem: Any, path: str, token: str) -> None:
    """Remove the lock of this owner; another's stays."""
    with contextlib.suppress(FileNotFoundError):
        if not isinstance(filesystem, LocalFileSystem):
            found = _read(filesystem, path)
            if found is not None and found.token == token:
                filesystem.rm_file(path)
            return
        aside = f"{path}.{uuid.uuid4().hex}"
        os.rename(path, aside)  # of several that try, one gets the file
        found = _read(filesystem, aside)
        if found is not None and found.token != token:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        os.remove(aside)


def _read(filesystem: Any, path: str) -> Owner | None:
    """Return the owner that a lock names; None where there is no lock, and a dead owner where it is not readable."""
    try:
        return Owner(**json.loads(filesystem.cat_file(path)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Owner("", "an unknown host", "", 0, "", float(filesystem.modified(path).timestamp()))


def _write_aside(path: str, owner: Owner) -> str:
    aside = f"{path}.{uuid.uuid4().hex}"
    try:
        with naming(path), open(aside, "wb") as stream:
            stream.write(_content(owner))
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.remove(aside)
        raise
    return aside


def _content(owner: Owner) -> bytes:
    return json.dumps(dataclasses.asdict(owner)).encode()


def _kernel() -> str:
    """Return what is the same for processes that can look each other up: one boot and one space of process numbers."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return f"{stream.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> str:
    """Return what tells a process from a later one with its number (its start time); empty where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            state, *fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in ("Z", "X") else fields[18]

"""Publication: a finished output takes the place of the old one as a whole, and a killed run leaves old or new.

On a local file system that is one system call. Elsewhere a *journal* beside the output, written when the new content
is complete, names the staging folder that holds it; then the content is put into place. Whoever comes after a process
that died in between finds the journal and does that again, so nothing is lost; until then :func:`require_whole` keeps
other stages from reading a part.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from sparton import lease, storage
from sparton.errors import DataError

COPY_THREADS = 16  # copies wait for the storage, not for the processor
TAGS = slice(3, None)  # of storage.IDENTITY: what differs where the content does


@contextlib.contextmanager
def publish(output: str) -> Iterator[str]:
    """Yield an empty staging folder beside ``output`` that takes its place when the block ends well.

    Two runs never write one output at a time: a lock file stands beside it meanwhile (:mod:`sparton.lease`). On an
    error the staging folder is removed and ``output`` stays as it was.

    Raises
    ------
    DataError
        If another run is writing ``output``.
    """
    with _staging(output) as (staging, check):
        yield staging
        check()
        _put_into_place(staging, output)


@contextlib.contextmanager
def extend(output: str) -> Iterator[str]:
    """Yield a staging folder that starts with the content of ``output`` and takes its place when the block ends well.

    Files are hard links to those of ``output`` on a local file system and copies elsewhere, so a file there is
    replaced by a rename and never written in place: what reads the old folder would see it change. Where nothing
    stands at ``output`` the staging folder is empty.

    Raises
    ------
    DataError
        If another run is writing ``output``, or something changed it meanwhile: that would be lost. Nothing is
        published.
    """
    with _staging(output) as (staging, check):
        before = storage.identities(output)
        _link(output, staging, list(before))
        yield staging
        if storage.identities(output) != before:
            raise DataError(
                f"{output}: another run changed it while it was being extended; nothing was published, run it again"
            )
        check()
        _put_into_place(staging, output)


def recover(output: str) -> None:
    """Finish the publication of ``output`` that a process which died had begun, and remove what else it has left.

    Raises
    ------
    DataError
        If a run is writing ``output`` now.
    """
    if storage.exists(_journal(output)):
        with _lock(output):
            _finish(output)
    if _staging_folders(output) or storage.exists(_lock_file(output)):
        with contextlib.suppress(DataError), _lock(output):  # else a run is at work, whose they are
            _sweep(output)


def release(output: str) -> None:
    """Remove the lock of ``output``, and what belongs to it, that a process left which died.

    Raises
    ------
    DataError
        If a run is writing ``output`` now.
    """
    if storage.exists(_lock_file(output)):
        with _lock(output):
            pass  # taken over from the dead, it ends with this block
    else:
        lease.sweep(*storage.filesystem_of(_lock_file(output)))


def require_whole(folder: str) -> None:
    """Check that no publication of ``folder`` is under way.

    Raises
    ------
    DataError
        If one is, or was interrupted.
    """
    if storage.exists(_journal(folder)):
        raise DataError(
            f"{folder}: it is being published, or that was interrupted; wait for its end, or run the stage that makes "
            "it again"
        )


def _lock(output: str) -> contextlib.AbstractContextManager[Callable[[], None]]:
    return lease.held(*storage.filesystem_of(_lock_file(output)), output)


def _lock_file(output: str) -> str:
    return storage.join(storage.parent(output), f".{storage.name(output)}.lock")


@contextlib.contextmanager
def _staging(output: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Hold the lock of an output; yield an empty folder beside it and what checks that the lock is still held."""
    storage.make_dirs(storage.parent(output))
    with _lock(output) as check:
        if storage.exists(_journal(output)):
            _finish(output)
        _sweep(output)
        staging = storage.join(storage.parent(output), f"{_mark(output)}{uuid.uuid4().hex}")
        storage.make_dirs(staging)
        try:
            yield staging, check
        finally:
            if not storage.exists(_journal(output)):  # else it holds what is being published
                storage.remove(staging)


def _mark(output: str) -> str:
    # No leading dot: Spark would take what it reads back there for hidden files.
    return f"{storage.name(output)}.staging-"


def _staging_folders(output: str) -> list[str]:
    parent, mark = storage.parent(output), _mark(output)
    return [storage.join(parent, name) for name in storage.list_folders(parent) if name.startswith(mark)]


def _sweep(output: str) -> None:
    """Remove the staging folders of processes that were killed; the lock is held, and no journal names one."""
    for left in _staging_folders(output):
        storage.remove(left)


def _put_into_place(staging: str, output: str) -> None:
    """Let the staging folder, which is complete, take the output's place."""
    whole = storage.renames_folders(output)
    if whole and not storage.exists(output):
        storage.rename(staging, output)
    elif not storage.exchange(staging, output):
        storage.write_text(_journal(output), storage.name(staging))
        _finish(output)


def _finish(output: str) -> None:
    """Do what the journal says; may be repeated from any point at which it was interrupted."""
    staging = storage.join(storage.parent(output), storage.read_text(_journal(output)))
    retired = storage.join(storage.parent(output), f".{storage.name(output)}.retired")
    if not storage.renames_folders(output):
        _mirror(staging, output)
    elif storage.exists(staging):  # else it has been renamed already
        storage.remove(retired)
        if storage.exists(output):
            storage.rename(output, retired)
        storage.rename(staging, output)
    storage.remove(_journal(output))
    storage.remove(staging)
    storage.remove(retired)


def _mirror(staging: str, output: str) -> None:
    """Make the files of the output those of the staging folder, which stays; what describes them comes last."""
    old, new = storage.identities(output), storage.identities(staging)
    for path in old.keys() - new.keys():
        storage.remove(storage.join(output, path))
    changed = [path for path in sorted(new) if not _same(old.get(path), new[path])]
    _link(staging, output, [path for path in changed if not path.startswith("_")])
    for path in changed:
        if path.startswith("_"):  # _stage.json is the last of them
            storage.link(storage.join(staging, path), storage.join(output, path))


def _same(old: tuple[object, ...] | None, new: tuple[object, ...]) -> bool:
    """Tell whether two files have the same content for sure: size and tag are equal, and there is a tag."""
    return old is not None and any(tag is not None for tag in new[TAGS]) and (old[0], old[TAGS]) == (new[0], new[TAGS])


def _link(source: str, target: str, paths: list[str]) -> None:
    with ThreadPoolExecutor(COPY_THREADS) as pool:
        list(pool.map(lambda path: storage.link(storage.join(source, path), storage.join(target, path)), paths))


def _journal(output: str) -> str:
    return storage.join(storage.parent(output), f".{storage.name(output)}.journal")

"""Files and folders, local or remote, through fsspec; atomic writes and publication.

Every path is a string: a local path or a URL that fsspec knows (``hdfs://``, ``s3://``, ``abfss://`` ...). A finished
output appears by one rename of a complete folder, so that a reader sees the old content or the new, never a part.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import json
import logging
import os
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from sparton import lease
from sparton.errors import DataError, naming

MANIFEST = "_manifest.json"  # Spark skips files whose names start with an underscore
READ_BLOCK = 1 << 20  # bytes
RENAME_EXCHANGE = 2  # flag of renameat2(2)
AT_FDCWD = -100
DBFS_MOUNT = "/dbfs"
COPY_THREADS = 16  # copies wait for the storage, not for the processor
IDENTITY = ("size", "ino", "mtime", "ETag", "etag")  # what file systems tell of a file; those that lack one give None

logger = logging.getLogger(__name__)


def join(base: str, *parts: str) -> str:
    """Join path components with ``/``; URLs keep their scheme."""
    return posixpath.join(base, *parts)


def parent(path: str) -> str:
    """Return the folder that holds ``path``."""
    return posixpath.dirname(path.rstrip("/")) or "."


def name(path: str) -> str:
    """Return the last component of ``path``."""
    return posixpath.basename(path.rstrip("/"))


def is_local(path: str) -> bool:
    """Tell whether ``path`` lies on this machine's file system."""
    return isinstance(_filesystem(path)[0], LocalFileSystem)


def local_path(path: str) -> str:
    """Return ``path`` as an absolute local path.

    Raises
    ------
    DataError
        If the path is remote.
    """
    filesystem, inner = _filesystem(path)
    if not isinstance(filesystem, LocalFileSystem):
        raise DataError(f"{path}: expected a path on a local or mounted file system")
    return os.path.abspath(inner)


def absolute(path: str) -> str:
    """Return a path that means the same in every process: local ones become absolute, URLs stay."""
    return local_path(path) if is_local(path) else path.rstrip("/")


def spark_url(path: str) -> str:
    """Return the URL under which Spark and Petastorm read ``path`` (a local path becomes ``file:///...``)."""
    return f"file://{local_path(path)}" if is_local(path) else path


def exists(path: str) -> bool:
    """Tell whether a file or folder stands at ``path``."""
    filesystem, inner = _filesystem(path)
    return bool(filesystem.exists(inner))


def is_folder(path: str) -> bool:
    """Tell whether ``path`` is a folder."""
    filesystem, inner = _filesystem(path)
    return bool(filesystem.isdir(inner))


def size(path: str) -> int:
    """Return the size of a file in bytes."""
    filesystem, inner = _filesystem(path)
    return int(filesystem.size(inner))


def modified(path: str) -> str:
    """Return the time of a file's last change in ISO format."""
    filesystem, inner = _filesystem(path)
    return str(filesystem.modified(inner).isoformat())


def open_file(path: str, mode: str = "rb") -> IO[Any]:
    """Open a file; the caller closes it."""
    filesystem, inner = _filesystem(path)
    stream: IO[Any] = filesystem.open(inner, mode)
    return stream


def make_dirs(path: str) -> None:
    """Create a folder and its parents where they are missing."""
    filesystem, inner = _filesystem(path)
    filesystem.makedirs(inner, exist_ok=True)


def remove(path: str) -> None:
    """Remove a file or a folder with all that it holds; a missing one is no error."""
    filesystem, inner = _filesystem(path)
    if filesystem.exists(inner):
        filesystem.rm(inner, recursive=True)


def rename(source: str, target: str) -> None:
    """Rename a file or folder on one file system; a file that stands at ``target`` is replaced."""
    filesystem, inner = _filesystem(source)
    target_inner = _filesystem(target)[1]
    if isinstance(filesystem, LocalFileSystem):
        os.replace(inner, target_inner)
    else:
        filesystem.mv(inner, target_inner, recursive=True)


def link(source: str, target: str) -> None:
    """Make ``target`` a hard link to the file ``source``, or a copy where there are no links."""
    make_dirs(parent(target))
    filesystem, inner = _filesystem(source)
    target_inner = _filesystem(target)[1]
    if isinstance(filesystem, LocalFileSystem):
        try:
            os.link(inner, target_inner)
            return
        except OSError:
            logger.debug("%s: no hard links here, copying", source)
    filesystem.cp_file(inner, target_inner)


def copy_folder(source: str, target: str) -> None:
    """Copy all files below a folder; the two may lie on different storage."""
    for path in list_files(source):
        make_dirs(parent(join(target, path)))
        with (
            naming(join(target, path)),
            open_file(join(source, path)) as content,
            open_file(join(target, path), "wb") as copy,
        ):
            shutil.copyfileobj(content, copy, READ_BLOCK)


def list_files(folder: str) -> list[str]:
    """Return the paths of all files below ``folder``, relative to it and sorted."""
    filesystem, inner = _filesystem(folder)
    root = str(filesystem._strip_protocol(inner)).rstrip("/")  # the form in which find() returns its results
    return sorted(str(found)[len(root) + 1 :] for found in filesystem.find(root))


def list_folders(folder: str) -> list[str]:
    """Return the names of the folders directly in ``folder``, sorted; none where it does not exist."""
    filesystem, inner = _filesystem(folder)
    if not filesystem.isdir(inner):
        return []
    return sorted(name(entry["name"]) for entry in filesystem.ls(inner, detail=True) if entry["type"] == "directory")


def expand(pattern: str) -> list[str]:
    """Return the files that a path stands for, sorted: itself, those below a folder, or those that a pattern matches.

    Below a folder, what begins with a dot or an underscore is left out, as Spark does.
    """
    filesystem, inner = _filesystem(pattern)
    if glob.has_magic(inner):
        return sorted(_full(filesystem, path) for path in filesystem.glob(inner) if filesystem.isfile(path))
    if not filesystem.isdir(inner):
        return [absolute(pattern)] if filesystem.exists(inner) else []
    visible = (path for path in list_files(pattern) if not any(part[0] in "._" for part in path.split("/")))
    return [join(absolute(pattern), path) for path in visible]


def read_text(path: str) -> str:
    """Return a file's content as UTF-8 text."""
    with open_file(path, "rb") as stream:
        return str(stream.read().decode("utf-8"))


def write_text(path: str, text: str) -> None:
    """Write UTF-8 text atomically: aside first, then renamed into place."""
    make_dirs(parent(path))
    aside = join(parent(path), f".{name(path)}.{uuid.uuid4().hex}")
    try:
        with naming(path), open_file(aside, "wb") as stream:
            stream.write(text.encode("utf-8"))
        rename(aside, path)
    except BaseException:
        remove(aside)
        raise


def read_json(path: str) -> Any:
    """Return the value that a JSON file holds.

    Raises
    ------
    DataError
        If the file is missing or is not JSON.
    """
    if not exists(path):
        raise DataError(f"{path}: no such file")
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); the file is damaged or of another kind") from None


def write_json(path: str, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def sha256(path: str) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    digest = hashlib.sha256()
    with open_file(path, "rb") as stream:
        while block := stream.read(READ_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def publish(output: str) -> Iterator[str]:
    """Yield an empty staging folder beside ``output`` that takes its place when the block ends well.

    Two runs never write one output at a time: a lock file stands beside it meanwhile (:mod:`sparton.lease`).

    On an error the staging folder is removed and ``output`` stays as it was. On a local file system an existing
    folder is exchanged in one system call; elsewhere it is renamed away first, and the next publication puts it back
    should the process die between the two renames.

    Raises
    ------
    DataError
        If another run is writing ``output``.
    """
    with _staging(output) as (staging, check):
        yield staging
        check()
        _swap(staging, output)


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
        before = _content(output)
        with ThreadPoolExecutor(COPY_THREADS) as pool:
            list(pool.map(lambda path: link(join(output, path), join(staging, path)), before))
        yield staging
        if _content(output) != before:
            raise DataError(
                f"{output}: another run changed it while it was being extended; nothing was published, run it again"
            )
        check()
        _swap(staging, output)


@contextlib.contextmanager
def _staging(output: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Hold the lock of an output; yield an empty folder beside it and what checks that the lock is still held."""
    make_dirs(parent(output))
    filesystem, lock = _filesystem(join(parent(output), f".{name(output)}.lock"))
    with lease.held(filesystem, lock, output) as check:
        _recover(output)
        # No leading dot: Spark would take what it reads back there for hidden files.
        mark = f"{name(output)}.staging-"
        for left in list_folders(parent(output)):
            if left.startswith(mark):  # by a process that was killed
                remove(join(parent(output), left))
        staging = join(parent(output), f"{mark}{uuid.uuid4().hex}")
        make_dirs(staging)
        try:
            yield staging, check
        finally:
            remove(staging)


def _content(folder: str) -> dict[str, tuple[Any, ...]]:
    """Return size and, where the file system knows them, inode and time of change of each file below a folder."""
    filesystem, inner = _filesystem(folder)
    if not filesystem.isdir(inner):
        return {}
    root = str(filesystem._strip_protocol(inner)).rstrip("/")
    found = filesystem.find(root, detail=True).items()
    return {str(path)[len(root) + 1 :]: tuple(entry.get(key) for key in IDENTITY) for path, entry in found}


def _swap(staging: str, output: str) -> None:
    if not exists(output):
        rename(staging, output)
    elif not (is_local(output) and _exchange(local_path(staging), local_path(output))):
        retired = join(parent(output), f".{name(output)}.retired")
        remove(retired)
        rename(output, retired)
        rename(staging, output)
        remove(retired)


def _recover(output: str) -> None:
    retired = join(parent(output), f".{name(output)}.retired")
    if not exists(output) and exists(retired):
        logger.warning("%s: restoring the content that an interrupted publication had set aside", output)
        rename(retired, output)


def _exchange(first: str, second: str) -> bool:
    """Exchange two local folders atomically; False where the system does not offer it."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    return bool(function(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0)


def _filesystem(path: str) -> tuple[Any, str]:
    try:
        filesystem, inner = fsspec.core.url_to_fs(_known_scheme(path))
    except ImportError as error:
        raise DataError(f"{path}: {error}; the package must be installed on the driver and on all executors") from None
    return filesystem, inner


def _known_scheme(path: str) -> str:
    """Return ``path`` as fsspec knows it: Hadoop's ``s3a`` is ``s3``, ``dbfs:/`` is a mount where there is one."""
    if path.startswith("file:/"):  # Hadoop writes one slash, the standard three
        return "/" + path.removeprefix("file:").lstrip("/")
    if path.startswith(("s3a://", "s3n://")):
        return "s3" + path[3:]
    if path.startswith("dbfs:/") and os.path.isdir(DBFS_MOUNT):
        return join(DBFS_MOUNT, path.removeprefix("dbfs:").lstrip("/"))
    return path


def _full(filesystem: Any, path: str) -> str:
    if isinstance(filesystem, LocalFileSystem):
        return os.path.abspath(path)
    return str(filesystem.unstrip_protocol(path))

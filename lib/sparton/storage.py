"""Files and folders, local or remote, through fsspec.

Every path is a string: a local path or a URL that fsspec knows (``hdfs://``, ``s3://``, ``abfss://`` ...).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import json
import logging
import os
import posixpath
import re
import shutil
import uuid
from collections.abc import Iterator
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from sparton.errors import DataError, naming

MANIFEST = "_manifest.json"  # Spark skips files whose names start with an underscore
READ_BLOCK = 1 << 20  # bytes
RENAME_EXCHANGE = 2  # flag of renameat2(2)
AT_FDCWD = -100
DBFS_MOUNT = "/dbfs"
IDENTITY = ("size", "ino", "mtime", "ETag", "etag")  # what file systems tell of a file; those that lack one give None
VERSION = ("mtime", "modificationTime", "LastModified", "last_modified", "updated", "ETag", "etag", "generation")
"""What tells one content of a file from another, under the names that file systems have for it. Machines that share
storage agree on these, but not on inodes."""

RENAMING = frozenset({"file", "local", "hdfs", "arrow_hdfs", "webhdfs", "sftp", "ssh", "smb"})
"""Protocols that rename a folder in one step."""

PATTERN_CHARACTERS = re.compile(r"[\\*?\[\]{}]")
"""What Hadoop's readers take for the pattern of several names."""

LISTING = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "az"})
"""Protocols whose file systems remember listings, which other processes make stale."""

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
    return isinstance(filesystem_of(path)[0], LocalFileSystem)


def local_path(path: str) -> str:
    """Return ``path`` as an absolute local path.

    Raises
    ------
    DataError
        If the path is remote.
    """
    filesystem, inner = filesystem_of(path)
    if not isinstance(filesystem, LocalFileSystem):
        raise DataError(f"{path}: expected a path on a local or mounted file system")
    return os.path.abspath(inner)


def absolute(path: str) -> str:
    """Return a path that means the same in every process: local ones become absolute, URLs stay."""
    return local_path(path) if is_local(path) else path.rstrip("/")


def spark_url(path: str) -> str:
    """Return the URL under which Spark and Petastorm know ``path`` (a local path becomes ``file:///...``).

    Spark's readers are given :func:`spark_source`.
    """
    return f"file://{local_path(path)}" if is_local(path) else path


def spark_source(path: str) -> str:
    """Return what Spark's readers take for ``path`` alone: its URL, without the pattern that its name may look like."""
    return PATTERN_CHARACTERS.sub(r"\\\g<0>", spark_url(path))


def filesystem_of(path: str) -> tuple[Any, str]:
    """Return fsspec's file system of a path, and the path in its form.

    Raises
    ------
    DataError
        If a package is missing, or the storage cannot be reached.
    """
    known = _known_scheme(path)
    options = {"use_listings_cache": False} if known.partition("://")[0] in LISTING else {}
    try:
        filesystem, inner = fsspec.core.url_to_fs(known, **options)
    except ImportError as error:
        raise DataError(f"{path}: {error}; the package must be installed on the driver and on all executors") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: this storage cannot be reached ({' '.join(str(error).split())})") from error
    return filesystem, inner


def exists(path: str) -> bool:
    """Tell whether a file or folder stands at ``path``."""
    filesystem, inner = filesystem_of(path)
    return bool(filesystem.exists(inner))


def is_folder(path: str) -> bool:
    """Tell whether ``path`` is a folder."""
    filesystem, inner = filesystem_of(path)
    return bool(filesystem.isdir(inner))


def size(path: str) -> int:
    """Return the size of a file in bytes."""
    filesystem, inner = filesystem_of(path)
    return int(filesystem.size(inner))


def version(path: str) -> tuple[int, str]:
    """Return the size of a file in bytes and what storage tells of its content: time of change, tag.

    The text is empty where storage tells neither.
    """
    filesystem, inner = filesystem_of(path)
    found = filesystem.info(inner)
    return int(found["size"]), " ".join(f"{key}={found[key]}" for key in VERSION if found.get(key) is not None)


def modified(path: str) -> str:
    """Return the time of a file's last change in ISO format."""
    filesystem, inner = filesystem_of(path)
    return str(filesystem.modified(inner).isoformat())


def open_file(path: str, mode: str = "rb") -> IO[Any]:
    """Open a file; the caller closes it."""
    filesystem, inner = filesystem_of(path)
    stream: IO[Any] = filesystem.open(inner, mode)
    return stream


def make_dirs(path: str) -> None:
    """Create a folder and its parents where they are missing."""
    filesystem, inner = filesystem_of(path)
    if isinstance(filesystem, LocalFileSystem) or not filesystem.isdir(inner):  # making a bucket takes a right
        filesystem.makedirs(inner, exist_ok=True)


def remove(path: str) -> None:
    """Remove a file or a folder with all that it holds; a missing one is no error."""
    filesystem, inner = filesystem_of(path)
    if filesystem.exists(inner):
        filesystem.rm(inner, recursive=True)


def rename(source: str, target: str) -> None:
    """Rename a file or folder on one file system; a file that stands at ``target`` is replaced.

    Raises
    ------
    OSError
        If the storage did not do it; Hadoop's does not always say so.
    """
    filesystem, inner = filesystem_of(source)
    target_inner = filesystem_of(target)[1]
    if isinstance(filesystem, LocalFileSystem):
        os.replace(inner, target_inner)
        return
    if renames_folders(source) and filesystem.isfile(target_inner):
        filesystem.rm_file(target_inner)  # Hadoop renames to free names only
    filesystem.mv(inner, target_inner, recursive=True)
    if filesystem.exists(inner):
        raise OSError(errno.EIO, f"not renamed to {target}", source)


def link(source: str, target: str) -> None:
    """Make ``target`` a hard link to the file ``source``, or a copy where there are no links."""
    make_dirs(parent(target))
    filesystem, inner = filesystem_of(source)
    target_inner = filesystem_of(target)[1]
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
    """Return the paths of all files below ``folder``, relative to it and sorted; links to folders are followed.

    Raises
    ------
    DataError
        If a local folder below it cannot be listed, whose files would be missed.
    """
    filesystem, inner = filesystem_of(folder)
    if isinstance(filesystem, LocalFileSystem):
        return sorted(os.path.relpath(found, inner) for found in _files_below(inner))
    root = str(filesystem._strip_protocol(inner)).rstrip("/")  # the form in which find() returns its results
    return sorted(str(found)[len(root) + 1 :] for found in filesystem.find(root))


def _files_below(folder: str, enclosing: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the files below a local folder; a link to one of the ``enclosing`` folders is passed over."""
    here = os.path.realpath(folder)
    if here in enclosing:
        return
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); its files would be missed") from error
    for entry in entries:
        if entry.is_dir():
            yield from _files_below(entry.path, enclosing | {here})
        else:
            yield entry.path


def list_folders(folder: str) -> list[str]:
    """Return the names of the folders directly in ``folder``, sorted; none where it does not exist."""
    filesystem, inner = filesystem_of(folder)
    if not filesystem.isdir(inner):
        return []
    return sorted(name(entry["name"]) for entry in filesystem.ls(inner, detail=True) if entry["type"] == "directory")


def expand(pattern: str) -> list[str]:
    """Return the files that a path stands for, sorted: itself, those below a folder, or those that a pattern matches.

    Below a folder, what begins with a dot or an underscore is left out, as Spark does.
    """
    filesystem, inner = filesystem_of(pattern)
    if glob.has_magic(inner) and not filesystem.exists(inner):  # brackets may be part of a name
        return sorted(_full(pattern, path) for path in filesystem.glob(inner) if filesystem.isfile(path))
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
    with open_input(path) as stream:
        while block := stream.read(READ_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def open_input(path: str) -> Iterator[IO[Any]]:
    """Open a file for reading; where remote storage fails to deliver its content, that is a ``ConnectionError``.

    So what a library makes of such a failure is not taken for damage to the file.
    """
    with open_file(path) as stream:
        if is_local(path):
            yield stream
            return
        watched = _Watched(stream)
        try:
            yield watched  # type: ignore[misc]  # delegates to the stream
        except Exception as error:
            if watched.failure is None:
                raise
            raise ConnectionError(f"{path}: {watched.failure}") from error


class _Watched:
    """A stream that remembers, in words, why it could not be read.

    The exception itself leads back here through frames that hold HDF5's handles, which refer to this stream out of
    sight of the garbage collector: kept, they would live on until HDF5 crashes on them at the interpreter's end.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.failure: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        with self._watch():
            return self._stream.read(size)

    def readinto(self, target: Any) -> int:
        with self._watch():
            return int(self._stream.readinto(target))  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        try:
            yield
        except (PermissionError, FileNotFoundError):
            raise
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            raise


def renames_folders(path: str) -> bool:
    """Tell whether a folder there is renamed in one step; object stores copy file after file."""
    protocol = filesystem_of(path)[0].protocol
    return not RENAMING.isdisjoint([protocol] if isinstance(protocol, str) else protocol)


def identities(folder: str) -> dict[str, tuple[Any, ...]]:
    """Return size and, where the file system knows them, inode, time of change and tag of each file below a folder."""
    filesystem, inner = filesystem_of(folder)
    if not filesystem.isdir(inner):
        return {}
    root = str(filesystem._strip_protocol(inner)).rstrip("/")
    found = filesystem.find(root, detail=True).items()
    return {str(path)[len(root) + 1 :]: tuple(entry.get(key) for key in IDENTITY) for path, entry in found}


def exchange(first: str, second: str) -> bool:
    """Exchange two folders atomically; False where the storage or the system does not offer it."""
    if not is_local(first):
        return False
    return _exchange(local_path(first), local_path(second))


def _exchange(first: str, second: str) -> bool:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    return bool(function(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0)


def _known_scheme(path: str) -> str:
    """Return ``path`` as fsspec knows it: Hadoop's ``s3a`` is ``s3``, ``dbfs:/`` is a mount where there is one."""
    if path.startswith("file:/"):  # Hadoop writes one slash, the standard three
        return "/" + path.removeprefix("file:").lstrip("/")
    if path.startswith(("s3a://", "s3n://")):
        return "s3" + path[3:]
    if path.startswith("abfss://"):  # known without the package, so that this can be named
        return "abfs" + path[5:]
    if path.startswith("dbfs:/"):
        if not os.path.isdir(DBFS_MOUNT):
            raise DataError(f"{path}: {DBFS_MOUNT} is not mounted on this machine; give a path that is, or another URL")
        return join(DBFS_MOUNT, path.removeprefix("dbfs:").lstrip("/"))
    return path


def _full(pattern: str, found: str) -> str:
    """Return what a pattern matched, in the form of the pattern: URLs keep scheme, account and host."""
    filesystem, inner = filesystem_of(pattern)
    if isinstance(filesystem, LocalFileSystem):
        return os.path.abspath(found)
    scheme, _, place = pattern.partition("://")
    host, _, path = place.partition("/")
    return f"{scheme}://{host}/{found[len(inner) - len(path) :]}"

"""HDF5 files on any storage, with checks of their structure; pickled attributes in them are never looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sparton import storage
from sparton.data.sources.block import BadFileError
from sparton.errors import SpartonError

ERRORS: tuple[type[Exception], ...] = (KeyError, RuntimeError, ValueError, EOFError)
SUFFIXES = (".h5", ".hdf5", ".hdf")


@contextlib.contextmanager
def open_hdf5(path: str) -> Iterator[Any]:
    """Yield the open file (``h5py.File``); the filters of PyTables (Blosc) are registered.

    Raises
    ------
    SpartonError
        If h5py or hdf5plugin is not installed.
    """
    try:
        import h5py
        import hdf5plugin  # noqa: F401  # registers the filters
    except ImportError as error:
        raise SpartonError(
            f"{path}: reading HDF5 needs h5py and hdf5plugin ({error}); install sparton[formats]"
        ) from None
    with contextlib.ExitStack() as stack:
        local = storage.is_local(path)
        target = storage.local_path(path) if local else stack.enter_context(storage.open_input(path))
        yield stack.enter_context(h5py.File(target, "r"))


def dataset(handle: Any, key: str, dimensions: int, kinds: str = "fiu") -> Any:
    """Return the dataset ``key`` after checking its number of dimensions and its type (NumPy's kinds).

    Raises
    ------
    BadFileError
        ``missing_key``, ``wrong_shape`` or ``wrong_dtype``.
    """
    found = handle.get(key)
    if found is None or not hasattr(found, "dtype"):
        raise BadFileError("missing_key", f"no dataset {key!r}; found {', '.join(sorted(handle)) or 'nothing'}")
    if found.ndim != dimensions:
        raise BadFileError("wrong_shape", f"dataset {key!r}: shape {found.shape}, expected {dimensions} dimensions")
    if found.dtype.kind not in kinds:
        raise BadFileError("wrong_dtype", f"dataset {key!r}: type {found.dtype}, expected numbers")
    return found


def columns(handle: Any, key: str, wanted: Sequence[str], documented: Sequence[str], width: int) -> list[int]:
    """Return the positions of named columns: by the names stored under ``key``, else as documented.

    Raises
    ------
    BadFileError
        If a name is missing, or lies beyond the ``width`` of the array.
    """
    stored = handle.get(key)
    names = list(documented) if stored is None else [_text(value) for value in np.asarray(stored).ravel().tolist()]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise BadFileError("missing_key", f"{key}: no column {', '.join(missing)}; found {', '.join(names)}")
    positions = [names.index(name) for name in wanted]
    if max(positions) >= width:
        raise BadFileError("wrong_shape", f"{key} names column {max(positions)}, but the array has {width} columns")
    return positions


def chunk_rows(found: Any) -> int:
    """Return the rows that are stored together: those of a chunk, 1 in a contiguous dataset."""
    return int(found.chunks[0]) if found.chunks else 1


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

"""ROOT files on any storage through uproot: branches of a tree as jagged NumPy arrays."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton import storage
from sparton.data.sources.block import BLOCK_BYTES, BadFileError, Extent
from sparton.errors import SpartonError

ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    AssertionError,
    RuntimeError,
    AttributeError,
    struct.error,
    zlib.error,
)
"""What uproot meets in damaged files."""

SUFFIXES = (".root",)
NUMBERS = "biufc?"


@contextlib.contextmanager
def open_tree(path: str, tree: str) -> Iterator[Any]:
    """Yield a tree of a file, its newest cycle.

    Raises
    ------
    BadFileError
        If the file has no such tree.
    SpartonError
        If uproot is not installed.
    """
    try:
        import uproot
    except ImportError as error:
        raise SpartonError(f"{path}: reading ROOT files needs uproot ({error}); install sparton[formats]") from None
    with storage.open_input(path) as stream, _broken(uproot), uproot.open(stream) as file:
        names = {name.partition(";")[0] for name in file.keys()}  # noqa: SIM118  # not a dict
        if tree not in names:
            raise BadFileError("missing_key", f"no tree {tree!r}; found {', '.join(sorted(names)) or 'nothing'}")
        found = file[tree]
        if not hasattr(found, "branches"):
            kind = type(found).__name__.removeprefix("Model_")
            raise BadFileError("wrong_dtype", f"{tree!r} is an object of ROOT's {kind}, expected a TTree")
        yield found


def extent(tree: Any, lists: Sequence[str], scalars: Sequence[str]) -> Extent:
    """Check that a tree has these branches of lists and of single numbers, and return its size.

    Raises
    ------
    BadFileError
        ``missing_key`` or ``wrong_dtype``.
    """
    branches = [*lists, *scalars]
    missing = [name for name in branches if name not in tree]
    if missing:
        raise BadFileError("missing_key", f"tree {tree.name}: no branch {', '.join(missing)}")
    for name in branches:
        jagged = _is_list(tree[name])
        if jagged is None or jagged != (name in lists):
            expected = "lists of numbers" if name in lists else "numbers"
            raise BadFileError("wrong_dtype", f"branch {name}: {tree[name].typename}, expected {expected}")
    entries = int(tree.num_entries)
    size = sum(int(tree[name].uncompressed_bytes) for name in branches)
    row_bytes = max(1, size // max(1, entries))
    baskets = [tree[name].entry_offsets for name in branches] if entries else []
    return Extent(entries, step_of(baskets, row_bytes), row_bytes)


def step_of(baskets: Sequence[Sequence[int]], row_bytes: int) -> int:
    """Return how many entries to read together: those up to the first limit that the baskets of all branches share.

    Where no limits are shared before more than a block, as in files of experiments, whose branches fill baskets at
    their own pace, those of the largest basket: then a part of each basket is read twice, and the file is still split.

    Parameters
    ----------
    baskets
        For each branch the limits of its baskets: 0, ..., entries.
    row_bytes
        Bytes of an entry in memory.
    """
    if not baskets:
        return 1
    shared = set.intersection(*({int(limit) for limit in limits} for limits in baskets)) - {0}
    step = min(shared, default=1)
    if step * row_bytes > BLOCK_BYTES:
        step = min(step, max(int(np.diff(limits).max()) for limits in baskets))
    return max(1, step)


def read(tree: Any, branches: Sequence[str], start: int, stop: int) -> Any:
    """Return branches of some entries as an awkward array of records."""
    return tree.arrays(list(branches), entry_start=start, entry_stop=stop)


def flat(column: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the values of a column of lists, end to end, and the length of each list int64[n]."""
    import awkward

    counts = awkward.to_numpy(awkward.num(column, axis=1)).astype(np.int64)
    return awkward.to_numpy(awkward.flatten(column, axis=1)), counts


def scalar(column: Any) -> NDArray[Any]:
    """Return a column of numbers [n]."""
    import awkward

    return np.asarray(awkward.to_numpy(column))


def _is_list(branch: Any) -> bool | None:
    """Tell whether a branch holds lists of numbers (True), numbers (False) or something else (None)."""
    kind = branch.interpretation
    content = getattr(kind, "content", None)
    found = getattr(content if content is not None else kind, "from_dtype", None)
    if found is None or np.dtype(found).kind not in NUMBERS or np.dtype(found).shape:
        return None
    return content is not None


@contextlib.contextmanager
def _broken(uproot: Any) -> Iterator[None]:
    """Turn uproot's own error on damaged content into one of :data:`ERRORS`."""
    try:
        yield
    except uproot.deserialization.DeserializationError as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error

"""What every reader gives: jets of a range of a file's rows, as jagged arrays; and how it says that a file is bad."""

from __future__ import annotations

import contextlib
import errno
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from sparton.physics import kinematics
from sparton.physics.jets import Jets

BLOCK_BYTES = 16 << 20
"""Bytes of a block: several passes over it find it in the last-level cache, and its calls cost little beside it."""

FILE_REASONS = (
    "empty_file",
    "permission_denied",
    "missing_file",
    "truncated",
    "unreadable",
    "missing_key",
    "wrong_shape",
    "wrong_dtype",
    "too_many_rows",
    "duplicate_file",
    "changed",
)
"""Why a whole file is rejected."""

SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)


class BadFileError(Exception):
    """A file that cannot be used: ``reason`` is one of :data:`FILE_REASONS`, ``detail`` what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Extent:
    """Size of a file: its ``rows``, how many of them are stored together (``step``), and bytes of a row in memory."""

    rows: int
    step: int
    row_bytes: int

    @property
    def block_rows(self) -> int:
        """Rows to read at a time: whole steps, of about :data:`BLOCK_BYTES` together."""
        return max(1, BLOCK_BYTES // (self.row_bytes * self.step)) * self.step


@dataclass(frozen=True)
class JetBlock:
    """Jets of some rows of a file, as they are there.

    Attributes
    ----------
    row, place
        Row of the file that each jet comes from and its number in that row, int64[n].
    jets
        The jets; the constituents may still be padded or out of order, and any value may be wrong.
    label
        String array [n], nullable.
    reason
        Why a jet cannot be used, str[n]; empty where the reader found nothing wrong.
    jet_id, event_id
        Identifiers that the file gives, int64[n]; None where it gives none.
    extras
        Further jet-level numbers by column, float32[n] each.
    wrapped
        Rows with angles outside [-pi, pi), which the reader moved there.
    source
        Where the jets come from in the words of the file, string array [n]; None where it does not say.
    of_rows
        Rows of the file that were read for it; None where each jet is one.
    """

    row: NDArray[np.int64]
    place: NDArray[np.int64]
    jets: Jets
    label: pa.Array
    reason: NDArray[np.str_]
    jet_id: NDArray[np.int64] | None = None
    event_id: NDArray[np.int64] | None = None
    extras: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    wrapped: int = 0
    source: pa.Array | None = None
    of_rows: int | None = None

    def __len__(self) -> int:
        return self.row.size

    @property
    def rows(self) -> int:
        """Rows of the file that were read for it."""
        return len(self) if self.of_rows is None else self.of_rows


class Source(ABC):
    """A format with its options; the same object reads in the driver and in tasks."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    errors: ClassVar[tuple[type[Exception], ...]]
    """What the format's library raises on a bad file."""
    several: ClassVar[bool] = False
    """Whether a row of a file may hold several jets."""
    decisive: ClassVar[tuple[str, ...]] = ()
    """Options that decide what a jet is: a table holds jets of one choice."""

    @property
    def gives_ids(self) -> bool:
        """Whether the files may give identifiers of their own, which then may repeat."""
        return False

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Names of the further jet-level columns (float32)."""
        return ()

    def beside(self, path: str) -> tuple[str, ...]:
        """Return the further files whose content enters the jets of a file."""
        return ()

    @abstractmethod
    def open(self, path: str) -> AbstractContextManager[Any]:
        """Open a file for :meth:`extent` and :meth:`read`."""

    @abstractmethod
    def extent(self, handle: Any) -> Extent:
        """Check the structure of an open file and return its size, without reading rows.

        Raises
        ------
        BadFileError
            If a key is missing or has another shape or type than the format says.
        """

    @abstractmethod
    def read(self, handle: Any, start: int, stop: int) -> JetBlock:
        """Return the jets of the rows from ``start`` up to ``stop``."""

    def blocks(self, handle: Any, start: int, stop: int) -> Iterator[JetBlock]:
        """Yield the jets of the rows from ``start`` up to ``stop`` with about :data:`BLOCK_BYTES` at a time.

        Raises
        ------
        BadFileError
            If the file has no such rows.
        """
        extent = self.extent(handle)
        require_rows(extent.rows, stop)
        for first in range(start, stop, extent.block_rows):
            yield self.read(handle, first, min(first + extent.block_rows, stop))


def require_rows(found: int, stop: int) -> None:
    """Check that a file has the rows up to ``stop``.

    Raises
    ------
    BadFileError
        ``truncated`` if it has fewer.
    """
    if stop > found:
        raise BadFileError("truncated", f"{found} rows, expected {stop} at least")


def measure(source: Source, path: str) -> Extent:
    """Return the size of a file.

    Raises
    ------
    BadFileError
        If the file cannot be read or is not of the format.
    """
    with bad_file(source.errors), source.open(path) as handle:
        try:
            return source.extent(handle)
        except BadFileError as error:
            named = [name for name in source.extra_columns if re.search(rf"\b{re.escape(name)}\b", error.detail)]
            if not named:
                raise
            asked = f"ingest.{source.name}.jet_columns asks for {', '.join(named)}"
            raise BadFileError(error.reason, f"{error.detail} ({asked})") from None


def read_blocks(source: Source, path: str, start: int, stop: int) -> Iterator[JetBlock]:
    """Yield the jets of the rows from ``start`` up to ``stop``, a block at a time.

    Raises
    ------
    BadFileError
        If the file cannot be read.
    """
    with contextlib.ExitStack() as stack:
        with bad_file(source.errors):
            handle = stack.enter_context(source.open(path))
            blocks = iter(source.blocks(handle, start, stop))
        while True:
            with bad_file(source.errors):
                block = next(blocks, None)
            if block is None:
                return
            yield block


@contextlib.contextmanager
def bad_file(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what a library raises on a bad file into :class:`BadFileError`.

    Failures of the network or the machine say nothing about a file: the task fails, and Spark tries it again.
    """
    try:
        yield
    except (BadFileError, ConnectionError, TimeoutError, MemoryError):  # Arrow's own is among its errors
        raise
    except PermissionError as error:
        raise BadFileError("permission_denied", _line(error)) from error
    except FileNotFoundError as error:
        raise BadFileError("missing_file", _line(error)) from error
    except Exception as error:
        if not isinstance(error, (OSError, *errors)):
            raise
        if isinstance(error, OSError) and error.errno in SYSTEM_ERRORS:
            raise
        text = _line(error)
        raise BadFileError("truncated" if "truncated" in text.lower() else "unreadable", text) from error


def four_momenta(
    pt: ArrayLike, eta: ArrayLike, phi: ArrayLike, mass: ArrayLike | None = None, energy: ArrayLike | None = None
) -> list[NDArray[np.float32]]:
    """Return px, py, pz and energy in GeV, float32[m] each; without mass and energy the particles are massless."""
    transverse, azimuth = np.asarray(pt, np.float64), np.asarray(phi, np.float64)
    with np.errstate(all="ignore"):  # what is not finite is found and rejected later
        longitudinal = transverse * np.sinh(np.asarray(eta, np.float64))
        if energy is None:
            momentum = np.hypot(transverse, longitudinal)
            energy = momentum if mass is None else np.hypot(momentum, np.asarray(mass, np.float64))
        components = (transverse * np.cos(azimuth), transverse * np.sin(azimuth), longitudinal, np.asarray(energy))
        return [component.astype(np.float32) for component in components]


def build_jets(
    momenta: Sequence[NDArray[Any]],
    offsets: NDArray[np.int64],
    given: Mapping[str, NDArray[Any]] | None = None,
    pdg_id: NDArray[np.int32] | None = None,
) -> Jets:
    """Return jets out of their constituents; jet-level values that are not given are those of the sum.

    Parameters
    ----------
    momenta
        px, py, pz, energy [m] each (GeV).
    offsets
        Limits of the jets in them, int64[n + 1].
    given
        Any of ``jet_pt``, ``jet_eta``, ``jet_phi`` and ``jet_mass`` [n]; those missing are the sum's.
    pdg_id
        Codes of the constituents; None: unknown (0).
    """
    values = dict(given or {})
    with np.errstate(all="ignore"):
        for name in ("jet_pt", "jet_eta", "jet_phi", "jet_mass"):
            if name not in values:
                values |= {key: value for key, value in _sums(momenta, offsets).items() if key not in values}
        narrow = [np.ascontiguousarray(component).astype(np.float32, copy=False) for component in momenta]
        return Jets(
            event_index=np.zeros(offsets.size - 1, np.int64),
            offsets=offsets,
            pdg_id=np.zeros(int(offsets[-1]), np.int32) if pdg_id is None else pdg_id,
            **{name: value.astype(np.float32, copy=False) for name, value in values.items()},
            **dict(zip(("px", "py", "pz", "energy"), narrow, strict=True)),
        )


def empty_jets(count: int) -> Jets:
    """Return jets that hold nothing: what stands for rows whose jets cannot be told."""
    nothing, zeros = np.zeros(0, np.float32), np.zeros(count, np.float32)
    return Jets(
        np.zeros(count, np.int64), zeros, zeros, zeros, zeros,
        nothing, nothing, nothing, nothing, np.zeros(0, np.int32), np.zeros(count + 1, np.int64),
    )  # fmt: skip


def align(
    lists: Sequence[tuple[NDArray[Any], NDArray[np.int64]]],
) -> tuple[list[NDArray[Any]], NDArray[np.int64], NDArray[np.bool_]]:
    """Bring lists of several columns to common limits; a row whose lists differ in length loses them.

    Parameters
    ----------
    lists
        For each column its flat values and the length of each row's list, int64[n].

    Returns
    -------
    tuple
        The flat values of each column, the common limits int64[n + 1], and which rows differ bool[n].
    """
    first = lists[0][1]
    uneven = np.logical_or.reduce([counts != first for _, counts in lists])
    if not uneven.any():
        return [values for values, _ in lists], kinematics.offsets_from_counts(first), uneven
    kept = [values[np.repeat(~uneven, counts)] for values, counts in lists]
    return kept, kinematics.offsets_from_counts(np.where(uneven, 0, first)), uneven


def numbers(values: ArrayLike) -> NDArray[np.float32]:
    """Return values as float32; what is too large for it becomes infinite and is found later."""
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(np.float32, copy=False)


def mass_of(energy: ArrayLike, pt: ArrayLike, eta: ArrayLike) -> NDArray[np.float32]:
    """Return masses (GeV) out of energy, pT and pseudorapidity."""
    with np.errstate(all="ignore"):
        transverse = np.asarray(pt, np.float64)
        longitudinal = transverse * np.sinh(np.asarray(eta, np.float64))
        return kinematics.invariant_mass(transverse, 0.0, longitudinal, energy).astype(np.float32)


def labels_from_codes(codes: NDArray[np.int64], names: Sequence[str]) -> pa.Array:
    """Return the names with these numbers as a string array; null for a negative number."""
    return pa.array(names, pa.string()).take(pa.array(codes, mask=codes < 0))


def no_reasons(count: int) -> NDArray[np.str_]:
    """Return empty reasons, str[count]."""
    return np.zeros(count, "U24")


def _sums(momenta: Sequence[NDArray[Any]], offsets: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    px, py, pz, energy = (kinematics.segment_sum(component, offsets) for component in momenta)
    return {
        "jet_pt": kinematics.transverse_momentum(px, py),
        "jet_eta": kinematics.pseudorapidity(px, py, pz),
        "jet_phi": kinematics.phi_to_float32(kinematics.azimuth(px, py)),
        "jet_mass": kinematics.invariant_mass(px, py, pz, energy),
    }


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]

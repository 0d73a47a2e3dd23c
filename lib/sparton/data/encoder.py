"""What one kind of table brings to the common way into a set: which rows are sound, how they travel, what is stored.

Counting, exchange, shards, manifest and extension are the same for all kinds; see :mod:`sparton.data.prepare`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparton.data.statistics import Moments

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
Texts = NDArray[np.object_]

FILE, ROW = "_file", "_row"
"""Columns that tell where a row of the input lies: its file, and its number there from 0."""


@dataclass(frozen=True)
class Rejected:
    """Rows of a batch that cannot be used: ``row`` int64[k] (positions in it), ``reason`` and ``detail`` of each."""

    row: Indices
    reason: Texts
    detail: Texts

    @classmethod
    def because(cls, reason: str, row: Indices, detail: Texts | str | None = None) -> Rejected:
        """Return rows that are rejected for one reason; ``detail`` is common to them or one for each."""
        details = detail if isinstance(detail, np.ndarray) else np.full(row.size, detail, object)
        return cls(row, np.full(row.size, reason, object), details)

    @classmethod
    def join(cls, parts: Sequence[Rejected]) -> Rejected:
        """Return the rows of all parts, in the order of the batch."""
        if not parts:
            return cls.because("", np.zeros(0, np.int64))
        row = np.concatenate([part.row for part in parts])
        order = np.argsort(row, kind="stable")
        reason, detail = (np.concatenate([getattr(part, name) for part in parts]) for name in ("reason", "detail"))
        return cls(row[order], reason[order], detail[order])

    def counts(self) -> Counter[str]:
        """Return the number of rows by reason."""
        return Counter(self.reason.tolist())


@dataclass(frozen=True)
class Sifted:
    """The rows of a batch that go into the set, and what became of the others.

    Attributes
    ----------
    ids, row
        Id of each row to store, and its position in the batch, int64[n].
    content
        These rows in the encoder's own form.
    tally
        Excluded and altered rows by name.
    rejected
        Rows that cannot be used.
    """

    ids: Indices
    row: Indices
    content: Any
    tally: Counter[str]
    rejected: Rejected


class Encoder(Protocol):
    """One kind of table; instances travel to the executors.

    Attributes
    ----------
    kind
        What the table is, for messages.
    id_name, source_id
        Column of the set that identifies a row, and the column of the input that it comes from (None: it is made
        from :data:`FILE` and :data:`ROW`).
    columns
        Columns of the input that are read, with :data:`FILE` and :data:`ROW` where ids are made from them.
    selection
        Settings that decide which sound rows are kept.
    category
        Column of text among whose values rows are selected, and the criterion of that name; None: there is none.
    reasons, criteria, alterations
        Names under which rejected, excluded and altered rows are counted.
    payload
        Columns that cross the exchange beside the id.
    schema
        Columns of the set.
    n_features
        Number of features.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def id_name(self) -> str: ...  # noqa: D102
    @property
    def source_id(self) -> str | None: ...  # noqa: D102
    @property
    def columns(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def selection(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def category(self) -> str | None: ...  # noqa: D102
    @property
    def reasons(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def criteria(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def alterations(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def payload(self) -> pa.Schema: ...  # noqa: D102
    @property
    def schema(self) -> pa.Schema: ...  # noqa: D102
    @property
    def n_features(self) -> int: ...  # noqa: D102

    def source_ids(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the ids of the rows of a batch of the input, int64, null where there is none."""

    def sift(self, batch: pa.RecordBatch) -> Sifted:
        """Return the rows of a batch of the input that go into the set."""

    def pack(self, content: Any, index: Indices) -> list[pa.Array]:
        """Return the payload of the rows ``index`` of what :meth:`sift` gave as content, in that order."""

    def packed_bytes(self, content: Any) -> int:
        """Return how many bytes the payload of all rows of a content takes."""

    def encode(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows of the set from rows that crossed the exchange (column ``id`` and the payload)."""

    def moments(self, table: pa.Table) -> Moments:
        """Return the moments of the features over rows of the set."""


def ids_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column of a batch as int64."""
    column = batch.column(name)
    return column if column.type == pa.int64() else column.cast(pa.int64())


def all_in_order(index: Indices, count: int) -> bool:
    """Tell whether ``index`` is 0, 1 ... ``count`` - 1."""
    return index.size == count and np.array_equal(index, np.arange(count))

"""What a table looks like to the rules: counts that add up over batches, tasks and machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparton.data.validation.settings import ColumnRules, RulesSettings
from sparton.data.validation.values import Values, values_of
from sparton.errors import DataError

MAX_CLASSES = 10_000
"""Distinct values of a column whose balance is asked for."""

MEASURES_ARROW = pa.schema(
    [
        pa.field("measure", pa.string()),
        pa.field("column", pa.string()),
        pa.field("key", pa.string()),
        pa.field("count", pa.int64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
"""Counts of which those with equal measure, column and key are summed, with the range of the values behind them."""

Place = tuple[str, str, str]


@dataclass
class Profile:
    """Counts by (measure, column, key), and the range of the finite values of each column.

    Measures are ``rows`` of the table, rows with ``null``, ``not_finite``, ``below``, ``above`` or ``unknown`` values,
    ``values`` that were looked at, ``class`` and ``bin`` (with the class or the number of the bin as the key), and
    ``repeated`` rows.
    """

    counts: Counter[Place] = field(default_factory=Counter)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def count(self, measure: str, column: str = "", key: str = "") -> int:
        """Return one count; what never happened is 0."""
        return self.counts[measure, column, key]

    def keyed(self, measure: str, column: str) -> dict[str, int]:
        """Return the counts of a measure of a column by key."""
        return {key: n for (name, of, key), n in self.counts.items() if (name, of) == (measure, column)}

    def histogram(self, column: str, bins: int) -> list[int]:
        """Return the counts of a column's bins."""
        return [self.count("bin", column, str(index)) for index in range(bins)]

    def add(self, measure: str, count: int, column: str = "", key: str = "") -> None:
        """Add to a count."""
        if count:
            self.counts[measure, column, key] += count

    def widen(self, column: str, low: float | None, high: float | None) -> None:
        """Take a range of values into that of the column."""
        if low is None or high is None:
            return
        known = self.ranges.get(column, (low, high))
        self.ranges[column] = (min(known[0], low), max(known[1], high))

    def to_arrow(self) -> pa.RecordBatch:
        """Return the counts as rows of :data:`MEASURES_ARROW`."""
        rows = [
            {"measure": measure, "column": column, "key": key, "count": count, **self._range(measure, column)}
            for (measure, column, key), count in self.counts.items()
        ]
        return pa.RecordBatch.from_pylist(rows, schema=MEASURES_ARROW)

    def _range(self, measure: str, column: str) -> dict[str, float]:
        if measure != "values" or column not in self.ranges:
            return {}
        return dict(zip(("low", "high"), self.ranges[column], strict=True))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Profile:
        """Return the profile that summed rows of :data:`MEASURES_ARROW` stand for."""
        profile = cls()
        for row in rows:
            profile.add(row["measure"], row["count"], row["column"], row["key"])
            profile.widen(row["column"], row["low"], row["high"])
        return profile


@dataclass(frozen=True)
class Request:
    """What to count: the rules, and for each column that is compared the inner edges of its bins."""

    rules: RulesSettings
    edges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def profile_batches(batches: Iterable[pa.RecordBatch], request: Request) -> Iterator[pa.RecordBatch]:
    """Yield the profile of all batches together; memory is that of one batch."""
    profile = Profile()
    for batch in batches:
        add_batch(profile, batch, request)
    yield profile.to_arrow()


def add_batch(profile: Profile, batch: pa.RecordBatch, request: Request) -> None:
    """Add the rows of a batch to a profile."""
    profile.add("rows", batch.num_rows)
    for name in request.rules.profiled:
        values = values_of(batch.column(name), name)
        profile.add("null", values.nulls, name)
        if name in request.rules.columns:
            _add_rules(profile, name, values, request.rules.columns[name])
        if name in request.rules.balance:
            _add_classes(profile, name, values)
        if name in request.edges:
            _add_bins(profile, name, values, request.edges[name])


def finite_numbers(values: Values, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the finite values of a column, float64[v].

    Raises
    ------
    DataError
        If the column is text.
    """
    if values.numbers is None:
        raise DataError(f"column {name}: it is text, expected numbers; use values or balance for text")
    return values.numbers[np.isfinite(values.numbers)]


def _add_rules(profile: Profile, name: str, values: Values, rules: ColumnRules) -> None:
    if rules.values is not None:
        known = pc.is_in(values.text(), value_set=pa.array(rules.values, pa.string())).to_numpy(zero_copy_only=False)
        profile.add("unknown", values.rows_with(~known), name)
    if rules.finite or rules.min is not None or rules.max is not None:
        finite = finite_numbers(values, name)
        profile.add("values", finite.size, name)
        if finite.size:
            profile.widen(name, float(finite.min()), float(finite.max()))
        _add_outside(profile, name, values, rules)


def _add_outside(profile: Profile, name: str, values: Values, rules: ColumnRules) -> None:
    assert values.numbers is not None
    # NaN compares as false, so what is asked is whether values are inside.
    marks = {
        "not_finite": ~np.isfinite(values.numbers) if rules.finite else None,
        "below": ~(values.numbers >= rules.min) if rules.min is not None else None,
        "above": ~(values.numbers <= rules.max) if rules.max is not None else None,
    }
    for measure, marked in marks.items():
        if marked is not None:
            profile.add(measure, values.rows_with(marked), name)


def _add_classes(profile: Profile, name: str, values: Values) -> None:
    for entry in pc.value_counts(values.text()).to_pylist():
        profile.add("class", entry["counts"], name, entry["values"])
    if len(profile.keyed("class", name)) > MAX_CLASSES:
        raise DataError(f"column {name}: over {MAX_CLASSES} different values are not classes; balance another one")


def _add_bins(profile: Profile, name: str, values: Values, edges: tuple[float, ...]) -> None:
    index = np.searchsorted(np.asarray(edges), finite_numbers(values, name), side="right")
    for number, count in enumerate(np.bincount(index, minlength=len(edges) + 1).tolist()):
        profile.add("bin", count, name, str(number))

"""Counts of buckets, packed on their way: nothing is lost, whatever their size and however often they are added up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.data.counting import COUNTS_ARROW, _add, _added, _packed, _unpacked
from sparton.data.layout import BUCKETS

CODES = st.one_of(st.integers(-9, 9), st.integers(0, 5 * BUCKETS), st.sampled_from([16_383, 16_384, BUCKETS - 1]))
COUNTS = st.lists(st.tuples(CODES, st.sampled_from([1, 2, 255, 256, 70_000, 1 << 40])), max_size=30)


@settings(deadline=None)
@given(tasks=st.lists(COUNTS, min_size=1, max_size=4))
def test_counts_of_several_tasks_are_added_up(tasks: list[list[tuple[int, int]]]) -> None:
    expected: Counter[int] = Counter()
    sent: list[pa.RecordBatch] = []
    for counts in tasks:
        pairs = np.array(counts, np.int64).reshape(-1, 2)
        sent += _packed(*_added(pairs[:, 0], pairs[:, 1]))
        for code, rows in counts:
            expected[code] += rows
    assert all(batch.schema == COUNTS_ARROW for batch in sent)
    rows = [tuple(row.values()) for batch in _add(sent) for row in batch.to_pylist()]
    codes, totals = _unpacked(rows)
    assert np.all(np.diff(codes) > 0)
    assert dict(zip(codes.tolist(), totals.tolist(), strict=True)) == dict(expected)

"""Rows packed for the exchange: all arrive, in an order that hangs on them alone, however they were cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.data import packing
from sparton.data.packing import BLOB_ARROW, Packer, in_order, packed_schema
from sparton.data.table_encoder import TableEncoder

SCHEMA = packed_schema(TableEncoder(("a",), {}), stored=False, located=True)
ROUTE = np.array([70, 71, 72], np.int32)


def rows(
    keys: list[int], contents: list[bytes | None], targets: list[float | None], numbers: list[int]
) -> pa.RecordBatch:
    """Return travelling rows; ``id`` is the key."""
    values: dict[str, list[Any]] = {
        "key": keys,
        "id": keys,
        "features": contents,
        "target": targets,
        "weight": [1.0] * len(keys),
        "_file": ["f"] * len(keys),
        "_row": numbers,
    }
    return pa.RecordBatch.from_arrays([pa.array(values[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def arrived(batches: list[pa.RecordBatch]) -> dict[int, pa.Table]:
    """Return the rows of each group in their order."""
    blobs: dict[int, list[pa.Buffer]] = {}
    for batch in batches:
        assert batch.schema == BLOB_ARROW
        assert batch.column("route").to_pylist() == [int(ROUTE[group]) for group in batch.column("group").to_pylist()]
        for group, value in zip(batch.column("group").to_pylist(), batch.column("rows"), strict=True):
            blobs.setdefault(group, []).append(value.as_buffer())
    return {group: pa.Table.from_batches(in_order(parts, SCHEMA), SCHEMA) for group, parts in blobs.items()}


CONTENT = st.tuples(
    st.integers(-3, 3), st.one_of(st.none(), st.binary(max_size=3)), st.one_of(st.none(), st.floats(-2, 2, width=32))
)


@settings(deadline=None)
@given(
    given_rows=st.lists(CONTENT, min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    seed=st.integers(0, 9),
    sizes=st.sampled_from([(1, 1, 1), (300, 200, 100), (1 << 25, 1 << 22, 1 << 23)]),
)
def test_any_cutting_gives_the_same_order(
    given_rows: list[tuple[int, bytes | None, float | None]], cuts: list[int], seed: int, sizes: tuple[int, int, int]
) -> None:
    """Against Python's sort by key and then content, with nulls first."""
    order = np.random.default_rng(seed).permutation(len(given_rows))
    limits = sorted({0, len(order), *(min(cut, len(order)) for cut in cuts)})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("BUFFER_BYTES", "BLOB_BYTES", "ORDERED_BYTES"), sizes, strict=True):
            patch.setattr(packing, name, value)
        packer, sent = Packer(ROUTE), []
        for start, stop in [(0, 0), *pairwise(limits)]:
            part = sorted(order[start:stop].tolist(), key=lambda row: given_rows[row][0] % 3)
            keys, contents, targets = ([given_rows[row][place] for row in part] for place in range(3))
            group = np.array(keys, np.int64) % 3
            sent += packer.add(rows(keys, contents, targets, part), group)
        sent += packer.flush()
        found = arrived(sent)
    for group in range(3):
        mine = [row for row in range(len(given_rows)) if given_rows[row][0] % 3 == group]
        if not mine:
            assert group not in found
            continue

        def rank(row: int) -> tuple[Any, ...]:
            key, content, target = given_rows[row]
            return (key, content is not None, content or b"", target is not None, target or 0.0, row)

        assert found[group].column("_row").to_pylist() == sorted(mine, key=rank)


def test_blobs_are_small_and_few_rows_come_together() -> None:
    count = 50_000
    random = np.random.default_rng(0)
    keys = random.permutation(count).tolist()
    batch = rows(keys, [random.bytes(300) for _ in keys], [None] * count, keys)
    packer = Packer(ROUTE)
    sent = [*packer.add(batch, np.repeat([0, 2], [count - 10, 10])), *packer.flush()]
    sizes = [len(value.as_py()) for message in sent for value in message.column("rows")]
    assert max(sizes) < 1.1 * packing.BLOB_BYTES
    assert min(sizes[:-2]) > 0.9 * packing.BLOB_BYTES
    assert all(size % 8 == 0 for size in sizes)  # so that columns are aligned wherever a blob begins
    assert sum(message.num_rows for message in sent) == len(sizes) > 50
    assert max(message.nbytes for message in sent) < 1.1 * packing.HANDED_BYTES
    found = arrived(sent)
    assert {group: table.num_rows for group, table in found.items()} == {0: count - 10, 2: 10}
    assert np.all(np.diff(found[0].column("key").to_numpy()) > 0)
    assert sorted(found[0].column("_row").to_pylist() + found[2].column("_row").to_pylist()) == list(range(count))

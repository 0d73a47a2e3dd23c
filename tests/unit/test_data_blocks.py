"""Blocks: rows in order, whole batches, padding at the end, columns as the schema says, memory that is not copied."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.data import blocks
from sparton.data.blocks import ALIGNMENT, PADDING_ID, WEIGHT, aligned, batch_columns, gather_blocks
from sparton.data.featurize import encode_features
from sparton.data.schema import TABLE_ARROW, TRAINING_ARROW
from sparton.errors import DataError


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), max_size=8), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(0, 3),
    st.integers(1, 2000),
)
def test_rows_come_in_order_in_whole_batches(lanes: list[list[int]], share: int, more: int, block_bytes: int) -> None:
    """Each lane has the same places in every batch, and its own padding when it has no more rows."""
    columns = list(batch_columns(TABLE_ARROW, (3,)).values())
    content = [lane_of(sizes, np.random.default_rng(number)) for number, sizes in enumerate(lanes)]
    batch = share * len(lanes)
    steps = -(-max(len(expected) for _, expected in content) // share) + more
    with patch.object(blocks, "BLOCK_BYTES", block_bytes):
        found = list(gather_blocks([pieces for pieces, _ in content], columns, batch, steps))
    assert sum(len(block["id"]) for block in found) == steps
    for block in found:
        assert all(rows.shape[1] == batch for rows in block.values())
    for lane, (_, expected) in enumerate(content):
        places = slice(lane * share, (lane + 1) * share)
        ids, weight, target, features = (
            np.concatenate([block[name][:, places].reshape(-1, *block[name].shape[2:]) for block in found])
            if found
            else np.zeros(0)
            for name in ("id", WEIGHT, "target", "features")
        )
        assert ids[: len(expected)].tolist() == expected
        assert np.all(ids[len(expected) :] == PADDING_ID)
        assert weight.tolist() == [2.0] * len(expected) + [0.0] * (ids.size - len(expected))
        assert np.array_equal(target[: len(expected)], np.array(expected, np.float32))
        assert np.all(target[len(expected) :] == 0)
        assert np.all(features[: len(expected)] == np.array(expected, np.float32)[:, None])
        assert np.all(features[len(expected) :] == 0)


def lane_of(sizes: list[int], rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    """Return pieces with some rows of each shard, and the ids of these rows."""
    pieces: list[Any] = []
    expected: list[int] = []
    for size in sizes:
        ids = rng.integers(0, 10**6, size + 5)
        values = {
            "id": ids,
            "features": np.repeat(ids[:, None], 3, axis=1).astype(np.float32),
            "target": ids.astype(np.float32),
            WEIGHT: np.full(size + 5, 2, np.float32),
        }
        rows = rng.permutation(size + 5)[:size]
        pieces.append((values, rows))
        expected += ids[rows].tolist()
    return pieces, expected


def test_columns_follow_from_the_schema() -> None:
    jets = batch_columns(TRAINING_ARROW, (5, 2))
    assert {name: (column.dtype.name, column.shape) for name, column in jets.items()} == {
        "jet_id": ("int64", ()),
        "features": ("float32", (5, 2)),
        "n_particles": ("int32", ()),
        "n_constituents": ("int32", ()),
        "target": ("int32", ()),
        "jet_mass": ("float32", ()),
        "weight": ("float32", ()),
    }
    table = batch_columns(TABLE_ARROW, (4,))
    assert table["target"].dtype == np.float32
    assert list(table) == ["id", "features", "target", "weight"]


def test_stored_weights_are_used_and_missing_targets_are_nan() -> None:
    features = np.arange(8, dtype=np.float32).reshape(4, 2)
    content: list[Any] = [
        np.arange(4),
        encode_features(features),
        pa.array([1.0, None, 3.0, 4.0], pa.float32()),
        pa.array([0.5, 0.0, 1.0, 2.0], pa.float32()),
    ]
    table = pa.table(content, schema=TABLE_ARROW)
    columns = batch_columns(TABLE_ARROW, (2,))
    assert columns["weight"].decode(table).tolist() == [0.5, 0.0, 1.0, 2.0]
    assert np.isnan(columns["target"].decode(table)).tolist() == [False, True, False, False]
    assert np.array_equal(columns["features"].decode(table), features)
    assert columns["weight"].decode(table.drop_columns(["weight"])).tolist() == [1.0] * 4
    with pytest.raises(DataError, match="column features: 32 bytes in 4 rows"):
        batch_columns(TABLE_ARROW, (3,))["features"].decode(table)


def test_batches_are_views_of_the_block_that_was_gathered() -> None:
    """TensorFlow takes aligned memory as it is, and cuts it into slices without copying them."""
    made = []

    def generate() -> Any:
        for _ in range(3):
            block = aligned((4, 16, 8), np.dtype(np.float32))
            block[:] = 1
            made.append((block.ctypes.data, block.nbytes))
            assert block.ctypes.data % ALIGNMENT == 0
            yield block

    spec = tf.TensorSpec((None, 16, 8), tf.float32)
    data = tf.data.Dataset.from_generator(generate, output_signature=spec).flat_map(tf.data.Dataset.from_tensor_slices)
    places = [batch._numpy().__array_interface__["data"][0] for batch in data]
    assert len(places) == 12
    assert all(any(start <= place < start + size for start, size in made) for place in places)

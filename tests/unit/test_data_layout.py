"""The layout: exact shards from counts per bucket, checked by carrying it out on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.data import layout as module
from sparton.data.layout import bucket_of, build_layout, code_of, shuffle_key, split_of

SPLITS = ("train", "val", "test")


def carry_out(jet_id: np.ndarray, rows_per_shard: int, per_group: int, fractions: tuple[float, ...]) -> dict:
    """Count, route every row by the layout, cut each group: what the tasks do, on one machine."""
    split, key = split_of(jet_id, fractions), shuffle_key(jet_id, 4)
    bucket = bucket_of(key)
    codes, counts = np.unique(code_of(split, bucket), return_counts=True)
    layout = build_layout(codes, counts, SPLITS, rows_per_shard, per_group)
    row, group = layout.groups_of(split, bucket)
    shards: dict[tuple[str, int], list[int]] = {}
    for entry in layout.groups:
        mine = row[group == entry.number]
        mine = mine[np.argsort(key[mine])]
        assert mine.size == entry.expected
        own = mine[entry.skip : entry.skip + entry.rows]
        assert own.size == entry.rows
        for index in range(entry.shards):
            content = jet_id[own[index * rows_per_shard : (index + 1) * rows_per_shard]]
            shards[entry.split, entry.first_shard + index] = content.tolist()
    return shards


@given(
    st.sets(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=300),
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(1, 6),
)
@settings(deadline=None, max_examples=60)
def test_shards_are_exact_and_ordered_for_any_bucket_width(
    ids: set[int], rows_per_shard: int, per_group: int, bits: int
) -> None:
    jet_id = np.array(sorted(ids), np.int64)
    fractions = (0.5, 0.0, 0.5)
    with pytest.MonkeyPatch.context() as patch:  # few, wide buckets: borders of groups fall inside them
        patch.setattr(module, "BUCKET_BITS", bits)
        patch.setattr(module, "BUCKETS", 1 << bits)
        shards = carry_out(jet_id, rows_per_shard, per_group, fractions)
    split = split_of(jet_id, fractions)
    key = shuffle_key(jet_id, 4)
    for number, name in enumerate(SPLITS):
        expected = jet_id[split == number][np.argsort(key[split == number])].tolist()
        mine = [content for (owner, _), content in sorted(shards.items()) if owner == name]
        assert [row for content in mine for row in content] == expected
        assert all(len(content) == rows_per_shard for content in mine[:-1])
        assert sorted(index for owner, index in shards if owner == name) == list(range(len(mine)))


def test_few_rows_are_copied() -> None:
    jet_id = np.arange(60_000)
    split, key = split_of(jet_id, (1.0, 0.0, 0.0)), shuffle_key(jet_id, 0)
    bucket = bucket_of(key)
    codes, counts = np.unique(code_of(split, bucket), return_counts=True)
    layout = build_layout(codes, counts, SPLITS, 1000, 1)
    row, _ = layout.groups_of(split, bucket)
    assert len(layout.groups) == 60
    assert row.size - jet_id.size <= 60


def test_a_split_hangs_on_the_id_alone() -> None:
    jet_id = np.arange(50_000) * 7919 - 10**9
    fractions = (0.7, 0.1, 0.2)
    split = split_of(jet_id, fractions)
    assert np.array_equal(split_of(jet_id[::-1], fractions)[::-1], split)
    shares = np.bincount(split, minlength=3) / jet_id.size
    assert np.allclose(shares, fractions, atol=4 * np.sqrt(0.25 / jet_id.size))
    # What grows is taken from the neighbour: a jet of train stays there when train grows.
    assert np.all(split_of(jet_id, (0.8, 0.1, 0.1))[split == 0] == 0)


def test_an_empty_split_gets_nothing() -> None:
    assert set(split_of(np.arange(10_000), (0.5, 0.0, 0.5)).tolist()) == {0, 2}
    assert set(split_of(np.arange(10_000), (0.5, 0.5, 0.0)).tolist()) == {0, 1}


def test_splits_and_order_are_independent() -> None:
    jet_id = np.arange(100_000)
    bucket = bucket_of(shuffle_key(jet_id, 0)) * 20 // module.BUCKETS
    counts = np.bincount(bucket[split_of(jet_id, (0.5, 0.5)) == 0], minlength=20)
    assert ((counts - 2500) ** 2 / 2500).sum() < 43.8  # 99.9 % of 19 degrees of freedom


def test_buckets_rise_with_the_key_and_keys_differ() -> None:
    key = np.sort(shuffle_key(np.arange(100_000), 1))
    assert np.unique(key).size == key.size
    bucket = bucket_of(key)
    assert np.all(np.diff(bucket) >= 0)
    assert bucket.min() >= 0
    assert bucket.max() < module.BUCKETS


def test_a_row_that_was_not_counted_still_reaches_a_group() -> None:
    layout = build_layout(np.array([5, 9]), np.array([2, 2]), SPLITS, 2, 1)
    row, group = layout.groups_of(np.array([0, 0, 0, 1]), np.array([0, 7, 1000, 3]))
    assert row.tolist() == [0, 1, 2, 3]
    assert all(0 <= number < len(layout.groups) for number in group.tolist())

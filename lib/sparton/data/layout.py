"""Which row goes into which shard: exact positions in a global order from counts per bucket.

The order of a split is that of a seeded hash of ``jet_id``, so it does not depend on how the input lies on disk. A
first pass counts the rows of each *bucket* (range of hashes). From the counts follows, before any row moves, which
buckets the shards of a *group* (the shards that one task writes) need; a bucket that lies across the border of two
groups goes to both, and each task cuts off what is the neighbour's by counting. So one exchange gives exact shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparton.data.hashing import hash64, salt_of, unit_interval

Indices = NDArray[np.int64]

BUCKET_BITS = 20
BUCKETS = 1 << BUCKET_BITS
SPLIT_SALT = salt_of(0x53504C4954)  # never changes: a jet keeps its split when data grows
ORDER_SALT = 0x4F52444552
SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class Group:
    """Shards ``first_shard .. first_shard + shards - 1`` of a split, written by one task.

    The task gets ``expected`` rows in order, of which it leaves out ``skip`` at the start, keeps ``rows`` and leaves
    out the rest. Codes of the split's buckets start at ``base``.
    """

    number: int
    split: str
    base: int
    first_shard: int
    shards: int
    rows: int
    skip: int
    expected: int


@dataclass(frozen=True)
class Layout:
    """Groups of all splits, and for each split the first and last bucket that each of its groups needs.

    ``first_bucket[s]`` and ``last_bucket[s]`` are int64[groups of s]; group numbers of split ``s`` start at
    ``base[s]``.
    """

    groups: tuple[Group, ...]
    base: tuple[int, ...]
    first_bucket: tuple[Indices, ...]
    last_bucket: tuple[Indices, ...]

    def groups_of(self, split: Indices, bucket: Indices) -> tuple[Indices, Indices]:
        """Return (rows, groups): row indices, repeated where a bucket belongs to several groups, and group numbers."""
        lowest = np.zeros(bucket.size, np.int64)
        copies = np.ones(bucket.size, np.int64)
        for number in np.unique(split).tolist():
            mine = split == number
            first, last = self.first_bucket[number], self.last_bucket[number]
            low = np.searchsorted(last, bucket[mine], side="left")
            high = np.searchsorted(first, bucket[mine], side="right") - 1
            # A row that no group expects (the input changed since it was counted) still goes somewhere, to be noticed.
            lowest[mine] = np.minimum(low, first.size - 1) + self.base[number]
            copies[mine] = np.maximum(high - low + 1, 1)
        lowest = np.clip(lowest, 0, len(self.groups) - 1)
        rows = np.repeat(np.arange(bucket.size), copies)
        within = np.arange(rows.size) - np.repeat(np.cumsum(copies) - copies, copies)
        return rows, lowest[rows] + within


def split_of(jet_id: Indices, fractions: Sequence[float]) -> Indices:
    """Return the index of each jet's split, int64[n]: a function of ``jet_id`` and the fractions alone."""
    limits = np.cumsum(fractions) / np.sum(fractions)
    return np.searchsorted(limits, unit_interval(hash64(jet_id, SPLIT_SALT)), side="right").astype(np.int64)


def shuffle_key(jet_id: Indices, seed: int) -> Indices:
    """Return the sort key of the global order, int64[n], different for different jets."""
    return (hash64(jet_id, salt_of(ORDER_SALT, seed)) ^ SIGN).view(np.int64)


def bucket_of(key: Indices) -> Indices:
    """Return the bucket of each key, int64[n]; buckets rise with the key."""
    return ((key.view(np.uint64) ^ SIGN) >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def code_of(split: Indices, bucket: Indices) -> Indices:
    """Return one number for split and bucket, the form in which buckets are counted."""
    return split * BUCKETS + bucket


def build_layout(
    codes: Indices,
    counts: Indices,
    splits: Sequence[str],
    rows_per_shard: int,
    shards_per_group: int,
    first_shards: Sequence[int] | None = None,
) -> Layout:
    """Return the layout for rows counted by :func:`code_of`.

    Parameters
    ----------
    codes, counts
        Distinct codes in rising order and their rows, int64[k] each.
    splits
        Names of the splits.
    rows_per_shard
        Rows of every shard but a split's last.
    shards_per_group
        Shards that one task writes.
    first_shards
        Number of the first shard of each split; None starts at 0.
    """
    groups: list[Group] = []
    base, first_bucket, last_bucket = [], [], []
    for number, (name, offset) in enumerate(zip(splits, first_shards or [0] * len(splits), strict=True)):
        inside = slice(*np.searchsorted(codes, [number * BUCKETS, (number + 1) * BUCKETS]))
        bucket, ends = codes[inside] - number * BUCKETS, np.cumsum(counts[inside])
        total = int(ends[-1]) if ends.size else 0
        group_rows = rows_per_shard * shards_per_group
        begin = np.arange(0, total, group_rows)
        end = np.minimum(begin + group_rows, total)
        first, last = np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end, side="left")
        starts = ends - counts[inside]
        base.append(len(groups))
        first_bucket.append(bucket[first])
        last_bucket.append(bucket[last])
        groups += [
            Group(
                number=base[number] + index,
                split=name,
                base=number * BUCKETS,
                first_shard=offset + index * shards_per_group,
                shards=-(-(stop - start) // rows_per_shard),
                rows=stop - start,
                skip=start - int(starts[first[index]]),
                expected=int(ends[last[index]] - starts[first[index]]),
            )
            for index, (start, stop) in enumerate(zip(begin.tolist(), end.tolist(), strict=True))
        ]
    return Layout(tuple(groups), tuple(base), tuple(first_bucket), tuple(last_bucket))

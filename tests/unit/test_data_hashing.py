"""Hashing: fixed values, no collisions, even spread, and values that Spark's partitioner spreads evenly."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparton.data.hashing import hash64, permutation, salt_of, unit_interval
from sparton.data.routing import routes, spark_hash

MASK = (1 << 64) - 1


def reference_mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, MASK))
def test_hash_is_splitmix_of_splitmix(value: int, salt: int) -> None:
    assert int(hash64([value], salt)[0]) == reference_mix(reference_mix(value & MASK) ^ salt)


def test_mixer_has_the_published_value() -> None:
    # First output of SplitMix64 seeded with 1234567.
    assert reference_mix(1234567) == 6457827717110365317


def test_values_never_change() -> None:
    assert hash64([0, 1, -1], 0).tolist() == [12035550249420947055, 6791897765849424158, 6755974106381971767]
    assert salt_of(1, 2, 3) == 9812528628958509896
    assert permutation(8, 7).tolist() == sorted(range(8), key=lambda index: int(hash64([index], 7)[0]))


def test_different_integers_have_different_hashes() -> None:
    values = np.concatenate([np.arange(200_000), np.arange(2**62, 2**62 + 1000), -np.arange(1, 1000)])
    assert np.unique(hash64(values, 3)).size == values.size


def test_salts_depend_on_order_and_on_negative_parts() -> None:
    assert len({salt_of(), salt_of(0), salt_of(0, 1), salt_of(1, 0), salt_of(-1), salt_of(1)}) == 6


def test_fractions_of_consecutive_ids_are_even() -> None:
    fractions = unit_interval(hash64(np.arange(100_000), 5))
    assert fractions.min() >= 0
    assert fractions.max() < 1
    counts, _ = np.histogram(fractions, bins=20, range=(0, 1))
    chi2 = ((counts - 5000) ** 2 / 5000).sum()
    assert chi2 < 43.8  # 99.9 % of 19 degrees of freedom


@given(st.integers(0, 500), st.integers(0, MASK))
def test_permutation_permutes(length: int, salt: int) -> None:
    assert np.array_equal(np.sort(permutation(length, salt)), np.arange(length))


def test_permutations_are_not_one_another() -> None:
    assert not np.array_equal(permutation(100, 1), permutation(100, 2))


def test_spark_hash_has_sparks_values() -> None:
    # SELECT hash(0), hash(1), hash(-1), hash(2147483647)
    values = np.array([0, 1, -1, 2147483647], np.int32)
    assert spark_hash(values).tolist() == [933211791, -559580957, -1604776387, 133916647]


def test_routes_reach_every_partition_once() -> None:
    for partitions in (1, 2, 3, 17, 1000):
        found = spark_hash(routes(partitions)) % partitions
        assert found.tolist() == list(range(partitions))

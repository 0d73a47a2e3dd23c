"""Manifest: round trip, versions, and every kind of damage to a shard; statistics that add up; settings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparton import storage
from sparton.config import validate
from sparton.data.manifest import Counts, Manifest, Shard, read_manifest
from sparton.data.settings import PrepareSettings
from sparton.data.statistics import Moments, merge_all
from sparton.errors import ConfigError, DataError


def make_manifest(folder: Path) -> Manifest:
    shards = []
    for index in range(3):
        path = folder / "split=train" / f"shard-{index:05d}.parquet"
        path.parent.mkdir(exist_ok=True)
        content = bytes([index]) * (10 + index)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        shards.append(Shard(path=f"split=train/{path.name}", rows=5 - index, bytes=len(content), sha256=digest))
    manifest = Manifest(
        feature_names=("a", "b"),
        feature_mean=(0.5, -1.0),
        feature_std=(1.0, 2.0),
        feature_count=7,
        feature_squares=(7.0, 28.0),
        n_particles=4,
        mass_bin_edges=(0.0, 10.0, 20.0),
        splits={"train": tuple(shards), "test": ()},
        rows_per_shard=5,
        seed=3,
        settings=PrepareSettings().model_dump(mode="json"),
        counts=Counts(read=20, kept=12, rejected={"null": 8}),
        inputs={"jets": "abc"},
        notes=("one",),
    )
    manifest.write(str(folder))
    return manifest


def test_manifest_round_trips(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    found = read_manifest(str(tmp_path))
    assert found == manifest
    assert (tmp_path / "_manifest.json").is_file()
    assert found.rows("train") == 12
    assert found.shard_rows("train") == (5, 4, 3)
    assert found.n_targets == 3
    assert validate(PrepareSettings, found.settings, "test") == PrepareSettings()


def test_verify_names_each_bad_file_with_its_reason(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    assert manifest.verify(str(tmp_path)) == []
    files = [tmp_path / shard.path for shard in manifest.shards("train")]
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-1])
    files[2].write_bytes(b"x" * files[2].stat().st_size)
    found = [(bad.path, bad.reason) for bad in manifest.verify(str(tmp_path))]
    assert found == [
        (shard.path, why) for shard, why in zip(manifest.shards("train"), ("missing", "size", "checksum"), strict=True)
    ]
    assert [bad.reason for bad in manifest.verify(str(tmp_path), checksums=False)] == ["missing", "size"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": 99}, r"schema_version is 99, this release reads 2; prepare the set again"),
        ({"schema_version": None}, "schema_version is None"),
        ({"kind": "model"}, "kind is 'model', expected 'training-set' or 'table-set'"),
        ({"n_particles": "many"}, "n_particles"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_other_manifests_are_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    make_manifest(tmp_path)
    path = str(tmp_path / "_manifest.json")
    storage.write_json(path, {**storage.read_json(path), **change})
    with pytest.raises(DataError, match=reason):
        read_manifest(str(tmp_path))


def test_missing_or_broken_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; expected a training set"):
        read_manifest(str(tmp_path))
    (tmp_path / "_manifest.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="kind is 'list'"):
        read_manifest(str(tmp_path))
    (tmp_path / "_manifest.json").write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        read_manifest(str(tmp_path))


def test_unknown_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'val'; it has train, test"):
        make_manifest(tmp_path).shards("val")


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 2**31))
def test_moments_add_up(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(1e6, 1.0, (size, 3)) * [1, 1e-3, 1e3] for size in sizes]
    rows = np.concatenate(parts)
    merged = merge_all([Moments.from_bytes(Moments.of(part).to_bytes()) for part in parts], 3)
    assert merged.count == len(rows)
    if len(rows):
        assert np.allclose(merged.mean, rows.mean(axis=0), rtol=1e-14)
        assert np.allclose(merged.squares, ((rows - rows.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-9, atol=1e-9)


def test_deviation_far_from_zero_does_not_cancel() -> None:
    values = 1e8 + np.tile([[-1.0], [1.0]], (500, 1))
    halves = merge_all([Moments.of(values[:300]), Moments.of(values[300:])], 1)
    assert np.allclose(halves.std()[0], 1.0, rtol=1e-12)


def test_constant_features_get_deviation_one() -> None:
    values = np.column_stack([np.full(100, np.float32(0.1)), np.zeros(100), np.linspace(0, 1, 100)])
    std, constant = merge_all([Moments.of(values[:50]), Moments.of(values[50:])], 3).std()
    assert constant.tolist() == [True, True, False]
    assert std[:2].tolist() == [1.0, 1.0]
    assert std[2] == pytest.approx(values[:, 2].std())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"splits": {"train": 0.7, "test": 0.2}}, "sum to 0.8999"),
        ({"splits": {"fit": 1.0}}, "must be 'train'"),
        ({"splits": {"train": 0.0, "test": 1.0}}, "must be 'train'"),
        ({"splits": {"train": 1.5, "test": -0.5}}, "expected 0 to 1"),
        ({"splits": {"train": 0.5, "a/b": 0.5}}, "'a/b' is not made of"),
        ({"mass_window": [200, 10]}, "a lower and a larger"),
        ({"labels": []}, "keeps nothing"),
        ({"rows_per_shard": 2_000_000}, "exceed 2 GiB in a shard; use at most 1342177"),
        ({"row_per_shard": 5}, "did you mean 'rows_per_shard'"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        validate(PrepareSettings, values, "test")


@given(st.integers(0, 1000))
def test_a_weight_is_so_many_equal_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, weight = rng.normal(3, 2, (20, 3)), rng.integers(0, 4, 20)
    found, expected = Moments.of(values, weight), Moments.of(np.repeat(values, weight, axis=0))
    assert found.count == expected.count == weight.sum()
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-9, atol=1e-12)


def test_rows_without_weight_do_not_count() -> None:
    values = np.array([[1.0], [3.0], [1e300]])
    found = Moments.of(values, np.array([0.5, 0.5, 0.0]))
    assert (found.count, found.mean.tolist(), found.std()[0].tolist()) == (1.0, [2.0], [1.0])
    assert Moments.of(values, np.zeros(3)).count == 0

"""Doubles, quarantine and extension of training sets: every good jet exactly once, whatever comes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton import pipeline, publication, storage
from sparton.config import load_config
from sparton.data.featurize import FeatureSpec, decode_features
from sparton.data.layout import shuffle_key, split_of
from sparton.data.manifest import Manifest, read_manifest
from sparton.data.prepare import write_training_set
from sparton.data.settings import PrepareSettings
from sparton.data.source_files import find_sources, read_sources
from sparton.errors import DataError, UsageError
from sparton.pipeline import PipelineSettings
from tests.synthetic import jets_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SPLITS = {"train": 0.6, "test": 0.4}
FEATURES = FeatureSpec(n_particles=16)
SETTINGS = PrepareSettings(features=FEATURES, rows_per_shard=64, mass_window=None, splits=SPLITS, max_rejected=0.05)
SMALL = [
    "prepare.features.n_particles=16",
    "prepare.rows_per_shard=64",
    "prepare.mass_window=null",
    "prepare.splits={train: 0.6, test: 0.4}",
    "prepare.max_rejected=0.05",
]


def with_values(table: pa.Table, name: str, changes: dict[int, Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    values = table.column(name).to_pylist()
    for row, value in changes.items():
        values[row] = value
    return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))


def content(folder: Path, manifest: Manifest, split: str) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(folder / shard.path).read() for shard in manifest.shards(split)])


def ids_in(folder: Path, manifest: Manifest) -> list[int]:
    return sorted(
        number for split in manifest.splits for number in content(folder, manifest, split).column("jet_id").to_pylist()
    )


def rejected_in(folder: Path) -> list[dict[str, Any]]:
    rows = [
        row for path in sorted((folder / "_quarantine").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    return sorted(rows, key=lambda row: (Path(row["file"]).name, row["row"]))


def settings_in(workspace: Path, *overrides: str) -> PipelineSettings:
    return load_config(PipelineSettings, None, [*SMALL, f"workspace={workspace}", *overrides])


@pytest.fixture(scope="module")
def doubled() -> pa.Table:
    """Three hundred jets, three broken, three with the ids of others: one equal, two with other content."""
    table = jets_table(300, seed=3, first_id=1000)
    table = with_values(table, "jet_pt", {7: float("nan")})
    table = with_values(table, "jet_mass", {9: None})
    table = with_values(table, "energy", {11: [-1.0, *table.column("energy")[11].as_py()[1:]]})
    table = with_values(table, "jet_phi", {20: 4.0, 21: -3.5})
    return with_values(table, "jet_id", {50: 1060, 51: 1060, 299: 1061})


@pytest.fixture(scope="module")
def made(
    spark: SparkSession, doubled: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Manifest]:
    root = tmp_path_factory.mktemp("doubles")
    (root / "jets").mkdir()
    for index in range(2):
        pq.write_table(doubled.slice(index * 150, 150), root / "jets" / f"part {index}.parquet")
    sources = find_sources(spark, str(root / "jets"))
    jets = read_sources(spark, str(root / "jets"), sources)
    manifest = write_training_set(spark, jets, SETTINGS, str(root / "set"), {}, sources, str(root / "jets"))
    return root / "set", root / "jets", manifest


def test_one_of_each_double_is_kept_and_the_others_are_named(made: tuple[Path, Path, Manifest]) -> None:
    folder, jets, manifest = made
    kept = ids_in(folder, manifest)
    assert kept == sorted({*range(1000, 1300)} - {1007, 1009, 1011, 1050, 1051, 1299})
    counts = manifest.counts
    assert counts.rejected == {"null": 1, "not_finite": 1, "negative_energy": 1, "duplicate_jet_id": 3}
    assert (counts.read, counts.kept) == (300, 294)
    assert counts.altered["wrapped_phi"] == 2
    rejected = rejected_in(folder)
    broken = [(Path(row["file"]).name, row["row"], row["jet_id"], row["reason"]) for row in rejected][:3]
    assert broken == [
        ("part 0.parquet", 7, 1007, "not_finite"),
        ("part 0.parquet", 9, 1009, "null"),
        ("part 0.parquet", 11, 1011, "negative_energy"),
    ]
    for row in rejected:
        assert row["sha256"] == storage.sha256(str(jets / Path(row["file"]).name))
    doubles = [row for row in rejected if row["reason"] == "duplicate_jet_id"]
    assert sorted(row["jet_id"] for row in doubles) == [1060, 1060, 1061]
    for row in doubles:
        source = pq.read_table(jets / Path(row["file"]).name, columns=["jet_id"])
        assert source.column("jet_id")[row["row"]].as_py() == row["jet_id"]


def test_which_double_is_kept_does_not_depend_on_the_partitioning(
    spark: SparkSession, doubled: pa.Table, made: tuple[Path, Path, Manifest], tmp_path: Path
) -> None:
    shuffled = doubled.take(np.random.default_rng(5).permutation(doubled.num_rows))
    pq.write_table(shuffled, tmp_path / "jets.parquet")
    jets = spark.read.parquet(str(tmp_path / "jets.parquet")).repartition(5)
    found = write_training_set(spark, jets, SETTINGS, str(tmp_path / "set"))
    assert found.splits == made[2].splits
    assert found.counts == made[2].counts


def test_too_many_rejected_jets_publish_nothing_and_keep_the_quarantine(
    spark: SparkSession, made: tuple[Path, Path, Manifest], tmp_path: Path
) -> None:
    settings = settings_in(tmp_path, "prepare.max_rejected=0.015")
    with pytest.raises(
        DataError, match=r"6 of 300 rows rejected \(duplicate_jet_id 3.*--max-rejected.*listed in"
    ) as error:
        pipeline.prepare(settings, input=str(made[1]))
    assert not (tmp_path / "set").exists()
    kept = Path(str(error.value).rsplit(" ", 1)[1])
    assert sorted(row["jet_id"] for row in rejected_in(kept.parent)) == [1007, 1009, 1011, 1060, 1060, 1061]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Path:
    """A workspace whose set was made from one file; then another and a copy of the first under a new name came."""
    root = tmp_path_factory.mktemp("grown") / "of [1,2]"
    root.mkdir()
    (root / "jets").mkdir()
    pq.write_table(jets_table(500, seed=1), root / "jets" / "a.parquet")
    pipeline.prepare(settings_in(root))
    storage.link(str(root / "set" / "_manifest.json"), str(root / "before.json"))
    for path in storage.list_files(str(root / "set")):
        storage.link(str(root / "set" / path), str(root / "before" / path))
    new = with_values(jets_table(200, seed=2, first_id=500), "jet_id", {0: 3, 1: 400, 2: 501 + 100})
    pq.write_table(new, root / "jets" / "b.parquet")
    (root / "jets" / "a.parquet").rename(root / "jets" / "renamed.parquet")
    result = pipeline.prepare(settings_in(root), append=True)
    assert not result.skipped
    assert result.summary["new files"] == 1
    return root


def test_an_extension_adds_each_new_jet_once(grown: Path) -> None:
    manifest = read_manifest(str(grown / "set"))
    assert ids_in(grown / "set", manifest) == sorted({*range(700)} - {500, 501, 502})
    assert manifest.counts.rejected == {"duplicate_jet_id": 3}
    assert (manifest.counts.read, manifest.counts.kept, manifest.extensions) == (700, 697, 1)
    known = {(row["jet_id"], row["sha256"]) for row in rejected_in(grown / "set")}
    assert known == {(jet, storage.sha256(str(grown / "jets" / "b.parquet"))) for jet in (3, 400, 601)}
    for number, split in enumerate(SPLITS):
        ids = content(grown / "set", manifest, split).column("jet_id").to_numpy()
        assert set(split_of(ids, tuple(SPLITS.values())).tolist()) == {number}
        rows = manifest.shard_rows(split)
        assert all(count == 64 for count in rows[:-1])
        assert 1 <= rows[-1] <= 64
    assert manifest.verify(str(grown / "set")) == []


def test_an_extension_leaves_full_shards_alone_and_orders_the_rest(grown: Path) -> None:
    before = read_manifest(str(grown / "before"))
    after = read_manifest(str(grown / "set"))
    for split in SPLITS:
        full = [shard for shard in before.shards(split) if shard.rows == 64]
        assert after.shards(split)[: len(full)] == tuple(full)
        for shard in full:
            assert (grown / "set" / shard.path).samefile(grown / "before" / shard.path)
        added = [pq.ParquetFile(grown / "set" / shard.path).read() for shard in after.shards(split)[len(full) :]]
        ids = pa.concat_tables(added).column("jet_id").to_numpy()
        assert np.all(np.diff(shuffle_key(ids, 0)) > 0)
    assert before.verify(str(grown / "before")) == []  # what reads the old folder is not disturbed


def test_an_extension_keeps_old_rows_and_merges_statistics_exactly(grown: Path) -> None:
    before = read_manifest(str(grown / "before"))
    after = read_manifest(str(grown / "set"))
    for split in SPLITS:
        old, new = (content(grown / name, manifest, split) for name, manifest in (("before", before), ("set", after)))
        rows = {row["jet_id"]: row for row in new.to_pylist()}
        assert all(rows[row["jet_id"]] == row for row in old.to_pylist())
    rows = content(grown / "set", after, "train")
    features = decode_features(rows.column("features").combine_chunks(), *after.feature_shape)
    real = np.arange(16) < rows.column("n_particles").to_numpy()[:, None]
    values = features[real].astype(np.float64)
    assert after.feature_count == len(values)
    assert np.allclose(after.feature_mean, values.mean(axis=0), rtol=1e-12, atol=1e-13)
    assert np.allclose(after.feature_std, values.std(axis=0), rtol=1e-12)


def test_the_same_extension_again_does_nothing(grown: Path) -> None:
    before = sorted((path, (grown / "set" / path).stat().st_ino) for path in storage.list_files(str(grown / "set")))
    result = pipeline.prepare(settings_in(grown), append=True)
    assert result.skipped
    assert "holds all files" in result.summary["new files"]
    after = sorted((path, (grown / "set" / path).stat().st_ino) for path in storage.list_files(str(grown / "set")))
    assert before == after


def test_an_extension_with_other_settings_is_refused(grown: Path, tmp_path: Path) -> None:
    pq.write_table(jets_table(10, seed=9, first_id=5000), tmp_path / "new.parquet")
    with pytest.raises(UsageError, match=r"prepare.seed is 8, but .* was made with 0; an extension keeps"):
        pipeline.prepare(settings_in(grown, "prepare.seed=8"), input=str(tmp_path), append=True)
    with pytest.raises(UsageError, match=r"prepare.seed is 8"):  # where nothing is new neither
        pipeline.prepare(settings_in(grown, "prepare.seed=8"), append=True)


def test_an_extension_is_a_function_of_the_set_and_the_files(spark: SparkSession, grown: Path, tmp_path: Path) -> None:
    for path in storage.list_files(str(grown / "before")):
        storage.link(str(grown / "before" / path), str(tmp_path / "set" / path))
    new = pq.read_table(grown / "jets" / "b.parquet")
    pq.write_table(new.take(np.random.default_rng(1).permutation(new.num_rows)), tmp_path / "b.parquet")
    with publication.extend(str(tmp_path / "set")) as staging:
        jets = spark.read.parquet(str(tmp_path / "b.parquet")).repartition(3)
        write_training_set(spark, jets, SETTINGS, staging, extend=True)
    assert read_manifest(str(tmp_path / "set")).splits == read_manifest(str(grown / "set")).splits


def test_a_damaged_last_shard_is_noticed_before_it_is_merged(spark: SparkSession, grown: Path, tmp_path: Path) -> None:
    for path in storage.list_files(str(grown / "before")):
        storage.write_text(str(tmp_path / "set" / path), "")
        (tmp_path / "set" / path).write_bytes((grown / "before" / path).read_bytes())
    last = tmp_path / "set" / read_manifest(str(grown / "before")).shards("train")[-1].path
    damaged = bytearray(last.read_bytes())
    damaged[200] ^= 1
    last.write_bytes(damaged)
    jets = spark.read.parquet(storage.spark_source(str(grown / "jets" / "b.parquet")))
    with (
        pytest.raises(DataError, match=r"SHA-256 differs from the manifest's"),
        publication.extend(str(tmp_path / "set")) as out,
    ):
        write_training_set(spark, jets, SETTINGS, out, extend=True)
    assert last.read_bytes() == bytes(damaged)


def test_a_full_disk_leaves_the_old_set(spark: SparkSession, small_disk: Path, tmp_path: Path) -> None:
    jets, output = tmp_path / "jets", small_disk / "set"
    jets.mkdir()
    pq.write_table(jets_table(100, seed=1), jets / "a.parquet")
    pipeline.prepare(settings_in(tmp_path), output=str(output))
    before = sorted((path, path.stat().st_ino) for path in small_disk.rglob("*"))
    pq.write_table(jets_table(900, seed=2, first_id=100), jets / "b.parquet")
    with pytest.raises(DataError, match=rf"^writing shards to {output}\S+: .*No space left on device$") as error:
        pipeline.prepare(settings_in(tmp_path), output=str(output), append=True)
    assert len(str(error.value).splitlines()) == 1
    assert sorted((path, path.stat().st_ino) for path in small_disk.rglob("*")) == before
    assert pipeline.info(str(output), verify=True).problems == []
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    pipeline.prepare(settings_in(tmp_path), output=str(output), append=True)
    assert ids_in(output, read_manifest(str(output))) == list(range(1000))

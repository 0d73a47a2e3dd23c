"""Prepare on Spark: exact shards, one exchange, nothing lost or doubled, the same bytes from any input partitioning."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from sparton import pipeline, storage
from sparton.config import load_config
from sparton.data import prepare
from sparton.data import writing as module
from sparton.data.counting import take_census
from sparton.data.exchange import exchange
from sparton.data.featurize import FeatureSpec, decode_features, featurize
from sparton.data.jets_encoder import JetsEncoder
from sparton.data.layout import build_layout, shuffle_key, split_of
from sparton.data.manifest import Manifest, read_manifest
from sparton.data.mass_peaks import find_peaks
from sparton.data.mass_quantiles import SAMPLE_SEED, find_edges
from sparton.data.prepare import PrepareSettings, write_training_set
from sparton.data.routing import spark_hash
from sparton.data.rows import Wanted, rows_from
from sparton.data.schema import TRAINING_ARROW, TRAINING_SCHEMA
from sparton.data.screening import screen
from sparton.data.shards import check_footers, write_file
from sparton.data.source_files import StoredTable, find_sources, read_sources, require_unchanged
from sparton.data.target import TargetMass
from sparton.data.verification import verify_written
from sparton.errors import DataError, UsageError
from sparton.physics.features import FEATURE_NAMES, ucluster_features
from sparton.physics.grooming import soft_drop_mass
from sparton.pipeline import PipelineSettings
from tests import layouts
from tests.packed import partitions_of
from tests.synthetic import jets_table, random_jets

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

JETS = 2500
PARTICLES = 24
FEWER, SAMPLE = 1000, 300
SETTINGS = PrepareSettings(features=FeatureSpec(n_particles=PARTICLES), rows_per_shard=128, seed=11)
ENCODER = JetsEncoder(SETTINGS)
GROOMED_MASS = TargetMass(definition="soft_drop", symmetry_cut=0.3, beta=0.0)
GROOMED = SETTINGS.model_copy(update={"features": FeatureSpec(n_particles=PARTICLES, mass_bins=8, mass=GROOMED_MASS)})


def store(table: pa.Table, folder: Path, files: int) -> str:
    folder.mkdir()
    limits = np.linspace(0, table.num_rows, files + 1).astype(int)
    for index, (start, stop) in enumerate(pairwise(limits)):
        pq.write_table(table.slice(start, stop - start), folder / f"part-{index:03d}.parquet")
    return storage.spark_url(str(folder))


def rows_of(folder: Path, manifest: Manifest, split: str) -> pa.Table:
    files = [pq.ParquetFile(folder / shard.path).read() for shard in manifest.shards(split)]
    return pa.concat_tables(files) if files else TRAINING_ARROW.empty_table()


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return jets_table(JETS, seed=1, first_id=10_000)


@pytest.fixture(scope="module")
def stored(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    return store(table, tmp_path_factory.mktemp("jets") / "table", 3)


@pytest.fixture(scope="module")
def made(spark: SparkSession, stored: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("set")
    jets = spark.read.parquet(stored)
    return folder, write_training_set(spark, jets, SETTINGS, str(folder), {"jets": "fingerprint"})


def test_shards_are_exact_with_one_row_group(made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    assert set(manifest.splits) == {"train", "val", "test"}
    for split, shards in manifest.splits.items():
        assert [shard.path for shard in shards] == [f"split={split}/shard-{i:05d}.parquet" for i in range(len(shards))]
        assert all(shard.rows == 128 for shard in shards[:-1])
        assert 1 <= shards[-1].rows <= 128
        for shard in shards:
            content = (folder / shard.path).read_bytes()
            metadata = pq.read_metadata(folder / shard.path)
            assert (metadata.num_rows, metadata.num_row_groups) == (shard.rows, 1)
            assert metadata.schema.to_arrow_schema() == TRAINING_ARROW
            assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)
    assert sorted(storage.list_files(str(folder))) == sorted(
        ["_manifest.json", *(shard.path for shards in manifest.splits.values() for shard in shards)]
    )


def test_every_jet_arrives_once_in_its_split_and_order(table: pa.Table, made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    mass = table.column("jet_mass").to_numpy()
    jet_id = table.column("jet_id").to_numpy()[(mass > 10) & (mass < 200)]
    split, key = split_of(jet_id, (0.7, 0.1, 0.2)), shuffle_key(jet_id, 11)
    for number, name in enumerate(("train", "val", "test")):
        mine = split == number
        expected = jet_id[mine][np.argsort(key[mine])]
        assert np.array_equal(rows_of(folder, manifest, name).column("jet_id").to_numpy(), expected)


def test_rows_hold_what_the_features_say(table: pa.Table, made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    rows = rows_of(folder, manifest, "train")
    index = {jet: row for row, jet in enumerate(table.column("jet_id").to_pylist())}
    order = [index[jet] for jet in rows.column("jet_id").to_pylist()]
    jets = screen(table.take(order)).rows
    features, n_real = ucluster_features(jets.jets, PARTICLES)
    found = decode_features(rows.column("features").combine_chunks(), PARTICLES, len(FEATURE_NAMES))
    assert np.array_equal(found, features)
    assert np.array_equal(rows.column("n_particles").to_numpy(), n_real)
    assert np.array_equal(rows.column("jet_mass").to_numpy(), jets.jets.jet_mass)
    assert rows.column("label").to_pylist() == jets.label.to_pylist()
    edges = np.linspace(0, 200, 20)
    assert np.array_equal(rows.column("target").to_numpy(), np.digitize(jets.jets.jet_mass, edges) - 1)


def test_statistics_are_those_of_the_real_particles_of_train(made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    rows = rows_of(folder, manifest, "train")
    features = decode_features(rows.column("features").combine_chunks(), PARTICLES, len(FEATURE_NAMES))
    n_real = rows.column("n_particles").to_numpy()
    real = np.concatenate([features[row, :count] for row, count in enumerate(n_real)]).astype(np.float64)
    assert manifest.feature_names == FEATURE_NAMES
    assert np.allclose(manifest.feature_mean, real.mean(axis=0), rtol=1e-10, atol=1e-12)
    assert np.allclose(manifest.feature_std, real.std(axis=0), rtol=1e-10)
    assert manifest.notes == ()


def test_manifest_is_read_back_and_counts_add_up(table: pa.Table, made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    assert read_manifest(str(folder)) == manifest
    assert manifest.verify(str(folder)) == []
    mass = table.column("jet_mass").to_numpy()
    kept = (mass > 10) & (mass < 200)
    over = np.maximum(table.column("n_constituents").to_numpy()[kept] - PARTICLES, 0)
    counts = manifest.counts
    assert counts.read == JETS
    assert counts.kept == kept.sum() == sum(manifest.rows(split) for split in manifest.splits)
    assert counts.excluded == ({"mass_window": int((~kept).sum())} if not kept.all() else {})
    assert counts.rejected == {}
    assert counts.altered == {"truncated_jets": np.count_nonzero(over), "truncated_constituents": over.sum()}
    assert manifest.inputs == {"jets": "fingerprint"}
    assert manifest.seed == 11


def test_spark_reads_the_folder_as_a_table(spark: SparkSession, made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    counts = {row["split"]: row["count"] for row in spark.read.parquet(str(folder)).groupBy("split").count().collect()}
    assert counts == {split: manifest.rows(split) for split in manifest.splits}


def test_bytes_do_not_depend_on_the_input_partitioning(
    spark: SparkSession, table: pa.Table, made: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffled = table.take(np.random.default_rng(0).permutation(JETS))
    jets = spark.read.parquet(store(shuffled, tmp_path / "jets", 7))
    monkeypatch.setattr(module, "MIN_GROUP_BYTES", 1)  # other groups of shards, too
    manifest = write_training_set(spark, jets, SETTINGS, str(tmp_path / "set"), {"jets": "fingerprint"})
    assert manifest == made[1]


@pytest.fixture(scope="module")
def fewer(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A part of the jets: grooming costs most of what a set takes to make."""
    return store(table.slice(0, FEWER), tmp_path_factory.mktemp("fewer") / "table", 2)


@pytest.fixture(scope="module")
def groomed(spark: SparkSession, fewer: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A set whose target is 8 quantile bins of the soft-drop mass, of the jets with the smallest hashes."""
    folder = tmp_path_factory.mktemp("groomed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "find_edges", partial(find_edges, sample=SAMPLE))
        return folder, write_training_set(spark, spark.read.parquet(fewer), GROOMED, str(folder))


def test_quantile_bins_are_those_of_a_sample_by_hash(table: pa.Table, groomed: tuple[Path, Manifest]) -> None:
    folder, manifest = groomed
    rows = screen(table.slice(0, FEWER)).rows
    kept = rows.select((rows.jets.jet_mass > 10) & (rows.jets.jet_mass < 200))
    masses = dict(zip(kept.jet_id.tolist(), soft_drop_mass(kept.jets, 0.3, 0.0).astype(np.float64), strict=True))
    sample = kept.jet_id[np.argsort(shuffle_key(kept.jet_id, SAMPLE_SEED))[:SAMPLE]].tolist()
    expected = np.percentile([masses[jet] for jet in sample], np.arange(1, 8) * 12.5)
    assert manifest.mass_bin_edges == (0.0, *expected.tolist())
    assert manifest.n_targets == 8
    assert manifest.settings["features"]["mass_bins"] == 8
    stored_rows = pa.concat_tables([rows_of(folder, manifest, split) for split in manifest.splits])
    target, ids = stored_rows.column("target").to_numpy(), stored_rows.column("jet_id").to_pylist()
    assert np.array_equal(target, np.digitize([masses[jet] for jet in ids], manifest.mass_bin_edges) - 1)
    population, share = np.bincount(target, minlength=8), len(target) / 8
    assert np.all(np.abs(population - share) < 5 * share * np.sqrt(8 / SAMPLE))


def test_quantile_edges_do_not_depend_on_the_partitioning_and_an_extension_keeps_them(
    spark: SparkSession,
    table: pa.Table,
    groomed: tuple[Path, Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prepare, "find_edges", partial(find_edges, sample=SAMPLE))
    shuffled = table.take(np.random.default_rng(0).permutation(FEWER))
    jets = spark.read.parquet(store(shuffled, tmp_path / "jets", 7))
    manifest = write_training_set(spark, jets, GROOMED, str(tmp_path / "set"))
    assert manifest == groomed[1]
    heavier = jets_table(300, seed=5, first_id=90_000)
    heavier = heavier.filter(pc.equal(heavier.column("label"), "t"))
    new = spark.read.parquet(store(heavier, tmp_path / "new", 1))
    extended = write_training_set(spark, new, GROOMED, str(tmp_path / "set"), extend=True)
    assert extended.counts.kept > manifest.counts.kept
    assert extended.mass_bin_edges == manifest.mass_bin_edges


def test_peaks_are_those_of_the_mass_and_an_extension_keeps_them(
    spark: SparkSession, table: pa.Table, fewer: str, tmp_path: Path
) -> None:
    features = FeatureSpec(
        mass_bin_edges=(), n_particles=PARTICLES, mass_peaks=2, mass=GROOMED_MASS, further_masses=(TargetMass(),)
    )
    settings = SETTINGS.model_copy(update={"features": features})
    manifest = write_training_set(spark, spark.read.parquet(fewer), settings, str(tmp_path / "set"))
    rows = screen(table.slice(0, FEWER)).rows
    kept = rows.select((rows.jets.jet_mass > 10) & (rows.jets.jet_mass < 200))
    masses = np.stack([soft_drop_mass(kept.jets, 0.3, 0.0), kept.jets.jet_mass], axis=1)
    assert manifest.mass_peaks == find_peaks(masses[:, 0], 2)
    assert manifest.mass_bin_edges == manifest.mass_peaks.edges()
    assert read_manifest(str(tmp_path / "set")) == manifest
    expected = dict(zip(kept.jet_id.tolist(), manifest.mass_peaks.classify(masses).tolist(), strict=True))
    written = pa.concat_tables([rows_of(tmp_path / "set", manifest, split) for split in manifest.splits])
    assert dict(zip(*(written.column(name).to_pylist() for name in ("jet_id", "target")), strict=True)) == expected
    new = spark.read.parquet(store(jets_table(200, seed=5, first_id=90_000), tmp_path / "new", 1))
    extended = write_training_set(spark, new, settings, str(tmp_path / "set"), extend=True)
    assert extended.counts.kept > manifest.counts.kept
    assert extended.mass_peaks == manifest.mass_peaks


def test_another_seed_orders_anew_but_keeps_the_splits(
    spark: SparkSession, stored: str, made: tuple[Path, Manifest], tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"seed": 12, "rows_per_shard": 700, "compression": "zstd"})
    manifest = write_training_set(spark, spark.read.parquet(stored), settings, str(tmp_path))
    for split in manifest.splits:
        old, new = (
            rows_of(folder, which, split).column("jet_id").to_numpy() for folder, which in (made, (tmp_path, manifest))
        )
        assert not np.array_equal(old, new)
        assert np.array_equal(np.sort(old), np.sort(new))


def test_rows_cross_one_exchange_evenly(spark: SparkSession, stored: str) -> None:
    for jets in (spark.read.parquet(stored), read_sources(spark, stored, find_sources(spark, stored))):
        rows = rows_from(jets, {name: Wanted(name) for name in ENCODER.columns})
        assert rows.are_files == isinstance(jets, StoredTable)
        census = take_census(rows, ENCODER, SETTINGS)
        layout = build_layout(census.codes, census.rows, tuple(SETTINGS.splits), 128, 4)
        frame = exchange(rows, ENCODER, SETTINGS, layout)
        plan = frame._jdf.queryExecution().executedPlan().toString()
        assert len(re.findall(r"\bExchange\b", plan)) == 1
        sizes = [part.num_rows for part in partitions_of(frame, ENCODER)]
        assert sizes == [group.expected for group in layout.groups]


def test_own_hash_is_sparks(spark: SparkSession) -> None:
    values = np.array([0, 1, -1, 17, 123456789, 2**31 - 1, -(2**31)], np.int32)
    rows = spark.createDataFrame([(int(value),) for value in values], "v int").selectExpr("hash(v) as h").collect()
    assert [row["h"] for row in rows] == spark_hash(values).tolist()


def test_labels_and_broken_rows_are_counted(spark: SparkSession, tmp_path: Path) -> None:
    table = jets_table(400, seed=4)
    energy = table.column("energy").to_pylist()
    energy[3][0] = float("nan")
    energy[5][1] = -2.0
    label = [None if row < 20 else name for row, name in enumerate(table.column("label").to_pylist())]
    for name, values in (("energy", energy), ("label", label)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    jets = spark.read.parquet(store(table, tmp_path / "jets", 2))
    settings = SETTINGS.model_copy(update={"labels": ("W", "t"), "mass_window": None})
    manifest = write_training_set(spark, jets, settings, str(tmp_path / "set"))
    names = Counter(label)
    sound = names["W"] + names["t"]
    assert manifest.counts.rejected == {"not_finite": 1, "negative_energy": 1}
    assert manifest.counts.excluded == {"label": 398 - sound}
    assert manifest.counts.kept == sound
    spark_labels = {row["label"] for row in spark.read.parquet(str(tmp_path / "set")).select("label").collect()}
    assert spark_labels == {"W", "t"}

    everything = write_training_set(spark, jets, settings.model_copy(update={"labels": None}), str(tmp_path / "all"))
    assert everything.counts.kept == 398
    missing = sum(
        pc.sum(pc.is_null(rows_of(tmp_path / "all", everything, split).column("label"))).as_py()
        for split in everything.splits
    )
    assert missing == 18


def test_nothing_left_is_explained(spark: SparkSession, stored: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"labels": ("H",)})
    with pytest.raises(
        DataError,
        match=f"none of {JETS} rows of the jets table is left .label {JETS}; labels in it: .*W.*; "
        "selected are labels .*H.*mass_window",
    ):
        write_training_set(spark, spark.read.parquet(stored), settings, str(tmp_path))
    empty = spark.read.parquet(stored).where("jet_id < 0")
    with pytest.raises(DataError, match=r"none of 0 rows of the jets table is left .the table is empty"):
        write_training_set(spark, empty, SETTINGS, str(tmp_path))


def test_bad_calls_are_refused(spark: SparkSession, stored: str, tmp_path: Path) -> None:
    jets = spark.read.parquet(stored)
    with pytest.raises(DataError, match=r"missing column\(s\) energy, jet_pt|missing column\(s\) jet_pt, energy"):
        write_training_set(spark, jets.drop("energy", "jet_pt"), SETTINGS, str(tmp_path))
    with pytest.raises(DataError, match="missing column"):
        featurize(jets.drop("px"), SETTINGS.features)
    with pytest.raises(UsageError, match="give mass_bin_edges, such as those of a manifest"):
        featurize(jets, GROOMED.features)
    (tmp_path / "old.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        write_training_set(spark, jets, SETTINGS, str(tmp_path))


def test_an_input_that_changes_between_the_passes_is_noticed(
    spark: SparkSession, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jets = spark.read.parquet(store(table.slice(0, 600), tmp_path / "jets", 2))
    rows = rows_from(jets.where("jet_id != 10007"), {name: Wanted(name) for name in ENCODER.columns})
    census = take_census(rows, ENCODER, SETTINGS)
    monkeypatch.setattr(module, "take_census", lambda *_: census)
    with pytest.raises(DataError, match="the jets table changed while it was read"):
        write_training_set(spark, jets, SETTINGS, str(tmp_path / "set"))


def test_a_shard_that_the_storage_altered_is_noticed(
    spark: SparkSession, made: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = made
    shards = manifest.shards("train")[:3]
    verify_written(spark, str(folder), shards, TRAINING_ARROW)
    for shard in shards:
        content = bytearray((folder / shard.path).read_bytes())
        content[len(content) // 2] ^= 1 if shard is shards[1] else 0
        (tmp_path / shard.path).parent.mkdir(exist_ok=True)
        (tmp_path / shard.path).write_bytes(content)
    with pytest.raises(DataError, match=rf"{shards[1].path}: SHA-256 differs .*the storage altered the file"):
        verify_written(spark, str(tmp_path), shards, TRAINING_ARROW)


def test_a_failing_task_gives_one_line(
    spark: SparkSession, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.storage, "make_dirs", lambda path: None)  # the tasks find no folder to write to
    with pytest.raises(DataError, match=r"^writing shards to \S+/set: FileNotFoundError: .*shard-\S+$"):
        write_training_set(spark, spark.read.parquet(stored), SETTINGS, str(tmp_path / "set"))


def test_leftovers_of_killed_tasks_are_removed(tmp_path: Path) -> None:
    keep, hidden = tmp_path / "split=train" / "shard-00000.parquet", tmp_path / "split=train" / ".shard-00000.parquet.a"
    keep.parent.mkdir()
    keep.write_text("x")
    hidden.write_text("half")
    module._remove_leftovers(str(tmp_path))
    assert keep.exists()
    assert not hidden.exists()


def test_a_failed_write_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(storage, "rename", refuse)
    table = TRAINING_ARROW.empty_table()
    with pytest.raises(OSError, match="no space left"):
        write_file(str(tmp_path / "shard.parquet"), table, "snappy")
    assert list(tmp_path.iterdir()) == []


def test_footers_that_differ_are_found(made: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = made
    shards = list(manifest.shards("train"))
    check_footers(str(folder), shards, TRAINING_ARROW)
    with pytest.raises(DataError, match="rows read back are 128, written were 127"):
        check_footers(str(folder), [shards[0].model_copy(update={"rows": 127})], TRAINING_ARROW)
    with pytest.raises(DataError, match="bytes read back"):
        check_footers(str(folder), [shards[0].model_copy(update={"bytes": 1})], TRAINING_ARROW)
    with pytest.raises(DataError, match="must lie on storage that all machines share"):
        check_footers(str(tmp_path), shards, TRAINING_ARROW)
    table = pq.ParquetFile(folder / shards[0].path).read()
    pq.write_table(table, tmp_path / "two.parquet", row_group_size=100)
    pq.write_table(table.drop_columns(["label"]), tmp_path / "few.parquet")
    for name, reason in (("two", "row groups read back are 2"), ("few", "schema read back")):
        size = (tmp_path / f"{name}.parquet").stat().st_size
        shard = module.Shard(path=f"{name}.parquet", rows=128, bytes=size, sha256="")
        with pytest.raises(DataError, match=reason):
            check_footers(str(tmp_path), [shard], TRAINING_ARROW)


def test_featurize_gives_training_rows_of_sound_jets(spark: SparkSession, stored: str, table: pa.Table) -> None:
    frame: DataFrame = featurize(spark.read.parquet(stored), SETTINGS.features)
    assert frame.schema == TRAINING_SCHEMA
    rows = {row["jet_id"]: row for row in frame.limit(50).collect()}
    jets = screen(table).rows
    features, n_real = ucluster_features(jets.jets, PARTICLES)
    for jet_id, row in rows.items():
        assert bytes(row["features"]) == features[jet_id - 10_000].tobytes()
        assert row["n_particles"] == n_real[jet_id - 10_000]


def stage_settings(workspace: Path) -> PipelineSettings:
    return load_config(PipelineSettings, None, [f"workspace={workspace}", "prepare.features.n_particles=8"])


def test_a_table_that_is_not_what_its_record_says_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    """A value that has changed in a file of the same size, which no footer shows."""
    layouts.write_hls4ml(tmp_path / "a.h5", *random_jets(60, seed=1))
    settings = stage_settings(tmp_path)
    pipeline.ingest(settings, input=str(tmp_path / "a.h5"))
    (path,) = (tmp_path / "jets").glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"SHA-256 is .*, the record of the stage that wrote it says .*--force"):
        pipeline.prepare(settings)
    assert not (tmp_path / "set").exists()


def test_a_file_replaced_while_it_is_read_is_noticed(spark: SparkSession, tmp_path: Path) -> None:
    """By one of the same size, whose rows have the same ids; one that was only touched is no reason to stop."""
    table, folder = jets_table(60), str(tmp_path / "table")
    turned = table.set_column(0, table.schema.field(0), table.column(0)[::-1])
    (tmp_path / "table").mkdir()
    write = partial(pq.write_table, where=tmp_path / "table" / "a.parquet", compression="none", use_dictionary=False)
    write(table)
    sources = find_sources(spark, folder)
    rows = read_sources(spark, folder, sources)
    write(table)
    require_unchanged(folder, sources)
    write(turned)
    assert (tmp_path / "table" / "a.parquet").stat().st_size == sources[0].file.bytes
    settings = SETTINGS.model_copy(update={"mass_window": None})
    with pytest.raises(DataError, match=r"a\.parquet: it was replaced while it was read; run it again"):
        write_training_set(spark, rows, settings, str(tmp_path / "set"), {}, sources, folder)


def test_a_damaged_file_is_no_loss_without_a_word(spark: SparkSession, tmp_path: Path) -> None:
    """Neither where Spark is told to pass over damaged files, nor where it does so for another reason."""
    table = jets_table(300)
    (tmp_path / "table").mkdir()
    for number in range(3):
        pq.write_table(table.slice(100 * number, 100), tmp_path / "table" / f"{number}.parquet")
    sources = find_sources(spark, str(tmp_path / "table"))
    content = bytearray((tmp_path / "table" / "1.parquet").read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    (tmp_path / "table" / "1.parquet").write_bytes(content)
    settings = SETTINGS.model_copy(update={"mass_window": None})
    spark.conf.set("spark.sql.files.ignoreCorruptFiles", "true")
    try:
        rows = read_sources(spark, str(tmp_path / "table"), sources)
        with pytest.raises(DataError):
            write_training_set(spark, rows, settings, str(tmp_path / "set"), {}, sources, str(tmp_path / "table"))
        loose = spark.read.parquet(str(tmp_path / "table"))
        with pytest.raises(DataError, match="200 rows were read of 3 files that hold 300"):
            write_training_set(spark, loose, settings, str(tmp_path / "other"), {}, sources, str(tmp_path / "table"))
    finally:
        spark.conf.unset("spark.sql.files.ignoreCorruptFiles")


def test_sessions_with_wide_offsets_write_the_same_set(spark: SparkSession, tmp_path: Path) -> None:
    jets = spark.createDataFrame(jets_table(80).to_pandas()).coalesce(2)
    settings = SETTINGS.model_copy(update={"mass_window": None})
    plain = write_training_set(spark, jets, settings, str(tmp_path / "plain"))
    spark.conf.set("spark.sql.execution.arrow.useLargeVarTypes", "true")
    try:
        wide = write_training_set(spark, jets, settings, str(tmp_path / "wide"))
    finally:
        spark.conf.unset("spark.sql.execution.arrow.useLargeVarTypes")
    assert wide.splits == plain.splits

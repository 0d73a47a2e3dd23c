"""Plain tables on Spark: the same exact shards as of jets, ids from content, extension, and batches for training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from sparton import pipeline, storage
from sparton.config import load_config
from sparton.data.batches import batches
from sparton.data.counting import take_census
from sparton.data.exchange import exchange
from sparton.data.featurize import decode_features
from sparton.data.layout import build_layout, shuffle_key, split_of
from sparton.data.manifest import TableManifest, read_manifest, read_set
from sparton.data.plan import plan_epoch
from sparton.data.rows import FrameRows
from sparton.data.settings import TableSettings
from sparton.data.source_files import file_codes, find_sources, located, read_sources
from sparton.data.sources import identity
from sparton.data.table_encoder import TableEncoder
from sparton.data.tables import project, write_table_set
from sparton.errors import DataError, UsageError
from sparton.pipeline import PipelineSettings
from tests.packed import partitions_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS, COLUMNS = 1000, 5
SPLITS = {"train": 0.8, "test": 0.2}


def table(rows: int, seed: int, first_id: int = 0) -> pa.Table:
    """Columns a..e (one of them of doubles, one of whole numbers), a name with a dot, a target with gaps, weights."""
    rng = np.random.default_rng(seed)
    values = rng.normal(5, 2, (rows, COLUMNS)).astype(np.float32)
    columns: dict[str, Any] = {name: values[:, index] for index, name in enumerate("abcde")}
    columns["b"] = values[:, 1].astype(np.float64)
    columns["c"] = np.round(values[:, 2]).astype(np.int32)
    columns["e.x"] = columns.pop("e")
    columns["y"] = pa.array([None if row % 7 == 0 else float(row) for row in range(rows)])
    columns["w"] = np.linspace(0, 1, rows)
    columns["number"] = np.arange(first_id, first_id + rows, dtype=np.int32)
    columns["name"] = [f"row {row}" for row in range(rows)]
    return pa.table(columns)


def settings_in(workspace: Path, *overrides: str) -> PipelineSettings:
    values = [
        "table.columns=[a, b, c, d, e.x]", "table.id=number", "table.target=y", "table.weight=w",
        "table.rows_per_shard=64", "table.splits={train: 0.8, test: 0.2}", f"workspace={workspace}", *overrides,
    ]  # fmt: skip
    return load_config(PipelineSettings, None, values)


def rows_of(folder: Path, manifest: TableManifest, split: str) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(folder / shard.path).read() for shard in manifest.shards(split)])


def table_manifest(folder: Path) -> TableManifest:
    manifest = read_set(str(folder))
    assert isinstance(manifest, TableManifest)
    return manifest


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose set was made from one file with a broken row, then extended by a second file."""
    root = tmp_path_factory.mktemp("tables") / "of [1] {2}"
    root.mkdir()
    (root / "table").mkdir()
    first = table(ROWS, 0)
    values = first.column("b").to_pylist()
    values[5] = 1e300
    first = first.set_column(first.schema.get_field_index("b"), "b", pa.array(values))
    pq.write_table(first, root / "table" / "one.parquet")
    pipeline.prepare(settings_in(root), kind="table")
    pq.write_table(table(300, 1, first_id=ROWS - 2), root / "table" / "two.parquet")
    pipeline.prepare(settings_in(root), kind="table", append=True)
    return root


def test_every_sound_row_arrives_once_with_its_values(made: Path) -> None:
    manifest = table_manifest(made / "set")
    expected = pa.concat_tables([table(ROWS, 0), table(300, 1, ROWS - 2).slice(2)])
    columns = [expected.column(name).to_numpy().astype(np.float32) for name in ("a", "b", "c", "d", "e.x")]
    matrix, found = np.stack(columns, axis=1), []
    for number, split in enumerate(SPLITS):
        rows = rows_of(made / "set", manifest, split)
        ids = rows.column("id").to_numpy()
        assert set(split_of(ids, tuple(SPLITS.values())).tolist()) == {number}
        features = decode_features(rows.column("features").combine_chunks(), COLUMNS)
        assert np.array_equal(features, matrix[ids])
        assert rows.column("target").to_pylist() == [expected.column("y")[row].as_py() for row in ids.tolist()]
        assert np.allclose(rows.column("weight").to_numpy(), expected.column("w").to_numpy()[ids])
        found += ids.tolist()
    assert sorted(found) == sorted({*range(ROWS + 298)} - {5})


def test_shards_statistics_and_counts_follow_the_contract(made: Path) -> None:
    manifest = table_manifest(made / "set")
    for split in SPLITS:
        rows = manifest.shard_rows(split)
        assert all(count == 64 for count in rows[:-1])
        assert 1 <= rows[-1] <= 64
    assert pipeline.info(str(made / "set"), verify=True).problems == []
    assert manifest.counts.rejected == {"not_finite": 1, "duplicate_id": 2}
    assert manifest.feature_names == ("a", "b", "c", "d", "e.x")
    assert manifest.feature_shape == (COLUMNS,)
    stored = rows_of(made / "set", manifest, "train")
    train = decode_features(stored.column("features").combine_chunks(), COLUMNS).astype(np.float64)
    weight = stored.column("weight").to_numpy().astype(np.float64)
    mean = np.average(train, axis=0, weights=weight)
    variance = np.average(np.square(train - mean), axis=0, weights=weight)
    assert np.allclose(manifest.feature_mean, mean, rtol=1e-12)
    assert np.allclose(manifest.feature_std, np.sqrt(variance), rtol=1e-9)
    assert manifest.feature_count == pytest.approx(weight.sum(), rel=1e-12)
    assert len(manifest.sources) == 2
    with pytest.raises(DataError, match="kind is 'table-set', expected 'training-set'"):
        read_manifest(str(made / "set"))


def test_the_quarantine_names_row_and_column(made: Path) -> None:
    files = sorted((made / "set" / "_quarantine").glob("*.parquet"))
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    found = [(Path(row["file"]).name, row["row"], row["jet_id"], row["reason"], row["detail"]) for row in rows]
    assert found == [
        ("one.parquet", 5, 5, "not_finite", "column b is not a finite float32"),
        ("two.parquet", 0, 998, "duplicate_id", "id of a row that the set holds already"),
        ("two.parquet", 1, 999, "duplicate_id", "id of a row that the set holds already"),
    ]
    assert [row["sha256"] for row in rows] == [
        storage.sha256(str(made / "table" / name)) for name in ("one.parquet", "two.parquet", "two.parquet")
    ]


def test_batches_read_a_table_set(made: Path) -> None:
    manifest = table_manifest(made / "set")
    plan = plan_epoch(manifest.shard_rows("train"), world_size=2, batch_size=32, seed=0, epoch=0)
    ids: list[int] = []
    for rank in range(2):
        for batch in batches(str(made / "set"), manifest, "train", plan, rank).as_numpy_iterator():
            assert batch["features"].shape == (32, COLUMNS)
            real = batch["id"] >= 0
            ids += batch["id"][real].tolist()
            assert not batch["weight"][~real].any()
    assert sorted(ids) == sorted(rows_of(made / "set", manifest, "train").column("id").to_pylist())


def test_made_ids_do_not_depend_on_names_order_or_partitions(spark: SparkSession, tmp_path: Path) -> None:
    settings = TableSettings(array="v", length=3, rows_per_shard=50, splits=SPLITS, max_rejected=0.5)
    sets = []
    for number, names in enumerate((("a b.parquet", "b.parquet"), ("z.parquet", "sub/y%20.parquet"))):
        folder = tmp_path / f"in{number}"
        for seed, name in enumerate(names):
            values = np.random.default_rng(seed).normal(size=(150, 3)).tolist()
            values[3] = values[3][:2]
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"v": values}), folder / name)
        sources = find_sources(spark, str(folder))
        rows = read_sources(spark, str(folder), sources)
        out = str(tmp_path / f"out{number}")
        sets.append(write_table_set(spark, rows, settings, out, {}, sources, str(folder)))
    assert sets[0].splits == sets[1].splits
    assert sets[0].sources == sets[1].sources
    assert sets[0].counts.rejected == {"wrong_length": 2}
    assert sets[0].feature_names == ("v[0]", "v[1]", "v[2]")
    with pytest.raises(UsageError, match=r"no files to make ids from; name an id column"):
        write_table_set(spark, rows, settings, str(tmp_path / "out"))


def test_an_extension_makes_ids_that_meet_none_of_the_set(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files are given checksums that begin alike; the set keeps its rows, the new ones get other ids."""
    monkeypatch.setattr(identity, "file_bits", lambda sha256, salt=0: 7 + salt)
    columns = ["table.columns=[a]", "table.id=null", "table.target=null", "table.weight=null"]
    kept: set[int] = set()
    for number, name in enumerate(("b", "a")):
        (tmp_path / "table").mkdir(exist_ok=True)
        pq.write_table(table(100, number).select(["a"]), tmp_path / "table" / f"{name}.parquet")
        pipeline.prepare(settings_in(tmp_path, *columns), kind="table", append=True)
        manifest = table_manifest(tmp_path / "set")
        rows = pa.concat_tables([rows_of(tmp_path / "set", manifest, split) for split in SPLITS])
        values = decode_features(rows.column("features").combine_chunks(), 1)[:, 0]
        found = dict(zip(rows.column("id").to_pylist(), values.tolist(), strict=True))
        assert len(found) == rows.num_rows == 100 * (number + 1)
        expected = np.concatenate([table(100, seed).column("a").to_numpy() for seed in range(number + 1)])
        assert sorted(found.values()) == sorted(expected.tolist())
        assert kept <= set(found.items())
        kept = set(found.items())
    assert manifest.counts.rejected == {}


def test_one_exchange_whatever_the_skew(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    """All rows in one partition of the input, with rows of the set that get new places: groups get what they expect."""
    sources = find_sources(spark, str(made / "table"))
    encoder = TableEncoder(("a", "b"), {"target": "y"}, codes=file_codes(str(made / "table"), sources))
    table = read_sources(spark, str(made / "table"), sources).frame
    rows = FrameRows(project(located(table).coalesce(1), encoder))
    settings = TableSettings(columns=("a", "b"), rows_per_shard=64, splits=SPLITS)
    census = take_census(rows, encoder, settings)
    assert census.counts.kept == ROWS + 299  # one value is beyond float32
    layout = build_layout(census.codes, census.rows, tuple(SPLITS), 64, 4)
    pq.write_table(pa.table({"id": range(-40, 0)}), tmp_path / "stored.parquet")
    for stored in ((), (str(tmp_path / "stored.parquet"),)):
        frame = exchange(rows, encoder, settings, layout, stored, located=bool(stored))
        plan = frame._jdf.queryExecution().executedPlan().toString()
        assert len(re.findall(r"\bExchange\b", plan)) == 1
        parts = partitions_of(frame, encoder, bool(stored), bool(stored))
        new = [part.filter(pc.invert(part.column("stored"))) if stored else part for part in parts]
        assert [part.num_rows for part in new] == [group.expected for group in layout.groups]
        assert sum(part.num_rows for part in parts) == sum(part.num_rows for part in new) + (40 if stored else 0)
        for part in parts:
            assert np.all(np.diff(part.column("key").to_numpy()) > 0)


def test_extending_changes_no_full_shard_and_keeps_the_order(made: Path) -> None:
    manifest = table_manifest(made / "set")
    ids = rows_of(made / "set", manifest, "train").column("id").to_numpy()
    old = 64 * (np.count_nonzero((split_of(np.arange(ROWS), (0.8, 0.2)) == 0) & (np.arange(ROWS) != 5)) // 64)
    assert np.all(ids[:old] < ROWS)
    assert np.all(np.diff(shuffle_key(ids[:old], 0)) > 0)
    assert np.all(np.diff(shuffle_key(ids[old:], 0)) > 0)


@pytest.mark.parametrize(
    ("overrides", "kind", "reason"),
    [
        (["table.columns=[a, nought]"], DataError, r"missing column\(s\) nought; found"),
        (["table.columns=[a, name]"], DataError, "column name is string, expected numbers"),
        (["table.id=a"], DataError, "column a is .*expected whole numbers|named twice"),
        (["table.columns=null", "table.array=b", "table.length=2"], DataError, "column b is double, expected an array"),
    ],
)
def test_wrong_columns_are_named(
    spark: SparkSession, made: Path, tmp_path: Path, overrides: list[str], kind: type[Exception], reason: str
) -> None:
    if overrides == ["table.id=a"]:
        overrides = ["table.id=a", "table.columns=[b]"]
    with pytest.raises(kind, match=reason):
        pipeline.prepare(settings_in(tmp_path, *overrides), kind="table", input=str(made / "table"))


def test_another_kind_is_not_extended(made: Path) -> None:
    with pytest.raises((DataError, UsageError), match="is a table-set, expected a training-set"):
        pipeline.prepare(
            settings_in(made), kind="jets", input=str(made / "table"), append=True, output=str(made / "set")
        )
    assert storage.list_folders(str(made)).count("set") == 1

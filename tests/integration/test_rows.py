"""Rows read by pyarrow in the tasks and rows that come through Spark: the same sets, and when which way is taken."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton import storage
from sparton.data import exchange as module
from sparton.data.counting import take_census
from sparton.data.exchange import exchange, few_blobs_at_once
from sparton.data.layout import build_layout
from sparton.data.manifest import TableManifest
from sparton.data.rows import FileRows, FrameRows, Wanted, rows_from
from sparton.data.settings import TableSettings
from sparton.data.source_files import StoredTable, find_sources, read_sources
from sparton.data.storing import store_rows
from sparton.data.table_encoder import TableEncoder
from sparton.data.tables import write_table_set
from sparton.errors import DataError
from tests.packed import partitions_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS = 400
SETTINGS = TableSettings(rows_per_shard=50, splits={"train": 0.8, "test": 0.2}, target="target", max_rejected=0.1)
ONE_COLUMN = TableSettings(columns=("y",), splits={"train": 1.0}, max_rejected=0.5)


def table(seed: int) -> pa.Table:
    """Columns of all types that both ways read, a value beyond float32, nulls in the target, a name with a dot."""
    random = np.random.default_rng(seed)
    whole = {
        str(kind): random.integers(0, 100, ROWS).astype(kind)
        for kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32)
    }
    columns: dict[str, Any] = {f"of {number}": values for number, values in enumerate(whole.values())}
    columns["a.b"] = random.normal(size=ROWS).astype(np.float32)
    columns["double"] = random.normal(size=ROWS) * 1e-3
    columns["double"][7] = -1e200
    columns["long"] = random.integers(-(2**62), 2**62, ROWS)
    columns["text"] = pa.array(["x"] * ROWS).dictionary_encode()
    columns["target"] = pa.array([None if row % 9 == 0 else row / 3 for row in range(ROWS)])
    return pa.table(columns)


def stored(spark: SparkSession, folder: Path, tables: dict[str, pa.Table]) -> StoredTable:
    for name, content in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(content, folder / name, row_group_size=150)
    return read_sources(spark, str(folder), find_sources(spark, str(folder)))


def write(found: StoredTable, through_spark: bool, folder: Path, settings: TableSettings = SETTINGS) -> TableManifest:
    rows = found.frame if through_spark else found
    return write_table_set(found.spark, rows, settings, str(folder), {}, found.sources, found.folder)


def test_files_and_spark_give_the_same_set(spark: SparkSession, tmp_path: Path) -> None:
    found = stored(spark, tmp_path / "table é [1]", {"a %20.parquet": table(0), "b/c d.parquet": table(1)})
    assert found.schema == found.frame.schema
    ours, sparks = (write(found, way, tmp_path / f"set{way}") for way in (False, True))
    assert ours == sparks
    assert ours.counts.rejected == {"not_finite": 2}
    rejected = [
        pq.read_table(tmp_path / f"set{way}" / "_quarantine").sort_by("file").to_pylist() for way in (False, True)
    ]
    for row in itertools.chain(*rejected):
        row["file"] = row["file"].replace("file:///", "file:/")  # Spark writes it in both ways
    assert rejected[0] == rejected[1]
    assert [Path(row["file"]).name for row in rejected[0]] == ["a %20.parquet", "c d.parquet"]
    assert [row["row"] for row in rejected[0]] == [7, 7]


def test_which_way_is_taken(spark: SparkSession, tmp_path: Path) -> None:
    """Spark reads what pyarrow would read otherwise: other types in other files, columns that are in no file."""
    narrow, other = (pa.table({"x": pa.array(values, pa.int32()), "y": [1.0, 2.0]}) for values in ([1, 2], [3, 4]))
    fixed = pa.list_(pa.float64(), 1)
    single = pa.table({"x": pa.array([3, 4], pa.int32()), "y": pa.array([3.0, 4.0], pa.float32())})
    cases: dict[str, tuple[dict[str, pa.Table], type]] = {
        "plain": ({"1": narrow, "2": other}, FileRows),
        "wanted alike": ({"1": narrow.select(["y"]), "2": narrow}, FileRows),
        "types": ({"1": narrow, "2": single}, FrameRows),
        "missing": ({"1": narrow, "2": other.select(["x"])}, FrameRows),
        "folders": ({"y=5/1": narrow.select(["x"]), "y=6/1": other.select(["x"])}, FrameRows),
        "arrays": ({"1": narrow, "2": other.append_column("v", pa.array([[1.0]] * 2, fixed))}, FileRows),
        "decimal": ({"1": narrow.set_column(1, "y", narrow.column("y").cast(pa.decimal128(5, 1)))}, FrameRows),
        "capital": ({"1": narrow, "2": other.rename_columns(["x", "Y"])}, FrameRows),
    }
    for name, (tables, kind) in cases.items():
        found = stored(spark, tmp_path / name, tables)
        rows = rows_from(found, {"f0": Wanted("y", pa.float32())})
        assert isinstance(rows, kind), name
        if name != "types":  # Spark itself does not read these
            counts = [write(found, way, tmp_path / f"{name}-{way}", ONE_COLUMN).counts for way in (False, True)]
            assert counts[0] == counts[1], name
            assert counts[0].kept == (2 if name == "missing" else sum(map(len, tables.values())))


def test_a_file_damaged_meanwhile_is_named(spark: SparkSession, tmp_path: Path) -> None:
    found = stored(spark, tmp_path / "table", {"a.parquet": table(0), "b.parquet": table(1)})
    damaged = bytearray((tmp_path / "table" / "b.parquet").read_bytes())
    damaged[4:3000] = bytes(2996)
    (tmp_path / "table" / "b.parquet").write_bytes(damaged)
    with pytest.raises(DataError, match=r"^counting the table: \S+/table/b\.parquet: cannot be read, it is damaged"):
        write(found, False, tmp_path / "set")
    assert storage.list_files(str(tmp_path / "set")) == []


def test_stored_rows_are_those_of_the_frame(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.range(0, 1000, 1, 5).selectExpr("id", "array(float(id), null, float(-id)) as v", "double(id) as w")
    found = store_rows(frame.where("id < 200 or id >= 400"), str(tmp_path / "rows"))
    assert [source.path for source in found.sources] == [f"part-{part:05d}.parquet" for part in (0, 2, 3, 4)]
    assert found.schema.simpleString() == frame.schema.simpleString()
    rows = rows_from(found, {name: Wanted(name) for name in ("id", "v", "w")})
    assert rows.are_files
    read = rows.mapped(
        ("id", "v", "w"), iter, pa.schema([("id", pa.int64()), ("v", pa.list_(pa.float32())), ("w", pa.float64())])
    )
    values = sorted((row["id"], row["v"], row["w"]) for row in read.collect())
    assert values == [(row, [float(row), None, -float(row)], float(row)) for row in (*range(200), *range(400, 1000))]
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == [source.path for source in found.sources]
    assert store_rows(frame.where("id < 0"), str(tmp_path / "none")).sources == ()


def row_counts(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield pa.RecordBatch.from_arrays([pa.array([batch.num_rows])], names=["rows"])


def test_python_gets_few_blobs_at_once(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the JVM does not hold a whole group at once; the session is then as it was."""
    found = stored(spark, tmp_path / "table", {f"{number}": table(number) for number in range(6)})
    wanted = {"f0": Wanted("a.b", pa.float32()), "id": Wanted("long", pa.int64())}
    rows = rows_from(found, wanted)
    assert isinstance(rows, FileRows)
    rows = FileRows(found, wanted, tuple((piece,) for task in rows.tasks for piece in task))
    encoder, settings = TableEncoder(("a.b",), {"id": "long"}), TableSettings(splits={"train": 1.0})
    census = take_census(rows, encoder, settings)
    sent = exchange(rows, encoder, settings, build_layout(census.codes, census.rows, ("train",), 10_000, 1))
    monkeypatch.setattr(module, "HANDED_BLOBS", 2)
    monkeypatch.setattr(module, "BLOB_BYTES", 10_000)
    before = spark.conf.get(module.MAX_RECORDS)
    with few_blobs_at_once(spark, rows):
        counts = [row["rows"] for row in sent.mapInArrow(row_counts, "rows long").collect()]
    assert sum(counts) == 6
    assert max(counts) <= 2
    assert spark.conf.get(module.MAX_RECORDS) == before
    (part,) = partitions_of(sent, encoder)
    assert part.num_rows == census.counts.kept == 6 * ROWS


def test_exchanges_that_overlap_leave_the_session_as_it_was(spark: SparkSession, tmp_path: Path) -> None:
    found = stored(spark, tmp_path / "table", {"0": table(0)})
    rows = rows_from(found, {"f0": Wanted("double", pa.float32())})
    name = module.MAX_BYTES if int(spark.version.partition(".")[0]) >= 4 else module.MAX_RECORDS
    before = spark.conf.get(name)
    first, second = few_blobs_at_once(spark, rows), few_blobs_at_once(spark, rows)
    first.__enter__()
    lowered = spark.conf.get(name)
    second.__enter__()
    first.__exit__(None, None, None)
    assert spark.conf.get(name) == lowered != before
    second.__exit__(None, None, None)
    assert spark.conf.get(name) == before

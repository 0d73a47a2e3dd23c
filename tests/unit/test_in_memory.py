"""Tables that are read into memory as they are: every row once, what is broken set aside, errors with a way out."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.data import in_memory
from sparton.data.in_memory import MemoryTable, available_memory, read_table
from sparton.data.plain import naming
from sparton.data.settings import TableSettings
from sparton.data.source_files import find_sources_here
from sparton.distributed.world import Connection
from sparton.errors import DataError, TrainingError
from sparton.sgd import bundle
from sparton.sgd.arrays import check_finite
from sparton.sgd.settings import KMeansSettings
from sparton.sgd.train import train_rows
from sparton.sgd.trainer import Trainer
from tests.parquet import write_fixed

KEPT = TableSettings(max_rejected=1.0)


def write(folder: Path, name: str, columns: dict[str, Any], group: int = 100) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / name, row_group_size=group)


def read(folder: Path, table: TableSettings = KEPT) -> MemoryTable:
    return read_table(str(folder), find_sources_here(str(folder)), table, str(folder.parent / "rejected"))


def in_order(folder: Path) -> pd.DataFrame:
    """The rows of all files in the order of their content's checksums, as the reader numbers them."""
    paths = [source.path for source in find_sources_here(str(folder))]
    return pd.concat([pd.read_parquet(folder / path) for path in paths], ignore_index=True)


def rejected(folder: Path) -> pd.DataFrame:
    found = [pd.read_parquet(path) for path in sorted((folder.parent / "rejected").glob("*.parquet"))]
    return pd.concat(found, ignore_index=True)


@pytest.mark.parametrize("columns", [None, ("b", "a")])
def test_every_row_comes_once_in_the_columns_that_are_asked_for(
    tmp_path: Path, columns: tuple[str, ...] | None
) -> None:
    rng = np.random.default_rng(1)
    for number, rows in enumerate((1, 250, 730)):
        values = {name: rng.normal(size=rows) * 1e3 for name in "ab"}
        write(
            tmp_path / "t", f"{number}.parquet", values | {"name": ["x"] * rows, "w": rng.random(rows), "y": [1] * rows}
        )
    found = read(tmp_path / "t", TableSettings(columns=columns, weight="w", target="y"))
    expected = in_order(tmp_path / "t")
    assert found.names == (columns or ("a", "b"))
    assert np.array_equal(found.rows, expected[list(found.names)].to_numpy(np.float32))
    assert found.weight is not None
    assert np.array_equal(found.weight, expected["w"].to_numpy(np.float32))
    assert (found.counts.read, found.counts.kept, found.counts.rejected) == (981, 981, {})
    assert not (tmp_path / "rejected").exists()


def test_an_array_column_holds_all_features(tmp_path: Path) -> None:
    values = np.arange(600, dtype=np.float32).reshape(200, 3)
    write(tmp_path / "t", "0.parquet", {"v": values.tolist()})
    found = read(tmp_path / "t", TableSettings(array="v", length=3))
    assert found.names == ("v[0]", "v[1]", "v[2]")
    assert np.array_equal(found.rows, values)
    for names in (found.names, ("v[0]", "v[2]"), ("v[1]", "v[0]"), ("a", "b")):
        named = naming(TableSettings(id="k", columns=("z",)), names)
        expected = (None, "v", 3) if names == found.names else (names, None, None)
        assert (named.columns, named.array, named.length, named.id) == (*expected, "k")


def test_arrays_of_a_fixed_size_are_read_as_any_and_their_nulls_set_aside(tmp_path: Path) -> None:
    values: list[Any] = [[float(row), -float(row)] for row in range(300)]
    values[7], values[150], values[299] = None, [1.0, None], [float("nan"), 1.0]
    kinds = {"v": pa.list_(pa.float64(), 2)}
    (tmp_path / "t").mkdir()
    write_fixed(tmp_path / "t" / "0.parquet", {"v": pa.array(values, pa.list_(pa.float64()))}, kinds, 100)
    write(tmp_path / "t", "1.parquet", {"v": pa.array(values[:5], pa.list_(pa.float64(), 2)), "name": ["x"] * 5})
    write(tmp_path / "t", "2.parquet", {"v": pa.array(values[8:11], pa.list_(pa.float64()))})
    found = read(tmp_path / "t", KEPT.model_copy(update={"array": "v", "length": 2}))
    good = [row for number, row in enumerate(values) if number not in (7, 150, 299)]
    assert sorted(found.rows.tolist()) == sorted(good + values[:5] + values[8:11])
    assert found.counts.rejected == {"null": 2, "not_finite": 1}
    assert sorted(rejected(tmp_path / "t")["row"]) == [7, 150, 299]


def test_files_may_have_further_columns_and_other_orders(tmp_path: Path) -> None:
    """The named ones are enough; where none is named, those of numbers are the same in all files."""
    folder = tmp_path / "t"
    write(folder, "a.parquet", {"b": [1.0, 2.0], "a": [10.0, 20.0], "w": [1.0, 1.0]})
    write(folder, "b.parquet", {"name": ["x"], "w": [2.0], "a": [30.0], "b": [3.0]})
    expected = {(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)}
    found = read(folder, TableSettings(weight="w"))
    assert found.names == ("b", "a")  # those of the file whose name comes first, as Spark has them
    assert set(map(tuple, found.rows.tolist())) == expected
    write(folder, "c.parquet", {"a": [40.0], "more": [0], "w": [1.0], "b": [4.0]})
    write(folder, "d.parquet", {"a": [50.0], "more": [0], "w": [1.0], "b": [5.0]})
    found = read(folder, TableSettings(columns=("b", "a"), weight="w"))
    assert set(map(tuple, found.rows.tolist())) == expected | {(4.0, 40.0), (5.0, 50.0)}
    with pytest.raises(
        DataError,
        match=r"c.parquet also has more, compared .* of a.parquet \(files that differ: c.parquet, d.parquet\); "
        r"name the columns .*\(table.columns\)",
    ):
        read(folder, TableSettings(weight="w"))
    write(folder, "c.parquet", {"a": [40.0], "b": ["4"], "w": [1.0]})
    (folder / "d.parquet").unlink()
    with pytest.raises(DataError, match=r"c.parquet lacks b, compared with the numeric columns of a.parquet"):
        read(folder, TableSettings(weight="w"))
    with pytest.raises(DataError, match=r"column b is string in c.parquet and double in a.parquet"):
        read(folder, TableSettings(columns=("a", "b")))
    write(folder, "c.parquet", {"a": [40.0], "w": [1.0]})
    with pytest.raises(DataError, match=r"/t: c.parquet: missing column\(s\) b; found a, w"):
        read(folder, TableSettings(columns=("a", "b")))
    (folder / "c.parquet").rename(folder / "0.parquet")
    with pytest.raises(DataError, match=r"/t: 0.parquet: missing column\(s\) b; found a, w"):
        read(folder, TableSettings(columns=("a", "b")))


def test_numbers_are_what_spark_takes_for_such(tmp_path: Path) -> None:
    """Categories of whole numbers are stored as these, tensors as arrays."""
    kind = pd.Series([3, 5, 3]).astype("category")
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float64(), (1,)), pa.array([[1.0]] * 3, pa.list_(pa.float64(), 1))
    )
    write(tmp_path / "t", "0.parquet", {"kind": pa.array(kind), "v": tensor, "a": [1.0, 2.0, 4.0]})
    found = read(tmp_path / "t")
    assert found.names == ("kind", "a")
    assert found.rows.tolist() == [[3, 1], [5, 2], [3, 4]]
    assert read(tmp_path / "t", TableSettings(array="v", length=1)).rows.tolist() == [[1], [1], [1]]


def test_files_that_are_not_named_as_parquet_are_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "t"
    for name in ("0.parquet", "1.PARQ", "part-2"):
        write(folder, name, {"a": [1.0, 2.0]})
    for name in ("_SUCCESS", ".0.parquet.crc", "_temporary"):
        (folder / name).write_bytes(b"hidden")
    assert read(folder).counts.read == 6
    assert not caplog.messages
    shutil.copy(folder / "0.parquet", folder / "saved.parquet.bak")
    for name in ("notes.txt", "table.csv", "z.json"):
        (folder / name).write_text("a\n1\n")
    assert read(folder).counts.read == 6
    (warning,) = caplog.messages
    expected = (
        "passed over, since names of Parquet files end in .parquet: notes.txt, saved.parquet.bak, table.csv and 1"
    )
    assert expected in warning
    (folder / "3.parquet").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"3.parquet: not readable as Parquet"):
        read(folder)
    for name in ("0.parquet", "1.PARQ", "part-2", "3.parquet"):
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"no files in it but notes.txt, .* and 1 more; expected a table of Parquet"):
        read(folder)


def test_broken_and_repeated_rows_are_set_aside_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_memory, "MOVED_ROWS", 7)
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"k": np.arange(500), "a": rng.normal(size=500), "b": rng.normal(size=500)})
    frame.loc[[3, 120], "a"] = np.nan, np.inf
    frame.loc[499, "b"] = 1e39  # beyond float32
    frame.loc[[300, 301], "k"] = 10, 10
    frame["w"] = np.where(frame.index == 77, -1.0, 1.0)
    (tmp_path / "t").mkdir()
    frame.to_parquet(tmp_path / "t" / "0.parquet", row_group_size=64)
    found = read(tmp_path / "t", KEPT.model_copy(update={"id": "k", "weight": "w"}))
    good = frame.drop([3, 120, 499, 300, 301, 77])
    assert np.array_equal(found.rows, good[["a", "b"]].to_numpy(np.float32))
    assert found.weight is not None
    assert found.weight.tolist() == [1.0] * 494
    # pandas writes NaN as null
    assert found.counts.rejected == {"null": 1, "not_finite": 2, "negative_weight": 1, "duplicate_id": 2}
    place = rejected(tmp_path / "t").sort_values("row")
    assert place["row"].tolist() == [3, 77, 120, 300, 301, 499]
    assert place["file"].str.endswith("0.parquet").all()
    assert place["sha256"].str.len().eq(64).all()
    assert place["jet_id"].tolist() == [3, 77, 120, 10, 10, 499]


def test_more_rejected_rows_than_allowed_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "t", "0.parquet", {"a": [1.0, None, 3.0]})
    with pytest.raises(DataError, match=r"1 of 3 rows rejected \(null 1\), over the limit of 0.01"):
        read(tmp_path / "t", TableSettings())
    write(tmp_path / "n", "0.parquet", {"a": pa.array([None, None], pa.float64())})
    with pytest.raises(DataError, match=r"none of 2 rows is left \(null 2\)"):
        read(tmp_path / "n")
    write(tmp_path / "e", "0.parquet", {"a": pa.array([], pa.float64())})
    with pytest.raises(DataError, match=r"none of 0 rows is left \(the table is empty\)"):
        read(tmp_path / "e")


def test_what_cannot_be_read_as_it_is_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "t"
    write(folder, "0.parquet", {"a": [1.0, 2.0]})
    with pytest.raises(DataError, match=r"missing column\(s\) b"):
        read(folder, TableSettings(columns=("b",)))
    monkeypatch.setattr(in_memory, "available_memory", lambda: 80)
    with pytest.raises(DataError, match=r"2 rows of 1 features need 0.0 GB of memory, .*sparton prepare"):
        read(folder)
    monkeypatch.undo()
    write(folder, "1.parquet", {"a": [1, 2]})
    with pytest.raises(DataError, match=r"column a is int64 in 1.parquet and double in 0.parquet; give it one type"):
        read(folder)
    (folder / "1.parquet").unlink()
    write(folder / "day=1", "0.parquet", {"a": [1.0]})
    with pytest.raises(DataError, match="a folder named column=value"):
        read(folder)
    (folder / "day=1" / "0.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="not readable as Parquet"):
        read(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no files in it"):
        read(tmp_path / "none")


def test_columns_that_are_no_numbers_may_have_any_type(tmp_path: Path) -> None:
    day, decimal = [datetime.date(2026, 1, 2)] * 3, pa.array([1, 2, 3], pa.decimal128(9, 2))
    write(tmp_path / "t", "0.parquet", {"a": [1.0, 2.0, 3.0], "day": day, "yes": [True] * 3, "s": [{"x": 1}] * 3})
    assert read(tmp_path / "t").names == ("a",)
    with pytest.raises(DataError, match=r"column day is date32.*name other columns"):
        read(tmp_path / "t", TableSettings(columns=("a",), target="day"))
    write(tmp_path / "d", "0.parquet", {"a": [1.0, 2.0, 3.0], "price": decimal})
    with pytest.raises(DataError, match=r"column price is decimal128\(9, 2\), which Spark alone reads; .*prepare"):
        read(tmp_path / "d")
    assert read(tmp_path / "d", TableSettings(columns=("a",))).rows.tolist() == [[1], [2], [3]]


def test_a_file_that_is_replaced_meanwhile_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    write(folder, "0.parquet", {"a": np.arange(100.0)})
    sources = find_sources_here(str(folder))
    write(folder, "0.parquet", {"a": np.arange(100.0) + 1})
    with pytest.raises(DataError, match="it was replaced while it was read"):
        read_table(str(folder), sources, TableSettings(), str(tmp_path / "rejected"))


def test_memory_is_told_in_bytes() -> None:
    assert 1 << 20 < available_memory() < 1 << 50


def test_pages_of_files_do_not_count_as_used_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "CGROUP", str(tmp_path))
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.current").write_text("8000\n")
    (tmp_path / "memory.stat").write_text("anon 2500\ninactive_file 5000\nactive_file 500\n")
    assert available_memory() == 6500
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 1 << 20


@given(
    st.integers(0, 3), st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1.0]), st.sampled_from([np.float32, np.float64])
)
@settings(max_examples=40, deadline=None)
def test_values_that_are_not_finite_are_found_however_large_the_others(column: int, value: float, dtype: type) -> None:
    rows = np.full((50, 4), 3e38, dtype)  # whose sum is infinite in float32
    rows[11, column] = value
    if np.isfinite(value):
        check_finite(rows)
    else:
        with pytest.raises(DataError, match=f"column {column} has values that are not finite"):
            check_finite(rows)


CLOUDS = KMeansSettings(n_clusters=3, epochs=3, batch_size=64, checkpoint_seconds=0)


def clouds() -> MemoryTable:
    rng = np.random.default_rng(5)
    rows = (rng.normal(size=(900, 2)) + rng.integers(0, 3, (900, 1)) * 9).astype(np.float32)
    return MemoryTable(("a", "b"), rows, None, in_memory.Counts(read=900, kept=900))


def centroids(folder: Path) -> list[list[float]]:
    return [list(row) for row in bundle.load(str(folder)).centroids]


def test_a_training_that_was_cut_off_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, table: MemoryTable, identity: str = "t") -> None:
        folders = (str(tmp_path / name / "checkpoints"), str(tmp_path / name / "model"))
        train_rows(Connection.local(), table, identity, *folders, CLOUDS)

    run("whole", clouds())
    saves, save = [0], Trainer._save

    def ending(trainer: Any) -> None:
        save(trainer)
        saves[0] += 1
        if saves[0] == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", ending)
    with pytest.raises(KeyboardInterrupt):
        run("cut", clouds())
    assert not (tmp_path / "cut" / "model").exists()
    run("cut", clouds())
    assert saves[0] > 20
    assert centroids(tmp_path / "cut" / "model") == centroids(tmp_path / "whole" / "model")
    with pytest.raises(TrainingError, match="of other settings or data"):
        run("cut", clouds(), identity="another")


def test_a_table_that_does_not_vary_is_refused(tmp_path: Path) -> None:
    table = MemoryTable(("a",), np.ones((9, 1), np.float32), None, in_memory.Counts(read=9, kept=9))
    with pytest.raises(DataError, match=r"no feature varies, as float32 \(a\)"):
        train_rows(Connection.local(), table, "t", str(tmp_path / "c"), str(tmp_path / "m"), CLOUDS)


def test_weights_that_are_all_0_are_named_as_what_they_are(tmp_path: Path) -> None:
    table = MemoryTable(
        ("a",), np.eye(9, 1, dtype=np.float32), np.zeros(9, np.float32), in_memory.Counts(read=9, kept=9)
    )
    with pytest.raises(DataError, match="weight: all are 0"):
        train_rows(Connection.local(), table, "t", str(tmp_path / "c"), str(tmp_path / "m"), CLOUDS)

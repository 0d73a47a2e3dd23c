"""Row groups cut into tasks and read by pyarrow: every row once with its place, values as Spark casts them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql.types import ArrayType, DoubleType, IntegerType, StringType

from sparton.data.pieces import (
    MAX_TASK_BYTES,
    MIN_TASK_BYTES,
    Piece,
    Read,
    RowGroup,
    read_piece,
    spark_schema,
    spark_type,
    split_pieces,
)
from sparton.errors import DataError
from tests.parquet import write_fixed

GROUPS = st.lists(st.builds(RowGroup, st.integers(0, 1000), st.integers(1, 3 * MIN_TASK_BYTES)), max_size=6)


@settings(deadline=None)
@given(files=st.lists(GROUPS, max_size=5), slots=st.integers(1, 8))
def test_every_row_group_goes_to_one_task(files: list[list[RowGroup]], slots: int) -> None:
    named = [(f"/f{number}", groups) for number, groups in enumerate(files)]
    tasks = split_pieces(named, slots)
    found = [(piece.path, group) for task in tasks for piece in task for group in piece.groups]
    assert found == [(path, number) for path, groups in named for number in range(len(groups))]
    groups_of = dict(named)
    for task in tasks:
        for piece in task:
            groups = groups_of[piece.path]
            assert piece.group_rows == tuple(groups[number].rows for number in piece.groups)
            assert piece.first_row == sum(group.rows for group in groups[: piece.groups[0]])
        sizes = [groups_of[piece.path][number].bytes for piece in task for number in piece.groups]
        assert sum(sizes[:-1]) < MAX_TASK_BYTES
    for task in tasks[:-1]:
        assert sum(groups_of[piece.path][number].bytes for piece in task for number in piece.groups) >= MIN_TASK_BYTES


def whole(path: Path, batch_rows: int = 7) -> Piece:
    """Return a file as one piece."""
    metadata = pq.read_metadata(path)
    rows = tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    return Piece(str(path), tuple(range(len(rows))), rows, 0, batch_rows)


def test_values_are_rounded_and_places_counted(tmp_path: Path) -> None:
    path = tmp_path / "of [1] %20 é.parquet"
    doubles = np.array([1.1, 1e300, -np.inf, np.nan, 2.0**-149 * 0.6])
    longs = [2**24 + 1, -(2**62), 0, None, 7]
    arrays = [[1.5, 2.25], [], None, [None], [1e300]]
    table = {"d": doubles, "l": pa.array(longs), "e.x": np.arange(5), "e": np.arange(5) + 10, "v": arrays}
    pq.write_table(pa.table(table), path, row_group_size=2)
    to = {"d": pa.float32(), "l": pa.float32(), "e.x": pa.int64(), "v": pa.list_(pa.float32())}
    piece = whole(path)
    assert piece.group_rows == (2, 2, 1)
    last = Piece(piece.path, (1, 2), (2, 1), 2, 100)
    columns = {f"c{number}": Read(name, kind) for number, (name, kind) in enumerate(to.items())}
    read = pa.Table.from_batches(list(read_piece(last, columns, file=True, row=True)))
    assert read.column("_row").to_pylist() == [2, 3, 4]
    assert {unquote(url) for url in read.column("_file").to_pylist()} == {f"file://{path}"}
    assert read.column("c2").to_pylist() == [2, 3, 4]
    everything = pa.Table.from_batches(list(read_piece(piece, columns)))
    with np.errstate(over="ignore"):
        expected = doubles.astype(np.float32)
    assert everything.column("c0").to_numpy().tobytes() == expected.tobytes()
    assert everything.column("c1").to_pylist() == [
        None if value is None else float(np.float32(value)) for value in longs
    ]
    assert everything.column("c3").to_pylist() == [[1.5, 2.25], [], None, [None], [float("inf")]]
    assert everything.column_names == list(columns)


def test_types_that_spark_reads_otherwise_are_none() -> None:
    assert spark_type(pa.list_(pa.float64())) == ArrayType(DoubleType())
    assert spark_type(pa.list_(pa.float64(), 3)) == ArrayType(DoubleType())
    assert spark_type(pa.fixed_shape_tensor(pa.float64(), (3,))) == ArrayType(DoubleType())
    assert spark_type(pa.uint16()) == IntegerType()
    assert spark_type(pa.dictionary(pa.int8(), pa.string())) == StringType()
    for kind in (pa.uint64(), pa.decimal128(10, 2), pa.float16(), pa.bool_(), pa.list_(pa.binary())):
        assert spark_type(kind) is None
        assert spark_schema(pa.schema([pa.field("a", pa.int32()), pa.field("b", kind)])) is None
    assert spark_schema(pa.schema([pa.field("a", pa.int32()), pa.field("A", pa.int32())])) is None


def test_lists_of_a_fixed_size_are_read_as_lists(tmp_path: Path) -> None:
    """Of pyarrow's own, of tensors, and with nulls in their place, which only others write."""
    path, values = tmp_path / "a.parquet", [[1.5, 2.25], None, [3.0, None], [float("nan"), 1e300]]
    write_fixed(path, {"v": pa.array(values, pa.list_(pa.float64()))}, {"v": pa.list_(pa.float64(), 2)})
    assert pa.types.is_fixed_size_list(pq.read_schema(path).field("v").type)
    to = {"v": Read("v", pa.list_(pa.float32()))}
    for batch_rows in (1, 3):
        read = pa.Table.from_batches(list(read_piece(whole(path, batch_rows), to))).column("v")
        assert str(read.to_pylist()) == "[[1.5, 2.25], None, [3.0, None], [nan, inf]]"
    sound = pa.array([[1.5, 2.25], [3.0, None]], pa.list_(pa.float64(), 2))
    tensor = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), (2,)), sound)
    pq.write_table(pa.table({"v": sound, "t": tensor, "name": ["x", "y"]}), path)
    (batch,) = read_piece(whole(path), {name: Read(name, pa.list_(pa.float32())) for name in ("v", "t")})
    assert batch.column("v").to_pylist() == batch.column("t").to_pylist() == sound.to_pylist()


def test_a_file_that_is_not_what_it_was_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write = lambda rows: pq.write_table(pa.table({"a": np.random.default_rng(0).normal(size=rows)}), path)  # noqa: E731
    write(3000)
    piece, columns = whole(path), {"a": Read("a", pa.float64())}
    damaged = bytearray(path.read_bytes())
    damaged[4:4000] = bytes(3996)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read, it is damaged \(.*; restore it or make it again"):
        list(read_piece(piece, columns))
    write(2999)
    with pytest.raises(DataError, match=r"a\.parquet: it was replaced while it was read"):
        list(read_piece(piece, columns))
    pq.write_table(pa.table({"b": np.zeros(3000)}), path)
    with pytest.raises(DataError, match=r"a\.parquet: it was replaced while it was read"):
        list(read_piece(piece, columns))
    path.unlink()
    with pytest.raises(DataError, match=r"a\.parquet: No such file .*run it again"):
        list(read_piece(piece, columns))

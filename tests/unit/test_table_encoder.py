"""Rows of plain tables: every way a row can be broken, ids from content, the features bit by bit. No Spark."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparton.config import validate
from sparton.data.encoder import FILE, ROW
from sparton.data.featurize import decode_features
from sparton.data.manifest import SourceFile
from sparton.data.settings import TableSettings
from sparton.data.source_files import Source, file_codes, place_of
from sparton.data.sources import identity
from sparton.data.table_encoder import TableEncoder
from sparton.errors import ConfigError, DataError

NAN, INF = float("nan"), float("inf")
SCALARS = {"id": "number", "target": "y", "weight": "w"}
ENCODER = TableEncoder(("a", "b"), SCALARS)


def batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    """Return a batch as the projection gives it from rows of (id, target, weight, a, b)."""
    columns = list(zip(*rows, strict=True))
    types = [pa.int64(), *[pa.float32()] * 4]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=["id", "target", "weight", "f0", "f1"])


def test_each_broken_row_has_its_reason_and_column() -> None:
    rows = [
        (1, 0.5, 1.0, 2.0, 3.0),
        (None, 0.5, 1.0, 2.0, 3.0),
        (3, None, 1.0, 2.0, 3.0),
        (4, NAN, 1.0, 2.0, 3.0),
        (5, 0.5, None, 2.0, 3.0),
        (6, 0.5, -1.0, 2.0, 3.0),
        (7, 0.5, INF, 2.0, 3.0),
        (8, 0.5, 1.0, None, NAN),
        (9, 0.5, 1.0, 2.0, NAN),
        (10, 0.5, 0.0, -INF, INF),
        (11, 0.5, 0.0, 2.5, -3.5),
    ]
    sifted = ENCODER.sift(batch(rows))
    assert sifted.ids.tolist() == [1, 3, 11]
    assert sifted.row.tolist() == [0, 2, 10]
    found = list(zip(*(getattr(sifted.rejected, key).tolist() for key in ("row", "reason", "detail")), strict=True))
    assert found == [
        (1, "null", "column number is null"),
        (3, "not_finite", "column y is not a finite float32"),
        (4, "null", "column w is null"),
        (5, "negative_weight", "column w is below 0"),
        (6, "not_finite", "column w is not a finite float32"),
        (7, "null", "column a is null"),
        (8, "not_finite", "column b is not a finite float32"),
        (9, "not_finite", "column a is not a finite float32"),
    ]
    features, target, weight = ENCODER.pack(sifted.content, np.array([0, 1, 2, 2]))
    assert np.array_equal(decode_features(features, 2), np.array([[2, 3], [2, 3], [2.5, -3.5], [2.5, -3.5]], "f4"))
    assert target.to_pylist() == [0.5, None, 0.5, 0.5]
    assert weight.to_pylist() == [1.0, 1.0, 0.0, 0.0]


def test_arrays_of_another_length_or_with_gaps_are_rejected() -> None:
    encoder = TableEncoder(("v[0]", "v[1]"), {"id": "id"}, array="v")
    values = [[1.0, 2.0], [1.0], None, [1.0, None], [NAN, 2.0], [], [5.0, 6.0], [1.0, 2.0, 3.0]]
    arrays = [pa.array(range(8), pa.int64()), pa.array(values, pa.list_(pa.float32()))]
    sifted = encoder.sift(pa.RecordBatch.from_arrays(arrays, names=["id", "array"]))
    assert sifted.ids.tolist() == [0, 6]
    found = dict(zip(sifted.rejected.row.tolist(), sifted.rejected.reason.tolist(), strict=True))
    assert found == {
        1: "wrong_length", 2: "null", 3: "null", 4: "not_finite", 5: "wrong_length", 7: "wrong_length",
    }  # fmt: skip
    features, target, weight = encoder.pack(sifted.content, np.array([0, 1]))
    assert decode_features(features, 2).tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert target.null_count == 2
    assert weight.to_pylist() == [1.0, 1.0]


@given(st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=1, max_size=40), st.integers(1, 4))
def test_no_row_is_lost_or_doubled(values: list[float | None], width: int) -> None:
    rows = len(values) // width
    encoder = TableEncoder(tuple(f"x{index}" for index in range(width)), {"id": "id"})
    columns = [pa.array(values[index * rows : (index + 1) * rows], pa.float32()) for index in range(width)]
    ids = pa.array(range(100, 100 + rows), pa.int64())
    sifted = encoder.sift(pa.RecordBatch.from_arrays([ids, *columns], names=["id", *encoder.feature_columns]))
    assert sorted([*sifted.row.tolist(), *sifted.rejected.row.tolist()]) == list(range(rows))
    matrix = np.array([[np.nan if value is None else value for value in column.to_pylist()] for column in columns])
    good = np.isfinite(matrix.astype(np.float32)).all(axis=0) if rows else np.zeros(0, bool)
    assert sifted.row.tolist() == np.flatnonzero(good).tolist()
    features = encoder.pack(sifted.content, np.arange(sifted.row.size))[0]
    assert np.array_equal(decode_features(features, width), matrix.T.astype(np.float32)[good])


def ids(files: list[str], rows: list[int], codes: dict[str, int]) -> list[int]:
    columns = [pa.array(np.ones(len(rows), np.float32)), pa.array(files), pa.array(rows)]
    table = pa.RecordBatch.from_arrays(columns, names=["f0", FILE, ROW])
    found: list[int] = TableEncoder(("x",), {}, codes=codes).sift(table).ids.tolist()
    return found


def test_ids_come_from_content_and_row_alone() -> None:
    first = ids(["file:///a/b%20c.parquet"] * 3 + ["s3a://k/d"], [0, 1, 2, 0], {"/a/b c.parquet": 5, "/k/d": 6})
    assert len(set(first)) == 4
    assert min(first) >= 0
    assert ids(["hdfs://other"] * 2, [2, 0], {"/other": 5}) == [first[2], first[0]]
    assert ids(["hdfs://host:8020/a/b"], [2], {"/a/b": 5}) == [first[2]]
    with pytest.raises(DataError, match=r"file:/x: not among the files"):
        ids(["file:/x"], [0], {})


def source(name: str, sha256: str, rows: int = 10) -> Source:
    return Source(name, SourceFile(sha256=sha256, bytes=1, rows=rows))


def test_files_whose_checksums_begin_alike_share_no_id() -> None:
    """Checksums that differ behind their first 32 bits only; one comes with an extension, one under two names."""
    sources = [source(name, "deadbeef" + end * 56) for name, end in (("a", "0"), ("b", "1"), ("c", "2"))]
    codes = file_codes("/in", sources)
    last = identity.max_rows(several=False) - 1
    found = [number for name in "abc" for number in ids([f"file:///in/{name}"] * 2, [0, last], codes)]
    assert len(set(found)) == 6
    assert min(found) > 0
    assert file_codes("/in", sources[:2]) == {place: codes[place] for place in ("/in/a", "/in/b")}
    held = [item.file for item in sources[:2]]
    assert file_codes("/in", [source("new", sources[2].file.sha256)], held) == {"/in/new": codes["/in/c"]}
    assert file_codes("/in", [*sources, source("copy", sources[0].file.sha256)])["/in/copy"] == codes["/in/a"]
    with pytest.raises(DataError, match=r"big: \d+ rows, expected at most .*table\.id"):
        file_codes("/in", [source("big", "0" * 64, last + 2)])


@pytest.mark.parametrize("url", ["file:///a/b", "file:/a/b", "/a/b", "s3://a/b", "s3a://a/b"])
def test_urls_of_one_file_agree(url: str) -> None:
    assert place_of(url) == "/a/b"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"columns": []}, "empty list"),
        ({"columns": ["a"], "array": "v", "length": 3}, "in one way"),
        ({"array": "v"}, "belong together"),
        ({"columns": ["a", "b"], "target": "b"}, "column b is named twice"),
        ({"columns": ["a"], "rows_per_shard": 2**30}, "exceed 2 GiB"),
        ({"weights": "w"}, "did you mean 'weight'"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        validate(TableSettings, values, "test")

"""States of a stream, its metrics and Spark's checkpoint: whole or not there, and in line with each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparton import storage
from sparton.data.settings import TableSettings
from sparton.data.table_encoder import ARRAY, ID
from sparton.errors import DataError, UsageError
from sparton.ml import query_checkpoint, stream_identity, stream_rows
from sparton.sgd import stream_log, stream_state
from sparton.sgd.batch import Batch
from sparton.sgd.bundle import TableInputs
from sparton.sgd.curve import CurveRow
from sparton.sgd.online import Model, Online
from sparton.sgd.settings import ClusterSettings, KMeansSettings, PossibilisticSettings
from sparton.sgd.stream_sample import Sample
from sparton.sgd.stream_settings import StreamSettings
from sparton.sgd.stream_state import StreamState

METHODS: list[ClusterSettings] = [KMeansSettings(n_clusters=3), PossibilisticSettings(n_clusters=3)]


def sample() -> Sample:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 2)).astype(np.float32)
    return Sample(rows, np.ones(200, np.float32), np.arange(200), np.ones(200, np.int64))


def state_of(cluster: ClusterSettings, batch: int = 4) -> StreamState:
    model = Online(cluster, StreamSettings()).begin(("a", "b"), sample())
    row = CurveRow(1, 1, 0.1, 0.1, 0.1, 0.1, 0, 1.0, 1.0)
    return StreamState(Sample.nothing(2), model, batch, "query", 3, 200, {"null": 2}, (row,), {"batch": batch})


def assert_equal(one: StreamState, other: StreamState) -> None:
    assert (one.batch, one.query, one.rows, one.curve, one.line) == (
        other.batch, other.query, other.rows, other.curve, other.line,
    )  # fmt: skip
    assert one.model is not None
    assert other.model is not None
    assert one.model.inputs == other.model.inputs
    pairs = [(one.model.state, other.model.state), (one.model.totals, other.model.totals), (one.sample, other.sample)]
    for first, second in pairs:
        assert type(first) is type(second)
        for column, same in zip(first, second, strict=True):
            assert column.dtype == same.dtype
            assert np.array_equal(column, same)


@pytest.mark.parametrize("cluster", METHODS)
def test_a_state_is_read_back_to_the_bit(cluster: ClusterSettings, tmp_path: Path) -> None:
    state = state_of(cluster)
    stream_state.save(str(tmp_path), state, keep=2)
    found = stream_state.load(str(tmp_path), cluster.method)
    assert found is not None
    assert_equal(found, state)


def test_rows_that_wait_for_the_start_are_kept(tmp_path: Path) -> None:
    stream_state.save(str(tmp_path), StreamState(sample(), batch=0, rows=200), keep=2)
    found = stream_state.load(str(tmp_path), "kmeans")
    assert found is not None
    assert found.model is None
    assert np.array_equal(found.sample.rows, sample().rows)


def test_a_torn_state_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    for batch in (3, 4):
        stream_state.save(str(tmp_path), state_of(METHODS[0], batch), keep=3)
    torn = tmp_path / "states" / "step-000000004" / "state.npz"
    torn.write_bytes(torn.read_bytes()[:-40])
    found = stream_state.load(str(tmp_path), "kmeans")
    assert found is not None
    assert found.batch == 3
    (tmp_path / "states" / "step-000000003" / "SHA256SUMS").unlink()
    with pytest.raises(DataError, match="none of the states is sound"):
        stream_state.load(str(tmp_path), "kmeans")


def test_no_state_at_first(tmp_path: Path) -> None:
    assert stream_state.load(str(tmp_path), "kmeans") is None
    assert not stream_state.begun(str(tmp_path))


def test_lines_of_metrics_are_replaced_from_a_repeated_batch_on(tmp_path: Path) -> None:
    folder = str(tmp_path)
    for batch in range(130):
        stream_log.write(folder, {"batch": batch, "try": 1})
    assert [line["batch"] for line in stream_log.read(folder)] == list(range(130))
    assert len(list((tmp_path / "metrics").iterdir())) == 3
    stream_log.settle(folder, {"batch": 70, "try": 2})
    lines = stream_log.read(folder)
    assert [line["batch"] for line in lines] == list(range(71))
    assert [line["try"] for line in lines[69:]] == [1, 2]
    stream_log.settle(folder, {})
    assert stream_log.read(folder) == []


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """Spark's checkpoint of a query that was killed in batch 8."""
    storage.write_text(str(tmp_path / "metadata"), '{"id":"b5a1"}')
    for kind, last in (("offsets", 8), ("commits", 7)):
        for batch in range(last + 1):
            storage.write_text(str(tmp_path / kind / str(batch)), "v1")
            storage.write_text(str(tmp_path / kind / f".{batch}.crc"), "")
    return str(tmp_path)


def test_spark_is_told_where_to_go_on(checkpoint: str) -> None:
    assert query_checkpoint.query_of(checkpoint) == "b5a1"
    assert query_checkpoint.committed(checkpoint) == 7
    query_checkpoint.roll_back(checkpoint, 5)
    assert query_checkpoint.committed(checkpoint) == 5
    assert "6" in storage.list_files(f"{checkpoint}/offsets")
    assert not {"7", ".7.crc", "8", ".8.crc"} & set(storage.list_files(f"{checkpoint}/offsets"))


def test_no_checkpoint(tmp_path: Path) -> None:
    assert query_checkpoint.query_of(str(tmp_path)) is None
    assert query_checkpoint.committed(str(tmp_path)) == -1


def test_another_stream_is_named_setting_by_setting(tmp_path: Path) -> None:
    folder = str(tmp_path / "states")
    asked = {"source": "/in", "features": ["a"], "cluster": {"n_clusters": 4, "seed": 1}}
    mine = stream_identity.Known(asked, METHODS[0], "{}")
    stream_identity.claim(folder, mine)
    stream_identity.claim(folder, mine)
    assert stream_identity.read(folder) == mine
    other = stream_identity.Known({**asked, "cluster": {"n_clusters": 5, "seed": 1}}, METHODS[0], "{}")
    with pytest.raises(DataError, match=r"cluster\.n_clusters is 5, it was begun with 4\. Go on"):
        stream_identity.claim(folder, other)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"thesis\.tex is in it"):
        stream_identity.claim(str(tmp_path), stream_identity.Known({}, METHODS[0], "{}"))
    storage.write_text(str(tmp_path / stream_identity.FILE), json.dumps({"format": 7}))
    with pytest.raises(DataError, match="format 7, expected 1"):
        stream_identity.read(str(tmp_path))


def cut(rows: pa.RecordBatch, limits: list[int]) -> Iterator[pa.RecordBatch]:
    for low, high in zip([0, *limits], [*limits, rows.num_rows], strict=True):
        yield rows.slice(low, high - low)


def test_sums_do_not_hang_on_how_spark_cuts_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_rows, "BLOCK_ROWS", 100)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 2)).astype(np.float32)
    rows[::50, 0] = np.nan
    lists: list[Any] = rows.tolist()
    lists[3], lists[4] = None, [1.0]
    content = pa.RecordBatch.from_arrays(
        [pa.array(np.arange(1000)), pa.array(lists, pa.list_(pa.float32()))], names=[ID, ARRAY]
    )
    encoder = stream_rows.encoder_of(("x[0]", "x[1]"), TableSettings(array="x", length=2))
    inputs = TableInputs(feature_names=("a", "b"), feature_mean=(0, 0), feature_std=(1, 1), scaling="none")
    online = Online(METHODS[0], StreamSettings())
    model: Model = online.begin(("a", "b"), sample())
    reduction = stream_rows.sums(online.method(inputs), model.state, stream_state.KINDS["kmeans"][1])

    def found(limits: list[int]) -> dict[str, Any]:
        (batch,) = stream_rows._task(cut(content, limits), encoder, reduction, None)
        record: dict[str, Any] = batch.to_pylist()[0]
        return record

    whole = found([])
    assert whole == found([1, 2, 90, 333, 334, 700]) == found(list(range(10, 1000, 10)))
    assert (whole["read"], json.loads(whole["rejected"])) == (1000, {"null": 1, "wrong_length": 1, "not_finite": 20})
    sound = np.delete(rows, [3, 4], axis=0)
    sound = sound[np.isfinite(sound).all(axis=1)]
    expected = reduction.of(Batch(sound, np.ones(len(sound), np.float32), np.arange(len(sound))))
    values = stream_rows._unpacked(whole["content"], reduction.kind)
    assert np.allclose(values.residuals, expected.residuals, rtol=1e-12)
    assert np.array_equal(values.counts, expected.counts)

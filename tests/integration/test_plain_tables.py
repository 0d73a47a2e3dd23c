"""Parquet files as they are, without a set: cluster in one process, assign, evaluate; once more; bad input."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton import pipeline, storage
from sparton.config import load_config
from sparton.errors import DataError, UsageError
from sparton.pipeline import PipelineSettings
from sparton.sgd import bundle
from tests.parquet import write_fixed

ROOT = Path(__file__).resolve().parents[2]
ROWS = 1200


def settings_in(workspace: Path, *overrides: str) -> PipelineSettings:
    values = [
        f"workspace={workspace}", "table.columns=[a, b]", "table.target=y", "cluster.n_clusters=3",
        "cluster.epochs=3", "cluster.batch_size=100", "evaluate.sample_rows=500", *overrides,
    ]  # fmt: skip
    return load_config(PipelineSettings, ROOT / "conf" / "table.yaml", values)


def clouds(folder: Path, broken: int = 0) -> pd.DataFrame:
    """Three clouds in two files, with the cloud as target; the first ``broken`` rows of a file have no number."""
    rng = np.random.default_rng(3)
    which = rng.integers(0, 3, ROWS)
    frame = pd.DataFrame({"k": np.arange(ROWS) * 7, "y": which, "name": [f"row {row}" for row in range(ROWS)]})
    frame["a"], frame["b"] = rng.normal(size=(2, ROWS)) + np.array([which * 9.0, which % 2 * 9.0])
    folder.mkdir()
    for number, start in enumerate((0, ROWS // 2)):
        part = frame.iloc[start : start + ROWS // 2].copy()
        part.loc[part.index[:broken], "b"] = np.nan
        part.to_parquet(folder / f"{number}.parquet", row_group_size=100)
    return frame


def test_files_become_clusters_assignments_and_a_report(tmp_path: Path) -> None:
    frame = clouds(tmp_path / "t", broken=2)
    settings = settings_in(tmp_path / "w", "table.id=k")
    table = str(tmp_path / "t")
    clustered = pipeline.cluster(settings, input=table)
    assert (clustered.summary["rows read"], clustered.summary["rejected"]) == (ROWS, {"null": 4})
    description = bundle.load(clustered.output)
    assert description.inputs.feature_names == ("a", "b")
    assert description.training["rows"] == ROWS - 4
    assert pipeline.cluster(settings, input=table).skipped

    assigned = pipeline.assign(settings, input=table)
    assert (assigned.summary["rows"], assigned.summary["rejected"]) == (ROWS - 4, {"null": 4})
    found = pd.read_parquet(assigned.output).set_index("id")["cluster"]
    expected = frame.drop([0, 1, 600, 601]).set_index("k")
    cluster, _ = description.clusters.assign(expected[["a", "b"]].to_numpy(np.float32))
    assert found.reindex(expected.index).tolist() == cluster.tolist()
    assert pq.read_table(storage.join(assigned.output, "_quarantine")).num_rows == 4

    evaluated = pipeline.evaluate(settings, table=table)
    assert evaluated.summary["all rows"] == ROWS - 4
    assert evaluated.summary["clustering accuracy"] > 0.99
    assert storage.read_json(storage.join(evaluated.output, "metrics.json"))["split"] == "all"


def test_ids_are_those_that_a_set_of_the_files_has(tmp_path: Path) -> None:
    clouds(tmp_path / "t")
    settings = settings_in(tmp_path / "w", "table.target=null")
    pipeline.prepare(settings, input=str(tmp_path / "t"))
    pipeline.cluster(settings, input=str(tmp_path / "t"))
    of_files = pipeline.assign(settings, input=str(tmp_path / "t"))
    of_set = pipeline.assign(settings, input=str(tmp_path / "w" / "set"), output=str(tmp_path / "other"))
    columns = ["id", "cluster", "score"]
    first, second = (pd.read_parquet(result.output).sort_values("id")[columns] for result in (of_files, of_set))
    assert len(first) == ROWS
    assert np.array_equal(first.to_numpy(), second.to_numpy())
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    shutil.copy(tmp_path / "t" / "0.parquet", fewer)
    pipeline.assign(settings, input=str(fewer), output=str(tmp_path / "half"))
    with pytest.raises(DataError, match=r"3 values of the column y \(table.id\) belong to several rows"):
        pipeline.assign(settings_in(tmp_path / "w", "table.target=null", "table.id=y"), input=str(fewer))
    with pytest.raises(DataError, match=r"600 assignments for the 1200 rows of .*; assign this table"):
        pipeline.evaluate(settings, input=str(tmp_path / "half"), table=str(tmp_path / "t"))


def test_nothing_is_published_of_what_cannot_be_used(tmp_path: Path) -> None:
    clouds(tmp_path / "t", broken=100)
    settings, table = settings_in(tmp_path / "w"), str(tmp_path / "t")
    with pytest.raises(
        DataError, match=r"200 of 1200 rows rejected \(null 200\).*--set table.max_rejected.*sparton info .*_quarantine"
    ):
        pipeline.cluster(settings, input=table)
    with pytest.raises(UsageError, match=r"no table set .*sparton prepare --kind table.*--workers at 1"):
        pipeline.cluster(settings_in(tmp_path / "w", "launch.workers=2"), input=table)
    with pytest.raises(DataError, match=r"missing column\(s\) c"):
        pipeline.cluster(settings_in(tmp_path / "w", "table.columns=[a, c]"), input=table)
    assert not (tmp_path / "w" / "model").exists()

    pipeline.cluster(settings_in(tmp_path / "w", "table.max_rejected=0.5"), input=table)
    with pytest.raises(DataError, match=r"200 of 1200 rows rejected \(null 200\)"):
        pipeline.assign(settings, input=table)
    assert not (tmp_path / "w" / "assignments").exists()
    frame = pd.read_parquet(tmp_path / "t" / "0.parquet").drop(columns="b")
    (tmp_path / "less").mkdir()
    frame.to_parquet(tmp_path / "less" / "0.parquet")
    with pytest.raises(DataError, match=r"missing column\(s\) b"):
        pipeline.assign(settings, input=str(tmp_path / "less"))


def test_files_that_differ_are_read_alike_by_all_stages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Arrays of a fixed size with nulls, a file with a further column in another order, and files that are no data."""
    frame = clouds(tmp_path / "frame")
    values: list[Any] = frame[["a", "b"]].to_numpy().tolist()
    values[3], values[700], values[701] = None, [1.0, None], [float("nan"), 1.0]
    arrays = pa.array(values, pa.list_(pa.float64()))
    (tmp_path / "t").mkdir()
    first = {"k": frame["k"][:600], "v": arrays[:600], "more": [1.0] * 600}
    write_fixed(tmp_path / "t" / "0.parquet", first, {"v": pa.list_(pa.float64(), 2)}, 100)
    pq.write_table(pa.table({"v": arrays[600:], "k": frame["k"][600:]}), tmp_path / "t" / "1.parquet")
    (tmp_path / "t" / "notes.txt").write_text("no data")
    (tmp_path / "t" / "_SUCCESS").touch()
    table, of_array = str(tmp_path / "t"), ["table.columns=null", "table.array=v", "table.length=2", "table.id=k"]
    settings = settings_in(tmp_path / "w", "table.target=null", *of_array)
    rejected = {"null": 2, "not_finite": 1}
    results = [stage(settings, input=table) for stage in (pipeline.prepare, pipeline.cluster, pipeline.assign)]
    assert [result.summary["rejected"] for result in results] == [rejected] * 3
    places = [
        sorted(pq.read_table(storage.join(result.output, "_quarantine")).column("jet_id").to_pylist())
        for result in results
    ]
    assert places == [[3 * 7, 700 * 7, 701 * 7]] * 3
    assert pipeline.evaluate(settings, table=table).summary["all rows"] == ROWS - 3
    warnings = [message for message in caplog.messages if "passed over" in message]
    assert len(warnings) == 4
    assert all(warning.endswith("end in .parquet: notes.txt") for warning in warnings)

    every = settings_in(tmp_path / "every", "table.target=null", "table.columns=null")
    for stage in (pipeline.prepare, pipeline.cluster):
        with pytest.raises(DataError, match=r"1.parquet lacks more, .* of 0.parquet .*\(table.columns\)"):
            stage(every, input=table)

"""Clusters that follow files as they arrive: each row once over kills and restarts, to the bit; bad input; bundles."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F

from sparton import lease, pipeline
from sparton.config import load_config
from sparton.data.settings import TableSettings
from sparton.distributed import checkpoint
from sparton.errors import ConfigError, DataError, TrainingError, UsageError
from sparton.ml.kmeans import SGDKMeansModel
from sparton.ml.stream_rows import encoder_of, projected, reduced, sample, sums
from sparton.ml.streaming import StreamClustering
from sparton.pipeline import PipelineSettings
from sparton.pipeline.stage import StageResult
from sparton.sgd import bundle, stream_log, stream_state
from sparton.sgd.online import Online
from sparton.sgd.settings import KMeansSettings
from sparton.sgd.stream_sample import Sample, evenly
from sparton.sgd.stream_settings import StreamSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparton.data.table_encoder import TableEncoder

Array = NDArray[Any]

ROOT = Path(__file__).resolve().parents[2]
FILES, ROWS, CLUSTERS = 5, 200, 4
LAST = FILES - 1
DEADLINE_S = 120
SETTINGS = [
    "cluster.n_clusters=4",
    "table.weight=w",
    "stream.files_per_batch=1",
    "stream.parts=2",
    "stream.half_life=3",
    "stream.publish_every=2",
    "spark.master=local[1]",
]


def rows_of(number: int, rows: int = ROWS) -> pa.Table:
    """Four clouds that drift from file to file, in units of their own, with weights and a name."""
    rng = np.random.default_rng(number)
    which = np.arange(rows) % CLUSTERS
    centers = np.array([[0, 0], [8, 0], [0, 8], [8, 8]]) + 0.2 * number
    values = (centers[which] + rng.normal(size=(rows, 2))) * [1, 100] + [1000, 0]
    weight = rng.uniform(0.5, 2, rows).astype(np.float32)
    return pa.table({"a": values[:, 0], "b": values[:, 1], "w": weight, "name": [f"row {row}" for row in range(rows)]})


def arrive(inbox: Path, number: int, table: pa.Table | None = None) -> None:
    """Put a file into the folder as a producer should: whole, by a rename, and later than those before it."""
    inbox.mkdir(exist_ok=True)
    aside = inbox.parent / "part"
    pq.write_table(rows_of(number) if table is None else table, aside)
    os.utime(aside, (1e9 + number, 1e9 + number))
    aside.rename(inbox / f"{number}.parquet")


def settings_in(root: Path, *overrides: str) -> PipelineSettings:
    return load_config(PipelineSettings, ROOT / "conf" / "stream.yaml", [f"workspace={root}", *SETTINGS, *overrides])


def follow(root: Path, *overrides: str, **folders: Any) -> StageResult:
    return pipeline.stream_cluster(settings_in(root, *overrides), **folders)


def kept(root: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return arrays and notes of the last state, without what hangs on the clock and on chance."""
    found = checkpoint.latest(str(root / "stream" / "states"))
    assert found is not None
    arrays, notes = found
    for row in (*notes["curve"], notes["line"]):
        row.pop("seconds")
        row.pop("rows_per_second", None)
    return arrays, {name: value for name, value in notes.items() if name != "query"}


def assert_same_states(one: Path, other: Path) -> None:
    (first, first_notes), (second, second_notes) = kept(one), kept(other)
    assert first_notes == second_notes
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream of five files that nothing has interrupted."""
    root = tmp_path_factory.mktemp("whole")
    for number in range(FILES):
        arrive(root / "table", number)
    result = follow(root)
    assert (result.summary["new batches"], result.summary["rows"]) == (FILES, FILES * ROWS)
    return root


def copy_of(root: Path, target: Path) -> Path:
    """A stream that stands where another one does; its states know the folder that files arrive in."""
    shutil.copytree(root / "stream", target / "stream")
    shutil.copytree(root / "model", target / "model")
    return target


def test_clusters_follow_the_clouds(whole: Path) -> None:
    found = bundle.load(str(whole / "model"))
    assert found.inputs.feature_names == ("a", "b")
    centers = (found.clusters.centers - [1000, 0]) / [1, 100] - 0.2 * LAST
    expected = np.array([[0, 0], [0, 8], [8, 0], [8, 8]])
    away = np.linalg.norm(centers[:, None] - expected, axis=2)
    assert sorted(away.argmin(axis=0)) == [0, 1, 2, 3]
    assert away.min(axis=0).max() < 0.8
    first = rows_of(0)
    statistics = np.array([first[name].to_numpy() for name in "ab"], np.float32).astype(float)
    weight = first["w"].to_numpy().astype(float)
    mean = np.average(statistics, axis=1, weights=weight)
    variance = np.average(np.square(statistics - mean[:, None]), axis=1, weights=weight)
    assert np.allclose(found.inputs.feature_mean, mean)
    assert np.allclose(found.inputs.feature_std, np.sqrt(variance))


def test_each_batch_is_told(whole: Path) -> None:
    lines = stream_log.read(str(whole / "stream"))
    assert [line["batch"] for line in lines] == list(range(FILES))
    assert all(line["rows"] == ROWS and len(line["moves"]) == CLUSTERS for line in lines)
    weights = [rows_of(number)["w"].to_numpy().sum(dtype=float) for number in range(FILES)]
    assert np.allclose([sum(line["sizes"]) for line in lines], weights, rtol=1e-5)
    assert lines[-1]["largest_move"] == max(lines[-1]["moves"]) > 0
    assert lines[-1]["mean_inertia"] < 2


def test_a_second_run_without_new_files_does_nothing(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "model").iterdir()}
    result = follow(whole)
    assert result.skipped
    assert result.summary["new batches"] == 0
    assert {path: path.stat().st_mtime_ns for path in (whole / "model").iterdir()} == before


def test_killed_in_a_batch_and_begun_again_it_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """The first driver runs on one core and is killed once Spark has handed out the third batch; then two cores."""
    for number in range(FILES):
        arrive(tmp_path / "table", number)
    command = [sys.executable, "-m", "sparton", "stream-cluster", "--config", str(ROOT / "conf" / "stream.yaml")]
    command += [word for setting in (f"workspace={tmp_path}", *SETTINGS) for word in ("--set", setting)]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        try:
            handed_out = tmp_path / "stream" / "checkpoint" / "offsets" / "2"
            deadline = time.monotonic() + DEADLINE_S
            while not handed_out.exists():
                assert driver.poll() is None, (tmp_path / "log").read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
    assert not (tmp_path / "stream" / "checkpoint" / "commits" / "2").exists()
    assert checkpoint.steps(str(tmp_path / "stream" / "states"))[-1] in (1, 2)
    result = follow(tmp_path)
    assert result.summary["rows"] == FILES * ROWS
    assert_same_states(tmp_path, whole)
    assert [line["batch"] for line in stream_log.read(str(tmp_path / "stream"))] == list(range(FILES))
    assert np.array_equal(bundle.load(str(tmp_path / "model")).centroids, bundle.load(str(whole / "model")).centroids)


def test_a_batch_that_is_in_the_state_is_passed_over(whole: Path, tmp_path: Path) -> None:
    root = copy_of(whole, tmp_path)
    for name in (f"{LAST}", f".{LAST}.crc"):  # as if Spark had died before it noted the batch
        (root / "stream" / "checkpoint" / "commits" / name).unlink()
    result = follow(root, input=str(whole / "table"))
    assert result.summary["new batches"] == 0
    assert_same_states(root, whole)


def test_a_torn_state_is_made_again_from_the_one_before(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy_of(whole, tmp_path)
    torn = root / "stream" / "states" / f"step-00000000{LAST}" / "state.npz"
    torn.write_bytes(torn.read_bytes()[:100])
    result = follow(root, input=str(whole / "table"))
    assert f"Spark has done batch {LAST}, the last sound state is that of batch {LAST - 1}" in caplog.text
    assert result.summary["new batches"] == 1
    assert_same_states(root, whole)


def test_states_of_another_stream_are_refused(whole: Path) -> None:
    with pytest.raises(DataError, match=r"cluster\.n_clusters is 5, it was begun with 4"):
        follow(whole, "cluster.n_clusters=5")
    with pytest.raises(DataError, match=r"source is .*it was begun with"):
        follow(whole, input=str(whole / "model"))
    follow(whole, "table.max_rejected=0.5", "stream.publish_every=7")  # which change no state


def test_states_without_sparks_checkpoint_are_refused(whole: Path, tmp_path: Path) -> None:
    root = copy_of(whole, tmp_path)
    shutil.rmtree(root / "stream" / "checkpoint")
    with pytest.raises(DataError, match=f"checkpoint: missing, while the state is that of batch {LAST}"):
        follow(root, input=str(whole / "table"))
    shutil.copytree(whole / "stream" / "checkpoint", root / "stream" / "checkpoint")
    shutil.rmtree(root / "stream" / "states")
    with pytest.raises(DataError, match=f"Spark's checkpoint is that of batch {LAST}, but there is no state"):
        follow(root, input=str(whole / "table"))


def test_a_checkpoint_that_ends_before_the_state_is_refused(whole: Path, tmp_path: Path) -> None:
    """Spark would hand out other rows under the number of a batch that is in the state, and they would be lost."""
    root = copy_of(whole, tmp_path)
    for kind in ("commits", "offsets"):
        for name in (f"{LAST}", f".{LAST}.crc"):
            (root / "stream" / "checkpoint" / kind / name).unlink()
    with pytest.raises(DataError, match=f"ends with batch {LAST - 1}, while the state is that of batch {LAST}"):
        follow(root, input=str(whole / "table"))


def test_two_runs_never_share_states(whole: Path) -> None:
    from fsspec.implementations.local import LocalFileSystem

    with (
        lease.held(LocalFileSystem(), str(whole / ".stream.lock"), "other"),
        pytest.raises(DataError, match="another run"),
    ):
        follow(whole)


def test_the_bundle_is_assigned_and_read_by_spark_ml(whole: Path, spark: SparkSession, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    pipeline.prepare(settings, input=str(whole / "table"), kind="table")
    result = pipeline.assign(settings, model=str(whole / "model"))
    assert sum(result.summary["cluster sizes"].values()) == FILES * ROWS
    model = SGDKMeansModel.from_bundle(str(whole / "model"))
    found = model.transform(spark.read.parquet(str(whole / "table" / f"{LAST}.parquet"))).toPandas()
    assert len(set(zip(found["prediction"], np.arange(ROWS) % CLUSTERS, strict=True))) == CLUSTERS
    described = pipeline.info(str(whole / "model"), verify=True)
    assert described.kind == "bundle of clusters"
    assert described.problems == []
    assert described.details["trained on"] == "1,000 rows in 5 batches of a stream"


def test_a_bundle_goes_on_and_the_query_ends_when_asked(whole: Path, tmp_path: Path) -> None:
    """Centroids, counts and scaling go on; the trigger is a number of seconds."""
    arrive(tmp_path / "table", FILES)
    told = tmp_path / "stream" / "metrics"
    overrides = ["stream.trigger=0.2", "stream.half_life=null", "cluster.reseed_ratio=0"]
    result = follow(tmp_path, *overrides, model=str(whole / "model"), stop=told.exists)
    assert result.summary["rows"] == ROWS
    begun, found = bundle.load(str(whole / "model")), bundle.load(str(tmp_path / "model"))
    assert found.inputs == begun.inputs
    table = rows_of(FILES)
    rows = np.column_stack([table["a"].to_numpy(), table["b"].to_numpy()]).astype(np.float32)
    points, weight = found.inputs.coordinates.points(rows), table["w"].to_numpy().astype(float)
    centroids, counts = np.array(begun.centroids), np.array(begun.counts)
    label = np.square(points[:, None] - centroids).sum(axis=2).argmin(axis=1)
    masses, sums_of = np.bincount(label, weight, CLUSTERS), np.zeros((CLUSTERS, 2))
    np.add.at(sums_of, label, weight[:, None] * points)
    expected = centroids + (sums_of - masses[:, None] * centroids) / (counts + masses)[:, None]
    assert np.allclose(found.centroids, expected, rtol=0, atol=1e-12)
    assert np.allclose(found.counts, counts + masses, rtol=1e-12)


def test_possibilistic_clusters_wait_for_rows_and_follow(tmp_path: Path, spark: SparkSession) -> None:
    arrive(tmp_path / "table", 0, rows_of(0, 50))
    overrides = ["cluster.method=pcm", "cluster.n_clusters=6", "stream.start_after=200"]
    result = follow(tmp_path, *overrides)
    assert (
        result.summary["clusters"]
        == f"none yet, the first centroids wait for 200 rows ({result.summary['rows']} so far)"
    )
    assert not (tmp_path / "model").exists()
    arrive(tmp_path / "table", 1)
    arrive(tmp_path / "table", 2, rows_of(2, 0))
    arrive(tmp_path / "table", 3)
    result = follow(tmp_path, *overrides)
    assert (result.summary["batches"], result.summary["rows"]) == (3, 50 + 2 * ROWS)
    assert result.summary["new batches"] == 3
    found = bundle.load(str(tmp_path / "model"))
    assert found.kind == "pcm"
    assert 4 <= len(found.centroids) <= 6


def test_clusters_that_have_all_died_end_the_stream_and_what_there_was_is_kept(
    tmp_path: Path, spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ["cluster.method=pcm", "stream.start_after=100", "stream.half_life=0.06", "stream.publish_every=1"]
    overrides += ["cluster.scaling=standard"]
    for number in range(2):
        arrive(tmp_path / "table", number)
    follow(tmp_path, *overrides)
    before = bundle.load(str(tmp_path / "model"))
    arrive(tmp_path / "table", 2, rows_of(2).set_column(0, "a", pa.array(np.linspace(1e6, 1e6 + 9, ROWS))))
    arrive(tmp_path / "table", 3, rows_of(3).set_column(0, "a", pa.array(np.linspace(1e6, 1e6 + 9, ROWS))))
    for _ in range(2):  # it is the same when it is begun again
        with pytest.raises(
            TrainingError,
            match=r"batch 3: all \d clusters have died: .* moved away .*cluster.gamma_factor\)\. Kept: the state of "
            r"batch 2 \(.*stream\) and the bundle published last \(.*model\)\. Begin anew with another state folder",
        ):
            follow(tmp_path, *overrides)
    assert "batch 2: typicalities are next to 0 in all clusters" in caplog.text
    assert kept(tmp_path)[1]["step"] == 2
    assert bundle.load(str(tmp_path / "model")).centroids == before.centroids
    (tmp_path / "now").mkdir()
    shutil.copy(tmp_path / "table" / "3.parquet", tmp_path / "now")
    folders = {"input": str(tmp_path / "now"), "state": str(tmp_path / "other")}
    assert follow(tmp_path, *overrides, **folders).summary["batches"] == 1


def test_bad_rows_are_set_aside_and_too_many_stop_the_stream(tmp_path: Path, spark: SparkSession) -> None:
    table = rows_of(0)
    values = table["a"].to_numpy().copy()
    values[7], values[8] = np.nan, np.inf
    weight = table["w"].to_numpy().copy()
    weight[9] = -1
    table = table.set_column(0, "a", pa.array(values)).set_column(2, "w", pa.array(weight))
    arrive(tmp_path / "table", 0, table)
    with pytest.raises(DataError, match=r"batch 0: 3 of 200 rows rejected .*--max-rejected") as raised:
        follow(tmp_path)
    folder = tmp_path / "stream" / "_quarantine" / "batch-000000000"
    assert str(folder) in str(raised.value)
    assert not (tmp_path / "model").exists()
    result = follow(tmp_path, "table.max_rejected=0.02")
    assert result.summary["rejected"] == {"not_finite": 2, "negative_weight": 1}
    assert result.summary["rows"] == ROWS - 3
    rejected = pq.read_table(folder).to_pandas().sort_values("row")
    assert rejected["row"].tolist() == [7, 8, 9]
    assert rejected["file"].str.endswith("0.parquet").all()

    arrive(tmp_path / "table", 1, rows_of(1).drop_columns(["b"]))
    with pytest.raises(DataError, match=r"batch 1: 200 of 200 rows rejected \(null 200\).*column b is null"):
        follow(tmp_path)
    arrive(tmp_path / "table", 1)  # mended
    assert follow(tmp_path).summary["rows"] == 2 * ROWS - 3

    (tmp_path / "table" / "2.parquet").write_text("no rows")
    with pytest.raises(DataError, match=r"2\.parquet: cannot be read"):
        follow(tmp_path)
    arrive(tmp_path / "table", 2)
    text = pa.array(["x"] * ROWS)
    arrive(tmp_path / "table", 3, rows_of(3).set_column(0, "a", text))
    with pytest.raises(DataError, match=r"3\.parquet: column a is"):
        follow(tmp_path)
    assert kept(tmp_path)[1]["rows"] == 3 * ROWS - 3


def test_what_cannot_be_followed_is_said_before_anything_is_written(tmp_path: Path, spark: SparkSession) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        follow(tmp_path / "none")
    (tmp_path / "table").mkdir()
    with pytest.raises(UsageError, match=r"no Parquet file in it yet.*stream\.source_schema"):
        follow(tmp_path)
    with pytest.raises(ConfigError, match=r"cluster\.start_rows is 3 with cluster\.n_clusters 4"):
        follow(tmp_path, "cluster.start_rows=3", "stream.source_schema='a double, w float'")
    with pytest.raises(ConfigError, match=r"stream\.source_schema: 'a doubel' is not"):
        follow(tmp_path, "stream.source_schema=a doubel")
    result = follow(tmp_path, "stream.source_schema='a double, w float'")
    assert result.summary["rows"] == 0
    shutil.rmtree(tmp_path / "stream")
    arrive(tmp_path / "table", 0)
    with pytest.raises(DataError, match="column name is string, expected numbers"):
        follow(tmp_path, "table.columns=[a, name]")
    with pytest.raises(DataError, match="missing column"):
        follow(tmp_path, "table.columns=[a, c]")
    with pytest.raises(DataError, match="expected a bundle of clusters"):
        follow(tmp_path, model=str(tmp_path / "table"))
    assert not (tmp_path / "stream").exists()
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def frame(spark: SparkSession) -> DataFrame:
    rows = [(row["a"], row["b"], float(row["w"])) for row in rows_of(0).to_pylist()]
    return spark.createDataFrame([*rows, *rows[:20]], "a double, b double, w float").cache()


def test_sums_and_samples_hang_on_the_rows_alone(spark: SparkSession, frame: DataFrame) -> None:
    """Not on their order, nor on how they are cut into partitions; columns, array and vector are the same."""
    online = Online(KMeansSettings(n_clusters=4), StreamSettings())
    table = TableSettings(columns=("a", "b"), weight="w")

    encoder, kind = encoder_of(("a", "b"), table), stream_state.KINDS["kmeans"][1]

    def drawn(rows: DataFrame) -> Sample:
        found = reduced(projected(rows, encoder), encoder, sample(50, evenly(1)), 2, None, "test")
        assert found.read == ROWS + 20
        return found.value

    def summed(rows: DataFrame, encoder: TableEncoder = encoder) -> Any:
        work = sums(online.method(model.inputs), model.state, kind)
        return reduced(projected(rows, encoder), encoder, work, 2, None, "test").value

    first = drawn(frame)
    assert len(first.ids) == 50
    model = online.begin(("a", "b"), first)
    expected = summed(frame)
    for other in (frame.repartition(5, F.rand(3)), frame.orderBy(F.desc("b")).coalesce(1)):
        assert all(np.array_equal(one, two) for one, two in zip(drawn(other), first, strict=True))
        assert all(np.array_equal(one, two) for one, two in zip(summed(other), expected, strict=True))
    lists = frame.select(F.array("a", "b").alias("list"), "w")
    vectors = lists.select(array_to_vector("list").alias("list"), "w").repartition(4)
    of_list = encoder_of(("a", "b"), TableSettings(array="list", length=2, weight="w"))
    short = F.when(F.col("w") > 1.5, F.slice("list", 1, 1)).otherwise(F.col("list"))
    broken = lists.select(F.when(F.col("w") > 1, array_to_vector(short)).alias("list"), "w")
    work = sums(online.method(model.inputs), model.state, kind)
    rejected = reduced(projected(broken, of_list), of_list, work, 2, None, "test").rejected
    weights = frame.toPandas()["w"]
    assert rejected == {"null": (weights <= 1).sum(), "wrong_length": (weights > 1.5).sum()}
    of_array, of_vector = summed(lists, of_list), summed(vectors, of_list)
    assert all(np.array_equal(one, two) for one, two in zip(of_array, of_vector, strict=True))
    assert np.allclose(of_array.residuals, expected.residuals, atol=1e-9)


def test_any_streaming_dataframe_is_followed(spark: SparkSession, tmp_path: Path) -> None:
    """Rows that Spark makes: 40 a batch, two features, as a query that Python starts."""
    made = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 40).option("startTimestamp", 1).load()
    value = F.col("value")
    stream = made.select((value % 4 * 10 + value % 3).alias("a"), (value % 4 * 7 + value % 5 / 10).alias("b"))
    states, model = str(tmp_path / "states"), str(tmp_path / "model")
    settings = StreamSettings(parts=2, start_after=40, publish_every=1)
    with pytest.raises(UsageError, match="a DataFrame that ends, expected one of"):
        StreamClustering(spark.range(3), states, model, KMeansSettings(n_clusters=4))
    with pytest.raises(UsageError, match="not held; use it inside 'with StreamClustering"):
        StreamClustering(stream, states, model, KMeansSettings(n_clusters=4), settings=settings).start()
    assert not list(tmp_path.iterdir())
    with StreamClustering(stream, states, model, KMeansSettings(n_clusters=4), settings=settings) as clustering:
        query = clustering.start(processingTime="0 seconds")
        try:
            deadline = time.monotonic() + DEADLINE_S
            while clustering.state.batches < 2:
                assert query.isActive, query.exception()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            query.stop()
        assert clustering.publish()
        rows = clustering.state.rows
        shutil.rmtree(model)  # as if the process had died between a state and its bundle; Spark repeats the batch
        clustering.update(spark.range(0).toDF("a"), clustering.state.batch)
    found = bundle.load(model)
    assert found.training["rows"] == rows >= 80
    assert json.loads((Path(model) / "metrics.json").read_text())["mean_inertia"] < 1

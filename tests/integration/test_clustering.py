"""Any table from Parquet files to a report: prepare, cluster, assign, evaluate; resumed, on two workers, bad input."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton import pipeline, storage
from sparton.config import load_config
from sparton.data.batches import array_batches, batches
from sparton.data.manifest import read_set
from sparton.data.plan import plan_epoch
from sparton.distributed.launch import LaunchSettings, launch
from sparton.distributed.simulate import simulate
from sparton.distributed.world import Connection
from sparton.errors import DataError, TrainingError
from sparton.pipeline import PipelineSettings
from sparton.sgd import bundle
from sparton.sgd.kmeans import KMeans
from sparton.sgd.possibilistic import PossibilisticCMeans
from sparton.sgd.settings import ClusterSettings, KMeansSettings, PossibilisticSettings
from sparton.sgd.train import ClusterSummary, train
from tests.mpi import free_port, run_both

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]
ROWS, CLUSTERS = 1500, 4
TRAINING = KMeansSettings(n_clusters=CLUSTERS, epochs=4, batch_size=100, decay=0.95)
POSSIBILISTIC = PossibilisticSettings(n_clusters=7, epochs=4, batch_size=100, decay=0.9)


def table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    """Four clouds in three dimensions of different units, a column that does not vary, a name and the cloud."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, CLUSTERS, rows)
    centers = np.array([[0, 0, 0], [8, 0, 1], [0, 8, 2], [8, 8, 3]])
    values = (centers[which] + rng.normal(size=(rows, 3))) * [1, 100, 0.01] + [1000, 0, 0]
    columns: dict[str, Any] = {name: values[:, index] for index, name in enumerate("abc")}
    return pa.table(columns | {"flat": np.full(rows, 7.0), "name": [f"row {row}" for row in range(rows)], "y": which})


def settings_in(workspace: Path, *overrides: str) -> PipelineSettings:
    values = [
        f"workspace={workspace}", "table.target=y", "table.rows_per_shard=128", "cluster.n_clusters=4",
        "cluster.epochs=4", "cluster.batch_size=100", "cluster.decay=0.95",
        "evaluate.elbow=[1, 2, 4, 6, 9999]", *overrides,
    ]  # fmt: skip
    return load_config(PipelineSettings, ROOT / "conf" / "table.yaml", values)


@pytest.fixture(scope="module")
def workspace(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the whole pipeline has run."""
    root = tmp_path_factory.mktemp("clustering")
    (root / "table").mkdir()
    pq.write_table(table(), root / "table" / "rows.parquet")
    pipeline.run(settings_in(root))
    return root


def centroids(folder: Path) -> np.ndarray[Any, Any]:
    return np.asarray(bundle.load(str(folder)).centroids)


def run(
    workspace: Path,
    folder: Path,
    connection: Connection | None = None,
    settings: ClusterSettings = TRAINING,
    **changes: Any,
) -> None:
    settings = settings.model_copy(update=changes)
    places = (str(folder / "checkpoints"), str(folder / "bundle"))
    train(connection or Connection.local(), str(workspace / "set"), *places, settings)


def test_the_clouds_are_found_and_every_row_is_assigned(workspace: Path, spark: SparkSession) -> None:
    description = bundle.load(str(workspace / "model"))
    manifest = read_set(str(workspace / "set"))
    rows = spark.read.parquet(str(workspace / "set")).toPandas()
    assigned = spark.read.parquet(str(workspace / "assignments")).toPandas().set_index("id").loc[rows["id"]]
    assert len(assigned) == ROWS == manifest.rows("train")
    features = np.frombuffer(b"".join(rows["features"]), "<f4").reshape(ROWS, 4)
    away = np.linalg.norm(
        (features[:, None] - description.clusters.centers) * description.inputs.coordinates.factor, axis=2
    )
    assert np.array_equal(assigned["cluster"], away.argmin(axis=1))
    assert np.allclose(np.stack(list(assigned["distance"])), away, atol=1e-4)
    assert np.allclose(assigned["score"], away.min(axis=1), atol=1e-4)
    metrics = json.loads((workspace / "report" / "metrics.json").read_text())
    assert metrics["labels"]["accuracy"] > 0.99
    assert metrics["clusters"]["sizes"] == np.bincount(assigned["cluster"]).tolist()
    assert [point["n_clusters"] for point in metrics["elbow"]] == [1, 2, 4, 6]
    inertia = [point["mean_inertia"] for point in metrics["elbow"]]
    assert inertia[0] > 1.5 * inertia[1] > 2.5 * inertia[2]
    profile = metrics["profiles"][0]["columns"]["b"]
    mine = features[assigned["cluster"].to_numpy() == 0, 1].astype(np.float64)
    assert profile["mean"] == pytest.approx(mine.mean(), rel=1e-9)
    assert profile["std"] == pytest.approx(mine.std(), rel=1e-9)
    assert profile["median"] == pytest.approx(np.median(mine), rel=1e-6)
    bundled = json.loads((workspace / "model" / "metrics.json").read_text())
    assert bundled["sizes"] == metrics["clusters"]["sizes"]
    assert bundled["inertia"] == pytest.approx(float(np.square(away.min(axis=1)).sum()), rel=1e-6)
    epochs = list(csv.DictReader((workspace / "model" / "training_curve.csv").read_text().splitlines()))
    time = sum(float(row["seconds"]) for row in epochs)
    assert bundled["rows_per_second"] == pytest.approx(len(epochs) * ROWS / time, rel=0.01)
    assert "seconds" not in bundled


def test_the_report_shows_profiles_and_numbers_of_clusters(workspace: Path) -> None:
    page = (workspace / "report" / "report.html").read_text()
    for figure in ("profiles", "points", "elbow", "losses", "confusion"):
        assert f"id='{figure}'" in page
    assert "jets" not in page.split("<details>")[0].replace("runs/jets", "")


def test_the_report_has_the_settings_of_model_and_set_whatever_those_of_evaluate_are(
    workspace: Path, tmp_path: Path
) -> None:
    others = settings_in(workspace, "cluster.epochs=77", "table.rows_per_shard=77", "evaluate.elbow=[2, 3]")
    pipeline.evaluate(others, output=str(tmp_path / "report"))
    page = (tmp_path / "report" / "report.html").read_text()
    parts = dict(re.findall(r"<summary>Settings of (.*?)</summary><pre>(.*?)</pre>", page, flags=re.DOTALL))
    assert list(parts) == ["the model", "the set", "this evaluation"]
    assert "epochs: 4\n" in parts["the model"]
    assert "rows_per_shard: 128\n" in parts["the set"]
    assert "- 3\n" in parts["this evaluation"]
    assert "77" not in parts["the model"] + parts["the set"]


def test_info_describes_the_bundle(workspace: Path) -> None:
    found = pipeline.info(str(workspace / "model"), verify=True)
    assert found.kind == "bundle of clusters"
    assert found.problems == []
    assert found.details["clusters"] == 4
    assert found.details["features"] == "a, b, c, flat"
    assert found.details["trained on"] == "1,500 rows by 1 worker(s)"


def test_a_second_run_finds_everything_up_to_date(workspace: Path) -> None:
    results = pipeline.run(settings_in(workspace))
    assert [result.stage for result in results] == ["prepare", "cluster", "assign", "evaluate"]
    assert all(result.skipped for result in results)


def test_arrays_are_fed_as_tensors_are(workspace: Path) -> None:
    folder, manifest = str(workspace / "set"), read_set(str(workspace / "set"))
    for lanes, rank in itertools.product((None, 4), range(2)):
        plan = plan_epoch(manifest.shard_rows("train"), 2, 100, seed=3, epoch=1, lanes=lanes)
        expected = list(batches(folder, manifest, "train", plan, rank, start_step=2).as_numpy_iterator())
        found = list(array_batches(folder, manifest, "train", plan, rank, start_step=2))
        assert len(found) == len(expected) == plan.steps - 2
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
    plan = plan_epoch(manifest.shard_rows("train"), 2, 100, seed=3, epoch=1)
    begun = array_batches(folder, manifest, "train", plan, 0)
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparton-read-ahead")]


def test_targets_are_not_read(workspace: Path, tmp_path: Path, spark: SparkSession) -> None:
    (tmp_path / "table").mkdir()
    other = table()
    other = other.set_column(other.schema.get_field_index("y"), "y", pa.nulls(ROWS, pa.float32()))
    pq.write_table(other.append_column("number", pa.array(range(ROWS))), tmp_path / "table" / "rows.parquet")
    same = ["table.columns=[a, b, c, flat]", "table.id=number"]
    pipeline.prepare(settings_in(tmp_path, *same, "table.target=null"))
    shutil.move(tmp_path / "set", tmp_path / "without")
    pq.write_table(table().append_column("number", pa.array(range(ROWS))), tmp_path / "table" / "rows.parquet")
    pipeline.prepare(settings_in(tmp_path, *same))
    for name in ("set", "without"):
        places = (str(tmp_path / name), str(tmp_path / f"{name}-checkpoints"), str(tmp_path / f"{name}-model"))
        train(Connection.local(), *places, TRAINING)
    assert np.array_equal(centroids(tmp_path / "set-model"), centroids(tmp_path / "without-model"))


@pytest.mark.parametrize(
    ("steps", "method", "settings"),
    [
        (7, KMeans, TRAINING),
        (15, KMeans, TRAINING),
        (40, KMeans, TRAINING),
        (23, PossibilisticCMeans, POSSIBILISTIC),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(
    workspace: Path,
    tmp_path: Path,
    steps: int,
    method: Any,
    settings: ClusterSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(workspace, tmp_path / "whole", settings=settings, checkpoint_seconds=0)
    with monkeypatch.context() as patched:
        update, calls = method.update, iter(range(steps))

        def dying(*arguments: Any) -> Any:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return update(*arguments)

        patched.setattr(method, "update", dying)
        with pytest.raises(KeyboardInterrupt):
            run(workspace, tmp_path / "killed", settings=settings, checkpoint_seconds=0)
    assert not (tmp_path / "killed" / "bundle").exists()
    run(workspace, tmp_path / "killed", settings=settings, checkpoint_seconds=0)
    assert np.array_equal(centroids(tmp_path / "killed" / "bundle"), centroids(tmp_path / "whole" / "bundle"))
    with pytest.raises(TrainingError, match="the checkpoint is of other settings or data"):
        run(workspace, tmp_path / "killed", settings=settings, seed=2)


def test_two_horovod_workers_compute_what_simulated_ones_do(
    workspace: Path, tmp_path: Path, spark: SparkSession
) -> None:
    folder, chosen = str(workspace / "set"), {"kmeans": TRAINING, "pcm": POSSIBILISTIC}
    jobs = [
        (folder, str(tmp_path / f"{name}-checkpoints"), str(tmp_path / name), settings)
        for name, settings in chosen.items()
    ]

    def both(connection: Connection, jobs: list[Any]) -> list[ClusterSummary]:
        return [train(connection, *job) for job in jobs]

    one, two = launch(both, (jobs,), spark, LaunchSettings(workers=2, threads_per_worker=1))
    for (name, settings), mine, others in zip(chosen.items(), one, two, strict=True):
        assert mine.steps == others.steps == 4 * 8
        assert mine.figures == others.figures
        simulated = tmp_path / f"{name}-simulated"
        simulate(2, lambda rank: run(workspace, simulated, rank, settings))  # noqa: B023 - is called at once
        assert np.abs(centroids(tmp_path / name) - centroids(simulated / "bundle")).max() < 1e-12


def test_processes_of_mpirun_cluster_together(workspace: Path, tmp_path: Path) -> None:
    """Rank 0 publishes one bundle; the same command again finds it up to date, and tells the other rank so."""
    named = ("n_clusters", "epochs", "batch_size", "decay")
    values = [f"cluster.{name}={getattr(TRAINING, name)}" for name in named]
    where = [f"launch.rendezvous=127.0.0.1:{free_port()}"]
    command = ["-m", "sparton", "cluster", "--workspace", str(tmp_path), "--input", str(workspace / "set")]
    command += ["--workers", "2", *itertools.chain.from_iterable(("--set", value) for value in values + where)]
    ended = run_both(command)
    assert [status for status, _ in ended] == [0, 0], ended
    simulate(2, lambda rank: run(workspace, tmp_path / "simulated", rank))
    assert np.abs(centroids(tmp_path / "model") - centroids(tmp_path / "simulated" / "bundle")).max() < 1e-12
    before = (tmp_path / "model" / "metrics.json").stat()
    again = run_both(command)
    assert [status for status, _ in again] == [0, 0], again
    assert "up to date" in again[0][1]
    assert (tmp_path / "model" / "metrics.json").stat().st_mtime_ns == before.st_mtime_ns


def test_possibilistic_clusters_from_the_set_to_the_report(
    workspace: Path, tmp_path: Path, spark: SparkSession
) -> None:
    chosen = {"method": "pcm", "n_clusters": 7, "gamma_factor": 1.0, "noise_below": 0.2, "epochs": 10, "batch_size": 50}
    settings = settings_in(workspace, *(f"cluster.{name}={value}" for name, value in chosen.items()))
    model, assignments, report = (str(tmp_path / name) for name in ("model", "assignments", "report"))
    summary = pipeline.cluster(settings, output=model).summary
    assert summary["clusters"] == CLUSTERS
    assert summary["clusters"] + summary["merged"] + summary["dead"] == 7
    pipeline.assign(settings, model=model, output=assignments)
    description = bundle.load(model)
    assert isinstance(description, bundle.PossibilisticDescription)
    rows = spark.read.parquet(str(workspace / "set")).toPandas()
    assigned = spark.read.parquet(assignments).toPandas().set_index("id").loc[rows["id"]]
    features = np.frombuffer(b"".join(rows["features"]), "<f4").reshape(ROWS, 4)
    points = description.inputs.coordinates.points(features)
    near = np.square(points[:, None] - np.asarray(description.centroids)).sum(axis=2) / np.asarray(description.widths)
    assert np.array_equal(assigned["cluster"], near.argmin(axis=1))
    assert np.allclose(np.stack(list(assigned["typicality"])), np.exp(-near), atol=1e-4)
    assert np.allclose(np.stack(list(assigned["distance"])), np.sqrt(near * np.asarray(description.widths)), atol=1e-4)
    assert np.allclose(assigned["score"], near.min(axis=1), rtol=1e-3, atol=1e-5)
    noise = np.exp(-near.min(axis=1)) < 0.2
    assert np.array_equal(assigned["noise"], noise)
    assert 0 < noise.sum() < ROWS / 2
    found = pipeline.evaluate(settings, input=assignments, model=model, output=report).summary
    assert found["noise"] == noise.sum()
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["labels"]["accuracy"] > 0.99
    assert metrics["clusters"]["sizes"] == np.bincount(assigned["cluster"][~noise], minlength=CLUSTERS).tolist()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Possibilistic c-means puts" in page
    assert f"{noise.sum()} rows" in page
    assert pipeline.info(model, verify=True).details["method"].startswith("possibilistic c-means")
    with pytest.raises(DataError, match="noise: the assignments were made with a bundle of another method"):
        pipeline.evaluate(settings, model=model, output=str(tmp_path / "other"))
    quiet = pipeline.assign(
        settings_in(workspace, "assign.distances=false"), model=model, output=str(tmp_path / "without")
    )
    assert quiet.summary["cluster sizes"]["noise"] == noise.sum()
    assert spark.read.parquet(str(tmp_path / "without")).where("typicality is not null").count() == 0


def test_what_is_no_table_set_is_refused_before_anything_is_written(workspace: Path, tmp_path: Path) -> None:
    manifest = json.loads((workspace / "set" / "_manifest.json").read_text())
    (tmp_path / "set").mkdir()

    def refused(**changes: Any) -> str:
        storage.write_json(str(tmp_path / "set" / "_manifest.json"), manifest | changes)
        with pytest.raises(DataError) as error:
            pipeline.cluster(settings_in(tmp_path))
        assert not (tmp_path / "model").exists()
        return str(error.value)

    assert "no feature varies over the train split, as float32 (a, b, c, flat)" in refused(feature_squares=[0.0] * 4)
    assert "the train split is empty" in refused(splits={"train": []})
    assert "no such file" in refused()
    with pytest.raises(TrainingError, match="found 1500 rows, expected at least n_clusters=1501"):
        pipeline.cluster(settings_in(workspace, "cluster.n_clusters=1501"), output=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()
    damaged = tmp_path / "damaged"
    shutil.copytree(workspace / "set", damaged)
    shard = damaged / "split=train" / "shard-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-9] + b"123456789")
    with pytest.raises(DataError, match=r"shard-00003.parquet: SHA-256 differs"):
        train(Connection.local(), str(damaged), str(tmp_path / "c"), str(tmp_path / "b"), TRAINING)


def test_bundles_and_sets_that_do_not_fit_are_named(workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(workspace / "model", other)
    text = (other / "model.json").read_text()
    (other / "model.json").write_text(text.replace('"flat"', '"round"'))
    with pytest.raises(DataError, match=r"model.json: SHA-256 is not the one in SHA256SUMS"):
        bundle.load(str(other))
    (other / "model.json").write_text(text.replace('"kmeans"', '"dbscan"'))
    with pytest.raises(DataError, match="a bundle of kind 'dbscan'"):
        pipeline.assign(settings_in(workspace), model=str(other), output=str(tmp_path / "assignments"))
    assert not (tmp_path / "assignments").exists()


def test_an_empty_and_a_textual_table_are_named(tmp_path: Path, spark: SparkSession) -> None:
    (tmp_path / "table").mkdir()
    pq.write_table(table(0), tmp_path / "table" / "rows.parquet")
    with pytest.raises(DataError, match="the table is empty"):
        pipeline.prepare(settings_in(tmp_path))
    pq.write_table(table(10), tmp_path / "table" / "rows.parquet")
    with pytest.raises(DataError, match="column name is string, expected numbers"):
        pipeline.prepare(settings_in(tmp_path, "table.columns=[a, name]"))
    pq.write_table(table(10).append_column("w", pa.array([0.0] * 10)), tmp_path / "table" / "rows.parquet")
    with pytest.raises(DataError, match=r"the weights of all rows in the train split are 0; .* \(table\.weight\)"):
        pipeline.prepare(settings_in(tmp_path, "table.weight=w"))
    assert not (tmp_path / "set").exists()


def test_a_training_that_dies_before_its_bundle_is_published_goes_on(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_in(workspace, f"workspace={tmp_path}")
    places = {"input": str(workspace / "set"), "output": str(tmp_path / "model")}
    with monkeypatch.context() as patched:
        patched.setattr("sparton.pipeline.stage.write_record", dying)
        with pytest.raises(KeyboardInterrupt):
            pipeline.cluster(settings, **places)
    assert not (tmp_path / "model").exists()
    assert [path for path in (tmp_path / "checkpoints").iterdir() if not path.name.startswith(".")]
    caplog.clear()
    with caplog.at_level("INFO"):
        pipeline.cluster(settings, **places)
    assert "cluster: done" in caplog.text
    assert "epoch 1/4" not in caplog.text  # nothing was trained again
    assert np.array_equal(centroids(tmp_path / "model"), centroids(workspace / "model"))
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if not path.name.startswith(".")]


def dying(*arguments: Any) -> None:
    raise KeyboardInterrupt

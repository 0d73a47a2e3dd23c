"""The stages in order on real jets, and the same from the command line and through spark-submit."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton import pipeline, storage
from sparton.config import load_config
from sparton.errors import DataError
from sparton.pipeline import PipelineSettings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]
JETS_PER_PROCESS = 200
SMALL = [
    "generate.processes=[W, t]",
    f"generate.jets_per_process={JETS_PER_PROCESS}",
    "generate.jets_per_task=100",
    "prepare.rows_per_shard=64",
    "prepare.features.n_particles=24",
    "train.pretrain_epochs=2",
    "train.joint_epochs=1",
    "train.batch_size=64",
    "model.n_clusters=2",
    "model.attention=[4, 8]",
    "model.first_block=[16, 16]",
    "model.second_block=[16]",
    "model.head=[16]",
]


def settings_in(workspace: Path, *overrides: str) -> PipelineSettings:
    return load_config(PipelineSettings, None, [*SMALL, f"workspace={workspace}", *overrides])


def sparton(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    command = [str(Path(sys.executable).parent / "sparton"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def release_zip(folder: Path) -> Path:
    """Build the zip for ``--py-files`` as the release does."""
    spec = importlib.util.spec_from_file_location("package", ROOT / "tools" / "package.py")
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return Path(package.write_zip(ROOT, folder))


@pytest.fixture(scope="module")
def workspace(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which all five stages ran, training in this process; its name looks like a pattern."""
    folder = tmp_path_factory.mktemp("workspace") / "run [1] {a,b} 50%20#"
    folder.mkdir()
    pipeline.run(settings_in(folder))
    return folder


def test_every_stage_is_skipped_the_second_time(workspace: Path) -> None:
    results = pipeline.run(settings_in(workspace))
    assert [result.stage for result in results] == ["generate", "prepare", "train", "assign", "evaluate"]
    assert all(result.skipped for result in results)


def test_checkpoints_are_gone_after_success(workspace: Path) -> None:
    assert storage.list_folders(str(workspace / "checkpoints")) == []


def test_every_jet_is_assigned_once(workspace: Path) -> None:
    prepared = pq.read_table(workspace / "set", columns=["jet_id"])["jet_id"].to_numpy()
    table = pq.read_table(workspace / "assignments")
    np.testing.assert_array_equal(np.sort(table["jet_id"].to_numpy()), np.sort(prepared))
    distance = np.stack(table["distance"].to_numpy())
    np.testing.assert_array_equal(table["cluster"].to_numpy(), distance.argmin(axis=1))
    np.testing.assert_array_equal(table["score"].to_numpy(), distance.min(axis=1))


def test_assignment_on_executors_equals_the_driver(workspace: Path) -> None:
    from sparton.ml.ucluster import decode
    from sparton.ucluster import bundle, predict

    loaded = bundle.load(str(workspace / "model"))
    rows = pq.read_table(workspace / "set").sort_by("jet_id")
    shape = (loaded.feature_spec.n_particles, len(loaded.feature_names))
    tensors = decode(rows["features"].combine_chunks(), shape, "features")
    embedding, distance, cluster = predict.assign(loaded, tensors, rows["n_particles"].to_numpy())
    found = pq.read_table(workspace / "assignments").to_pandas().sort_values("jet_id")
    np.testing.assert_allclose(np.stack(found["embedding"]), embedding, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.stack(found["distance"]), distance, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["cluster"].to_numpy(), cluster)


def test_tensors_that_have_no_embedding_are_an_error(workspace: Path, spark: SparkSession) -> None:
    from sparton.ml.ucluster import UClusterModel, append_clusters

    model = UClusterModel.from_bundle(str(workspace / "model"))
    rows = pq.read_table(workspace / "set", columns=["features", "n_particles"]).slice(0, 3)
    (batch,) = rows.combine_chunks().to_batches()
    assert append_clusters(batch, model.bundle, "features", "n_particles", 2).schema.names[2:] == [
        "cluster", "distance", "score", "embedding",
    ]  # fmt: skip
    broken = np.frombuffer(batch.column("features")[1].as_py(), np.float32).copy()
    broken[0] = np.nan
    others = [row.as_py() for row in batch.column("features")][:2]
    column = pa.array([*others, broken.tobytes()], pa.binary())
    batch = pa.RecordBatch.from_arrays([column, batch.column("n_particles")], names=["features", "n_particles"])
    with pytest.raises(DataError, match="column features: 1 of 3 tensors have no finite embedding"):
        append_clusters(batch, model.bundle, "features", "n_particles", 2)
    for kinds, message in (
        ("array(1.0F) AS features, 1 AS n_particles", "column features: type array<float>, expected binary"),
        ("binary('a') AS features, '1' AS n_particles", "column n_particles: type string, expected an integer"),
    ):
        with pytest.raises(DataError, match=message):
            model.transform(spark.sql(f"SELECT {kinds}"))


def test_a_jets_table_is_assigned_like_its_training_set(workspace: Path, tmp_path: Path) -> None:
    settings = settings_in(workspace)
    pipeline.assign(settings, input=str(workspace / "jets"), output=str(tmp_path / "direct"))
    direct = pq.read_table(tmp_path / "direct").to_pandas().set_index("jet_id")
    assert len(direct) == 2 * JETS_PER_PROCESS
    through_set = pq.read_table(workspace / "assignments").to_pandas().set_index("jet_id")
    shared = direct.loc[through_set.index]
    np.testing.assert_allclose(np.stack(shared["embedding"]), np.stack(through_set["embedding"]), rtol=1e-5, atol=1e-5)


def test_metrics_agree_with_scikit_learn(workspace: Path) -> None:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    metrics = json.loads((workspace / "report" / "metrics.json").read_text())
    jets = pq.read_table(workspace / "set", filters=[("split", "=", "test")]).to_pandas()
    joined = jets.merge(pq.read_table(workspace / "assignments").to_pandas(), on="jet_id")
    assert metrics["rows"] == len(jets) == len(joined)
    found = metrics["labels"]
    assert found["adjusted_rand_index"] == pytest.approx(adjusted_rand_score(joined["label"], joined["cluster"]))
    assert found["normalized_mutual_information"] == pytest.approx(
        normalized_mutual_info_score(joined["label"], joined["cluster"])
    )
    hits = [((joined["cluster"] == c) == (joined["label"] == "W")).mean() for c in (0, 1)]
    assert found["accuracy"] == pytest.approx(max(hits))


def test_report_is_self_contained(workspace: Path) -> None:
    page = (workspace / "report" / "report.html").read_text()
    assert "data:image" in page
    for reference in ("src='http", 'src="http', "href='http", "<script src", "<link"):
        assert reference not in page


def test_without_labels_the_label_free_part_remains(spark: SparkSession, workspace: Path, tmp_path: Path) -> None:
    from pyspark.sql import functions as F

    unlabelled = str(tmp_path / "jets")
    jets = spark.read.parquet(storage.spark_source(str(workspace / "jets")))
    jets.withColumn("label", F.lit(None).cast("string")).write.parquet(unlabelled)
    settings = settings_in(tmp_path / "w")
    pipeline.prepare(settings, input=unlabelled)
    pipeline.assign(settings, model=str(workspace / "model"))
    pipeline.evaluate(settings, model=str(workspace / "model"))
    metrics = json.loads((tmp_path / "w" / "report" / "metrics.json").read_text())
    assert metrics["labels"] is None
    assert sum(metrics["clusters"]["sizes"]) == metrics["rows"]


def test_generation_leaves_its_settings_with_the_table(workspace: Path) -> None:
    metadata = storage.read_json(str(workspace / "jets" / "_generation.json"))
    assert metadata["seed"] == settings_in(workspace).generate.seed
    assert metadata["versions"]["pythia8mc"]
    assert set(metadata["commands"]) == {"W", "t"}
    for file in (workspace / "jets").glob("*.parquet"):
        footer = json.loads(pq.read_schema(file).metadata[b"org.apache.spark.sql.parquet.row.metadata"])
        assert json.loads(footer["fields"][0]["metadata"]["generation"]) == metadata


def test_an_error_on_an_executor_arrives_as_one_line(spark: SparkSession, tmp_path: Path) -> None:
    from sparton.errors import DataError

    settings = settings_in(tmp_path, "generate.pt_min=1005", "generate.pt_max=1005.001")
    with pytest.raises(DataError) as caught:
        pipeline.generate(settings)
    assert len(str(caught.value).splitlines()) == 1
    assert "pt_min" in str(caught.value) or "1005" in str(caught.value)
    assert not (tmp_path / "jets").exists()


def test_info_finds_a_changed_byte(workspace: Path, tmp_path: Path) -> None:
    for folder in ("jets", "set", "model", "assignments", "report"):
        assert pipeline.info(str(workspace / folder), verify=True).problems == []
    copy = tmp_path / "set"
    shutil.copytree(workspace / "set", copy)
    shard = next(copy.rglob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    problems = pipeline.info(str(copy), verify=True).problems
    assert problems
    assert all(str(shard) in problem for problem in problems)


def test_model_persists_as_spark_ml_does(spark: SparkSession, workspace: Path, tmp_path: Path) -> None:
    from sparton.ml.ucluster import UClusterModel

    model = UClusterModel.from_bundle(str(workspace / "model")).setBatchSize(17)
    model.write().overwrite().save(str(tmp_path / "saved"))
    loaded = UClusterModel.load(str(tmp_path / "saved"))
    assert loaded.uid == model.uid
    assert loaded.getOrDefault("batchSize") == 17
    rows = spark.read.parquet(storage.spark_source(str(workspace / "set"))).where("split = 'test'")
    first = model.transform(rows).select("jet_id", "cluster").orderBy("jet_id").collect()
    second = loaded.copy().transform(rows).select("jet_id", "cluster").orderBy("jet_id").collect()
    assert first == second


def test_assignments_of_another_set_are_refused(workspace: Path, tmp_path: Path) -> None:
    from sparton.errors import DataError

    settings = settings_in(tmp_path, "prepare.labels=[W]")
    pipeline.prepare(settings, input=str(workspace / "jets"))
    pipeline.assign(settings, model=str(workspace / "model"))
    with pytest.raises(DataError, match="assign this set again"):
        pipeline.evaluate(
            settings,
            table=str(workspace / "set"),
            model=str(workspace / "model"),
        )


def test_a_set_with_other_features_is_refused(workspace: Path, tmp_path: Path) -> None:
    from sparton.errors import DataError

    settings = settings_in(tmp_path, "prepare.features.n_particles=30")
    pipeline.prepare(settings, input=str(workspace / "jets"))
    with pytest.raises(DataError, match="particles 30"):
        pipeline.assign(settings, model=str(workspace / "model"))
    assert not (tmp_path / "assignments").exists()


def test_two_horovod_workers_from_the_command_line(workspace: Path, tmp_path: Path) -> None:
    overrides = [argument for override in SMALL for argument in ("--set", override)]
    common = ["--workspace", str(tmp_path), "--master", "local[2]", "--workers", "2", *overrides]
    ended = sparton("train", "--input", str(workspace / "set"), *common)
    assert ended.returncode == 0, ended.stderr
    assert trained_by(tmp_path / "model") == 2
    assert trained_by(workspace / "model") == 1
    again = sparton("train", "--input", str(workspace / "set"), *common)
    assert again.returncode == 0, again.stderr
    assert "up to date" in again.stdout


def environment_without_the_project(folder: Path) -> Path:
    """Make a virtual environment of the installed packages, but not of this project; return its Python.

    The same Python is there under the name ``driver`` too, to tell which process runs which.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if "sparton" not in entry.name:
                (packages / entry.name).symlink_to(entry)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder / "pyvenv.cfg")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    for name in (python, python.with_name("driver")):
        name.symlink_to(Path(sys.executable).resolve())
    return python


SUBMITTED = """
import json, runpy, sys
from sparton.pipeline.session import SparkSettings, spark_session

def place(_):
    import os, sparton
    return os.path.abspath(sparton.__file__)

spark = spark_session(SparkSettings(), "submitted")
places, *jobs = json.loads(sys.argv[1])
with open(places, "w") as file:
    json.dump(spark.sparkContext.parallelize(range(4), 4).map(place).collect(), file)
for job, *arguments in jobs:
    sys.argv = [job, *arguments]
    try:
        runpy.run_path(job, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""
"""What the driver runs: executors say where they import the project from, then come the jobs' own files."""


def test_spark_submit_with_the_zip_on_separate_executors(workspace: Path, tmp_path: Path) -> None:
    """The zip is all that driver, executors and Horovod workers have of the project, in processes of their own."""
    package = release_zip(tmp_path)
    python = environment_without_the_project(tmp_path / "environment")
    isolated = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    isolated |= {"PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": str(python.with_name("driver"))}
    missing = subprocess.run(
        [python, "-c", "import sparton"], capture_output=True, text=True, env=isolated, check=False
    )
    assert "No module named 'sparton'" in missing.stderr

    places = tmp_path / "places.json"
    folders = ["--workspace", str(tmp_path / "w"), "--input", str(workspace / "set")]
    launch = ["launch.workers=2", "launch.start_timeout_s=240", "launch.all_ranks_log=true"]
    training = [argument for override in (*SMALL, *launch) for argument in ("--set", override)]
    jobs = [
        [str(ROOT / "jobs" / "assign_clusters.py"), *folders, "--model", str(workspace / "model")],
        [str(ROOT / "jobs" / "train_ucluster.py"), *folders, *training, "--verbose"],
    ]
    script = tmp_path / "submitted.py"
    script.write_text(SUBMITTED)
    ended = subprocess.run(
        [
            str(Path(sys.executable).parent / "spark-submit"),
            "--master", "local-cluster[2,1,1024]", "--py-files", str(package),
            "--conf", "spark.driver.bindAddress=127.0.0.1", "--conf", "spark.driver.host=127.0.0.1",
            str(script), json.dumps([str(places), *jobs]),
        ],
        capture_output=True, text=True, timeout=500, env=isolated, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]

    inside = f"/{package.name}/sparton/__init__.py"
    on_executors = json.loads(places.read_text())
    assert all(place.endswith(inside) and not place.startswith(str(tmp_path)) for place in on_executors)
    workers = re.findall(r"rank (\d): (\S+) imports (\S+)", ended.stdout)  # spark-submit merges both streams
    assert sorted(workers) == [(str(rank), str(python), place) for rank, place in enumerate(on_workers(workers))]
    assert len(set(on_workers(workers))) == 2  # each executor has a copy of its own
    assert set(on_executors) <= set(on_workers(workers))

    found = pq.read_table(tmp_path / "w" / "assignments").to_pandas().sort_values("jet_id")
    expected = pq.read_table(workspace / "assignments").to_pandas().sort_values("jet_id")
    np.testing.assert_array_equal(found["cluster"].to_numpy(), expected["cluster"].to_numpy())
    assert trained_by(tmp_path / "w" / "model") == 2


def on_workers(logged: list[tuple[str, str, str]]) -> list[str]:
    """Where the Horovod workers import the project from, in the order of ranks."""
    return [place for _, _, place in sorted(logged)]


def trained_by(model: Path) -> int:
    """The size of the world as rank 0 found it, out of a bundle."""
    return int(json.loads((model / "model.json").read_text())["training"]["workers"])

"""The published mode through the stages, on real Spark: trained here, and imported from a checkpoint."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from benchmarks.parts.published_oracle import Arrays, Oracle, Shape, random_weights
from sparton import pipeline, storage
from sparton.cli import main
from sparton.config import load_config
from sparton.data.featurize import decode_features
from sparton.errors import ConfigError, DataError
from sparton.pipeline import PipelineSettings
from sparton.ucluster import bundle
from tests.synthetic import jets_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]
JETS = 400
NARROW = Shape(attention=(4, 6), first=(5, 7), second=(8, 9), head=(6, 5))
SHORT = [
    "prepare.rows_per_shard=64",
    "model.attention=[4, 6]",
    "model.first_block=[5, 7]",
    "model.second_block=[8, 9]",
    "model.head=[6, 5]",
    "train.batch_size=64",
    "train.pretrain_epochs=2",
    "train.joint_epochs=2",
    "train.halving_samples=512",
]


def settings_in(workspace: Path, *overrides: str) -> PipelineSettings:
    published = ROOT / "conf" / "ucluster_published.yaml"
    return load_config(PipelineSettings, published, [*SHORT, f"workspace={workspace}", *overrides])


@pytest.fixture(scope="module")
def workspace(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which jets went through all stages of the published configuration."""
    folder = tmp_path_factory.mktemp("published")
    pq.write_table(jets_table(JETS, seed=3), _made(folder / "jets") / "jets.parquet")
    settings = settings_in(folder)
    for stage in (pipeline.prepare, pipeline.train, pipeline.assign, pipeline.evaluate):
        stage(settings)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Arrays]:
    """A checkpoint as the published code writes one, of a narrow network, and its tensors."""
    arrays = random_weights(NARROW, seed=6)
    prefix = str(tmp_path_factory.mktemp("logs") / "cluster.ckpt")
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names],
    )
    return prefix, arrays


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_trained_bundle_is_published_mode(workspace: Path) -> None:
    description = bundle.read_description(str(workspace / "model"))
    assert description.model.network == "published"
    assert description.inputs.feature_mean == (0.0,) * 8
    assert description.inputs.feature_std == (1.0,) * 8
    with open(workspace / "model" / "training_curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["pretrain", "pretrain", "joint", "joint"]
    assert [row["alpha"] for row in rows] == ["", "", "10.0", "900.0"]
    steps = int(rows[0]["step"])
    last = [(epoch + 1) * steps - 1 for epoch in range(4)]
    expected = [max(1e-3 * 0.5 ** (step * 64 // 512), 1e-5) for step in last]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(expected)
    assert float(rows[1]["train_focal"]) < float(rows[0]["train_focal"])


def test_every_jet_is_assigned_and_evaluated(workspace: Path) -> None:
    table = pq.read_table(workspace / "assignments")
    prepared = pq.read_table(workspace / "set", columns=["jet_id"])["jet_id"].to_numpy()
    np.testing.assert_array_equal(np.sort(table["jet_id"].to_numpy()), np.sort(prepared))
    embedding = np.stack(table["embedding"].to_numpy())
    assert embedding.shape[1] == 3
    assert (embedding >= 0).all()
    metrics = json.loads((workspace / "report" / "metrics.json").read_text())
    assert metrics["labels"]["accuracy"] > 0
    assert pipeline.train(settings_in(workspace)).skipped


def test_imported_checkpoint_is_assigned_and_evaluated(
    workspace: Path, checkpoint: tuple[str, Arrays], tmp_path: Path
) -> None:
    """The embedding on the executors is that of the formulas with the checkpoint's weights."""
    prefix, arrays = checkpoint
    common = [argument for override in SHORT for argument in ("--set", override)]
    common += ["--config", str(ROOT / "conf" / "ucluster_published.yaml"), "--workspace", str(tmp_path)]
    assert main(["import-checkpoint", "--checkpoint", prefix, "--output", str(tmp_path / "model"), *common]) == 0
    assert main(["assign", "--input", str(workspace / "set"), *common]) == 0
    assert main(["evaluate", "--table", str(workspace / "set"), *common]) == 0
    assert (tmp_path / "report" / "report.html").exists()

    rows = pq.read_table(workspace / "set", columns=["jet_id", "features"]).combine_chunks().sort_by("jet_id")
    features = decode_features(rows["features"].combine_chunks(), 100, 8)
    expected = np.asarray(Oracle.of(arrays, NARROW)(features)[0])
    assigned = pq.read_table(tmp_path / "assignments").sort_by("jet_id")
    difference = np.abs(np.stack(assigned["embedding"].to_numpy()) - expected).max(axis=1)
    assert np.quantile(difference, 0.99) < 1e-5  # but where rounding decides who is a neighbour


def test_training_goes_on_from_an_imported_bundle(
    workspace: Path, checkpoint: tuple[str, Arrays], tmp_path: Path
) -> None:
    prefix, arrays = checkpoint
    start = tmp_path / "imported"
    pipeline.import_checkpoint(settings_in(tmp_path), checkpoint=prefix, output=str(start))
    further = ["train.pretrain_epochs=0", "train.joint_epochs=1", "train.learning_rate=1.0e-5"]
    data = str(workspace / "set")
    result = pipeline.train(settings_in(tmp_path, *further, f"train.start_from={start}"), input=data)
    steps = result.summary["steps"]
    loaded = bundle.load(str(tmp_path / "model"))
    assert [row.split(",")[1] for row in (tmp_path / "model" / "training_curve.csv").read_text().split()[1:]] == [
        "joint"
    ]
    # Adam moves no variable by more than a few learning rates in a step: those of the checkpoint are still there.
    found = {
        "mu": loaded.model.centroids,
        "agg/weights": loaded.model.aggregate.kernel,
        "fc3/weights": loaded.model.logits.kernel,
    }
    for name, variable in found.items():
        moved = np.abs(np.asarray(variable) - arrays[name].reshape(variable.shape))
        assert 0 < moved.max() < 5 * steps * 1e-5

    moved = tmp_path / "elsewhere"
    shutil.copytree(start, moved)
    assert pipeline.train(settings_in(tmp_path, *further, f"train.start_from={moved}"), input=data).skipped
    other = settings_in(tmp_path, *further, f"train.start_from={workspace / 'model'}")
    assert not pipeline.train(other, input=data).skipped


def test_bundle_of_another_network_or_input_is_refused(workspace: Path, tmp_path: Path) -> None:
    start = f"train.start_from={workspace / 'model'}"
    with pytest.raises(ConfigError, match=r"the bundle has model\.neighbours=10, the settings 8; make them equal"):
        pipeline.train(settings_in(tmp_path, start, "model.neighbours=8"), input=str(workspace / "set"))
    narrow = settings_in(tmp_path, start, "prepare.features.n_particles=30")
    pipeline.prepare(narrow, input=str(workspace / "jets"))
    with pytest.raises(ConfigError, match="the bundle reads n_particles 100, the training set has 30"):
        pipeline.train(narrow)
    with pytest.raises(DataError, match=r"particles 30; the bundle was trained on particles 100\. Prepare the set"):
        pipeline.assign(narrow, model=str(workspace / "model"))
    with pytest.raises(DataError, match="SHA256SUMS: no such file; expected a model bundle"):
        pipeline.train(settings_in(tmp_path, f"train.start_from={workspace / 'set'}"), input=str(workspace / "set"))
    assert main(["train", "--workspace", str(tmp_path), "--from-bundle", str(tmp_path / "none")]) == 2
    assert not storage.exists(str(tmp_path / "model"))

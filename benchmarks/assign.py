"""Assignment of jets to clusters: Spark on one and two cores against the network alone in one process on one core.

The network has the published widths and random weights, which cost what trained ones cost; the jets have 100 slots.
Spark's rate includes reading the set, the way to the Python workers and back, and the distances and embeddings that
come with each cluster; each core has a worker with one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from parts.contest import Contestant, Line, compete, memory_bandwidth, save, show
from parts.spark import pin, session_on
from sparton.data.featurize import FeatureSpec, encode_features
from sparton.ml.ucluster import UClusterModel
from sparton.physics.features import ucluster_features
from sparton.ucluster import bundle, predict
from sparton.ucluster.networks import create
from sparton.ucluster.settings import PUBLISHED_SIZES, InputSpec, ModelSettings
from tests.synthetic import random_jets

RESULTS = Path(__file__).parent / "results"
SLOTS = 100
MEAN_CONSTITUENTS = 54  # of generated W, Z and top jets without underlying event
JETS_PER_FILE = 4096
WARM_UP_ROWS = 256
GOAL = ">= 0.8 a core"


def main(arguments: list[str] | None = None) -> int:
    """Run the contest and print its table."""
    options = _options(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    bandwidth = memory_bandwidth()
    title = f"assign: {os.cpu_count()} cores, one core copies memory at {bandwidth / 1e9:.1f} GB/s"
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        lines = contest_assign(Path(folder), options.files, options.rounds, bandwidth)
    show(lines, title)
    if options.save:
        save(lines, title, str(RESULTS / "assign"))
    return 0


def contest_assign(folder: Path, files: int, rounds: int, bandwidth: float) -> list[Line]:
    """Assign the jets of so many files."""
    table = folder / "set"
    features, n_particles = _write_jets(table, files)
    _write_bundle(str(folder / "bundle"), features, n_particles)
    loaded = bundle.load(str(folder / "bundle"))
    rows, size = len(features), features.nbytes
    contestants = [
        Contestant(
            "predict.assign in one process, one core",
            lambda: predict.assign(loaded, features, n_particles),
            rows,
            size,
            "reference; arrays in memory",
            lambda: pin(1),
        ),
        *(_on_spark(folder, cores, rows, size) for cores in (1, 2)),
    ]
    goals = {_name(1): GOAL, _name(2): f"{GOAL}: 1.6"}
    return compete("assign", contestants, rounds, bandwidth, goals)


def _name(cores: int) -> str:
    return f"UClusterModel.transform, {cores} core{'s' if cores > 1 else ''}"


def _on_spark(folder: Path, cores: int, rows: int, size: int) -> Contestant:
    def call(limit: int | None = None) -> None:
        session = session_on(folder, cores)
        jets = session.read.parquet(str(folder / "set"))
        if limit is not None:
            jets = jets.limit(limit).repartition(2 * cores)
        model = UClusterModel.from_bundle(str(folder / "bundle"))
        model.transform(jets).write.format("noop").mode("overwrite").save()

    def start() -> None:
        """Start Spark, its Python workers and TensorFlow in them, which is not what is measured."""
        session_on(folder, cores, fresh=True)
        pin(cores)
        call(WARM_UP_ROWS)

    return Contestant(_name(cores), call, rows, size, "Parquet to clusters, distances and embeddings", start)


def _write_jets(folder: Path, files: int) -> tuple[Any, Any]:
    """Write training rows; return their tensors and numbers of particles."""
    folder.mkdir()
    parts = []
    for number in range(files):
        jets, _ = random_jets(JETS_PER_FILE, seed=number, mean_constituents=MEAN_CONSTITUENTS)
        features, n_real = ucluster_features(jets, SLOTS)
        table = pa.table({"features": encode_features(features), "n_particles": n_real})
        pq.write_table(table, folder / f"part-{number:03d}.parquet")
        parts.append((features, n_real))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _write_bundle(folder: str, features: Any, n_particles: Any) -> None:
    spec, settings = FeatureSpec(n_particles=SLOTS), ModelSettings(**PUBLISHED_SIZES | {"jet_block": (64,)})
    real = features[np.arange(SLOTS) < n_particles[:, None]]
    inputs = InputSpec(
        feature_names=spec.feature_names,
        feature_mean=tuple(real.mean(axis=0).tolist()),
        feature_std=tuple(real.std(axis=0).tolist()),
        n_particles=SLOTS,
        mass_bin_edges=spec.mass_bin_edges,
    )
    model = create(settings, inputs)
    centroids = tuple(map(tuple, np.eye(settings.n_clusters, settings.embedding).tolist()))
    model.centroids.assign(centroids)
    description = bundle.Description(
        format=bundle.FORMAT, model=settings, inputs=inputs, centroids=centroids, training={}, versions={}
    )
    bundle.save(folder, model, description, {}, "")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20, help=f"files of {JETS_PER_FILE} jets")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each contestant")
    parser.add_argument("--folder", help="where temporary data go; by default where the system keeps such")
    parser.add_argument("--save", action="store_true", help=f"keep the table in {RESULTS.name}/assign.md and .json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""One training step and one inference of UCluster against the published layers written out plainly, side by side.

All read the same jets, in turns, so that whatever else the machine does hits all of them. Ratios are over the oracle,
``parts/published_oracle.py``. The floor is what the multiplications of the dense layers alone would take at the rate at
which TensorFlow multiplies matrices on this machine. Bytes are what the method has to move, as ``parts/costs.py``
counts them, beside the rate at which all cores copy memory; rows of edges come from a core's cache where a program
keeps a jet together, so their share of the memory's bandwidth need not be the memory's load.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from parts.contest import moved_bandwidth
from parts.costs import TRAINING_FACTOR, Traffic, node_flops, node_traffic, oracle_flops
from parts.published_oracle import PUBLISHED, Oracle, focal_loss, random_weights
from sparton import storage
from sparton.data.featurize import FeatureSpec
from sparton.distributed.collectives import LocalCollectives
from sparton.distributed.world import Connection, World
from sparton.physics.features import mass_bins, ucluster_features
from sparton.ucluster.backend import portable
from sparton.ucluster.networks import create
from sparton.ucluster.settings import PUBLISHED_SIZES, InputSpec, ModelSettings, TrainSettings
from sparton.ucluster.step import Schedule, TrainStep
from tests.synthetic import random_jets

RESULTS = Path(__file__).parent / "results"
SLOTS = 100
MEAN_CONSTITUENTS = 54  # of generated W, Z and top jets without underlying event
GEMM = (25_000, 256, 256)  # the network's largest product at batch 512
FLOAT_BYTES = 4
PUBLISHED_GRAPH = {"training": 111.0, "inference": 344.0}
"""Jets/s of the published graph itself (TensorFlow 1) on an idle machine of two such cores, the upper ends of what was
measured; goals refer to these or to the oracle, whichever is faster."""

SCHEDULE = Schedule(1e-3, 0.9, 10.0, 0.1)

Batch = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Entry:
    """Who takes part: ``run`` a batch; a jet's ``flops`` in products and bytes of ``traffic``; the project's goal."""

    task: str
    name: str
    run: Callable[[Batch], Any]
    flops: float
    traffic: Traffic
    goal: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Run all contestants in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=512, help="jets of a batch")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each contestant, after one that is not")
    parser.add_argument("--save", action="store_true", help=f"keep the table in {RESULTS.name}/ucluster_step.json")
    options = parser.parse_args(arguments)
    spec = FeatureSpec(n_particles=SLOTS)
    batches = [_batch(spec, options.batch_size, seed) for seed in range(2)]
    rate, bandwidth = gemm_rate(), moved_bandwidth()
    entries = _entries(spec, batches)
    seconds: dict[int, list[float]] = {index: [] for index in range(len(entries))}
    for turn in range(options.rounds + 1):
        for index, entry in enumerate(entries):
            for batch in batches:
                started = time.perf_counter()
                np.asarray(entry.run(batch))
                if turn:
                    seconds[index].append(time.perf_counter() - started)
    rows = [_row(entry, seconds[index], options.batch_size, rate, bandwidth) for index, entry in enumerate(entries)]
    _compare(rows)
    title = (
        f"{os.cpu_count()} cores, GEMM {rate / 1e9:.0f} GFLOP/s, copies read and write {bandwidth / 1e9:.1f} GB/s, "
        f"batch {options.batch_size}, {SLOTS} slots, {_mean(batches):.1f} particles a jet"
    )
    _show(rows, title)
    if options.save:
        storage.make_dirs(str(RESULTS))
        storage.write_json(
            str(RESULTS / "ucluster_step.json"),
            {"title": title, "gemm_rate": rate, "bandwidth": bandwidth, "rows": rows},
        )
    return 0


def gemm_rate() -> float:
    """Return the FLOP/s of TensorFlow's matrix product at the size of the network's largest layer."""
    rows, inner, columns = GEMM
    left, right = tf.random.normal((rows, inner)), tf.random.normal((inner, columns))
    product = tf.function(tf.matmul)
    times = []
    for _ in range(12):
        started = time.perf_counter()
        product(left, right).numpy()
        times.append(time.perf_counter() - started)
    return 2 * math.prod(GEMM) / statistics.median(times)


def _entries(spec: FeatureSpec, batches: list[Batch]) -> list[Entry]:
    features = len(spec.feature_names)
    default, published = ModelSettings(), ModelSettings(network="published")
    wide = ModelSettings(**PUBLISHED_SIZES | {"jet_block": default.jet_block})
    inputs = InputSpec(
        feature_names=spec.feature_names,
        feature_mean=(0.0,) * features,
        feature_std=(1.0,) * features,
        n_particles=SLOTS,
        mass_bin_edges=spec.mass_bin_edges,
    )
    oracle = Oracle.of(random_weights(PUBLISHED))
    particles = _mean(batches)
    # The empty slots of a jet are equal, and computed once.
    slots = float(np.mean([np.minimum(batch["n_particles"] + 1, SLOTS) for batch in batches]))
    plain = SLOTS * oracle_flops(published, features)

    def moved(settings: ModelSettings, rows: float, task: str) -> Traffic:
        return node_traffic(settings, features, task == "training").times(FLOAT_BYTES * rows)

    both: list[Callable[[], Any]] = [contextlib.nullcontext, portable]
    entries = []
    for task, factor, make in (("training", TRAINING_FACTOR, _trainer), ("inference", 1, _inference)):
        run = _oracle_step(oracle) if task == "training" else _oracle_inference(oracle)
        least = moved(published, SLOTS, task)
        entries.append(Entry(task, "oracle: published layers, edge by edge", run, factor * plain, least))
        for name, settings, goal, rows in (
            ("published", published, ">= 4", slots),
            ("default", default, ">= 8", particles),
            ("default of published widths", wide, "", particles),
        ):
            flops, traffic = factor * rows * node_flops(settings, features), moved(settings, rows, task)
            for where, context in zip(("compiled kernels", "any backend"), both, strict=True):
                entries.append(Entry(task, f"{name}, {where}", make(settings, inputs, context), flops, traffic, goal))
    return entries


def _trainer(settings: ModelSettings, inputs: InputSpec, context: Callable[[], Any]) -> Callable[[Batch], Any]:
    network = create(settings, inputs, 1)
    step = TrainStep(Connection(World(), LocalCollectives()), network, TrainSettings())

    def run(batch: Batch) -> Any:
        with context():
            return step(batch, SCHEDULE).total

    return run


def _inference(settings: ModelSettings, inputs: InputSpec, context: Callable[[], Any]) -> Callable[[Batch], Any]:
    network = create(settings, inputs, 1)
    shapes = [tf.TensorSpec((None, SLOTS, inputs.n_features)), tf.TensorSpec((None,), tf.int32)]
    embed = tf.function(lambda features, counts: network(features, counts).embedding, input_signature=shapes)

    def run(batch: Batch) -> Any:
        with context():
            return embed(batch["features"], batch["n_particles"])

    return run


def _oracle_step(oracle: Oracle) -> Callable[[Batch], Any]:
    variables = list(oracle.trainable.values())
    optimiser = tf.keras.optimizers.Adam(1e-3)
    optimiser.build(variables)

    @tf.function
    def step(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            _, logits = oracle(features, training=True)
            loss = tf.reduce_mean(focal_loss(logits, target))
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        optimiser.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    return lambda batch: step(batch["features"], batch["target"])


def _oracle_inference(oracle: Oracle) -> Callable[[Batch], Any]:
    embed = tf.function(lambda features: oracle(features)[0])
    return lambda batch: embed(batch["features"])


def _batch(spec: FeatureSpec, size: int, seed: int) -> Batch:
    jets, _ = random_jets(size, seed=seed, mean_constituents=MEAN_CONSTITUENTS)
    features, counts = ucluster_features(jets, spec.n_particles)
    return {
        "features": tf.constant(features),
        "n_particles": tf.constant(counts, tf.int32),
        "target": tf.constant(mass_bins(jets.jet_mass, spec.mass_bin_edges), tf.int32),
        "weight": tf.ones(size),
    }


def _mean(batches: list[Batch]) -> float:
    return float(np.mean([np.mean(batch["n_particles"]) for batch in batches]))


def _row(entry: Entry, seconds: list[float], size: int, rate: float, bandwidth: float) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "task": entry.task,
        "name": entry.name,
        "jets_per_second": size / median,
        "best": size / min(seconds),
        "goal": entry.goal,
        "mflop": entry.flops / 1e6,
        "floor_jets_per_second": rate / entry.flops,
        "of_gemm_rate": size / median * entry.flops / rate,
        "mb": entry.traffic.total / 1e6,
        "mb_of_edges": entry.traffic.edges / 1e6,
        "of_bandwidth": size / median * entry.traffic.total / bandwidth,
    }


def _compare(rows: list[dict[str, Any]]) -> None:
    oracle = {row["task"]: row["jets_per_second"] for row in reversed(rows) if row["name"].startswith("oracle")}
    for row in rows:
        row["ratio"] = row["jets_per_second"] / oracle[row["task"]]
        row["judged"] = row["jets_per_second"] / max(oracle[row["task"]], PUBLISHED_GRAPH[row["task"]])


def _show(rows: list[dict[str, Any]], title: str) -> None:
    headings = (
        "what",
        "jets/s (median)",
        "(best)",
        "over the oracle",
        "over the faster reference",
        "goal",
        "MFLOP/jet",
        "floor, jets/s",
        "of GEMM rate",
        "MB/jet",
        "of them edges",
        "of bandwidth",
    )
    table = Table(*headings, title=title)
    for previous, row in zip((None, *rows), rows, strict=False):
        if previous is None or previous["task"] != row["task"]:
            table.add_section()
            table.add_row(f"[bold]{row['task']}[/bold]")
        table.add_row(
            row["name"],
            f"{row['jets_per_second']:,.0f}",
            f"{row['best']:,.0f}",
            f"{row['ratio']:.1f}",
            f"{row['judged']:.1f}",
            row["goal"],
            f"{row['mflop']:.1f}",
            f"{row['floor_jets_per_second']:,.0f}",
            f"{row['of_gemm_rate']:.2f}",
            f"{row['mb']:.2f}",
            f"{row['mb_of_edges']:.2f}",
            f"{row['of_bandwidth']:.2f}",
        )
    Console(width=180).print(table)


if __name__ == "__main__":
    sys.exit(main())

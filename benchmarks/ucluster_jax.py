"""One training step and one inference of the default network under JAX, compiled, on whatever device JAX has.

    KERAS_BACKEND=jax PYTHONPATH=lib python benchmarks/ucluster_jax.py

needs JAX, Keras, NumPy, pydantic and PyYAML, and neither TensorFlow nor Spark: it measures on a GPU machine that has no
more. The jets are random; what is computed does not depend on where particles lie. A step is forward, the losses of the
joint phase, gradients and Adam, by one process. Compiling, and moving batches to the device, are not timed.

FLOP and bytes a jet are those of the method (``parts/costs.py``); beside them stand the device's rate of matrix
products in the same precision, and the rate at which a kernel reads and writes its memory.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from parts.costs import TRAINING_FACTOR, node_flops, node_traffic
from sparton.physics.features import FEATURE_NAMES
from sparton.ucluster.losses import clustering, focal, occupation_divergence, soft_assignments, squared_distances
from sparton.ucluster.networks import create
from sparton.ucluster.normalisation import BatchContext
from sparton.ucluster.settings import PUBLISHED_SIZES, InputSpec, ModelSettings, Precision

RESULTS = Path(__file__).parent / "results"
WIDTHS = {
    "default": ModelSettings(),
    "published": ModelSettings(**PUBLISHED_SIZES | {"jet_block": ModelSettings().jet_block}),
}
ITEM_BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
BINS = 20
BATCHES = 2
NODES = 256
"""Nodes of a batch are rounded up to a multiple of this, so that few shapes are compiled."""

GEMM_ROWS, GEMM_WIDTH = 65_536, 256
COPIED_VALUES = 1 << 26  # 256 MiB in float32
REPEATS = 8

ALPHA, BETA, MOMENTUM, GAMMA = 10.0, 0.1, 0.9, 4.0

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Measure each precision and print one table."""
    options = _options(arguments)
    if keras.backend.backend() != "jax":
        raise SystemExit(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax")
    device = jax.devices()[0]
    bandwidth = copy_bandwidth()
    batches = [_batch(options, seed) for seed in range(BATCHES)]
    nodes = max(math.ceil(int(batch[1].sum()) / NODES) * NODES for batch in batches)
    print(
        f"{device.device_kind} ({device.platform}), JAX {jax.__version__}, a kernel moves {bandwidth / 1e9:.1f} "
        f"GB/s; {options.widths} widths, batch {options.batch_size}, {options.slots} slots, {nodes:,} nodes"
    )
    rows = []
    for precision in options.precision:
        rate = gemm_rate(precision)
        print(f"{precision}: products at {rate / 1e9:,.0f} GFLOP/s")
        for row in measure(options, precision, batches, nodes):
            row |= {"of_gemm_rate": row["jets_per_second"] * row["mflop"] * 1e6 / rate}
            row |= {"of_bandwidth": row["jets_per_second"] * row["mb"] * 1e6 / bandwidth, "gemm_rate": rate}
            rows.append(row)
            print(_line(row), flush=True)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        about = {"device": device.device_kind, "jax": jax.__version__, "bandwidth": bandwidth, "nodes": nodes}
        content = about | {name: getattr(options, name) for name in ("batch_size", "slots", "widths")} | {"rows": rows}
        (RESULTS / "ucluster_jax.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace, precision: Precision, batches: list[Any], nodes: int) -> list[Row]:
    """Return a row for inference and one for training."""
    settings, features = WIDTHS[options.widths], len(FEATURE_NAMES)
    inputs = InputSpec(
        feature_names=FEATURE_NAMES,
        feature_mean=(0.0,) * features,
        feature_std=(1.0,) * features,
        n_particles=options.slots,
        mass_bin_edges=tuple(range(BINS)),
    )
    model = create(settings, inputs, 1, precision)
    model.centroids.assign(np.random.default_rng(0).normal(size=model.centroids.shape))
    particles = float(np.mean([batch[1].sum() for batch in batches])) / options.batch_size
    rows = []
    for task, run in (("inference", inference(model, nodes)), ("training", training(model, nodes))):
        seconds, result = timed(run, batches, options.rounds)
        if not np.isfinite(result):
            raise SystemExit(f"{task} in {precision}: found {result}, expected a finite number")
        train = task == "training"
        traffic = node_traffic(settings, features, train).times(ITEM_BYTES[precision] * particles)
        flops = (TRAINING_FACTOR if train else 1) * particles * node_flops(settings, features)
        rows.append(
            {
                "task": task,
                "precision": precision,
                "particles": particles,
                "jets_per_second": options.batch_size / statistics.median(seconds),
                "best": options.batch_size / min(seconds),
                "mflop": flops / 1e6,
                "mb": traffic.total / 1e6,
                "mb_of_edges": traffic.edges / 1e6,
            }
        )
    return rows


def inference(model: Any, nodes: int) -> Callable[..., Any]:
    """Return what embeds a batch, and gives the mean of it."""
    trainable, fixed = _values(model.trainable_variables), _values(model.non_trainable_variables)

    @jax.jit
    def embed(trainable: Any, fixed: Any, features: Any, counts: Any) -> Any:
        return model.stateless_call(trainable, fixed, features, counts, nodes=nodes)[0].embedding

    return lambda features, counts, target: embed(trainable, fixed, features, counts).mean()


def training(model: Any, nodes: int) -> Callable[..., Any]:
    """Return what makes a step of training, and gives its loss."""
    optimiser = keras.optimizers.Adam(1e-3)
    optimiser.build(model.trainable_variables)
    centroids = next(i for i, variable in enumerate(model.trainable_variables) if variable is model.centroids)
    context = BatchContext(list, MOMENTUM)
    state = [_values(group) for group in (model.trainable_variables, model.non_trainable_variables)]
    state.append(_values(optimiser.variables))

    @jax.jit
    def step(trainable: Any, fixed: Any, slots: Any, features: Any, counts: Any, target: Any) -> Any:
        def loss(values: Any) -> Any:
            outputs, averages = model.stateless_call(values, fixed, features, counts, context=context, nodes=nodes)
            distances = squared_distances(outputs.embedding, values[centroids])
            shares = soft_assignments(distances, ALPHA)
            together = clustering(distances, shares).mean() + occupation_divergence(shares.mean(axis=0))
            return focal(outputs.logits, target, GAMMA, 1.0).mean() + BETA * together, averages

        (value, fixed), gradients = jax.value_and_grad(loss, has_aux=True)(trainable)
        trainable, slots = optimiser.stateless_apply(slots, gradients, trainable)
        return value, trainable, fixed, slots

    def run(features: Any, counts: Any, target: Any) -> Any:
        value, *state[:] = step(*state, features, counts, target)
        return value

    return run


def timed(run: Callable[..., Any], batches: list[Any], rounds: int) -> tuple[list[float], float]:
    """Return the seconds of each batch but those of the first round, which compiles, and the last result."""
    seconds, result = [], math.nan
    placed = [[jax.device_put(array) for array in batch] for batch in batches]
    for turn in range(rounds + 1):
        for batch in placed:
            started = time.perf_counter()
            result = float(jax.block_until_ready(run(*batch)))
            if turn:
                seconds.append(time.perf_counter() - started)
    return seconds, result


def gemm_rate(precision: Precision) -> float:
    """Return the FLOP/s of matrix products whose inner and outer width is that of the network's largest layer."""
    left, right = jnp.ones((GEMM_ROWS, GEMM_WIDTH), precision), jnp.ones((GEMM_WIDTH, GEMM_WIDTH), precision)
    return 2 * GEMM_ROWS * GEMM_WIDTH**2 / _seconds(jax.jit(jnp.matmul), left, right)


def copy_bandwidth() -> float:
    """Return the bytes/s that are read and written where every value of a large array changes its sign in place.

    In place, since fresh memory of a CPU costs more than what is written to it.
    """
    change = jax.jit(jnp.negative, donate_argnums=0)
    values = jax.block_until_ready(change(jnp.ones(COPIED_VALUES, "float32")))
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        values = jax.block_until_ready(change(values))
        times.append(time.perf_counter() - started)
    return 2 * values.nbytes / statistics.median(times)


def _seconds(run: Callable[..., Any], *values: Any) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(run(*values))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _batch(options: argparse.Namespace, seed: int) -> tuple[Any, Any, Any]:
    """Return features, numbers of particles and targets of random jets."""
    rng = np.random.default_rng(seed)
    counts = np.clip(rng.poisson(options.particles, options.batch_size), 1, options.slots).astype(np.int32)
    features = rng.normal(size=(options.batch_size, options.slots, len(FEATURE_NAMES))).astype(np.float32)
    features[np.arange(options.slots) >= counts[:, None]] = 0
    return features, counts, rng.integers(BINS, size=options.batch_size).astype(np.int32)


def _values(variables: Any) -> list[Any]:
    return [variable.value for variable in variables]


def _line(row: Row) -> str:
    return (
        f"  {row['task']:10} {row['jets_per_second']:10,.0f} jets/s (best {row['best']:,.0f}), {row['mflop']:.1f} "
        f"MFLOP and {row['mb']:.2f} MB a jet, {row['mb_of_edges']:.2f} of them edges; {row['of_gemm_rate']:.3f} of the "
        f"rate of products, {row['of_bandwidth']:.3f} of the bandwidth"
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=512, help="jets of a batch")
    parser.add_argument("--slots", type=int, default=100, help="slots of a jet")
    parser.add_argument("--particles", type=float, default=54.0, help="mean number of particles of a jet")
    parser.add_argument(
        "--precision", nargs="+", choices=list(ITEM_BYTES), default=["float32"], help="of products on particles"
    )
    parser.add_argument("--widths", choices=list(WIDTHS), default="default", help="of the network's layers")
    parser.add_argument("--rounds", type=int, default=10, help="timed turns, after one that compiles")
    parser.add_argument("--save", action="store_true", help=f"keep the figures in {RESULTS.name}/ucluster_jax.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""K-means in memory: methods that take turns on the same rows, how near they come to Lloyd's best, and one pass."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans as LloydKMeans
from sklearn.cluster import MiniBatchKMeans

from parts.contest import seconds_of
from sparton.distributed.world import Connection
from sparton.sgd import compute
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.feed import ArrayFeed
from sparton.sgd.kmeans import KMeans
from sparton.sgd.settings import KMeansSettings
from sparton.sgd.train import fit

Array = NDArray[Any]

NEAR = 1.01
"""Inertia over Lloyd's best that counts as reached."""

AT_REST = 1e-5
"""Relative gain of an iteration at which Lloyd's method is stopped."""

GEMM = 4096
"""Rows of the square matrices whose product tells what the machine can do."""


@dataclass(frozen=True)
class Method:
    """A contestant: ``run`` returns the centroids; ``started`` tells that the time of the common start is added.

    ``slow`` ones run over all rows many times.
    """

    name: str
    run: Callable[[], Array]
    started: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Found:
    """Median seconds with the start, and the inertia over all rows."""

    name: str
    seconds: float
    inertia: float


@dataclass(frozen=True)
class Pass:
    """One assignment pass: rows/s, its rate of 2 n k d operations, and those of matrix products alone (FLOP/s)."""

    rows_per_second: float
    rate: float
    square_products: float
    same_products: float


def contest(
    rows: Array, settings: KMeansSettings, rounds: int, limit: int, own_starts: bool = True
) -> tuple[list[Found], float]:
    """Let all methods cluster the rows in turns; return what they found, ours first, and the best inertia of all.

    Parameters
    ----------
    rows
        float32 [n, d].
    settings
        Ours; those that begin where ours does get its first centroids.
    rounds
        Turns of each.
    limit
        Iterations that Lloyd's method may take at most.
    own_starts
        Whether methods take part that run over all rows many times from starts of their own.
    """
    started = time.perf_counter()
    first = first_centroids(rows, settings)
    start_seconds = time.perf_counter() - started
    path = lloyd(rows, first, limit)
    iterations = next(number for number, inertia in enumerate(path) if inertia <= NEAR * path[-1])
    methods = _methods(rows, settings, first, max(1, iterations), limit)
    methods = [method for method in methods if own_starts or not method.slow]
    times: dict[str, list[float]] = {method.name: [] for method in methods}
    inertias: dict[str, float] = {}
    for _ in range(rounds):
        for method in methods:
            began = time.perf_counter()
            centroids = method.run()
            times[method.name].append(time.perf_counter() - began + (start_seconds if method.started else 0.0))
            inertias[method.name] = inertia_of(rows, centroids)
            print(f"  {method.name}: {times[method.name][-1]:.1f} s, {inertias[method.name]:.4g}", flush=True)
    found = [Found(name, statistics.median(values), inertias[name]) for name, values in times.items()]
    rested = len(path) > 1 and path[-2] - path[-1] < AT_REST * path[-1]
    lowest = f"Lloyd, same start, {'to rest' if rested else 'not at rest yet'} ({len(path) - 1} iterations)"
    return [*found, Found(lowest, float("nan"), path[-1])], min(path[-1], *inertias.values())


def _methods(rows: Array, settings: KMeansSettings, first: Array, iterations: int, limit: int) -> list[Method]:
    k, seed = settings.n_clusters, settings.seed

    def ours() -> Array:
        return fit(rows, settings).clusters.centers

    def mini_batch(**start: Any) -> Array:
        return np.asarray(MiniBatchKMeans(k, n_init=1, random_state=seed, **start).fit(rows).cluster_centers_)

    def full(**start: Any) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged is known
            return np.asarray(LloydKMeans(k, n_init=1, random_state=seed, **start).fit(rows).cluster_centers_)

    number = f"{iterations} iteration{'s' if iterations > 1 else ''}"
    methods = [
        Method(f"sparton fit, {settings.epochs} pass{'es' if settings.epochs > 1 else ''}", ours),
        Method("scikit-learn MiniBatchKMeans, as it comes", mini_batch),
        Method("scikit-learn MiniBatchKMeans, same start", lambda: mini_batch(init=first), True),
        Method(f"scikit-learn KMeans, own start, {limit} iterations at most", lambda: full(max_iter=limit), slow=True),
        Method(f"scikit-learn KMeans, same start, {number}", lambda: full(init=first, max_iter=iterations), True),
    ]
    return methods + _faiss_methods(rows, k, seed, first, iterations, number)


def _faiss_methods(rows: Array, k: int, seed: int, first: Array, iterations: int, number: str) -> list[Method]:
    try:
        import faiss
    except ImportError:
        print("  FAISS is left out: pip install faiss-cpu")
        return []

    def run(niter: int, start: Array | None = None, **options: Any) -> Array:
        found = faiss.Kmeans(rows.shape[1], k, niter=niter, seed=seed, **options)
        found.train(rows, init_centroids=start)
        return np.asarray(found.centroids, np.float64)

    every: dict[str, Any] = {"max_points_per_centroid": len(rows)}
    return [
        Method("FAISS, as it comes (256 rows a centroid)", lambda: run(25)),
        Method("FAISS, all rows, 20 iterations", lambda: run(20, **every), slow=True),
        Method(f"FAISS, same start, {number}", lambda: run(iterations, first.astype(np.float32), **every), True),
    ]


def first_centroids(rows: Array, settings: KMeansSettings) -> NDArray[np.float64]:
    """Return where our training starts, float64 [k, d] in the units of the rows."""
    feed = ArrayFeed.of(Connection.local().world, rows, settings.batch_size, settings.seed)
    sample = list(feed.sample(settings.sample_rows))
    origin = Coordinates.of(rows.mean(axis=0, dtype=np.float64).tolist(), None)
    method = KMeans(settings, origin, feed.steps, settings.batch_size)
    state = method.first_state(
        np.concatenate([batch.rows for batch in sample]), np.concatenate([batch.weight for batch in sample])
    )
    return origin.rows(state.centroids)


def lloyd(rows: Array, centroids: Array, limit: int) -> list[float]:
    """Return the inertia at the start and after each of Lloyd's iterations, until it rests."""
    path: list[float] = []
    while len(path) <= limit:
        residuals, counts, inertia = _sums(rows, centroids)
        path.append(inertia)
        if len(path) > 1 and path[-2] - inertia < AT_REST * inertia:
            break
        centroids = centroids + residuals / np.maximum(counts, 1)[:, None]
    return path


def inertia_of(rows: Array, centroids: Array) -> float:
    """Return the sum of the squared distances from the nearest centroid, summed in float64."""
    return _sums(rows, np.asarray(centroids, np.float64))[2]


def _sums(rows: Array, centroids: Array) -> tuple[Array, Array, float]:
    origin = centroids.mean(axis=0)
    shared = (Coordinates.of(origin.tolist(), None), centroids - origin)
    with compute.own_threads():
        return compute.accumulate(rows, np.ones(len(rows), np.float32), compute.nearest(rows, *shared), *shared)


def one_pass(rows: Array, centroids: Array, repeats: int) -> Pass:
    """Measure assigning all rows, beside matrix products of square matrices and of the same shapes."""
    n, d, k = *rows.shape, len(centroids)
    origin = centroids.mean(axis=0)
    coordinates, points = Coordinates.of(origin.tolist(), None), centroids - origin
    rng = np.random.default_rng(0)
    square = rng.standard_normal((GEMM, GEMM), np.float32)
    target, narrow = np.empty_like(square), np.ascontiguousarray(points.T, np.float32)
    chunk = compute.chunk_rows(n, k, np.float32)
    products = np.empty((chunk, k), np.float32)

    def same() -> None:
        for start in range(0, n - chunk + 1, chunk):
            np.dot(rows[start : start + chunk], narrow, products)

    best: dict[str, float] = {}
    for _ in range(repeats):
        with compute.own_threads():
            assigning = seconds_of(lambda: compute.nearest(rows, coordinates, points))
        for name, seconds in (
            ("assign", assigning),
            ("square", seconds_of(lambda: np.dot(square, square, target))),
            ("same", seconds_of(same)),
        ):
            best[name] = min(seconds, best.get(name, seconds))
    work = 2.0 * n * k * d
    return Pass(n / best["assign"], work / best["assign"], 2.0 * GEMM**3 / best["square"], work / best["same"])

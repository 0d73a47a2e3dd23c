"""Possibilistic c-means in mini-batches beside the batch method and k-means: clouds in noise, scikit-learn's sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from sparton.report.metrics import (
    adjusted_rand_index,
    contingency,
    hungarian_accuracy,
    normalized_mutual_information,
)
from sparton.sgd.batch import Batch
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.method import Outcome
from sparton.sgd.possibilistic import PossibilisticCMeans
from sparton.sgd.settings import PossibilisticSettings
from sparton.sgd.train import fit

Array = NDArray[Any]

BATCH = 32

PASSES, DECAY = 20, 0.995
"""On the clouds."""

SET_PASSES, SET_DECAY = 100, 0.98
"""On the sets of scikit-learn, which have few rows."""

CENTERS = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 7.0], [8.0, 8.0]])
DEVIATIONS = (1.0, 0.7, 1.2, 0.5)
SIZES, NOISE_ROWS = (2000, 1000, 600, 400), 700
NOISE_LIMITS = (-6.0, 14.0)

CLOUDS = ((4, 1.0), (4, 0.5), (8, 0.5), (12, 0.5))
"""Centroids to start with, and K."""

WIDTHS = (0.2, 0.5, 1.0)
"""K on the sets of scikit-learn."""

ITERATIONS, REST = 5000, 1e-20
"""Of the batch method: at most, and the squared move at which it ends."""


@dataclass(frozen=True)
class Rows:
    """Rows float64 [n, d], the class of each (-1 is noise), and the centres of the classes where they are known."""

    name: str
    rows: Array
    classes: Array
    centers: Array | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.classes.max()) + 1


@dataclass(frozen=True)
class Found:
    """Cluster of each row, -1 where it is noise to the method; most typical cluster; centres; norm of the gradient."""

    label: Array
    noise: Array
    centers: Array
    gradient: float


@dataclass(frozen=True)
class Score:
    """Means over seeds: clusters, agreement with classes, error of centres, gradient, and shares called noise.

    Agreement is over rows of a class; ``noise_found`` is the share of noise that is called so, ``noise_wrong`` that of
    the other rows.
    """

    clusters: float
    rand: float
    information: float
    accuracy: float
    error: float
    gradient: float
    noise_found: float
    noise_wrong: float


Method = Callable[[Rows, int, float, int], Found]
"""Finds clusters from rows, the number of centroids, K, and a seed."""


def clouds(seed: int) -> Rows:
    """Return four Gaussian clouds of unequal size and width in uniform noise, 15 % of the rows."""
    rng = np.random.default_rng(seed)
    groups = zip(CENTERS, DEVIATIONS, SIZES, strict=True)
    rows = [center + deviation * rng.normal(size=(size, 2)) for center, deviation, size in groups]
    rows.append(rng.uniform(*NOISE_LIMITS, (NOISE_ROWS, 2)))
    return Rows("clouds", np.concatenate(rows), np.repeat([0, 1, 2, 3, -1], (*SIZES, NOISE_ROWS)), CENTERS)


def settings_of(k: int, width: float, seed: int, **changes: Any) -> PossibilisticSettings:
    """Return the settings that are compared."""
    return PossibilisticSettings(
        n_clusters=k,
        gamma_factor=width,
        seed=seed,
        scaling="none",
        batch_size=BATCH,
        precision="float64",
        **{"epochs": PASSES, **changes},
    )


def online(**changes: Any) -> Method:
    """Return what clusters in mini-batches, with changed settings."""

    def run(data: Rows, k: int, width: float, seed: int) -> Found:
        found = fit(data.rows, settings_of(k, width, seed, **changes))
        return _judged(data, found.clusters, found.figures["mean_gradient"])

    return run


def batch(data: Rows, k: int, width: float, seed: int) -> Found:
    """Cluster by batch PCM2 from the same start, to its end."""
    method = PossibilisticCMeans(settings_of(k, width, seed, decay=0.0), Coordinates.of(data.rows.mean(axis=0)), 1)
    weight = np.ones(len(data.rows))
    state, everything = method.first_state(data.rows, weight), Batch(data.rows, weight, np.arange(len(data.rows)))
    for _ in range(ITERATIONS):
        state, figures = method.update(state, method.local_statistics(everything, state))
        if figures.shift < REST:
            break
    outcome: Outcome = method.outcome(state, method.local_statistics(everything, state))
    return _judged(data, outcome.clusters, outcome.figures["mean_gradient"])


def kmeans(data: Rows, k: int, width: float, seed: int) -> Found:
    """Cluster by Lloyd's k-means, which knows neither noise nor widths."""
    found = KMeans(k, n_init=10, random_state=seed).fit(data.rows)
    return Found(found.labels_, np.zeros(len(data.rows), bool), found.cluster_centers_, float("nan"))


def measure(data: Callable[[int], Rows], run: Method, k: int, width: float, seeds: Sequence[int]) -> Score:
    """Return the means of a method's figures over seeds."""
    scores = []
    for seed in seeds:
        drawn = data(seed)
        found, sound = run(drawn, k, width, seed), drawn.classes >= 0
        table = contingency(found.label[sound], drawn.classes[sound], len(found.centers), drawn.n_classes)
        error = float("nan")
        if drawn.centers is not None:
            away = np.linalg.norm(found.centers[:, None] - drawn.centers, axis=2)
            error = float(away.min(axis=0).mean())
        called = [float(found.noise[chosen].mean()) if chosen.any() else float("nan") for chosen in (~sound, sound)]
        scores.append(
            (
                len(found.centers),
                adjusted_rand_index(table),
                normalized_mutual_information(table),
                hungarian_accuracy(table)[0],
                error,
                found.gradient,
                *called,
            )
        )
    return Score(*np.mean(scores, axis=0).tolist())


METHODS: dict[str, Method] = {
    "batch PCM2": batch,
    "O-PCM2": online(),
    f"O-PCM2, decay {DECAY}": online(decay=DECAY),
    "scikit-learn KMeans": kmeans,
}

STEPS: dict[str, Method] = {
    "none: fuzzy c-means": online(epochs=1, step="constant", step_size=1e-9),
    "polynomial, p = 0.75": online(step="polynomial", step_delay=147.0),
    "polynomial, p = 1": online(step="polynomial", step_power=1.0, step_delay=147.0),
    "counts, 5 passes": online(epochs=5),
    "counts": online(),
    f"counts, decay {DECAY}": online(decay=DECAY),
    "counts, decay 0.98": online(decay=0.98),
}
"""Kinds of steps, over as many passes unless said."""


def cloud_lines(seeds: Sequence[int]) -> Iterator[tuple[str, str, Score]]:
    """Yield what was measured of clouds in noise."""
    for k, width in CLOUDS:
        for name, run in METHODS.items():
            yield f"{k}, {width:g}", name, measure(clouds, run, k, width, seeds)


def step_lines(seeds: Sequence[int]) -> Iterator[tuple[str, Score]]:
    """Yield how far each kind of steps comes on the clouds."""
    for name, run in STEPS.items():
        yield name, measure(clouds, run, 4, 0.5, seeds)


def set_lines(sets: Sequence[Rows], seeds: Sequence[int]) -> Iterator[tuple[str, str, str, Score]]:
    """Yield what was measured of sets with classes."""
    name, run = f"O-PCM2, decay {SET_DECAY}", online(epochs=SET_PASSES, decay=SET_DECAY)
    for data in sets:
        k, same = data.n_classes, _always(data)
        for width in WIDTHS:
            yield data.name, f"{k}, {width:g}", "batch PCM2", measure(same, batch, k, width, seeds)
            yield data.name, f"{k}, {width:g}", name, measure(same, run, k, width, seeds)
        yield data.name, f"{k}", "scikit-learn KMeans", measure(same, kmeans, k, 0.0, seeds)


def _always(data: Rows) -> Callable[[int], Rows]:
    return lambda _: data


def _judged(data: Rows, clusters: Any, gradient: float) -> Found:
    label, distance = clusters.assign(data.rows)
    return Found(label, clusters.noise(clusters.scores(label, distance)), clusters.centers, gradient)

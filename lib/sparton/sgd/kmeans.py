"""Mini-batch k-means in its order-free form: assign the whole batch with the old centroids, then move them.

With ``m_j`` the weights and ``r_j = sum w (x - c_j)`` the residuals of the rows nearest to centroid j, and ``a`` the
decay::

    N_j <- a N_j + m_j,    c_j <- c_j + r_j / N_j    where m_j > 0

With a = 1 and one row a batch this is MacQueen's k-means, whose steps 1/n make each centroid the mean of all that ever
came to it (Bottou and Bengio, NIPS 1994); with a = 1 Sculley's mini-batch k-means (WWW 2010); with a = 0 and all rows
in the batch one iteration of Lloyd's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparton.sgd.backend import ALL_CORES, Backend
from sparton.sgd.batch import Batch
from sparton.sgd.clusters import Clusters
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.method import Figures, Gather, Outcome, Words
from sparton.sgd.seeding import candidates, first_centroids, lowest
from sparton.sgd.settings import KMeansSettings
from sparton.sgd.steps import rate

Array = NDArray[Any]

ROWS_BETWEEN_RESEEDINGS = 10
"""Rows for each cluster that pass before it is looked for starved centroids again."""

RESEEDING_ENDS = 0.9
"""Fraction of all steps after which no centroid is put elsewhere: it would have no time to settle."""


class KMeansState(NamedTuple):
    """Centroids float64 [k, d] among the points, the weights float64 [k] that they stand for, and steps done int64."""

    centroids: NDArray[np.float64]
    counts: NDArray[np.float64]
    step: NDArray[np.int64]


class KMeansStatistics(NamedTuple):
    """Sums over rows: residuals float64 [k, d], weights float64 [k] and inertia float64 []."""

    residuals: NDArray[np.float64]
    counts: NDArray[np.float64]
    inertia: NDArray[np.float64]


class KMeans:
    """The :class:`sparton.sgd.method.Method` of k-means.

    Parameters
    ----------
    settings
        Number of clusters, steps, forgetting and re-seeding.
    coordinates
        What turns rows into points.
    steps, global_batch
        Steps of the whole training, and rows of all ranks in one of them.
    backend
        What sums over rows are computed on.
    """

    words = Words("inertia", "reseeded")

    def __init__(
        self,
        settings: KMeansSettings,
        coordinates: Coordinates,
        steps: int,
        global_batch: int,
        backend: Backend = ALL_CORES,
    ) -> None:
        self.settings = settings
        self.coordinates = coordinates
        self._last_reseeding = int(RESEEDING_ENDS * steps)
        self._reseeding_steps = max(1, -(-ROWS_BETWEEN_RESEEDINGS * settings.n_clusters // global_batch))
        self._backend = backend

    def first_state(self, rows: Array, weight: Array) -> KMeansState:
        """Return the first centroids, found on a sample of rows [n, d] of these weights [n].

        Raises
        ------
        TrainingError
            If the sample has fewer distinct rows than there are clusters.
        """
        settings = self.settings
        points = self.coordinates.points(rows)
        k = settings.n_clusters
        centroids = first_centroids(points, weight, k, settings.start, settings.seed, settings.tries)
        return KMeansState(centroids, np.full(k, settings.start_count), np.zeros((), np.int64))

    def steps_done(self, state: KMeansState) -> int:
        """Return how many steps a state has had."""
        return int(state.step)

    def smallest_share(self, state: KMeansState) -> float:
        """Return the smallest cluster's share of the weights that the centroids stand for."""
        total = float(state.counts.sum())
        return float(state.counts.min()) / total if total else 0.0

    def empty_state(self) -> KMeansState:
        """Return a state of zeros."""
        k = self.settings.n_clusters
        return KMeansState(np.zeros((k, self.coordinates.dimensions)), np.zeros(k), np.zeros((), np.int64))

    def local_statistics(self, batch: Batch, state: KMeansState) -> KMeansStatistics:
        """Return sums over a rank's rows, each assigned to the nearest of the state's centroids."""
        residuals, counts, inertia = self._backend.cluster_sums(
            batch.rows, batch.weight, self.coordinates, state.centroids, self.settings.precision
        )
        return KMeansStatistics(residuals, counts, np.asarray(inertia))

    def update(self, state: KMeansState, statistics: KMeansStatistics) -> tuple[KMeansState, Figures]:
        """Return the state after a step, from the sums over all ranks."""
        counts = self.settings.decay * state.counts + statistics.counts
        by_counts = self.settings.step == "counts"
        size, weight = (1.0, counts) if by_counts else (rate(self.settings, int(state.step)), statistics.counts)
        # Residuals of a cluster without rows are 0, and so is its move.
        moves = statistics.residuals * (size / np.where(statistics.counts > 0, weight, 1.0))[:, None]
        shift = float(np.einsum("kd,kd->k", moves, moves).max())
        figures = Figures(float(statistics.inertia), float(statistics.counts.sum()), shift)
        return KMeansState(state.centroids + moves, counts, state.step + 1), figures

    def repair(self, state: KMeansState, batch: Batch, gather: Gather) -> tuple[KMeansState, int]:
        """Put starved centroids onto random rows of the global batch, the same on any number of ranks."""
        starved = self.starved(state)
        if not starved.size:
            return state, 0
        own = candidates(batch, starved.size, self.settings.seed, int(state.step))
        rows = lowest(gather(own), starved.size)
        chosen = starved[: len(rows)]
        centroids, counts = state.centroids.copy(), state.counts.copy()
        centroids[chosen] = self.coordinates.points(rows)
        counts[chosen] = np.delete(counts, starved).min()
        return KMeansState(centroids, counts, state.step), len(chosen)

    def starved(self, state: KMeansState) -> NDArray[np.int64]:
        """Return the numbers of the centroids to be put elsewhere after this step; most often none."""
        step = int(state.step)
        if not self.settings.reseed_ratio or step > self._last_reseeding or step % self._reseeding_steps:
            return np.zeros(0, np.int64)
        return np.flatnonzero(state.counts < self.settings.reseed_ratio * state.counts.max())

    def outcome(self, state: KMeansState, totals: KMeansStatistics) -> Outcome:
        """Return what was found, from the last state and the sums over all rows with it."""
        inertia = float(totals.inertia)
        figures = {"inertia": inertia, "mean_inertia": inertia / float(totals.counts.sum())}
        clusters = Clusters(self.coordinates, state.centroids, self.settings.precision)
        return Outcome(clusters, state.counts, totals.counts, inertia, figures)

"""Possibilistic c-means by stochastic gradient descent, in the manner of O-PCM2.

PCM2 (Krishnapuram and Keller, IEEE Trans. Fuzzy Syst. 4, 1996) minimises, over centroids c_j and typicalities u_ij
that need not add up to one, ``sum_ij w_i (u_ij |x_i - c_j|^2 + gamma_j (u_ij ln u_ij - u_ij))``. For given centroids
``u_ij = exp(-|x_i - c_j|^2 / gamma_j)`` is best, which leaves

    J = -sum_ij w_i gamma_j u_ij,    -dJ/dc_j = 2 sum_i w_i u_ij (x_i - c_j) = 2 r_j

so each centroid climbs the density of the points, smoothed by a Gaussian of variance gamma_j / 2, for itself. A step
moves it along r_j over the rows of a batch (Koutsimpela and Koutroumbas, AI Communications, 2021): by ``eta_t r_j /
sum_i w_i``, the plain Robbins-Monro step, or with m_j = sum_i w_i u_ij and the decay a by

    N_j <- a N_j + m_j,    c_j <- c_j + r_j / N_j

which for a = 0 and all rows in the batch is one iteration of batch PCM2. The gamma_j are fixed throughout, or J would
be another function in each step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparton.errors import TrainingError
from sparton.sgd import fuzzy
from sparton.sgd.backend import ALL_CORES, Backend
from sparton.sgd.batch import Batch
from sparton.sgd.clusters import PossibilisticClusters
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.method import Figures, Gather, Outcome, Words
from sparton.sgd.seeding import first_centroids
from sparton.sgd.settings import PossibilisticSettings
from sparton.sgd.steps import rate

Array = NDArray[Any]

LEAST_SPREAD = 1e-12
"""Mean squared distance from a centroid, as a fraction of the points' variance, that is taken for 0."""


LEAST_MASS = 1e-9
"""Mean typicality over all rows that is taken for 0."""


class PossibilisticState(NamedTuple):
    """Where centroids are.

    Centroids float64 [k, d] among the points, gamma float64 [k], sums of typicalities float64 [k] that they stand for,
    whether they still take part int64 [k], and steps done int64.
    """

    centroids: NDArray[np.float64]
    widths: NDArray[np.float64]
    counts: NDArray[np.float64]
    live: NDArray[np.int64]
    step: NDArray[np.int64]


class PossibilisticStatistics(NamedTuple):
    """Sums over rows: r_j float64 [k, d] and m_j float64 [k], 0 of what takes no part, and weights float64 []."""

    residuals: NDArray[np.float64]
    masses: NDArray[np.float64]
    weight: NDArray[np.float64]


class PossibilisticCMeans:
    """The :class:`sparton.sgd.method.Method` of possibilistic c-means.

    Parameters
    ----------
    settings
        Number of centroids to start with, widths, steps, and what is left out.
    coordinates
        What turns rows into points.
    epoch_steps
        Steps of an epoch.
    backend
        What sums over rows are computed on.
    """

    words = Words("cost", "merged")

    def __init__(
        self,
        settings: PossibilisticSettings,
        coordinates: Coordinates,
        epoch_steps: int,
        backend: Backend = ALL_CORES,
    ) -> None:
        self.settings = settings
        self.coordinates = coordinates
        self._epoch_steps = epoch_steps
        self._backend = backend

    def first_state(self, rows: Array, weight: Array) -> PossibilisticState:
        """Return the centroids that fuzzy c-means finds on a sample of rows [n, d] of these weights [n], and gamma.

        Raises
        ------
        TrainingError
            If the sample has fewer distinct rows than there are centroids, or so many rows alike that a gamma is 0.
        """
        settings, k = self.settings, self.settings.n_clusters
        points, weight = self.coordinates.points(rows), np.asarray(weight, np.float64)
        begin = first_centroids(points, weight, k, "k-means++", settings.seed)
        found = fuzzy.partition(points, weight, begin)
        flat = np.flatnonzero(found.spreads <= LEAST_SPREAD * fuzzy.total_variance(points, weight))
        if flat.size:
            place = ", ".join(f"{value:.6g}" for value in self.coordinates.rows(found.centroids)[flat[0]])
            raise TrainingError(
                f"gamma of {flat.size} of {k} clusters is 0: all rows of the sample that are near ({place}) are equal; "
                "expected rows that differ within a cluster. Lower cluster.n_clusters, or take k-means"
            )
        counts = np.full(k, settings.start_count)
        widths = settings.gamma_factor * found.spreads
        return PossibilisticState(found.centroids, widths, counts, np.ones(k, np.int64), np.zeros((), np.int64))

    def steps_done(self, state: PossibilisticState) -> int:
        """Return how many steps a state has had."""
        return int(state.step)

    def smallest_share(self, state: PossibilisticState) -> float:
        """Return the smallest cluster's share of the typicalities that the centroids stand for."""
        counts = state.counts[state.live > 0]
        total = float(counts.sum())
        return float(counts.min()) / total if total else 0.0

    def empty_state(self) -> PossibilisticState:
        """Return a state of zeros."""
        k = self.settings.n_clusters
        centroids = np.zeros((k, self.coordinates.dimensions))
        return PossibilisticState(centroids, np.zeros(k), np.zeros(k), np.zeros(k, np.int64), np.zeros((), np.int64))

    def local_statistics(self, batch: Batch, state: PossibilisticState) -> PossibilisticStatistics:
        """Return sums over a rank's rows."""
        live = np.flatnonzero(state.live)
        residuals, masses = np.zeros_like(state.centroids), np.zeros(len(state.centroids))
        residuals[live], masses[live] = self._backend.typicality_sums(
            batch.rows,
            batch.weight,
            self.coordinates,
            state.centroids[live],
            state.widths[live],
            self.settings.precision,
        )
        return PossibilisticStatistics(residuals, masses, np.asarray(batch.weight.sum(dtype=np.float64)))

    def update(
        self, state: PossibilisticState, statistics: PossibilisticStatistics
    ) -> tuple[PossibilisticState, Figures]:
        """Return the state after a step, from the sums over all ranks."""
        counts = self.settings.decay * state.counts + statistics.masses
        weight = float(statistics.weight)
        if self.settings.step == "counts":
            # Where a centroid is so far from all rows that nothing is left of the sum, it stays.
            moves = statistics.residuals / np.where(counts > 0, counts, 1.0)[:, None]
        else:
            moves = statistics.residuals * (rate(self.settings, int(state.step)) / (weight or 1.0))
        shift = float(np.einsum("kd,kd->k", moves, moves).max())
        figures = Figures(cost(state.widths, statistics.masses), weight, shift)
        return state._replace(centroids=state.centroids + moves, counts=counts, step=state.step + 1), figures

    def repair(self, state: PossibilisticState, batch: Batch, gather: Gather) -> tuple[PossibilisticState, int]:
        """After each epoch leave out centroids that have come to the same place as others; nothing is gathered."""
        if int(state.step) % self._epoch_steps:
            return state, 0
        live = np.flatnonzero(state.live)
        apart = distinct(state.centroids[live], state.widths[live], state.counts[live], self.settings.coincidence)
        kept = np.zeros_like(state.live)
        kept[live[apart]] = 1
        return state._replace(live=kept), len(live) - len(apart)

    def outcome(
        self,
        state: PossibilisticState,
        totals: PossibilisticStatistics,
        standing: NDArray[np.float64] | None = None,
    ) -> Outcome:
        """Return the clusters that are apart and have rows, from the last state and the sums over all rows with it.

        Parameters
        ----------
        state, totals
            The last state, and sums over rows.
        standing
            Typicalities float64 [k] by which clusters are left out; None takes those of the sums.

        Raises
        ------
        TrainingError
            If no cluster has rows.
        """
        settings, k = self.settings, self.settings.n_clusters
        live = np.flatnonzero(state.live)
        masses = totals.masses if standing is None else standing
        apart = live[distinct(state.centroids[live], state.widths[live], masses[live], settings.coincidence)]
        weight = float(totals.weight)
        if is_dead(masses[live], weight):
            raise TrainingError(
                f"typicalities in the largest of {k} clusters sum up to {masses[live].max():.2g} over rows of weight "
                f"{weight:.6g}: no row is like any centroid; raise cluster.gamma_factor"
            )
        kept = apart[masses[apart] >= settings.smallest_mass * masses[live].max()]
        clusters = PossibilisticClusters(
            self.coordinates,
            state.centroids[kept],
            settings.precision,
            widths=state.widths[kept],
            noise_below=settings.noise_limit,
        )
        objective = cost(state.widths[kept], totals.masses[kept])
        figures = {
            "cost": objective,
            "mean_cost": objective / weight,
            "mean_gradient": 2 * float(np.linalg.norm(totals.residuals[kept])) / weight,
            "merged": k - len(apart),
            "dead": len(apart) - len(kept),
        }
        return Outcome(clusters, state.counts[kept], totals.masses[kept], objective, figures)


def cost(widths: NDArray[np.float64], masses: NDArray[np.float64]) -> float:
    """Return J from gamma [k] and the sums of typicalities [k]."""
    return -float(widths @ masses)


def is_dead(masses: NDArray[np.float64], weight: float) -> bool:
    """Tell whether sums of typicalities [k] are next to nothing in all clusters, over rows of a weight."""
    return float(masses.max()) < LEAST_MASS * weight


def distinct(
    centroids: NDArray[np.float64], widths: NDArray[np.float64], masses: NDArray[np.float64], fraction: float
) -> NDArray[np.int64]:
    """Return the numbers of centroids that are apart from each other, in their order.

    Of two whose squared distance is below ``fraction`` of the smaller gamma, the one of more mass stays, else the
    first one.
    """
    kept = np.zeros(0, np.int64)
    for j in np.argsort(-masses, kind="stable"):
        square = np.square(centroids[kept] - centroids[j]).sum(axis=1)
        if not np.any(square < fraction * np.minimum(widths[kept], widths[j])):
            kept = np.append(kept, j)
    return np.sort(kept)

"""What the jet mass alone achieves: K-means, a mixture, clusters of equal size, and the best cuts labels can buy.

W, Z and top jets differ above all in mass, so a clustering of constituents is worth something only beside these.
Every baseline is a partition of the mass axis into intervals. All are fitted to the masses they are judged on, which
favours them. :func:`best_cuts` reads labels: it is the ceiling of any partition by at most K-1 cuts, not a method.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from sparton.errors import DataError
from sparton.report.metrics import (
    adjusted_rand_index,
    contingency,
    hungarian_accuracy,
    normalized_mutual_information,
)
from sparton.report.profiles import sample

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Mixtures and K-means are fitted to at most so many masses, a seeded sample; three peaks need no more.
FIT_ROWS = 30_000

#: The search over cuts keeps one int64 a set of classes and mass; this many of them are 512 MiB.
MAX_CELLS = 2**26
MAX_CLASSES = 12


@dataclass(frozen=True)
class MassPartition:
    """Intervals of the mass axis: ``cuts`` [m] rising in GeV, ``clusters`` [m+1]; a mass at a cut lies below it."""

    name: str
    cuts: tuple[float, ...]
    clusters: tuple[int, ...]
    reads_labels: bool = False

    def assign(self, mass: npt.ArrayLike) -> IntArray:
        """Return the cluster of each mass (GeV) [n], int64 [n]."""
        interval = np.searchsorted(np.asarray(self.cuts), np.asarray(mass, dtype=np.float64), side="left")
        return np.asarray(self.clusters, dtype=np.int64)[interval]


@dataclass(frozen=True)
class BaselineResult:
    """A baseline's cuts (GeV) and, with labels, its metrics over ``rows`` jets, a random sample of a large split."""

    name: str
    reads_labels: bool
    cuts: tuple[float, ...]
    rows: int
    accuracy: float | None = None
    adjusted_rand_index: float | None = None
    normalized_mutual_information: float | None = None


def mass_kmeans(mass: npt.ArrayLike, n_clusters: int, seed: int) -> MassPartition:
    """Partition masses (GeV) [n] by K-means (10 starts); clusters are numbered by rising mass."""
    values = _fit_sample(mass, n_clusters, seed)
    model = KMeans(n_clusters=n_clusters, n_init=10, random_state=seed).fit(values[:, None])
    centres = np.sort(model.cluster_centers_[:, 0])
    cuts = (centres[1:] + centres[:-1]) / 2
    return MassPartition("K-means on mass", tuple(cuts.tolist()), tuple(range(n_clusters)))


def mass_mixture(mass: npt.ArrayLike, n_clusters: int, seed: int) -> MassPartition:
    """Partition masses (GeV) [n] by the most probable component of a Gaussian mixture, the likeliest of 10 starts.

    A broad component may win on both sides of a narrow one, so there can be more intervals than components.
    """
    values = _fit_sample(mass, n_clusters, seed)
    model = GaussianMixture(n_clusters, n_init=10, init_params="k-means++", random_state=seed).fit(values[:, None])
    order = np.argsort(model.means_[:, 0])
    log_density = _log_parabolas(model.weights_[order], model.means_[order, 0], model.covariances_[order, 0, 0])
    cuts = np.unique(np.concatenate([[], *_crossings(log_density)]))
    cuts = cuts[(cuts > values.min()) & (cuts < values.max())]
    inner = (cuts[1:] + cuts[:-1]) / 2
    probes = np.concatenate([cuts[:1] - 1.0, inner, cuts[-1:] + 1.0]) if len(cuts) else values[:1]
    winner = np.argmax([np.polyval(parabola, probes) for parabola in log_density], axis=0)
    change = np.flatnonzero(winner[1:] != winner[:-1])
    clusters = winner[np.concatenate([[0], change + 1])]
    return MassPartition("Gaussian mixture on mass", tuple(cuts[change].tolist()), tuple(clusters.tolist()))


def mass_quantiles(mass: npt.ArrayLike, n_clusters: int) -> MassPartition:
    """Partition masses (GeV) [n] into K intervals of equal size: what a method gains that is told the sizes."""
    values = _finite(mass)
    cuts = np.unique(np.quantile(values, np.arange(1, n_clusters) / n_clusters))
    return MassPartition("Equal sizes on mass", tuple(cuts.tolist()), tuple(range(len(cuts) + 1)))


def best_cuts(mass: npt.ArrayLike, label: npt.ArrayLike, n_clusters: int, n_classes: int) -> MassPartition:
    """Find the at most K-1 cuts on the mass whose intervals, matched one to one with classes, agree most with labels.

    Exact. With P_c(j) the number of jets of class c among the j lowest masses, the best agreement of the first j
    jets with the classes of a set S, each used for one interval, obeys
    f(S, j) = max over c in S and i <= j of f(S - c, i) + P_c(j) - P_c(i), a running maximum along j.

    Parameters
    ----------
    mass
        Jet masses in GeV, [n].
    label
        Class indexes [n]; rows with a negative one are left out.
    n_clusters, n_classes
        Number of intervals allowed and number of classes (at most 12).

    Raises
    ------
    DataError
        If a mass is not finite, nothing is labelled, or there are too many classes.
    """
    values, codes = _finite(mass), np.asarray(label, dtype=np.int64)
    values, codes = values[codes >= 0], codes[codes >= 0]
    if not len(values) or n_classes > MAX_CLASSES:
        raise DataError(
            f"oracle cuts: found {len(values)} labelled masses of {n_classes} classes, "
            f"expected at least 1 of at most {MAX_CLASSES}; leave the oracle out"
        )
    levels, position = np.unique(values, return_inverse=True)
    below = np.zeros((n_classes, len(levels) + 1), dtype=np.int64)
    np.add.at(below, (codes, position.reshape(-1) + 1), 1)
    below = below.cumsum(axis=1)
    ends = _best_ends(below, min(n_clusters, n_classes))
    inner = np.unique(ends[(ends > 0) & (ends < len(levels))])
    cuts = _between(levels[inner - 1], levels[inner])
    clusters = tuple(range(len(cuts) + 1))
    return MassPartition("Best mass cuts (oracle)", tuple(cuts.tolist()), clusters, reads_labels=True)


def mass_baselines(
    mass: npt.ArrayLike, n_clusters: int, seed: int, label: npt.ArrayLike | None = None, n_classes: int = 0
) -> tuple[BaselineResult, ...]:
    """Fit the baselines to masses (GeV) [n] and, given class indexes [n] (negative: none), judge them.

    Without labels the oracle is left out and the metrics are None. The oracle's cuts are exact up to 2^26 / 2^C
    masses for C classes; of more, a seeded sample is searched. Metrics cover every labelled mass that is given.

    Raises
    ------
    DataError
        If a mass is not finite or there are fewer distinct masses than clusters.
    """
    partitions = [
        mass_kmeans(mass, n_clusters, seed),
        mass_mixture(mass, n_clusters, seed),
        mass_quantiles(mass, n_clusters),
    ]
    if label is None:
        count = len(np.asarray(mass))
        return tuple(BaselineResult(item.name, item.reads_labels, item.cuts, count) for item in partitions)
    rows = sample(len(np.asarray(mass)), MAX_CELLS >> n_classes, seed)
    partitions.append(best_cuts(np.asarray(mass)[rows], np.asarray(label)[rows], n_clusters, n_classes))
    return tuple(_judge(partition, mass, label, n_clusters, n_classes) for partition in partitions)


def _judge(
    partition: MassPartition, mass: npt.ArrayLike, label: npt.ArrayLike, n_clusters: int, n_classes: int
) -> BaselineResult:
    table = contingency(partition.assign(mass), label, n_clusters, n_classes)
    return BaselineResult(
        name=partition.name,
        reads_labels=partition.reads_labels,
        cuts=partition.cuts,
        rows=int(table.sum()),
        accuracy=hungarian_accuracy(table)[0],
        adjusted_rand_index=adjusted_rand_index(table),
        normalized_mutual_information=normalized_mutual_information(table),
    )


def _finite(mass: npt.ArrayLike) -> FloatArray:
    values = np.asarray(mass, dtype=np.float64)
    bad = np.count_nonzero(~np.isfinite(values))
    if values.ndim != 1 or bad:
        raise DataError(f"jet_mass: found shape {values.shape} with {bad} values that are not finite, expected [n]")
    return values


def _fit_sample(mass: npt.ArrayLike, n_clusters: int, seed: int) -> FloatArray:
    values = _finite(mass)
    values = values[sample(len(values), FIT_ROWS, seed)]
    distinct = len(np.unique(values))
    if distinct < n_clusters:
        raise DataError(f"jet_mass: found {distinct} distinct values, expected at least {n_clusters} for the baselines")
    return values


def _log_parabolas(weights: FloatArray, means: FloatArray, variances: FloatArray) -> FloatArray:
    """Return the coefficients [K, 3] of each component's log density, a parabola in the mass."""
    constant = np.log(weights) - np.log(variances) / 2 - means**2 / (2 * variances)
    return np.stack([-1 / (2 * variances), means / variances, constant], axis=1)


def _crossings(parabolas: FloatArray) -> Iterator[FloatArray]:
    for first, second in combinations(parabolas, 2):
        roots = np.roots(first - second)
        yield roots[np.isreal(roots)].real


def _best_ends(below: IntArray, n_intervals: int) -> IntArray:
    """Return where each interval of the best sequence ends, as positions in ``below`` [C, m+1]."""
    n_classes, length = below.shape
    best: dict[int, IntArray] = {0: np.zeros(length, dtype=np.int64)}
    for size in range(1, n_intervals + 1):
        for chosen in combinations(range(n_classes), size):
            key = sum(1 << index for index in chosen)
            gains = [np.maximum.accumulate(best[key ^ (1 << c)] - below[c]) + below[c] for c in chosen]
            best[key] = np.max(gains, axis=0)
    full = [key for key in best if key.bit_count() == n_intervals]
    key = max(full, key=lambda candidate: int(best[candidate][-1]))
    ends, end = [], length - 1
    while key:
        ends.append(end)
        for c in (index for index in range(n_classes) if key >> index & 1):
            starts = best[key ^ (1 << c)][: end + 1] - below[c, : end + 1]
            start = int(np.argmax(starts))
            if starts[start] + below[c, end] == best[key][end]:
                key, end = key ^ (1 << c), start
                break
    return np.asarray(ends)


def _between(lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Return a cut between neighbouring masses; the lower one where rounding would lift the middle to the upper."""
    middle = lower + (upper - lower) / 2
    return np.where(middle < upper, middle, lower)

"""Clusters that follow a stream: steps of :mod:`sparton.sgd.kmeans` or :mod:`sparton.sgd.possibilistic` without end.

A micro-batch is one step, from sums over all its rows. Where the features' origin and scale are frozen, and with them
the widths of possibilistic clusters, is a bounded sample of the first rows (:mod:`sparton.sgd.stream_sample`), or a
bundle that was trained before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.errors import ConfigError, TrainingError
from sparton.sgd import rounding
from sparton.sgd.backend import Processor
from sparton.sgd.batch import Batch
from sparton.sgd.bundle import Description, PossibilisticDescription, TableInputs
from sparton.sgd.compute import own_threads
from sparton.sgd.kmeans import ROWS_BETWEEN_RESEEDINGS, KMeans, KMeansState
from sparton.sgd.method import Figures, Method, Outcome, Words, added
from sparton.sgd.possibilistic import PossibilisticCMeans, PossibilisticState, cost, is_dead
from sparton.sgd.settings import ClusterSettings, KMeansSettings
from sparton.sgd.stream_sample import Sample
from sparton.sgd.stream_settings import StreamSettings

Array = NDArray[Any]

ENDLESS = 1 << 62
"""Steps of a training that has no end, so that it never comes to its last ones."""

ONE_CORE = Processor(threads=1)
"""Of a task of Spark. Sums on a GPU would not be the same bits when Spark repeats a micro-batch."""


@dataclass(frozen=True)
class Model:
    """Clusters at some point of a stream.

    Attributes
    ----------
    inputs
        The rows' features with the statistics that are frozen.
    state
        The method's own state.
    totals
        The method's statistics summed over the stream, those of earlier batches times what is remembered of them.
    """

    inputs: TableInputs
    state: Any
    totals: Any


@dataclass(frozen=True)
class Step:
    """What a step did: mean objective and weight of its rows, and for each cluster its share of them and its move.

    Attributes
    ----------
    objective, weight
        Of the batch, with the centroids before it.
    sizes
        float64 [k]: the weight of the batch's rows in each cluster; of possibilistic c-means that of typicalities.
    moves
        float64 [k]: how far each centroid went, in units of the spread within clusters.
    shift
        Largest move, squared, among the points.
    """

    objective: float
    weight: float
    sizes: NDArray[np.float64]
    moves: NDArray[np.float64]
    shift: float


@dataclass(frozen=True)
class Online:
    """How clusters follow a stream.

    Attributes
    ----------
    cluster
        Method, number of clusters and steps.
    stream
        Forgetting, and what is waited for.
    """

    cluster: ClusterSettings
    stream: StreamSettings

    def __post_init__(self) -> None:
        if self.cluster.device == "gpu":
            raise ConfigError(
                "cluster.device is gpu: rows of a stream are summed on the executors' cores; set cluster.device: auto"
            )
        if self.stream.half_life is not None and self.cluster.decay != 1:
            raise ConfigError(
                f"stream.half_life is {self.stream.half_life:g} and cluster.decay {self.cluster.decay:g}: both say "
                "what is forgotten; leave one of them out (null, 1)"
            )
        if self.stream.half_life is not None and self.cluster.step != "counts":
            raise ConfigError(
                f"stream.half_life is {self.stream.half_life:g} with cluster.step {self.cluster.step}: only steps by "
                "counts forget; set cluster.step: counts, or leave the half-life out (null)"
            )

    @property
    def words(self) -> Words:
        """What the method calls its objective, and what it mends."""
        return KMeans.words if isinstance(self.cluster, KMeansSettings) else PossibilisticCMeans.words

    @property
    def start_after(self) -> int:
        """Rows that must have come before the first centroids are found."""
        return self.stream.start_after or self.cluster.rows_per_cluster * self.cluster.n_clusters

    def check_sample(self) -> None:
        """Check that a sample can have enough rows for the first centroids, which would be waited for in vain.

        Raises
        ------
        ConfigError
            If it cannot.
        """
        if self.cluster.sample_rows < self.cluster.n_clusters:
            raise ConfigError(
                f"cluster.start_rows is {self.cluster.sample_rows} with cluster.n_clusters {self.cluster.n_clusters}: "
                "a sample of so few rows never has as many distinct ones; raise cluster.start_rows"
            )

    def can_begin(self, rows: int, sample: Sample) -> bool:
        """Tell whether enough rows have come, and a sample of them has enough distinct ones for the centroids."""
        return self.wait(rows, sample) is None

    def wait(self, rows: int, sample: Sample) -> str | None:
        """Return what the first centroids wait for, None once they can be found."""
        if rows < self.start_after:
            return f"{self.start_after:,} rows ({rows:,} so far)"
        distinct, needed = len(np.unique(sample.rows[sample.weight > 0], axis=0)), self.cluster.n_clusters
        if distinct < needed:
            return f"{needed:,} distinct rows, one a cluster ({distinct:,} so far; cluster.n_clusters may be lower)"
        return None

    def begin(self, names: tuple[str, ...], sample: Sample) -> Model:
        """Return the first centroids, found on a sample.

        Parameters
        ----------
        names
            Those of the features.
        sample
            Rows, for which :meth:`can_begin` is true.

        Raises
        ------
        TrainingError
            If a cluster of possibilistic c-means has no width.
        """
        moments = sample.moments()
        inputs = TableInputs(
            feature_names=names,
            feature_mean=tuple(moments.mean.tolist()),
            feature_std=tuple(moments.std()[0].tolist()),
            scaling=self.cluster.scaling,
        )
        rounding.warn_of_stored(inputs)
        method = self.method(inputs)
        with own_threads():  # the number of threads would change bits of the libraries' products
            state = method.first_state(sample.rows, sample.shares)
        return Model(inputs, state, nothing(method, state))

    def go_on(self, description: Description) -> Model:
        """Return the clusters of a bundle, to which these settings have been fitted by :func:`fitted`."""
        centroids = np.asarray(description.centroids, np.float64)
        counts, step = np.asarray(description.counts, np.float64), np.zeros((), np.int64)
        state: KMeansState | PossibilisticState = KMeansState(centroids, counts, step)
        if isinstance(description, PossibilisticDescription):
            widths = np.asarray(description.widths, np.float64)
            state = PossibilisticState(centroids, widths, counts, np.ones(len(counts), np.int64), step)
        return Model(description.inputs, state, nothing(self.method(description.inputs), state))

    def method(self, inputs: TableInputs, decay: float | None = None) -> Method[Any, Any]:
        """Return the method, which forgets by ``decay`` in its next step; each step is looked at for what to mend."""
        coordinates = inputs.coordinates
        forgetting = {} if decay is None else {"decay": decay}
        if isinstance(self.cluster, KMeansSettings):
            each_step = ROWS_BETWEEN_RESEEDINGS * self.cluster.n_clusters
            return KMeans(self.cluster.model_copy(update=forgetting), coordinates, ENDLESS, each_step, ONE_CORE)
        return PossibilisticCMeans(self.cluster.model_copy(update=forgetting), coordinates, 1, ONE_CORE)

    def step(self, model: Model, statistics: Any, rows: int) -> tuple[Model, Step]:
        """Return the clusters after a batch of ``rows`` rows, from the sums over them with ``model``'s centroids.

        Raises
        ------
        TrainingError
            If the sums are not finite.
        """
        decay = self.stream.remembered(self.cluster.decay, rows)
        state, figures = self.method(model.inputs, decay).update(model.state, statistics)
        if not math.isfinite(figures.objective) or not np.isfinite(state.centroids).all():
            raise TrainingError(
                f"the {self.words.objective} of the batch is {figures.objective}; set cluster.precision: float64, or "
                "look for values that are far too large"
            )
        kept = type(statistics)(*(decay * total for total in model.totals))
        after = replace(model, state=state, totals=added(kept, statistics))
        return after, self._told(model, after, statistics, figures)

    def weight(self, statistics: Any) -> float:
        """Return the weight of the rows that statistics are of."""
        of_kmeans = isinstance(self.cluster, KMeansSettings)
        return float(statistics.counts.sum() if of_kmeans else statistics.weight)

    def fits_none(self, step: Step) -> bool:
        """Tell whether no row of a step was like any possibilistic cluster; those of k-means take rows however far."""
        return not isinstance(self.cluster, KMeansSettings) and is_dead(step.sizes, step.weight)

    def check_alive(self, model: Model) -> None:
        """Check that the clusters of possibilistic c-means have not all died: that they still stand for rows.

        Raises
        ------
        TrainingError
            If nothing is left of the typicalities that they stand for, beside the rows that are remembered.
        """
        if isinstance(self.cluster, KMeansSettings):
            return
        standing, weight = model.state.counts[model.state.live > 0], self.weight(model.totals)
        if is_dead(standing, weight):
            raise TrainingError(
                f"all {len(standing)} clusters have died: what is remembered of typicalities sums up to "
                f"{standing.max():.2g} in the largest, over rows of weight {weight:.6g}. The rows have moved away from "
                "the centroids, or the widths are too small for them (cluster.gamma_factor)"
            )

    def starved(self, model: Model) -> int:
        """Return how many centroids are to be put onto rows of the batch."""
        method = self.method(model.inputs)
        return len(method.starved(model.state)) if isinstance(method, KMeans) else 0

    def mend(self, model: Model, found: Sample) -> tuple[Model, int]:
        """Return the clusters with starved centroids put onto rows, or coincident ones left out; and how many were.

        Parameters
        ----------
        model
            The clusters after the step.
        found
            Of the batch's rows those with the lowest keys (:func:`sparton.sgd.stream_sample.by_weight`), as many as
            :meth:`starved` tells.
        """
        batch = Batch(found.rows, found.shares, found.ids)
        state, count = self.method(model.inputs).repair(model.state, batch, lambda rows: rows)
        return replace(model, state=state), count

    def outcome(self, model: Model) -> Outcome:
        """Return what is published: means are over the stream, what was forgotten left out.

        Raises
        ------
        TrainingError
            If no cluster has rows.
        """
        method, totals = self.method(model.inputs), model.totals
        if isinstance(method, KMeans):
            found = method.outcome(model.state, totals)
            return replace(found, figures={"mean_inertia": self.mean_objective(model)})
        # What a centroid stands for tells whether it has rows: the stream may just have begun.
        assert isinstance(method, PossibilisticCMeans)
        found = method.outcome(model.state, totals, standing=model.state.counts)
        # Sums over the stream are of centroids on their way: neither is a figure of the last ones.
        figures = {name: value for name, value in found.figures.items() if name not in ("cost", "mean_gradient")}
        return replace(found, figures=figures)

    def smallest_share(self, model: Model) -> float:
        """Return the smallest cluster's share of all that the clusters stand for."""
        return self.method(model.inputs).smallest_share(model.state)

    def mean_objective(self, model: Model) -> float:
        """Return the objective a row over the stream, what was forgotten and what takes no part any more left out."""
        totals, weight = model.totals, self.weight(model.totals)
        if isinstance(self.cluster, KMeansSettings):
            return float(totals.inertia) / weight
        return cost(model.state.widths * model.state.live, totals.masses) / weight

    def _told(self, before: Model, after: Model, statistics: Any, figures: Figures) -> Step:
        distance = np.sqrt(np.square(after.state.centroids - before.state.centroids).sum(axis=1))
        spread = self._spread(after)
        moves = np.divide(distance, spread, out=np.zeros_like(distance), where=spread > 0)
        sizes = statistics.counts if isinstance(self.cluster, KMeansSettings) else statistics.masses
        return Step(figures.objective / figures.weight, figures.weight, sizes, moves, figures.shift)

    def _spread(self, model: Model) -> NDArray[np.float64]:
        """Return how wide clusters are, [k]: their rows' root mean square distance, or the roots of gamma."""
        k = len(model.state.centroids)
        if isinstance(self.cluster, KMeansSettings):
            return np.full(k, math.sqrt(self.mean_objective(model)))
        return np.sqrt(model.state.widths)


def fitted(cluster: ClusterSettings, description: Description, path: str) -> ClusterSettings:
    """Return settings for going on with the clusters of a bundle: what is part of these comes from there.

    Raises
    ------
    ConfigError
        If the settings are of another method.
    """
    if cluster.method != description.kind:
        raise ConfigError(
            f"{path}: a bundle of {description.kind!r}, while cluster.method is {cluster.method!r}; set "
            f"cluster.method: {description.kind}"
        )
    taken: dict[str, Any] = {
        "n_clusters": len(description.centroids),
        "scaling": description.inputs.scaling,
        "precision": description.precision,
    }
    if isinstance(description, PossibilisticDescription):
        taken["noise_below"] = description.noise_below
    return cluster.model_copy(update=taken)


def nothing(method: Method[Any, Any], state: Any) -> Any:
    """Return the sums over no rows."""
    return method.local_statistics(Batch.nothing(state.centroids.shape[1]), state)

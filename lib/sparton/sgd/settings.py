"""What is clustered and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag

from sparton.config import Config

SAMPLE_ROWS = 20_000

TRIES_PER_CLUSTER = 2

NOISE_BELOW = 0.05
"""Largest typicality of noise where widths are the mean distances of fuzzy c-means."""

Device = Literal["auto", "cpu", "gpu"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class DescentSettings(Config):
    """What the methods of clustering a table by mini-batches have in common; no setting refers to labels.

    Attributes
    ----------
    method
        ``kmeans``: each row belongs to the nearest centroid. ``pcm``: possibilistic c-means, in which a row has a
        typicality in each cluster, and none in any where it is noise.
    n_clusters
        Clusters to find, k.
    scaling
        ``standard``: features are divided by their deviation over the train split. ``none``: they are taken as they
        are, which is right where all have the same unit. They are centred either way, which changes no distance.
    epochs
        Passes over the train split, at most.
    batch_size
        Rows of one worker in one step.
    lanes
        Lanes of the order of rows, of which each worker takes equally many, and each step as many rows from each.
        The batches depend on this number and on the rows of all workers in a step alone: with 12, and ``batch_size``
        set accordingly, 1, 2, 3, 4, 6 or 12 workers train on the same ones. It must be a multiple of the number of
        workers; memory and open files of a worker grow with its lanes. None takes one for each worker, which reads
        fastest.
    start_count
        Rows that a first centroid counts as; 0 makes it forgotten with the first row that comes to it.
    decay
        Factor of the counts in each step (of the global batch), with ``step: counts``. 1 forgets nothing, 0 all but the
        batch itself; 1 - 1/n remembers some n steps.
    patience
        Steps without a lower smoothed objective (the inertia of k-means, the cost of possibilistic c-means) after which
        training ends; None always takes all epochs.
    tolerance
        Training ends when the smoothed largest move of a centroid in a step, squared, is below this fraction of the
        points' mean variance; 0 never does so.
    device
        What distances and sums are computed on: ``cpu``; ``gpu``, one for each worker; or ``auto``, a GPU where
        TensorFlow sees one and a step has work for it (batch_size · n_clusters · features from 10⁸ on), else the CPU.
        It decides nothing but the last digits. Streams are summed on CPUs.
    seed
        Seed of the first centroids, of the order of rows and of re-seeding.
    checkpoints_kept
        Checkpoints that are kept while training.
    checkpoint_seconds
        Seconds from one checkpoint to the next within an epoch; there is one after each epoch in any case.
    """

    method: Literal["kmeans", "pcm"]
    n_clusters: int = Field(default=8, ge=1)
    scaling: Literal["standard", "none"] = "standard"
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    lanes: int | None = Field(default=None, ge=1)
    start_rows: int | None = Field(default=None, ge=1)
    start_count: NonNegative = 1.0
    step: Literal["counts", "constant", "polynomial"] = "counts"
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.1
    step_delay: Positive = 100.0
    step_power: Annotated[float, Field(gt=0, le=1)] = 0.75
    decay: Share = 1.0
    patience: int | None = Field(default=None, ge=1)
    tolerance: NonNegative = 0.0
    precision: Literal["float32", "float64"] = "float32"
    device: Device = "auto"
    seed: int = Field(default=1, ge=0)
    checkpoints_kept: int = Field(default=2, ge=1)
    checkpoint_seconds: NonNegative = 60.0

    rows_per_cluster: ClassVar[int]
    """Rows for each cluster that a sample must have to tell where they are."""

    @property
    def sample_rows(self) -> int:
        """Rows of the sample that the first centroids are found on."""
        return self.start_rows or max(SAMPLE_ROWS, self.rows_per_cluster * self.n_clusters)

    def deciding(self) -> Self:
        """Return these settings without those that merely keep the training safe on the way, and where it computes."""
        return self.without("checkpoints_kept", "checkpoint_seconds", "device")

    def lasting(self) -> Self:
        """Return the settings that decide, and that another number of workers keeps when it goes on with a training.

        With ``lanes`` the rows of each worker are none of them: the global batch may stay what it is.
        """
        deciding = self.deciding()
        return deciding if self.lanes is None else deciding.without("batch_size")


class KMeansSettings(DescentSettings):
    """How a table is clustered by mini-batch k-means.

    Attributes
    ----------
    start_rows
        Rows of a sample that the first centroids are taken from; None takes 20,000, or 10 for each cluster where that
        is more. A small one often misses a cluster, which k-means then does not find by itself.
    step
        How far a centroid moves to the mean of a batch's rows that are nearest to it. ``counts``: by their share of
        all rows that it has ever had, so that it is the mean of these. ``constant``: by ``step_size``.
        ``polynomial``: by ``step_size / (1 + t / step_delay) ** step_power`` in step t.
    step_size
        Of ``constant`` and ``polynomial``; 1 is the whole way.
    step_delay, step_power
        Of ``polynomial``.
    precision
        Type in which distances are compared; sums and centroids are float64 in any case. Rows of sets and streams are
        stored as float32: float64 tells near centroids apart, not values that float32 has rounded to one.
    start
        Where the first centroids are: at rows of that sample that lie far from each other (``k-means++``), or at any
        rows of it (``random``).
    start_tries
        Rows of the sample that are then tried in the place of first centroids, which finds clusters that were missed.
        None takes two for each cluster after ``k-means++`` and none after ``random``.
    reseed_ratio
        A centroid whose count is below this fraction of the largest one is put onto a random row of the batch, a true
        but tiny cluster's too; 0 never does so. It is looked for such every ``10 n_clusters`` rows, and not in the last
        tenth of all steps.
    """

    method: Literal["kmeans"] = "kmeans"
    start: Literal["k-means++", "random"] = "k-means++"
    start_tries: int | None = Field(default=None, ge=0)
    reseed_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.01

    rows_per_cluster: ClassVar[int] = 10

    @property
    def tries(self) -> int:
        """Rows that are tried in the place of first centroids."""
        if self.start_tries is not None:
            return self.start_tries
        return TRIES_PER_CLUSTER * self.n_clusters if self.start == "k-means++" else 0


class PossibilisticSettings(DescentSettings):
    """How a table is clustered by possibilistic c-means, online (O-PCM2).

    Attributes
    ----------
    n_clusters
        Centroids to start with, two or three times as many as clusters are expected: those that end at the same place
        become one, and those that few rows are typical of are left out.
    start_rows
        Rows of a sample on which fuzzy c-means finds the first centroids and their widths; None takes 20,000, or 50 for
        each cluster where that is more.
    step
        How far a centroid moves along the sum of its rows' differences from it, each times the row's typicality.
        ``counts``: by the sum over the typicalities that it has ever had, a step of its own for each centroid.
        ``polynomial``: by the mean over the batch times ``step_size / (1 + t / step_delay) ** step_power`` in step t,
        the plain Robbins-Monro step, for which a ``step_power`` above 0.5 makes the gradient vanish. ``constant``: by
        the mean times ``step_size``.
    step_size
        Of ``constant`` and ``polynomial``.
    step_delay, step_power
        Of ``polynomial``.
    precision
        Type in which points are multiplied with centroids; exponentials, sums and centroids are float64 in any case.
        Rows of sets and streams are stored as float32.
    gamma_factor
        K: the squared width of a cluster, over the mean squared distance of its rows from its centroid in fuzzy
        c-means. Large widths merge clusters, small ones find peaks within them; the more features, the smaller it
        should be.
    coincidence
        Of two centroids whose squared distance is below this fraction of the smaller squared width, the one with less
        rows is left out; 0 keeps all. They are compared after each pass, and after training.
    smallest_mass
        A cluster is left out after training if its typicalities sum up to less than this fraction of the largest such
        sum; 0 keeps all.
    noise_below
        A row is noise if its largest typicality is below this; 0 takes none for noise. None takes
        ``0.05 ** (1 / gamma_factor)``: whatever the widths, rows whose squared distance is more than three times its
        mean in fuzzy c-means.
    """

    method: Literal["pcm"] = "pcm"
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.5
    gamma_factor: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 0.5
    coincidence: Annotated[float, Field(ge=0, lt=1)] = 0.1
    smallest_mass: Annotated[float, Field(ge=0, lt=1)] = 0.05
    noise_below: Annotated[float, Field(ge=0, lt=1)] | None = None

    rows_per_cluster: ClassVar[int] = 50

    @property
    def noise_limit(self) -> float:
        """Largest typicality of noise."""
        return NOISE_BELOW ** (1 / self.gamma_factor) if self.noise_below is None else self.noise_below


def _method_of(value: Any) -> Any:
    """Return the method that values, or settings, are of; values that name none are of k-means."""
    return value.get("method", "kmeans") if isinstance(value, Mapping) else getattr(value, "method", None)


ClusterSettings = Annotated[
    Annotated[KMeansSettings, Tag("kmeans")] | Annotated[PossibilisticSettings, Tag("pcm")], Discriminator(_method_of)
]
"""The settings of one of the methods; which one ``method`` says."""

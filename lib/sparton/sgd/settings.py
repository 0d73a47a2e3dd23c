"""What is clustered and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sparton.config import Config

SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER = 20_000, 10

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class ClusterSettings(Config):
    """How a table is clustered by mini-batch k-means; no setting refers to labels.

    Attributes
    ----------
    n_clusters
        Clusters to find, k.
    scaling
        ``standard``: features are divided by their deviation over the train split. ``none``: they are taken as they
        are, which is right where all have the same unit. They are centred either way, which changes no distance.
    epochs
        Passes over the train split, at most.
    batch_size
        Rows of one worker in one step.
    start
        Where the first centroids are: at rows of a sample that lie far from each other (``k-means++``), or at any
        rows of it (``random``).
    start_rows
        Rows of that sample; None takes 20,000, or 10 for each cluster where that is more. A small one often misses a
        cluster, which k-means then does not find by itself.
    start_count
        Rows that a first centroid counts as; 0 makes it forgotten with the first row that comes to it.
    step
        How far a centroid moves to the mean of a batch's rows that are nearest to it. ``counts``: by their share of
        all rows that it has ever had, so that it is the mean of these. ``constant``: by ``step_size``.
        ``polynomial``: by ``step_size / (1 + t / step_delay) ** step_power`` in step t.
    step_size
        Of ``constant`` and ``polynomial``; 1 is the whole way.
    step_delay, step_power
        Of ``polynomial``.
    decay
        Factor of the counts in each step (of the global batch), with ``step: counts``. 1 forgets nothing, 0 all but the
        batch itself; 1 - 1/n remembers some n steps.
    reseed_ratio
        A centroid whose count is below this fraction of the largest one is put onto a random row of the batch; 0
        never does so. It is looked for such every ``10 n_clusters`` rows, and not in the last tenth of all steps.
    patience
        Steps without a lower smoothed inertia after which training ends; None always takes all epochs.
    tolerance
        Training ends when the smoothed largest move of a centroid in a step, squared, is below this fraction of the
        points' mean variance; 0 never does so.
    precision
        Type in which distances are compared; sums and centroids are float64 in any case.
    seed
        Seed of the first centroids, of the order of rows and of re-seeding.
    checkpoints_kept
        Checkpoints that are kept while training.
    checkpoint_seconds
        Seconds from one checkpoint to the next within an epoch; there is one after each epoch in any case.
    """

    n_clusters: int = Field(default=8, ge=1)
    scaling: Literal["standard", "none"] = "standard"
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    start: Literal["k-means++", "random"] = "k-means++"
    start_rows: int | None = Field(default=None, ge=1)
    start_count: NonNegative = 1.0
    step: Literal["counts", "constant", "polynomial"] = "counts"
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.1
    step_delay: Positive = 100.0
    step_power: Annotated[float, Field(gt=0, le=1)] = 0.75
    decay: Share = 1.0
    reseed_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.01
    patience: int | None = Field(default=None, ge=1)
    tolerance: NonNegative = 0.0
    precision: Literal["float32", "float64"] = "float32"
    seed: int = Field(default=1, ge=0)
    checkpoints_kept: int = Field(default=2, ge=1)
    checkpoint_seconds: NonNegative = 60.0

    @property
    def sample_rows(self) -> int:
        """Rows of the sample that the first centroids are chosen from."""
        return self.start_rows or max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER * self.n_clusters)

    def deciding(self) -> ClusterSettings:
        """Return these settings without those that merely keep the training safe on the way."""
        return self.without("checkpoints_kept", "checkpoint_seconds")

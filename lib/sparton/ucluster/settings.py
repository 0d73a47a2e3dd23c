"""What the network looks like, what it reads and how it is trained."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from sparton.config import Config, validate
from sparton.optim.schedules import WarmupShape
from sparton.optim.settings import ExchangePrecision, LossScaleSettings

if TYPE_CHECKING:
    from sparton.data.manifest import Manifest

Width = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Precision = Literal["float32", "bfloat16", "float16"]
"""What the network's products are computed in while it is trained."""

ANGLES = ("etarel", "phirel")
"""The features in which the first graph looks for neighbours; the second one is an angle of period 2 pi."""

PUBLISHED_SIZES: dict[str, Any] = {
    "embedding": 3,
    "neighbours": 10,
    "attention": (16, 128),
    "first_block": (64, 128),
    "second_block": (256, 256),
    "jet_block": (),
    "head": (256, 128),
}
"""Sizes of the published network (arXiv:2010.07106)."""


class ModelSettings(Config):
    """Kind and sizes of the network; with ``network: published``, sizes that are not named are the published ones.

    Attributes
    ----------
    network
        ``default``, or ``published``: the network of the published code to the number, padding included, whose inputs
        are not standardised (docs/ucluster.md).
    n_clusters
        Clusters to find.
    embedding
        Dimensions of the space in which jets are clustered.
    neighbours
        Nearest neighbours of each particle in both graphs, itself not counted; the published network counts it.
    attention
        Channels of the first and the second graph attention layer.
    first_block, second_block
        Widths of the particle layers after each of them.
    jet_block
        Widths of the jet's layers between the sum over its particles and the embedding; the published network, where
        the embedding is a mean over the particles, has none.
    pooling
        What a jet's layers read of its particles: the ``sum`` of each output, which can hold a mass and a number, or
        the ``mean``; the published network takes its own mean, over all slots.
    multiplicity
        Whether the jet's layers also read ln N of the N particles in the jet's slots, normalised over jets like the
        sums; the published network cannot.
    head
        Widths of the layers between the embedding and the logits of the mass bins.
    epsilon
        Added to variances in batch normalisation.
    """

    network: Literal["default", "published"] = "default"
    n_clusters: int = Field(default=3, ge=2)
    embedding: Width = 3
    neighbours: Width = 8
    attention: tuple[Width, Width] = (16, 64)
    first_block: tuple[Width, ...] = Field(default=(64, 64), min_length=1)
    second_block: tuple[Width, ...] = Field(default=(128,), min_length=1)
    jet_block: tuple[Width, ...] = (64,)
    pooling: Literal["sum", "mean"] = "sum"
    multiplicity: bool = False
    head: tuple[Width, ...] = (64,)
    epsilon: float = Field(default=1e-3, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _published_sizes(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("network") == "published":
            if values.get("jet_block"):
                raise ValueError(
                    f"network: published has no layers between pooling and embedding, expected no jet_block. Received: "
                    f"jet_block={list(values['jet_block'])}"
                )
            return PUBLISHED_SIZES | values
        return values

    @model_validator(mode="after")
    def _published_pools_its_own_way(self) -> ModelSettings:
        if self.network == "published" and self.pooling != "sum":
            raise ValueError(
                f"network: published has a mean over all slots, padding too, and nothing else. Received: "
                f"pooling={self.pooling}; leave it out, or take network: default"
            )
        return self

    @model_validator(mode="after")
    def _published_reads_no_multiplicity(self) -> ModelSettings:
        if self.network == "published" and self.multiplicity:
            raise ValueError(
                "network: published has no layers on the jet that could read multiplicity: true; leave it out, or take "
                "network: default"
            )
        return self

    def published(self) -> ModelSettings:
        """Return the published network with the sizes that were named.

        Raises
        ------
        ConfigError
            If something was named that this network does not have.
        """
        values = self.model_dump(exclude_unset=True) | {"network": "published"}
        return validate(type(self), values, "section model")

    @property
    def standardises(self) -> bool:
        """Whether the network shifts and scales its inputs by their statistics."""
        return self.network == "default"


class InputSpec(Config):
    """The tensor that the network reads and the target of its pre-training.

    Attributes
    ----------
    feature_names, feature_mean, feature_std
        Features of a particle, and their statistics over the real particles of the train split; 0 and 1 for a network
        that does not standardise.
    n_particles
        Slots of the tensor.
    mass_bin_edges
        Edges (GeV) of the target's bins; the last class is the overflow.
    """

    feature_names: tuple[str, ...] = Field(min_length=1)
    feature_mean: tuple[float, ...]
    feature_std: tuple[Annotated[float, Field(gt=0)], ...]
    n_particles: Width
    mass_bin_edges: tuple[float, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if not len(self.feature_names) == len(self.feature_mean) == len(self.feature_std):
            raise ValueError("expected as many means and deviations as feature names")
        missing = [name for name in ANGLES if name not in self.feature_names]
        if missing:
            raise ValueError(f"feature_names lacks {', '.join(missing)}, in which the first graph is made")
        if not all(low < high for low, high in pairwise(self.mass_bin_edges)):
            raise ValueError("expected rising mass_bin_edges")
        return self

    @classmethod
    def of(cls, manifest: Manifest, standardised: bool = True) -> InputSpec:
        """Return the inputs that a training set offers, with mean 0 and deviation 1 where not ``standardised``."""
        found = cls(**{name: getattr(manifest, name) for name in cls.model_fields})
        return found if standardised else found.plain()

    def plain(self) -> InputSpec:
        """Return the same inputs with mean 0 and deviation 1."""
        zeros, ones = (0.0,) * self.n_features, (1.0,) * self.n_features
        return self.model_copy(update={"feature_mean": zeros, "feature_std": ones})

    @property
    def n_features(self) -> int:
        """Features of a particle."""
        return len(self.feature_names)

    @property
    def n_targets(self) -> int:
        """Classes of the target."""
        return len(self.mass_bin_edges)

    @property
    def angles(self) -> tuple[int, int]:
        """Positions of the two features of the first graph."""
        eta, phi = (self.feature_names.index(name) for name in ANGLES)
        return eta, phi


class TrainSettings(Config):
    """How the network is trained; no setting refers to labels.

    Attributes
    ----------
    batch_size
        Jets of one worker in one step.
    lanes
        Lanes of the order of jets, of which each worker takes equally many, and each step as many jets from each.
        The batches depend on this number and on the jets of all workers in a step alone: with 12, and ``batch_size``
        set accordingly, 1, 2, 3, 4, 6 or 12 workers train on the same ones. It must be a multiple of the number of
        workers; memory and open files of a worker grow with its lanes. None takes one for each worker, which reads
        fastest.
    pretrain_epochs
        Epochs with the mass bins alone.
    joint_epochs
        Epochs with the mass bins and the clusters.
    start_from
        Bundle whose weights training starts from, such as one that ``import-checkpoint`` made; None starts from random
        ones. With ``pretrain_epochs`` 0 its centroids are kept, else they are found anew after pre-training.
    rate_schedule
        ``cosine``: the learning rate falls along half a cosine in each phase. ``halving``: it is ``learning_rate`` at
        first, halved every ``halving_samples`` jets over both phases, as published.
    learning_rate
        Peak of the learning rate of pre-training.
    joint_learning_rate
        Peak of the learning rate of the joint phase; ``cosine`` only.
    min_learning_rate
        Where the cosine of each phase ends, or below which halving does not go.
    warmup_steps
        Steps over which the learning rate of the first phase rises; ``cosine`` only.
    warmup
        How it rises: ``linear``; by equal factors (``exponential``); with the square (``quadratic``) or the root
        (``root``) of the step; along half a ``cosine``; or at once in the last of these steps (``constant``).
    warmup_from
        Where it rises from: 0, or with ``one_worker`` the learning rate before ``linear_scaling``.
    linear_scaling
        Multiply the learning rates by the number of workers.
    adam_epsilon
        Added to the root of Adam's second moment; 1e-8 in the published code.
    focal_gamma, focal_scale
        Exponent and prefactor of the focal loss of the mass bins.
    beta
        Weight of the clustering loss in the joint phase.
    balance
        Weight of the divergence of the clusters' mean occupation from equal sizes; 0 leaves sizes free.
    agreement
        Weight of the cross entropy between the target and the assignments in the joint phase, where classes are
        clusters (``centroids: classifier``); 0 leaves it out. It keeps the border between two centroids where the
        classes part: the clustering loss alone draws centroids to the means of their clusters.
    alpha_start, alpha_end
        Inverse temperature of the assignments in the first and the last joint epoch, linear between. Each embedding
        dimension of the default network has unit variance, so both are in units of its spread.
    momentum_schedule
        Weight of the past in the moving averages of normalisation layers. ``mean``: as in a plain mean of all steps.
        ``halving``: 0.5, and half as far from 1 every ``halving_samples`` jets, as published.
    momentum_max
        Upper limit of it.
    halving_samples
        Jets, over all workers, after which the ``halving`` schedules take their next step.
    centroids
        Where the first centroids are. ``kmeans``: at the means of k-means, evened out if ``balance`` asks for it.
        ``classifier``: where the nearest one is the class that the classifier chooses; for a target of as many classes
        as clusters, such as ``mass_peaks``.
    centroid_rows
        Jets of the train split that the first centroids are found on; of fewer, all are used.
    precision
        What the products on particles are computed in, and their results between layers; ``float32`` everything else:
        weights, normalisation, softmax, distances, losses and the layers on jets. For GPUs; on a CPU half precision is
        slower. The bundle's network computes in float32 whatever it was trained in.
    exchange_precision
        What gradients are while they travel between workers and are summed there; float16 halves the bytes.
    loss_scale
        The factor on the loss where ``precision`` or ``exchange_precision`` is float16.
    select
        Which epoch's network, centroids and averages become the bundle's: that of the ``last`` one, or of the one of
        ``least_loss`` of the target on the ``val`` split, which no gradient has seen; among the joint epochs if there
        are any. Neither reads a label.
    seed
        Seed of the first weights, of the order of the jets and of the centroids.
    checkpoints_kept
        Checkpoints that are kept while training.
    checkpoint_seconds
        Seconds from one checkpoint to the next within an epoch; there is one after each epoch in any case.
    """

    batch_size: int = Field(default=128, ge=1)
    lanes: int | None = Field(default=None, ge=1)
    pretrain_epochs: int = Field(default=10, ge=0)
    joint_epochs: int = Field(default=10, ge=0)
    start_from: str | None = None
    rate_schedule: Literal["cosine", "halving"] = "cosine"
    learning_rate: Positive = 2e-3
    joint_learning_rate: Positive = 5e-4
    min_learning_rate: NonNegative = 1e-5
    warmup_steps: int = Field(default=50, ge=0)
    warmup: WarmupShape = "linear"
    warmup_from: Literal["zero", "one_worker"] = "zero"
    linear_scaling: bool = False
    adam_epsilon: Positive = 1e-7
    focal_gamma: NonNegative = 4.0
    focal_scale: Positive = 10.0
    beta: NonNegative = 0.1
    balance: NonNegative = 1.0
    agreement: NonNegative = 0.0
    alpha_start: Positive = 10.0
    alpha_end: Positive = 40.0
    momentum_schedule: Literal["mean", "halving"] = "mean"
    momentum_max: float = Field(default=0.99, ge=0, lt=1)
    halving_samples: int = Field(default=500_000, ge=1)
    centroids: Literal["kmeans", "classifier"] = "kmeans"
    centroid_rows: int = Field(default=100_000, ge=1)
    precision: Precision = "float32"
    exchange_precision: ExchangePrecision = "float32"
    loss_scale: LossScaleSettings = LossScaleSettings()
    select: Literal["last", "least_loss"] = "last"
    seed: int = Field(default=1, ge=0)
    checkpoints_kept: int = Field(default=2, ge=1)
    checkpoint_seconds: NonNegative = 60.0

    @model_validator(mode="after")
    def _has_a_beginning(self) -> TrainSettings:
        if not self.epochs:
            raise ValueError("expected at least one epoch: pretrain_epochs and joint_epochs are both 0")
        if self.warmup == "exponential" and self.warmup_from == "zero":
            raise ValueError("warmup: exponential cannot start from 0; take warmup_from: one_worker")
        if self.agreement and self.centroids != "classifier":
            raise ValueError("agreement needs centroids: classifier, with a class of the target for each cluster")
        if not self.pretrain_epochs and self.start_from is None:
            raise ValueError("pretrain_epochs 0 needs start_from, a bundle whose network is trained already")
        return self

    def deciding(self) -> TrainSettings:
        """Return these settings without those that merely keep the training safe on the way."""
        return self.without("checkpoints_kept", "checkpoint_seconds")

    def lasting(self) -> TrainSettings:
        """Return the settings that decide, and that another number of workers keeps when it goes on with a training.

        With ``lanes`` the rows of each worker are none of them: the global batch may stay what it is.
        """
        deciding = self.deciding()
        return deciding if self.lanes is None else deciding.without("batch_size")

    @property
    def scales_loss(self) -> bool:
        """Whether gradients are ever float16, whose range asks for a loss scale."""
        return "float16" in (self.precision, self.exchange_precision)

    @property
    def keeps_centroids(self) -> bool:
        """Whether the first centroids are those of the bundle that training starts from."""
        return self.start_from is not None and not self.pretrain_epochs

    @property
    def epochs(self) -> int:
        """Epochs of both phases."""
        return self.pretrain_epochs + self.joint_epochs

"""One training step: losses of the global batch, gradients summed over ranks, one update that is equal on all."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sparton.distributed.collectives import raw
from sparton.distributed.world import Connection
from sparton.optim.exchange import GradientExchange
from sparton.optim.loss_scale import LossScale
from sparton.ucluster.losses import clustering, focal, occupation_divergence, soft_assignments, squared_distances
from sparton.ucluster.networks import Network
from sparton.ucluster.normalisation import BatchContext
from sparton.ucluster.settings import TrainSettings

Batch = dict[str, tf.Tensor]

Averages = list[tuple[Any, tf.Tensor]]
"""Moving averages with their next values."""


class Schedule(NamedTuple):
    """What changes from step to step: learning rate, averaging momentum, inverse temperature, clustering weight."""

    learning_rate: float
    momentum: float
    alpha: float
    beta: float


class Losses(NamedTuple):
    """Means over the jets of the global batch, their number, and whether (1 or 0) the step was skipped."""

    total: Any
    focal: Any
    clustering: Any
    balance: Any
    jets: Any
    skipped: Any


class TrainStep:
    """The compiled step and what it updates: the network, its centroids and the optimiser's slots.

    Where gradients are float16 a step in which one overflows changes nothing but the loss scale.

    Parameters
    ----------
    connection
        This rank's place and its collectives.
    model
        The network; equal on all ranks.
    settings
        Weights of the losses, precision of the gradients.
    """

    def __init__(self, connection: Connection, model: Network, settings: TrainSettings) -> None:
        self.model = model
        self.optimiser = keras.optimizers.Adam(settings.learning_rate, epsilon=settings.adam_epsilon, name="adam")
        self.optimiser.build(model.trainable_variables)
        self.loss_scale = LossScale(settings.loss_scale) if settings.scales_loss else None
        self._connection = connection
        self._exchange = GradientExchange(connection.collectives, settings.exchange_precision)
        self._settings = settings
        self._dtype = tf.as_dtype(model.centroids.dtype)
        self._run = tf.function(self._update, reduce_retracing=True)

    @property
    def variables(self) -> list[Any]:
        """Everything that a checkpoint must hold: weights, moving averages, centroids, slots, and the loss scale."""
        scale = [] if self.loss_scale is None else self.loss_scale.variables
        return [*self.model.variables, *self.optimiser.variables, *scale]

    @property
    def exchange_bytes(self) -> int:
        """Bytes of gradients that a rank passes to the exchange in each step."""
        return self._exchange.size(self.model.trainable_variables)

    @property
    def skipped(self) -> int:
        """Steps so far that changed nothing."""
        return 0 if self.loss_scale is None else self.loss_scale.skipped

    def __call__(self, batch: Batch, schedule: Schedule) -> Losses:
        """Run one step on this rank's batch.

        Raises
        ------
        TrainingError
            If gradients overflow again and again, at the smallest loss scale.
        """
        losses, finite = self._run(batch, *(tf.constant(value, self._dtype) for value in schedule))
        if self.loss_scale is not None and losses.skipped:
            names = [variable.path for variable in self.model.trainable_variables]
            self.loss_scale.check([name for name, good in zip(names, finite.numpy(), strict=True) if not good])
        return losses

    def _update(
        self, batch: Batch, learning_rate: tf.Tensor, momentum: tf.Tensor, alpha: tf.Tensor, beta: tf.Tensor
    ) -> tuple[Losses, tf.Tensor]:
        weight = batch["weight"]
        reduce = self._connection.collectives.allreduce_sum
        averages: Averages = []
        context = BatchContext(reduce, momentum, lambda variable, value: averages.append((variable, value)))
        with tf.GradientTape() as tape:
            embedding, logits = self.model(batch["features"], batch["n_particles"], weight=weight, context=context)
            focal_rows = focal(logits, batch["target"], self._settings.focal_gamma, self._settings.focal_scale)
            every_distance = squared_distances(embedding, self.model.centroids)
            # No tensor has more than two uses: the gradients of three are added in an order that changes by trace.
            distances = tf.identity(every_distance)
            assignments = soft_assignments(distances, alpha)
            own = tf.reduce_sum(weight * focal_rows), tf.reduce_sum(weight * clustering(distances, assignments))
            agreement = tf.zeros_like(alpha)
            if self._settings.agreement:
                # Before the centroids are placed alpha is 0, and so is the weight of what refers to them.
                rows = focal(-alpha * every_distance, batch["target"], 0.0, 1.0)
                joint = tf.cast(alpha > 0, self._dtype)
                agreement = self._settings.agreement * joint * tf.reduce_sum(weight * rows)
            occupation = tf.linalg.matvec(assignments, weight, transpose_a=True)
            sums = [tf.reduce_sum(weight), occupation, *own, agreement]
            jets, total_occupation, *totals = reduce([tf.stop_gradient(each) for each in sums])
            balance = occupation_divergence(_summed(occupation, total_occupation) / jets)
            # The share of this rank in each mean, of which the gradients are summed. Every rank computes the whole
            # divergence, and its gradient by the occupation of its own jets.
            focal_mean, clustering_mean, agreement = (each / jets for each in (*own, agreement))
            loss = focal_mean + beta * (clustering_mean + self._settings.balance * balance) + agreement
            scaled = loss if self.loss_scale is None else self.loss_scale.scaled(loss)
        variables = self.model.trainable_variables
        gradients = self._exchange(tape.gradient(scaled, [raw(variable) for variable in variables]))
        finite = self._apply(gradients, averages, learning_rate)
        focal_mean, clustering_mean, agreement = (each / jets for each in totals)
        total = focal_mean + beta * (clustering_mean + self._settings.balance * balance) + agreement
        skipped = 1.0 - tf.cast(tf.reduce_all(finite), self._dtype)
        return Losses(total, focal_mean, clustering_mean, balance, jets, skipped), finite

    def _apply(self, gradients: list[tf.Tensor], averages: Averages, learning_rate: tf.Tensor) -> tf.Tensor:
        """Change what is trained unless a gradient overflowed; return which did not, bool[variables]."""
        if self.loss_scale is None:
            self._change(gradients, averages, learning_rate)
            return tf.constant(True)
        finite = tf.stack([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        every, unscaled = tf.reduce_all(finite), self.loss_scale.unscaled(gradients)
        tf.cond(every, lambda: self._change(unscaled, averages, learning_rate), lambda: tf.constant(False))
        self.loss_scale.update(every)
        return finite

    def _change(self, gradients: list[tf.Tensor], averages: Averages, learning_rate: tf.Tensor) -> tf.Tensor:
        """Update averages, weights and slots, and say so."""
        for variable, value in averages:
            variable.assign(value)
        self.optimiser.learning_rate.assign(learning_rate)
        self.optimiser.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return tf.constant(True)


@tf.custom_gradient
def _summed(own: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Return a sum over ranks; what all compute from it alike has the gradient by this rank's term without exchange."""
    return tf.identity(total), lambda upstream: (upstream, tf.zeros_like(total))

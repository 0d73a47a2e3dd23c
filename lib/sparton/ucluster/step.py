"""One training step: losses of the global batch, gradients summed over ranks, one update that is equal on all."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sparton.distributed.collectives import raw
from sparton.distributed.world import Connection
from sparton.ucluster.losses import clustering, focal, occupation_divergence, soft_assignments, squared_distances
from sparton.ucluster.networks import Network
from sparton.ucluster.normalisation import BatchContext
from sparton.ucluster.settings import TrainSettings

Batch = dict[str, tf.Tensor]


class Schedule(NamedTuple):
    """What changes from step to step: learning rate, averaging momentum, inverse temperature, clustering weight."""

    learning_rate: float
    momentum: float
    alpha: float
    beta: float


class Losses(NamedTuple):
    """Means over the jets of the global batch, and their number."""

    total: Any
    focal: Any
    clustering: Any
    balance: Any
    jets: Any


class TrainStep:
    """The compiled step and what it updates: the network, its centroids and the optimiser's slots.

    Parameters
    ----------
    connection
        This rank's place and its collectives.
    model
        The network; equal on all ranks.
    settings
        Weights of the losses.
    """

    def __init__(self, connection: Connection, model: Network, settings: TrainSettings) -> None:
        self.model = model
        self.optimiser = keras.optimizers.Adam(settings.learning_rate, epsilon=settings.adam_epsilon, name="adam")
        self.optimiser.build(model.trainable_variables)
        self._connection = connection
        self._settings = settings
        self._run = tf.function(self._update, reduce_retracing=True)

    @property
    def variables(self) -> list[Any]:
        """Everything that a checkpoint must hold: weights, moving averages, centroids and slots."""
        return [*self.model.variables, *self.optimiser.variables]

    def __call__(self, batch: Batch, schedule: Schedule) -> Losses:
        """Run one step on this rank's batch."""
        return Losses(*self._run(batch, *(tf.constant(value, tf.float32) for value in schedule)))

    def _update(
        self, batch: Batch, learning_rate: tf.Tensor, momentum: tf.Tensor, alpha: tf.Tensor, beta: tf.Tensor
    ) -> Losses:
        weight = batch["weight"]
        reduce = self._connection.collectives.allreduce_sum
        (jets,) = reduce([tf.reduce_sum(weight)])
        context = BatchContext(reduce, momentum)
        with tf.GradientTape() as tape:
            embedding, logits = self.model(batch["features"], batch["n_particles"], weight=weight, context=context)
            focal_rows = focal(logits, batch["target"], self._settings.focal_gamma, self._settings.focal_scale)
            every_distance = squared_distances(embedding, self.model.centroids)
            # No tensor has more than two uses: the gradients of three are added in an order that changes by trace.
            distances = tf.identity(every_distance)
            assignments = soft_assignments(distances, alpha)
            focal_mean = tf.reduce_sum(weight * focal_rows) / jets
            clustering_mean = tf.reduce_sum(weight * clustering(distances, assignments)) / jets
            (occupation,) = reduce([tf.linalg.matvec(assignments, weight, transpose_a=True)])
            # Every rank computes the divergence of the whole batch, so each contributes its share of it.
            balance = occupation_divergence(occupation / jets) / self._connection.world.size
            loss = focal_mean + beta * (clustering_mean + self._settings.balance * balance)
            if self._settings.agreement:
                # Before the centroids are placed alpha is 0, and so is the weight of what refers to them.
                rows = focal(-alpha * every_distance, batch["target"], 0.0, 1.0)
                joint = tf.cast(alpha > 0, tf.float32)
                loss += self._settings.agreement * joint * tf.reduce_sum(weight * rows) / jets
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, [raw(variable) for variable in variables])
        *summed, total, focal_mean, clustering_mean, balance = reduce(
            [*gradients, loss, focal_mean, clustering_mean, balance]
        )
        self.optimiser.learning_rate.assign(learning_rate)
        self.optimiser.apply_gradients(zip(summed, variables, strict=True))
        return Losses(total, focal_mean, clustering_mean, balance, jets)

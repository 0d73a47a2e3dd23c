"""What is watched on the validation split, without labels: losses, sizes of clusters, sharpness, changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sparton.data.batches import batches, data_errors
from sparton.data.manifest import Manifest
from sparton.data.plan import plan_epoch
from sparton.data.settings import VALIDATION
from sparton.distributed.world import Connection
from sparton.ucluster.losses import clustering, focal, soft_assignments, squared_distances
from sparton.ucluster.networks import Network
from sparton.ucluster.settings import TrainSettings

COLUMNS = ("features", "n_particles", "target")


@dataclass(frozen=True)
class Observation:
    """Figures of one epoch over the whole validation split.

    Attributes
    ----------
    focal, clustering
        Mean losses.
    smallest_cluster
        Share of the smallest cluster.
    distance_ratio
        Mean distance to the nearest over that to the second nearest centroid: 0 is sharp, 1 undecided.
    changed
        Share of jets that are in another cluster than an epoch before; NaN in the first epoch.
    """

    focal: float
    clustering: float
    smallest_cluster: float
    distance_ratio: float
    changed: float


class Monitor:
    """Looks at the validation split after each epoch; every rank reads its part, the figures are of all of it.

    Attributes
    ----------
    clusters
        Cluster of each jet of the split when it was last looked at, int32[n] in the order of the files; -1 before.
    """

    def __init__(
        self, connection: Connection, folder: str, manifest: Manifest, model: Network, settings: TrainSettings
    ) -> None:
        self._connection = connection
        self._folder = folder
        self._manifest = manifest
        self._rows = manifest.shard_rows(VALIDATION) if VALIDATION in manifest.splits else ()
        self._settings = settings
        self._model = model
        self.clusters: NDArray[np.int32] = np.full(sum(self._rows), -1, np.int32)
        self._run = tf.function(self._batch, reduce_retracing=True)

    def observe(self, alpha: float) -> Observation | None:
        """Return the figures of the split, None where it is missing or empty."""
        if not sum(self._rows):
            return None
        plan = plan_epoch(
            self._rows, self._connection.world.size, self._settings.batch_size, self._settings.seed, 0, shuffle=False
        )
        rank = self._connection.world.rank
        data = batches(self._folder, self._manifest, VALIDATION, plan, rank, columns=COLUMNS)
        sums = np.zeros(4 + self._model.settings.n_clusters)
        clusters = []
        with data_errors():
            for batch in data:
                part, cluster = self._run(batch, tf.constant(alpha, tf.float32))
                sums += part.numpy()
                clusters.append(cluster.numpy())
        return self._combine(sums, np.concatenate(clusters)[: plan.row_count(rank)])

    def _combine(self, sums: NDArray[np.float64], cluster: NDArray[np.int32]) -> Observation:
        gather = self._connection.collectives.allgather
        jets, focal_sum, clustering_sum, ratio, *sizes = gather(sums[None]).sum(axis=0).tolist()
        before, self.clusters = self.clusters, gather(cluster)
        changed = float("nan") if np.any(before < 0) else float(np.count_nonzero(before != self.clusters)) / jets
        return Observation(focal_sum / jets, clustering_sum / jets, min(sizes) / jets, ratio / jets, changed)

    def _batch(self, batch: dict[str, tf.Tensor], alpha: tf.Tensor) -> tuple[tf.Tensor, Any]:
        weight = batch["weight"]
        embedding, logits = self._model(batch["features"], batch["n_particles"])
        focal_rows = focal(logits, batch["target"], self._settings.focal_gamma, self._settings.focal_scale)
        distances = squared_distances(embedding, self._model.centroids)
        clustering_rows = clustering(distances, soft_assignments(distances, alpha))
        cluster = tf.argmin(distances, axis=1, output_type=tf.int32)
        nearest = tf.sqrt(tf.sort(distances, axis=1)[:, :2])
        ratio = tf.math.divide_no_nan(nearest[:, 0], nearest[:, 1])
        sizes = tf.linalg.matvec(tf.one_hot(cluster, self._model.settings.n_clusters), weight, transpose_a=True)
        figures = [
            tf.reduce_sum(weight * value) for value in (tf.ones_like(weight), focal_rows, clustering_rows, ratio)
        ]
        return tf.concat([tf.stack(figures), sizes], axis=0), cluster

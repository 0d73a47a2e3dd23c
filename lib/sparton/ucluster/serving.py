"""A bundle as a TensorFlow SavedModel, for programs that serve models and have no Sparton."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from sparton import storage
from sparton.ucluster.backend import portable
from sparton.ucluster.losses import squared_distances

if TYPE_CHECKING:
    from sparton.ucluster.bundle import Bundle
    from sparton.ucluster.networks import Network

SIGNATURE = "serving_default"
"""The name of what a server calls where a request names nothing."""


def write_saved_model(bundle: Bundle, folder: str) -> None:
    """Write a bundle's network as a SavedModel into a folder.

    Its one signature, :data:`SIGNATURE`, takes ``features`` float32[B, P, F], as in a training set, and
    ``n_particles`` int32[B], and returns ``embedding`` float32[B, D], the Euclidean distances to the centroids
    ``distance`` float32[B, K] and the nearest ``cluster`` int32[B]. Each jet is computed by itself, in inference mode.
    The graph consists of TensorFlow's own operations, so any device and any server runs it, slower on a CPU than
    :func:`sparton.ucluster.predict.assign` with its compiled kernels.
    """
    with tempfile.TemporaryDirectory(prefix="sparton-serving-") as scratch:
        archive = keras.export.ExportArchive()
        archive.track(bundle.model)
        archive.add_endpoint(SIGNATURE, _endpoint(bundle.model), input_signature=_signature(bundle.model))
        archive.write_out(scratch, verbose=False)
        storage.copy_folder(scratch, folder)


def _signature(model: Network) -> list[tf.TensorSpec]:
    inputs = model.inputs_spec
    return [
        tf.TensorSpec((None, inputs.n_particles, inputs.n_features), tf.float32, "features"),
        tf.TensorSpec((None,), tf.int32, "n_particles"),
    ]


def _endpoint(model: Network) -> Any:
    def serve(features: tf.Tensor, n_particles: tf.Tensor) -> dict[str, tf.Tensor]:
        with portable():
            embedding = model(features, n_particles).embedding
        squares = squared_distances(embedding, model.centroids)
        return {
            "embedding": embedding,
            "distance": tf.sqrt(squares),
            "cluster": tf.argmin(squares, axis=1, output_type=tf.int32),
        }

    return serve

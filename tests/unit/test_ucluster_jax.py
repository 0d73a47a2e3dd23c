"""The network under Keras' JAX backend: the same values and gradients from the same weights, compiled or not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from sparton.ucluster.backend import portable
from sparton.ucluster.model import Outputs
from sparton.ucluster.networks import Network
from sparton.ucluster.normalisation import BatchContext
from sparton.ucluster.settings import ModelSettings
from tests.clouds import (
    SLOTS,
    SMALL,
    SMALL_PUBLISHED,
    SMALL_WITH_MEANS,
    SMALL_WITH_MULTIPLICITY,
    clouds,
    inputs,
    network,
)

OTHER = """
import sys
import jax
import numpy as np
from sparton.ucluster.networks import create
from sparton.ucluster.normalisation import BatchContext
from sparton.ucluster.settings import InputSpec, ModelSettings

assert "tensorflow" not in sys.modules
settings, spec, given, target = sys.argv[1:]
given = np.load(given)
model = create(ModelSettings.model_validate_json(settings), InputSpec.model_validate_json(spec))
model.set_weights([given[f"weight_{index}"] for index in range(len(model.weights))])
features, n_particles = given["features"], given["n_particles"]
trainable, fixed = ([variable.value for variable in group] for group in
                    (model.trainable_variables, model.non_trainable_variables))

def loss(values):
    outputs, _ = model.stateless_call(values, fixed, features, n_particles)
    return (outputs.logits ** 2).sum() + outputs.embedding.sum(), outputs

gradients, outputs = jax.grad(loss, has_aux=True)(trainable)
named = {f"gradient_{index}": value for index, value in enumerate(gradients)}

if model.settings.network == "default":
    context = BatchContext(list, 0.9)

    def trained(values, features, n_particles):
        outputs, averages = model.stateless_call(
            values, fixed, features, n_particles, context=context, nodes=int(given["n_particles"].sum()) + 3
        )
        return (outputs.logits ** 2).sum() + outputs.embedding.sum(), averages

    gradients, averages = jax.jit(jax.grad(trained, has_aux=True))(trainable, features, n_particles)
    named |= {f"jitted_gradient_{index}": value for index, value in enumerate(gradients)}
    named |= {f"average_{index}": value for index, value in enumerate(averages)}
np.savez(target, embedding=outputs.embedding, logits=outputs.logits, **named)
"""

ALONE = BatchContext(lambda tensors: [tf.convert_to_tensor(tensor) for tensor in tensors], 0.9)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")


@pytest.mark.parametrize(
    "settings",
    [SMALL, SMALL_WITH_MULTIPLICITY, SMALL_WITH_MEANS, SMALL_PUBLISHED],
    ids=["default", "multiplicity", "means", "published"],
)
def test_values_and_gradients_are_those_of_tensorflow(settings: ModelSettings, tmp_path: Path) -> None:
    model = network(settings=settings, seed=5)
    rng = np.random.default_rng(0)
    model.set_weights([np.abs(weight + rng.normal(0, 0.1, weight.shape)) for weight in model.get_weights()])
    features, n_particles = clouds([3, SLOTS, 1, 7, 2])
    outputs, gradients = computed(model, features, n_particles)
    weights = {f"weight_{index}": weight for index, weight in enumerate(model.get_weights())}
    np.savez(tmp_path / "given.npz", features=features, n_particles=n_particles, **weights)
    arguments = [
        settings.model_dump_json(),
        inputs().model_dump_json(),
        *(str(tmp_path / n) for n in ("given.npz", "found.npz")),
    ]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", OTHER, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_allclose(found["embedding"], outputs.embedding, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["logits"], outputs.logits, rtol=1e-4, atol=1e-4)
    assert_equal_gradients([found[f"gradient_{index}"] for index in range(len(gradients))], gradients)
    if settings.network == "default":
        _, gradients = computed(model, features, n_particles, ALONE)
        assert_equal_gradients([found[f"jitted_gradient_{index}"] for index in range(len(gradients))], gradients)
        for index, average in enumerate(model.non_trainable_variables):
            np.testing.assert_allclose(found[f"average_{index}"], average, rtol=1e-4, atol=1e-5, err_msg=average.path)


def computed(
    model: Network, features: np.ndarray, n_particles: np.ndarray, context: BatchContext | None = None
) -> tuple[Outputs, list[np.ndarray]]:
    """Return what TensorFlow computes, and the gradients; in training its moving averages are changed."""
    with portable(), tf.GradientTape() as tape:
        outputs = model(tf.constant(features), tf.constant(n_particles), context=context)
        loss = tf.reduce_sum(outputs.logits**2) + tf.reduce_sum(outputs.embedding)
    variables = [variable.value for variable in model.trainable_variables]
    gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return outputs, [np.asarray(tf.convert_to_tensor(gradient)) for gradient in gradients]


def assert_equal_gradients(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Some, such as that of the attention's bias, are small differences of terms as large as the largest."""
    scale = max(float(np.abs(gradient).max()) for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one / scale, other / scale, atol=1e-5)

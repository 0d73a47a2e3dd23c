"""Weights of the published network from its TensorFlow 1 checkpoints."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton import storage
from sparton.data.featurize import DEFAULT_EDGES
from sparton.errors import DataError, UsageError
from sparton.physics.features import FEATURE_NAMES
from sparton.ucluster import bundle
from sparton.ucluster.curve import to_csv
from sparton.ucluster.normalisation import BatchNorm
from sparton.ucluster.published import PublishedUCluster
from sparton.ucluster.published_layers import BiasedDense, BiasedNorm, PublishedAttention
from sparton.ucluster.settings import InputSpec, ModelSettings
from sparton.versions import installed_versions

INDEX = ".index"
STEPS = "Variable"
"""The checkpoint's counter of training steps."""

PUBLISHED_INPUTS = InputSpec(
    feature_names=FEATURE_NAMES,
    feature_mean=(0.0,) * len(FEATURE_NAMES),
    feature_std=(1.0,) * len(FEATURE_NAMES),
    n_particles=100,
    mass_bin_edges=DEFAULT_EDGES,
)
"""What the published run read: eight plain features of 100 particles; 19 mass bins up to 200 GeV and one above."""


@dataclass(frozen=True)
class Tensor:
    """A variable of the network and where it stands in a checkpoint: the name there, and the shape there."""

    name: str
    shape: tuple[int, ...]
    variable: Any


def write_bundle(prefix: str, model: ModelSettings, folder: str) -> tuple[PublishedUCluster, int]:
    """Write a checkpoint's network as a bundle; return the network and the steps that it was trained for.

    Parameters
    ----------
    prefix
        As for :func:`read_checkpoint`.
    model
        The network's sizes.
    folder
        Of the bundle.

    Raises
    ------
    DataError
        If the checkpoint is damaged or of another network.
    """
    arrays = read_checkpoint(prefix)
    network = PublishedUCluster(model, PUBLISHED_INPUTS)
    network.build()
    assign_tensors(network, arrays, prefix)
    steps = int(arrays[STEPS]) if STEPS in arrays and not arrays[STEPS].shape else 0
    description = bundle.Description(
        format=bundle.FORMAT,
        model=model,
        inputs=PUBLISHED_INPUTS,
        centroids=tuple(map(tuple, network.centroids.numpy().tolist())),
        training={"checkpoint": storage.name(prefix), "steps": steps},
        versions=installed_versions(),
    )
    bundle.save(folder, network, description, metrics={}, curve=to_csv([]))
    return network, steps


def published_tensors(network: PublishedUCluster) -> list[Tensor]:
    """Return where each variable of a network stands in a checkpoint of the published code."""
    found = [Tensor("mu", tuple(network.centroids.shape), network.centroids)]
    for index, attention in enumerate(network.body.attention):
        found += _attention(index, attention)
    for block, layers in enumerate(network.body.blocks):
        for number, layer in enumerate(layers, start=1):
            found += _dense(f"gapnet{block}{number}", layer)
    found += _dense("agg", network.aggregate)
    for number, layer in enumerate(network.head, start=1):
        found += _dense(f"fc{number}", layer, convolution=False)
    last = f"fc{len(network.head) + 1}"
    found.append(_kernel(last, network.logits.kernel, convolution=False))
    found.append(_vector(f"{last}/biases", network.logits.bias))
    return found


def assign_tensors(network: PublishedUCluster, arrays: Mapping[str, NDArray[Any]], origin: str) -> None:
    """Give a network the weights and moving averages of a checkpoint, all of them or none.

    Parameters
    ----------
    network
        Built, of the checkpoint's sizes.
    arrays
        The checkpoint's tensors by name; those that the network has no use for are left alone.
    origin
        What messages call the checkpoint.

    Raises
    ------
    DataError
        Naming a tensor that is missing, has another shape or is not finite, with what was found and expected.
    """
    tensors = published_tensors(network)
    problems = [problem for tensor in tensors if (problem := _problem(tensor, arrays))]
    if problems:
        more = f" (and {len(problems) - 1} more tensors)" if len(problems) > 1 else ""
        raise DataError(
            f"{origin}: {problems[0]}{more}; it is no checkpoint of the published network for jets of this size: "
            "name another, or set the sizes of the section model to its own"
        )
    for tensor in tensors:
        tensor.variable.assign(np.asarray(arrays[tensor.name]).reshape(tensor.variable.shape))


def read_checkpoint(prefix: str) -> dict[str, NDArray[Any]]:
    """Return the tensors of a TensorFlow checkpoint by name; nothing in it is executed.

    Parameters
    ----------
    prefix
        Path or URL of its files without their endings ``.index`` and ``.data-...``, or of its index.

    Raises
    ------
    DataError
        If the files are damaged.
    UsageError
        If there are none.
    """
    import tensorflow as tf

    prefix = prefix.removesuffix(INDEX)
    files = checkpoint_files(prefix)
    with tempfile.TemporaryDirectory(prefix="sparton-checkpoint-") as scratch:
        for file in files:
            with storage.open_file(file) as source, open(os.path.join(scratch, storage.name(file)), "wb") as target:
                target.write(source.read())
        try:
            reader = tf.train.load_checkpoint(os.path.join(scratch, storage.name(prefix)))
            return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split()).replace(scratch, storage.parent(prefix))
            raise DataError(f"{prefix}: not readable as a TensorFlow checkpoint ({reason}); copy it anew") from None


def checkpoint_files(prefix: str) -> list[str]:
    """Return the files of a checkpoint.

    Raises
    ------
    UsageError
        If there are none.
    """
    if not storage.exists(prefix + INDEX):
        raise UsageError(
            f"{prefix}{INDEX}: no such file; --checkpoint takes the common beginning of a TensorFlow checkpoint's "
            "files, such as logs/cluster.ckpt"
        )
    return [prefix + INDEX, *storage.expand(f"{glob.escape(prefix)}.data-*")]


def _attention(index: int, layer: PublishedAttention) -> Iterator[Tensor]:
    scope = f"layerfilter{index}"
    for part, kernel, norm in (
        ("newfea_conv_head", layer.slot_kernel, layer.slot_norm),
        ("edgefea", layer.edge_kernel, layer.edge_norm),
        ("self_att_conv_head", layer.self_kernel, layer.self_norm),
        ("neib_att_conv_head", layer.neighbour_kernel, layer.neighbour_norm),
    ):
        yield _kernel(f"{scope}_{part}_0", kernel)
        yield from _norm(f"{scope}_{part}_0", norm)
    yield _vector("BiasAdd/biases" if index == 0 else f"BiasAdd_{index}/biases", layer.bias)


def _dense(scope: str, layer: BiasedDense, convolution: bool = True) -> Iterator[Tensor]:
    yield _kernel(scope, layer.kernel, convolution)
    yield from _norm(scope, layer.norm)


def _norm(scope: str, norm: BatchNorm | BiasedNorm) -> Iterator[Tensor]:
    if isinstance(norm, BiasedNorm):
        yield _vector(f"{scope}/biases", norm.bias)
        norm = norm.norm
    yield _vector(f"{scope}/bn/gamma", norm.gamma)
    yield _vector(f"{scope}/bn/beta", norm.beta)
    # TensorFlow 1 names a moving average by the tensor that it is taken of: first the mean, then the variance.
    moments = f"{scope}/bn/{scope}/bn/moments/Squeeze"
    yield _vector(f"{moments}/ExponentialMovingAverage", norm.moving_mean)
    yield _vector(f"{moments}_1/ExponentialMovingAverage", norm.moving_variance)


def _kernel(scope: str, variable: Any, convolution: bool = True) -> Tensor:
    shape = tuple(variable.shape)
    return Tensor(f"{scope}/weights", (1, 1, *shape) if convolution else shape, variable)


def _vector(name: str, variable: Any) -> Tensor:
    return Tensor(name, tuple(variable.shape), variable)


def _problem(tensor: Tensor, arrays: Mapping[str, NDArray[Any]]) -> str | None:
    expected = f"expected {list(tensor.shape)}"
    if tensor.name not in arrays:
        return f"the tensor {tensor.name} is missing among {len(arrays)}, {expected}"
    array = arrays[tensor.name]
    if array.shape != tensor.shape:
        return f"the tensor {tensor.name} is {list(array.shape)}, {expected}"
    if not np.isfinite(array).all():
        return f"the tensor {tensor.name} holds values that are not finite, expected numbers"
    return None

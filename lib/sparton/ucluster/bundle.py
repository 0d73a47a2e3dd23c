"""Model bundles: a folder with weights, a description in JSON and checksums. Loading one executes nothing from it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparton import checksums, storage
from sparton.config import Config, validate
from sparton.data.featurize import FeatureSpec
from sparton.errors import ConfigError, DataError
from sparton.ucluster.settings import InputSpec, ModelSettings, Precision

if TYPE_CHECKING:
    from sparton.ucluster.networks import Network

FORMAT = 1
WEIGHTS, DESCRIPTION, METRICS, CURVE = "weights.weights.h5", "model.json", "metrics.json", "training_curve.csv"
CHECKED = (WEIGHTS, DESCRIPTION, METRICS, CURVE)
FILES = (*CHECKED, checksums.SUMS)


class Description(Config):
    """What ``model.json`` says.

    Attributes
    ----------
    format
        Version of the layout.
    model
        Kind and shape of the network.
    inputs
        The tensor that it reads, with the features' statistics, and the mass bins of its pre-training.
    centroids
        [K, D], in the units of the embedding.
    training
        Settings of the training, and what it was run on.
    versions
        Versions of the packages that trained it.
    """

    format: int
    model: ModelSettings
    inputs: InputSpec
    centroids: tuple[tuple[float, ...], ...]
    training: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the network with its weights, and its description."""

    model: Network
    description: Description

    @property
    def feature_spec(self) -> FeatureSpec:
        """The tensor that the network reads; its target is not computed as that of training was."""
        inputs = self.description.inputs
        return FeatureSpec(n_particles=inputs.n_particles, mass_bin_edges=inputs.mass_bin_edges)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, in the tensor's order."""
        return self.description.inputs.feature_names

    @property
    def centroids(self) -> NDArray[np.float32]:
        """Centroids float32 [K, D]."""
        return np.asarray(self.description.centroids, np.float32)


def save(folder: str, model: Network, description: Description, metrics: dict[str, Any], curve: str) -> None:
    """Write the files of a bundle into ``folder``, the checksums last."""
    storage.make_dirs(folder)
    with tempfile.TemporaryDirectory(prefix="sparton-weights-") as scratch:
        local = os.path.join(scratch, WEIGHTS)
        model.save_weights(local)
        _copy(local, storage.join(folder, WEIGHTS))
    storage.write_json(storage.join(folder, DESCRIPTION), description.model_dump(mode="json"))
    storage.write_json(storage.join(folder, METRICS), metrics)
    storage.write_text(storage.join(folder, CURVE), curve)
    checksums.write(folder, CHECKED)


def verify(folder: str) -> None:
    """Check that a bundle is whole.

    Raises
    ------
    DataError
        Naming the file that is missing or whose checksum is wrong.
    """
    checksums.verify(folder, CHECKED, "a model bundle, made by 'sparton train'")


def read_description(folder: str) -> Description:
    """Read ``model.json``.

    Raises
    ------
    DataError
        If it is missing, damaged or of another format.
    """
    path = storage.join(folder, DESCRIPTION)
    values = storage.read_json(path)
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise DataError(f"{path}: bundle format {found!r}, this release reads {FORMAT}; train again")
    try:
        return validate(Description, values, path)
    except ConfigError as error:
        raise DataError(f"{error}; the bundle is damaged, train again") from None


def load(folder: str, precision: Precision | None = None) -> Bundle:
    """Check a bundle, build its network and load the weights.

    ``precision`` is that of the network's products, for a training to go on; None takes Keras' own dtype policy.

    Raises
    ------
    DataError
        If a file is missing, damaged or of another format, or the weights do not fit the description.
    """
    verify(folder)
    description = read_description(folder)
    model = build(description, precision)
    with tempfile.TemporaryDirectory(prefix="sparton-weights-") as scratch:
        local = os.path.join(scratch, WEIGHTS)
        _copy(storage.join(folder, WEIGHTS), local)
        try:
            model.load_weights(local)
        except (ValueError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{storage.join(folder, WEIGHTS)}: weights do not fit {DESCRIPTION} ({reason})") from None
    return Bundle(model, description)


def build(description: Description, precision: Precision | None = None) -> Network:
    """Return the network of a description, with fresh weights."""
    from sparton.ucluster.networks import create

    return create(description.model, description.inputs, precision=precision)


def _copy(source: str, target: str) -> None:
    with storage.open_file(source, "rb") as reading, storage.open_file(target, "wb") as writing:
        writing.write(reading.read())

"""Where training starts: at random weights, or at those of a bundle that was made for the same settings and data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparton import checksums, storage
from sparton.data.manifest import Manifest
from sparton.data.settings import VALIDATION
from sparton.errors import ConfigError
from sparton.ucluster import bundle
from sparton.ucluster.settings import InputSpec, ModelSettings, TrainSettings

if TYPE_CHECKING:
    from sparton.ucluster.networks import Network

MUST_AGREE = ("feature_names", "n_particles", "mass_bin_edges")
"""What set and bundle must have in common; the statistics of the features are the bundle's."""


def first_network(model: ModelSettings, training: TrainSettings, manifest: Manifest) -> Network:
    """Return the network that training begins with.

    Raises
    ------
    ConfigError
        If the bundle is of another network than the settings', or of other inputs than the set's, or the classes of
        the target cannot be the clusters that they are to be, or there are no jets to select an epoch by.
    DataError
        If the bundle is damaged.
    """
    from sparton.ucluster.networks import create

    check_centroids(model, training, manifest)
    check_selection(training, manifest)
    if training.start_from is None:
        return create(model, InputSpec.of(manifest, model.standardises), training.seed, training.precision)
    loaded = bundle.load(training.start_from, training.precision)
    check_fits(loaded.description, training.start_from, model, manifest)
    return loaded.model


def check_centroids(model: ModelSettings, training: TrainSettings, manifest: Manifest) -> None:
    """Check that the first centroids can be found the way the settings say.

    Raises
    ------
    ConfigError
        If they are to follow a classifier of another number of classes.
    """
    if training.centroids == "classifier" and manifest.n_targets != model.n_clusters:
        raise ConfigError(
            f"train.centroids: classifier needs a target of model.n_clusters={model.n_clusters} classes, the set has "
            f"{manifest.n_targets}; prepare it with prepare.features.mass_peaks={model.n_clusters}, or take kmeans"
        )


def check_selection(training: TrainSettings, manifest: Manifest) -> None:
    """Check that there are jets to select an epoch by.

    Raises
    ------
    ConfigError
        If the set has no validation split, or an empty one.
    """
    if training.select == "least_loss" and not (VALIDATION in manifest.splits and manifest.rows(VALIDATION)):
        raise ConfigError(
            f"train.select: least_loss needs jets in a split {VALIDATION!r}, the set has "
            f"{', '.join(f'{manifest.rows(name)} in {name!r}' for name in sorted(manifest.splits))}; prepare it with "
            f"prepare.splits.{VALIDATION}, or take select: last"
        )


def check_fits(description: bundle.Description, folder: str, model: ModelSettings, manifest: Manifest) -> None:
    """Check that a bundle is of the network and the inputs that training is about.

    Raises
    ------
    ConfigError
        Naming the first difference.
    """
    for name, value in model.model_dump(mode="json").items():
        found = description.model.model_dump(mode="json")[name]
        if found != value:
            raise ConfigError(f"{folder}: the bundle has model.{name}={found}, the settings {value}; make them equal")
    inputs = InputSpec.of(manifest)
    for name in MUST_AGREE:
        found, value = getattr(description.inputs, name), getattr(inputs, name)
        if found != value:
            raise ConfigError(
                f"{folder}: the bundle reads {name} {found}, the training set has {value}; prepare the set accordingly"
            )


def identity(training: TrainSettings) -> list[object]:
    """Return what a training keeps when it goes on: of the bundle that it starts from the content, not the place."""
    plain = training.lasting().model_dump(mode="json", exclude={"start_from"})
    if training.start_from is None:
        return [plain]
    return [plain, storage.sha256(storage.join(training.start_from, checksums.SUMS))]

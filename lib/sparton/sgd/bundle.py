"""Bundles of trained clusters: description in JSON, metrics, curve and checksums. Loading one executes nothing."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sparton import checksums, storage
from sparton.config import Config, validate
from sparton.data.manifest import TableManifest
from sparton.errors import ConfigError, DataError
from sparton.sgd.clusters import Clusters, PossibilisticClusters
from sparton.sgd.coordinates import Coordinates

FORMAT: Final = 1
DESCRIPTION, METRICS, CURVE = "model.json", "metrics.json", "training_curve.csv"
CHECKED = (DESCRIPTION, METRICS, CURVE)
FILES = (*CHECKED, checksums.SUMS)


class TableInputs(Config):
    """The rows that are clustered.

    Attributes
    ----------
    feature_names, feature_mean, feature_std
        Features of a row, and their statistics over the train split.
    scaling
        Whether features are divided by their deviation, ``standard`` or ``none``.
    """

    feature_names: tuple[str, ...] = Field(min_length=1)
    feature_mean: tuple[float, ...]
    feature_std: tuple[Annotated[float, Field(gt=0)], ...]
    scaling: Literal["standard", "none"]

    @model_validator(mode="after")
    def _consistent(self) -> TableInputs:
        if not len(self.feature_names) == len(self.feature_mean) == len(self.feature_std):
            raise ValueError("expected as many means and deviations as feature names")
        return self

    @classmethod
    def of(cls, manifest: TableManifest, scaling: Literal["standard", "none"]) -> TableInputs:
        """Return the inputs that a table set offers."""
        return cls(
            feature_names=manifest.feature_names,
            feature_mean=manifest.feature_mean,
            feature_std=manifest.feature_std,
            scaling=scaling,
        )

    @property
    def coordinates(self) -> Coordinates:
        """What turns rows into the points that are clustered."""
        return Coordinates.of(self.feature_mean, self.feature_std if self.scaling == "standard" else None)


class Description(Config):
    """What ``model.json`` of a k-means bundle says.

    Attributes
    ----------
    kind, format
        What the bundle is, and the version of its layout.
    inputs
        The rows that it reads.
    centroids
        [k, d], among the points: ``(row - origin) * factor``, see :class:`TableInputs`.
    counts
        [k], the weights of rows that the centroids stand for; what a later training would go on from.
    precision
        Type in which distances are compared.
    training
        Settings of the training, and what it was run on.
    versions
        Versions of the packages that trained it.
    """

    kind: Literal["kmeans", "pcm"] = "kmeans"
    format: Literal[1] = FORMAT
    inputs: TableInputs
    centroids: tuple[tuple[float, ...], ...] = Field(min_length=1)
    counts: tuple[float, ...]
    precision: Literal["float32", "float64"]
    training: dict[str, Any]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Description:
        width = len(self.inputs.feature_names)
        if len(self.counts) != len(self.centroids) or any(len(centroid) != width for centroid in self.centroids):
            raise ValueError(f"expected centroids of {width} numbers, and as many counts")
        return self

    @property
    def clusters(self) -> Clusters:
        """What assigns rows."""
        return Clusters(self.inputs.coordinates, np.asarray(self.centroids, np.float64), self.precision)


class PossibilisticDescription(Description):
    """What ``model.json`` of a bundle of possibilistic c-means says.

    Attributes
    ----------
    widths
        [k], gamma of each cluster among the points.
    noise_below
        Rows whose largest typicality is below this are noise.
    """

    kind: Literal["pcm"] = "pcm"
    widths: tuple[Annotated[float, Field(gt=0)], ...]
    noise_below: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def _as_many_widths(self) -> PossibilisticDescription:
        if len(self.widths) != len(self.centroids):
            raise ValueError(f"expected {len(self.centroids)} widths, as many as centroids")
        return self

    @property
    def clusters(self) -> PossibilisticClusters:
        """What assigns rows."""
        centroids, widths = np.asarray(self.centroids, np.float64), np.asarray(self.widths, np.float64)
        return PossibilisticClusters(
            self.inputs.coordinates, centroids, self.precision, widths=widths, noise_below=self.noise_below
        )


KINDS: Final[dict[str, type[Description]]] = {"kmeans": Description, "pcm": PossibilisticDescription}


def describe(
    inputs: TableInputs,
    clusters: Clusters,
    counts: NDArray[np.float64],
    training: dict[str, Any],
    versions: dict[str, str],
) -> Description:
    """Return the description of clusters; see :class:`Description` for the arguments."""
    shared: dict[str, Any] = {
        "inputs": inputs,
        "centroids": tuple(map(tuple, clusters.centroids.tolist())),
        "counts": tuple(counts.tolist()),
        "precision": clusters.precision,
        "training": training,
        "versions": versions,
    }
    if isinstance(clusters, PossibilisticClusters):
        widths = tuple(clusters.widths.tolist())
        return PossibilisticDescription(**shared, widths=widths, noise_below=clusters.noise_below)
    return Description(**shared)


def save(folder: str, description: Description, metrics: dict[str, Any], curve: str) -> None:
    """Write the files of a bundle into ``folder``, the checksums last."""
    storage.make_dirs(folder)
    storage.write_json(storage.join(folder, DESCRIPTION), description.model_dump(mode="json"))
    storage.write_json(storage.join(folder, METRICS), metrics)
    storage.write_text(storage.join(folder, CURVE), curve)
    checksums.write(folder, CHECKED)


def load(folder: str) -> Description:
    """Check a bundle and return its description.

    Raises
    ------
    DataError
        If a file is missing, damaged, of another kind or of another format.
    """
    checksums.verify(folder, CHECKED, "a bundle of clusters, made by 'sparton cluster'")
    return read_description(folder)


def read_description(folder: str) -> Description:
    """Read ``model.json``.

    Raises
    ------
    DataError
        If it is missing, damaged, of another kind or of another format.
    """
    path = storage.join(folder, DESCRIPTION)
    return parse(storage.read_text(path), path)


def parse(text: str, path: str) -> Description:
    """Return the description that a text from ``path`` is.

    Raises
    ------
    DataError
        If it is damaged, of another kind or of another format.
    """
    try:
        values = json.loads(text)
    except ValueError:
        raise DataError(f"{path}: not readable as JSON; the bundle is damaged, cluster again") from None
    found = (values.get("kind"), values.get("format")) if isinstance(values, dict) else (None, None)
    if found[0] not in KINDS or found[1] != FORMAT:
        raise DataError(
            f"{path}: a bundle of kind {found[0]!r}, format {found[1]!r}; expected {' or '.join(map(repr, KINDS))}, "
            f"format {FORMAT}, as made by 'sparton cluster'"
        )
    try:
        return validate(KINDS[found[0]], values, path)
    except ConfigError as error:
        raise DataError(f"{error}; the bundle is damaged, cluster again") from None


def parse_metrics(text: str) -> dict[str, Any]:
    """Return what ``metrics.json`` says."""
    values: dict[str, Any] = json.loads(text)
    return values

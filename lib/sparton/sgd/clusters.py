"""Trained clusters: what assigns rows of the same kind to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparton.errors import DataError
from sparton.sgd.arrays import as_rows, check_finite
from sparton.sgd.backend import ALL_CORES, Backend
from sparton.sgd.coordinates import Coordinates

Array = NDArray[Any]

CHUNK_ROWS = 4096
"""Rows that are looked at once."""


@dataclass(frozen=True)
class Clusters:
    """Centroids and the coordinates that they live in.

    Attributes
    ----------
    coordinates
        What turns rows into points.
    centroids
        Points float64 [k, d].
    precision
        Type in which distances are compared.
    """

    coordinates: Coordinates
    centroids: NDArray[np.float64]
    precision: str = "float32"

    @property
    def centers(self) -> NDArray[np.float64]:
        """Centroids in the units of the rows, float64 [k, d]."""
        return self.coordinates.rows(self.centroids)

    def assign(self, rows: ArrayLike, backend: Backend = ALL_CORES) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the nearest cluster of each row, int32 [n], and its distance among the points, float32 [n].

        Parameters
        ----------
        rows
            Finite numbers [n, d], see :func:`sparton.sgd.arrays.as_rows`.
        backend
            What computes.

        Raises
        ------
        DataError
            If rows are no numbers, have another number of columns, or values are not finite.
        """
        rows = self._checked(rows)
        label = self._labels(rows, backend)
        distance = np.empty(len(rows), np.float32)
        for part in _parts(len(rows)):
            away = self.coordinates.points(rows[part]) - self.centroids[label[part]]
            distance[part] = np.sqrt(np.einsum("nd,nd->n", away, away))
        return label, distance

    def scores(self, label: NDArray[np.int32], distance: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how unusual rows are, float32 [n], from what :meth:`assign` returned: here the distance itself."""
        return distance

    def distances(self, rows: ArrayLike, backend: Backend = ALL_CORES) -> NDArray[np.float32]:
        """Return the distances of rows to all centroids, among the points, float32 [n, k]."""
        return backend.distances(self._checked(rows), self.coordinates, self.centroids)

    def two_nearest(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Return the distances of rows to the nearest and the next centroid, float32 [n, 2]; k is at least 2."""
        rows = as_rows(rows)
        found = np.empty((len(rows), 2), np.float32)
        for part in _parts(len(rows)):
            found[part] = np.partition(self.distances(rows[part]), 1, axis=1)[:, :2]
        return found

    def _labels(self, rows: Array, backend: Backend) -> NDArray[np.int32]:
        return backend.nearest(rows, self.coordinates, self.centroids, self.precision)

    def _checked(self, given: ArrayLike) -> Array:
        rows, width = as_rows(given), self.coordinates.dimensions
        if rows.shape[1] != width:
            raise DataError(f"rows: found {list(rows.shape)}, expected {width} features as in training")
        check_finite(rows)
        return rows


@dataclass(frozen=True, kw_only=True)
class PossibilisticClusters(Clusters):
    """Clusters of possibilistic c-means: a row is assigned to the one in which it is most typical, or is noise.

    Attributes
    ----------
    widths
        gamma float64 [k]; the typicality at a distance r from a centroid is ``exp(-r^2 / gamma)``.
    noise_below
        Rows whose largest typicality is below this are noise.
    """

    widths: NDArray[np.float64]
    noise_below: float

    def scores(self, label: NDArray[np.int32], distance: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how unusual rows are, float32 [n]: ``r^2 / gamma``, minus the logarithm of the largest typicality."""
        return (np.square(distance, dtype=np.float64) / self.widths[label]).astype(np.float32)

    def noise(self, score: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which rows are noise, bool [n], from their scores."""
        return score > (-math.log(self.noise_below) if self.noise_below else math.inf)

    def typicalities(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the typicality in each cluster, float32 [n, k], from what :meth:`distances` returned."""
        return np.exp(np.square(distances, dtype=np.float64) / -self.widths).astype(np.float32)

    def two_nearest(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Return the two smallest distances in units of the clusters' widths, float32 [n, 2]; k is at least 2."""
        rows = as_rows(rows)
        found = np.empty((len(rows), 2), np.float32)
        for part in _parts(len(rows)):
            found[part] = np.partition(self.distances(rows[part]) / np.sqrt(self.widths), 1, axis=1)[:, :2]
        return found

    def _labels(self, rows: Array, backend: Backend) -> NDArray[np.int32]:
        return backend.most_typical(rows, self.coordinates, self.centroids, self.widths, self.precision)


def _parts(n: int) -> Iterator[slice]:
    return (slice(first, min(first + CHUNK_ROWS, n)) for first in range(0, n, CHUNK_ROWS))

"""What the sums over rows are computed on: the cores of this process, or a GPU.

Methods and clusters ask a :class:`Backend`; on :class:`Processor` they come from :mod:`sparton.sgd.compute` and
:mod:`sparton.sgd.typicality`, on a GPU from :mod:`sparton.sgd.tensors`, which is imported where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparton.distributed import devices
from sparton.errors import TrainingError
from sparton.sgd import compute, typicality
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.settings import Device

Array = NDArray[Any]
Floats = NDArray[np.float64]

GPU_WORK = 1e8
"""Multiplications of a step below which ``auto`` stays on the CPU: copies and launches would take longer. A guess."""


class Backend(Protocol):
    """Shapes: rows [n, d] float32 or float64, finite; weights [n]; centroids, points float64 [k, d]; gamma [k].

    Points are multiplied with centroids in ``precision``; sums are float64. What is beyond the precision's range is a
    :class:`sparton.errors.TrainingError`.
    """

    def nearest(
        self, rows: Array, coordinates: Coordinates, centroids: Floats, precision: DTypeLike
    ) -> NDArray[np.int32]:
        """Return the nearest centroid of each row, int32 [n], the first one of several."""

    def cluster_sums(
        self, rows: Array, weight: Array, coordinates: Coordinates, centroids: Floats, precision: DTypeLike
    ) -> tuple[Floats, Floats, float]:
        """Return sums over the rows nearest to each centroid, see :func:`sparton.sgd.compute.accumulate`."""

    def most_typical(
        self, rows: Array, coordinates: Coordinates, centroids: Floats, widths: Floats, precision: DTypeLike
    ) -> NDArray[np.int32]:
        """Return the cluster in which each row is most typical, int32 [n], the first one of several."""

    def typicality_sums(
        self,
        rows: Array,
        weight: Array,
        coordinates: Coordinates,
        centroids: Floats,
        widths: Floats,
        precision: DTypeLike,
    ) -> tuple[Floats, Floats]:
        """Return sums over rows of their typicalities, see :func:`sparton.sgd.typicality.accumulate`."""

    def distances(self, rows: Array, coordinates: Coordinates, centroids: Floats) -> NDArray[np.float32]:
        """Return the distances of rows from all centroids, among the points, float32 [n, k]; computed in float64."""


@dataclass(frozen=True)
class Processor:
    """The cores of this process.

    Attributes
    ----------
    threads
        How many to use; None takes those that the process was given.
    """

    threads: int | None = None

    def nearest(
        self, rows: Array, coordinates: Coordinates, centroids: Floats, precision: DTypeLike
    ) -> NDArray[np.int32]:
        """Return the nearest centroid of each row."""
        return compute.nearest(rows, coordinates, centroids, precision, self.threads)

    def cluster_sums(
        self, rows: Array, weight: Array, coordinates: Coordinates, centroids: Floats, precision: DTypeLike
    ) -> tuple[Floats, Floats, float]:
        """Return sums over the rows nearest to each centroid."""
        label = compute.nearest(rows, coordinates, centroids, precision, self.threads)
        return compute.accumulate(rows, weight, label, coordinates, centroids, self.threads)

    def most_typical(
        self, rows: Array, coordinates: Coordinates, centroids: Floats, widths: Floats, precision: DTypeLike
    ) -> NDArray[np.int32]:
        """Return the cluster in which each row is most typical."""
        return typicality.nearest(rows, coordinates, centroids, widths, precision, self.threads)

    def typicality_sums(
        self,
        rows: Array,
        weight: Array,
        coordinates: Coordinates,
        centroids: Floats,
        widths: Floats,
        precision: DTypeLike,
    ) -> tuple[Floats, Floats]:
        """Return sums over rows of their typicalities."""
        return typicality.accumulate(rows, weight, coordinates, centroids, widths, precision, self.threads)

    def distances(self, rows: Array, coordinates: Coordinates, centroids: Floats) -> NDArray[np.float32]:
        """Return the distances of rows from all centroids."""
        return typicality.distances(rows, coordinates, centroids)


ALL_CORES = Processor()


def chosen(device: Device, work: float) -> Backend:
    """Return what a training process computes on.

    Parameters
    ----------
    device
        ``cpu``; ``gpu``; or ``auto``, a GPU if TensorFlow sees one and a step is large enough.
    work
        Multiplications in a step.

    Raises
    ------
    TrainingError
        If it is ``gpu`` and TensorFlow sees none.
    """
    if device == "cpu" or (device == "auto" and (work < GPU_WORK or not devices.has_gpu())):
        return ALL_CORES
    return _gpu()


def of_task(device: Device) -> Backend:
    """Return what a task of Spark computes on: one core, since Spark runs a task on each, or a GPU.

    ``auto`` takes a GPU only where Spark has assigned one to the task: a GPU shared by all cores without their knowing
    has memory for few of them.

    Raises
    ------
    TrainingError
        If it is ``gpu`` and TensorFlow sees none.
    """
    return _of_task(device, tuple(devices.task_gpus()))


@cache
def _of_task(device: Device, assigned: tuple[str, ...]) -> Backend:
    if device == "cpu" or (device == "auto" and not assigned):
        return Processor(threads=1)
    if assigned:
        devices.pin_gpu(0, assigned)
    return _gpu() if device == "gpu" or devices.has_gpu() else Processor(threads=1)


def _gpu() -> Backend:
    if not devices.has_gpu():
        raise TrainingError(f"cluster.device is gpu, but {devices.why_no_gpu()}; set cluster.device: auto, or cpu")
    from sparton.sgd.tensors import Tensors

    return Tensors()

"""Jets to training rows: the feature tensor as one binary column, and the mass bin as the target.

The tensor of a batch is one contiguous buffer; the binary column and the array that training sees are views of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from sparton.config import Config
from sparton.data.mass_peaks import MassPeaks
from sparton.data.schema import TRAINING_ARROW, TRAINING_SCHEMA, require_columns
from sparton.data.screening import REQUIRED, JetRows, jets_from_batch, screen
from sparton.data.target import TargetMass, target_mass
from sparton.errors import DataError, UsageError
from sparton.physics.features import FEATURE_NAMES, mass_bins, ucluster_features
from sparton.physics.jets import Jets

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["FeatureSpec", "decode_features", "featurize", "jets_from_batch", "training_batch"]

FEATURE_DTYPE = np.dtype("<f4")
MAX_BINARY_BYTES = 2**31 - 1  # offsets of Arrow's binary columns are int32
DEFAULT_EDGES = tuple(np.linspace(0.0, 200.0, 20).tolist())  # GeV


class FeatureSpec(Config):
    """What a training row holds.

    Attributes
    ----------
    n_particles
        Slots of the tensor; the hardest constituents fill it, the rest is zero.
    mass_bin_edges
        Rising edges of the mass (GeV) for the target; masses beyond the last one are the overflow class.
    mass_bins
        Instead: number of classes of equal population, whose edges are found from the jets when a set is made; an
        extension keeps them. None takes ``mass_bin_edges``.
    mass_peaks
        Instead: number of classes that are the peaks of the mass spectrum, found from the jets when a set is made
        (:mod:`sparton.data.mass_peaks`); an extension keeps them.
    mass
        The mass that the target's bins, or the peaks, are of.
    further_masses
        Masses that have a say in which peak a jet belongs to, beside ``mass``.
    peaks
        The peaks that were found; not to be given.
    """

    n_particles: int = Field(default=50, ge=1, le=4096)
    mass_bin_edges: tuple[float, ...] = DEFAULT_EDGES
    mass_bins: int | None = Field(default=None, ge=2, le=1000)
    mass_peaks: int | None = Field(default=None, ge=2, le=100)
    mass: TargetMass = TargetMass()
    further_masses: tuple[TargetMass, ...] = ()
    peaks: MassPeaks | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_default_edges(cls, values: Any) -> Any:
        """Leave the edges open where their number alone is given."""
        if isinstance(values, dict) and any(values.get(name) is not None for name in ("mass_bins", "mass_peaks")):
            return {"mass_bin_edges": (), **values}
        return values

    @field_validator("mass_bin_edges")
    @classmethod
    def _rising(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if len(edges) == 1 or not all(low < high for low, high in pairwise(edges)):
            raise ValueError("expected at least two rising edges")
        return edges

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.mass_bin_edges) + (self.mass_bins is not None) + (self.mass_peaks is not None) != 1:
            raise ValueError("give either mass_bin_edges (at least two) or mass_bins or mass_peaks")
        if self.further_masses and self.mass_peaks is None and self.peaks is None:
            raise ValueError("further_masses have a say in mass_peaks alone; leave them out")
        if self.peaks is not None and self.mass_bin_edges != self.peaks.edges():
            raise ValueError("peaks and mass_bin_edges disagree; leave peaks out and give mass_peaks")
        return self

    def with_edges(self, edges: tuple[float, ...]) -> FeatureSpec:
        """Return the spec with these edges in place of the number of bins."""
        return FeatureSpec(n_particles=self.n_particles, mass_bin_edges=edges, mass=self.mass)

    def with_peaks(self, peaks: MassPeaks) -> FeatureSpec:
        """Return the spec with these peaks, and the edges between them, in place of the number of peaks."""
        return FeatureSpec(
            n_particles=self.n_particles,
            mass_bin_edges=peaks.edges(),
            mass=self.mass,
            further_masses=self.further_masses,
            peaks=peaks,
        )

    @property
    def is_open(self) -> bool:
        """Whether classes of the target are still to be found from the jets."""
        return self.mass_bins is not None or self.mass_peaks is not None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of the tensor."""
        return FEATURE_NAMES

    @property
    def row_bytes(self) -> int:
        """Size of one row's tensor in bytes."""
        return self.n_particles * len(self.feature_names) * FEATURE_DTYPE.itemsize


def featurize(df: DataFrame, spec: FeatureSpec) -> DataFrame:
    """Return the training rows of the sound jets of a jets table; broken rows are left out.

    Parameters
    ----------
    df
        Jets table; further columns are not read.
    spec
        Shape of the tensor and mass bins.

    Returns
    -------
    DataFrame
        Columns of :data:`sparton.data.schema.TRAINING_SCHEMA`, partitions and order as in ``df``.

    Raises
    ------
    DataError
        If a column is missing.
    UsageError
        If the spec has the number of mass bins or peaks and not the edges or peaks themselves.
    """
    if spec.is_open:
        raise UsageError(
            "mass_bins and mass_peaks find classes when a set is made; give mass_bin_edges, such as those of a manifest"
        )
    require_columns(df.columns, REQUIRED, "jets table")
    return df.select(*REQUIRED).mapInArrow(partial(_featurize_batches, spec=spec), TRAINING_SCHEMA)


def training_batch(rows: JetRows, spec: FeatureSpec) -> pa.RecordBatch:
    """Return the training rows of sound jets, in the same order, with the schema ``TRAINING_ARROW``."""
    features, n_real = ucluster_features(rows.jets, spec.n_particles)
    columns = [
        pa.array(rows.jet_id),
        encode_features(features),
        pa.array(n_real),
        pa.array(rows.jets.n_constituents),
        pa.array(target_classes(rows.jets, spec)),
        pa.array(rows.jets.jet_mass),
        rows.label,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TRAINING_ARROW)


def target_classes(jets: Jets, spec: FeatureSpec) -> NDArray[np.int32]:
    """Return the target int32[n] of jets: the bin of their mass, or the peak that their masses speak for.

    Raises
    ------
    SpartonError
        If soft drop is asked for and FastJet is not installed.
    """
    mass = target_mass(jets, spec.mass)
    if spec.peaks is None:
        return mass_bins(mass, spec.mass_bin_edges)
    further = [target_mass(jets, definition) for definition in spec.further_masses]
    return spec.peaks.classify(np.stack([mass, *further], axis=1))


def encode_features(features: NDArray[np.float32]) -> pa.Array:
    """Return float32[n, ...] as a binary column [n] of little-endian tensors, without copying them.

    Raises
    ------
    DataError
        If the batch is larger than a binary column can be (2 GiB).
    """
    values = np.ascontiguousarray(features, FEATURE_DTYPE)
    row_bytes = math.prod(values.shape[1:]) * FEATURE_DTYPE.itemsize
    if values.nbytes > MAX_BINARY_BYTES:
        raise DataError(f"a batch of {len(values)} rows of {row_bytes} bytes is over 2 GiB; use smaller batches")
    offsets = np.arange(len(values) + 1, dtype=np.int32) * np.int32(row_bytes)
    return pa.Array.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(values)])


def decode_features(column: pa.Array, *shape: int) -> NDArray[np.float32]:
    """Return the tensors of a binary column as float32[n, *shape], a view of its buffer.

    Raises
    ------
    DataError
        If the column does not hold that many bytes.
    """
    if len(column) == 0:
        return np.zeros((0, *shape), np.float32)
    _, offsets, data = column.buffers()
    width = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    limits = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1]
    expected = len(column) * math.prod(shape) * FEATURE_DTYPE.itemsize
    if column.null_count or limits[-1] - limits[0] != expected:
        raise DataError(
            f"column features: {int(limits[-1] - limits[0])} bytes in {len(column)} rows, expected {expected} "
            f"for tensors of {' x '.join(map(str, shape))} float32"
        )
    values = np.frombuffer(data, FEATURE_DTYPE, expected // FEATURE_DTYPE.itemsize, int(limits[0]))
    return values.reshape(len(column), *shape)


def _featurize_batches(batches: Iterator[pa.RecordBatch], spec: FeatureSpec) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield training_batch(screen(batch).rows, spec)

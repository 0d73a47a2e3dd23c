"""A trained UCluster as a Spark ML model: ``transform`` appends cluster, distances, score and embedding."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.ml import Model
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasFeaturesCol
from pyspark.ml.util import MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    FloatType,
    IntegerType,
    IntegralType,
    StructField,
    StructType,
)

from sparton.data.featurize import decode_features
from sparton.data.schema import require_columns
from sparton.errors import DataError
from sparton.ml.bundle_files import BundleReader, BundleWriter, read_files, write_files
from sparton.ml.settings import AssignSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from sparton.data.featurize import FeatureSpec
    from sparton.ucluster.bundle import Bundle

OUTPUTS = (
    StructField("cluster", IntegerType()),
    StructField("distance", ArrayType(FloatType())),
    StructField("score", FloatType()),
    StructField("embedding", ArrayType(FloatType())),
)
"""Columns that ``transform`` appends, as in the table of assignments."""


class UClusterModel(Model, HasFeaturesCol, MLReadable["UClusterModel"], MLWritable):
    """Assigns jets to the clusters of a trained bundle.

    ``transform`` keeps the columns of its input and appends ``cluster`` (int), ``distance`` (Euclidean, to each
    centroid), ``score`` (distance to the nearest, large for unusual jets) and ``embedding``. The bundle travels to the
    executors as a broadcast; each Python worker builds the network once.

    Parameters
    ----------
    files
        Content of the bundle's files by name; :meth:`from_bundle` reads them.
    """

    nParticlesCol: Param[str] = Param(  # noqa: N815 - Spark ML names parameters this way
        Params._dummy(), "nParticlesCol", "column with the number of real particles", TypeConverters.toString
    )
    batchSize: Param[int] = Param(  # noqa: N815
        Params._dummy(), "batchSize", "rows that the network takes at once", TypeConverters.toInt
    )

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self._setDefault(featuresCol="features", nParticlesCol="n_particles", batchSize=AssignSettings().batch_size)
        self._files = files

    @classmethod
    def from_bundle(cls, folder: str) -> UClusterModel:
        """Read a bundle, on the driver.

        Raises
        ------
        DataError
            If a file is missing or its checksum is wrong.
        """
        from sparton.ucluster import bundle

        bundle.verify(folder)
        return cls(read_files(folder, bundle.FILES))

    @property
    def files(self) -> dict[str, bytes]:
        """Content of the bundle's files by name."""
        return self._files

    @property
    def bundle(self) -> Bundle:
        """The bundle, built in this process."""
        return _load(_digest(self._files), lambda: self._files)

    @property
    def feature_spec(self) -> FeatureSpec:
        """The tensor that the network reads."""
        return self.bundle.feature_spec

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the tensor's features, in order."""
        return tuple(self.bundle.feature_names)

    def setFeaturesCol(self, value: str) -> UClusterModel:  # noqa: N802 - Spark ML names setters this way
        """Set the column with the binary feature tensors."""
        return self._set(featuresCol=value)

    def setNParticlesCol(self, value: str) -> UClusterModel:  # noqa: N802
        """Set the column with the number of real particles."""
        return self._set(nParticlesCol=value)

    def setBatchSize(self, value: int) -> UClusterModel:  # noqa: N802
        """Set how many rows the network takes at once."""
        return self._set(batchSize=value)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        features = self.getOrDefault(self.featuresCol)
        n_particles = self.getOrDefault(self.nParticlesCol)
        require_columns(dataset.columns, (features, n_particles), "the DataFrame to assign")
        _require_types(dataset, features, n_particles)
        schema = StructType([*dataset.schema.fields, *OUTPUTS])
        shared = dataset.sparkSession.sparkContext.broadcast(self._files)
        digest, batch_size = _digest(self._files), self.getOrDefault(self.batchSize)

        def assign(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
            _one_thread()
            loaded = _load(digest, lambda: shared.value)
            for batch in batches:
                yield append_clusters(batch, loaded, features, n_particles, batch_size)

        return dataset.mapInArrow(assign, schema)

    def write(self) -> MLWriter:
        """Return a writer of the parameters and the bundle."""
        return BundleWriter(self)

    @classmethod
    def read(cls) -> MLReader[UClusterModel]:
        """Return the reader of what :meth:`write` wrote."""
        return BundleReader(cls)


def append_clusters(
    batch: pa.RecordBatch, bundle: Bundle, features: str, n_particles: str, batch_size: int
) -> pa.RecordBatch:
    """Return ``batch``, whose columns are passed on as they are, with the columns of :data:`OUTPUTS`.

    Parameters
    ----------
    batch
        Rows with a binary column ``features`` (float32 [P, F] each) and an integer column ``n_particles``.
    bundle
        The trained network with its centroids.
    features, n_particles
        Names of the two columns.
    batch_size
        Rows that the network takes at once.

    Raises
    ------
    DataError
        If a tensor is missing, has another size than the bundle's or values that are not finite, or a number of
        particles is missing or beyond the tensor's slots.
    """
    from sparton.ucluster.predict import assign

    shape = (bundle.feature_spec.n_particles, len(bundle.feature_names))
    tensors = decode(batch.column(features), shape, features)
    counts = _counts(batch.column(n_particles), shape[0], n_particles)
    embedding, distance, cluster = assign(bundle, tensors, counts, batch_size)
    lost = np.flatnonzero(~np.isfinite(distance).all(axis=1))
    if lost.size:
        raise DataError(
            f"column {features}: {lost.size} of {len(tensors)} tensors have no finite embedding, since a value in them "
            "is NaN, infinite or far out of range; prepare the rows with the bundle's settings"
        )
    outputs = {
        "cluster": pa.array(cluster, pa.int32()),
        "distance": _lists(distance),
        "score": pa.array(distance.min(axis=1, initial=np.inf)),
        "embedding": _lists(embedding),
    }
    return pa.RecordBatch.from_arrays([*batch.columns, *outputs.values()], names=[*batch.schema.names, *outputs])


def _require_types(dataset: DataFrame, features: str, n_particles: str) -> None:
    kind, count = dataset.schema[features].dataType, dataset.schema[n_particles].dataType
    if not isinstance(kind, BinaryType):
        raise DataError(
            f"column {features}: type {kind.simpleString()}, expected binary, with the float32 tensor of a jet as in "
            "a training set (sparton prepare)"
        )
    if not isinstance(count, IntegralType):
        raise DataError(
            f"column {n_particles}: type {count.simpleString()}, expected an integer, the number of particles of a jet"
        )


def _counts(column: pa.Array, slots: int, name: str) -> NDArray[np.integer[Any]]:
    """Return numbers of particles; :class:`DataError` if one is missing or no number of slots."""
    if column.null_count:
        raise DataError(f"column {name}: found null, expected the number of particles of each jet")
    counts: NDArray[np.integer[Any]] = column.to_numpy(zero_copy_only=False)
    beyond = counts[(counts < 0) | (counts > slots)]
    if beyond.size:
        raise DataError(
            f"column {name}: found {beyond[0]}, expected 0 to {slots}, the slots of a tensor; prepare the rows with "
            "the bundle's settings"
        )
    return counts


def decode(column: pa.Array, shape: tuple[int, int], name: str) -> NDArray[np.float32]:
    """Return the tensors [n, *shape] of a binary column of little-endian float32, a view of its buffer.

    Raises
    ------
    DataError
        If a value is null or has another length.
    """
    width = 4 * shape[0] * shape[1]
    lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False)
    wrong = lengths[lengths != width]
    if wrong.size:
        found = "null" if wrong[0] < 0 else f"a tensor of {wrong[0]} bytes"
        raise DataError(
            f"column {name}: found {found}, expected {width} bytes ({shape[0]} particles x {shape[1]} "
            "float32 features); prepare the rows with the bundle's settings"
        )
    return decode_features(column, *shape)


def _lists(rows: NDArray[np.float32]) -> pa.ListArray:
    """Return rows [n, m] as lists."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(rows.shape[1])
    return pa.ListArray.from_arrays(offsets, rows.reshape(-1))


def _digest(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()


class _Cache:
    """The bundle that this process holds; one at a time, so that a long-lived worker does not collect models."""

    digest: str | None = None
    bundle: Bundle | None = None


def _load(digest: str, files: Callable[[], dict[str, bytes]]) -> Bundle:
    if _Cache.bundle is None or _Cache.digest != digest:
        from sparton.ucluster import bundle

        with tempfile.TemporaryDirectory(prefix="sparton-bundle-") as folder:
            write_files(folder, files())
            _Cache.bundle, _Cache.digest = bundle.load(folder), digest
    return _Cache.bundle


@functools.cache
def _one_thread() -> None:
    """Give TensorFlow one thread in an executor's Python worker: Spark runs a task on every core already."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

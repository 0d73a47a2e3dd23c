"""What the Spark ML estimators and models that cluster tables have in common."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast, get_args

import numpy as np
import pandas as pd
from pyspark.ml import Estimator, Model
from pyspark.ml.util import DefaultParamsWritable, MLReader, MLWritable, MLWriter
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import StructField, StructType

from sparton import storage
from sparton.config import validate
from sparton.data.plan import checked_lanes
from sparton.data.quarantine import FOLDER as QUARANTINE
from sparton.data.settings import TableSettings
from sparton.data.source_files import StoredTable
from sparton.errors import ConfigError, DataError
from sparton.ml.bundle_files import BUNDLE_FOLDER, BundleReader, BundleWriter, read_files
from sparton.ml.params import COMPUTED, ClusterParams, TrainingParams
from sparton.ml.wording import in_words_of
from sparton.sgd import bundle
from sparton.sgd.backend import of_task
from sparton.sgd.clusters import Clusters, PossibilisticClusters
from sparton.sgd.settings import ClusterSettings, Device, KMeansSettings, PossibilisticSettings

if TYPE_CHECKING:
    from pyspark.ml.linalg import Vector
    from pyspark.sql import DataFrame, SparkSession

    from sparton.distributed.launch import LaunchSettings

ModelT = TypeVar("ModelT", bound="TableClusters")


class TableClusterer(Estimator[ModelT], TrainingParams, DefaultParamsWritable, Generic[ModelT]):
    """An estimator: ``fit`` writes the rows to ``workFolder`` as a table set, trains on it and removes it.

    With ``inMemory`` it writes them as they are and reads them into the driver's memory.
    """

    MODEL: ClassVar[type[TableClusters]]

    def settings(self) -> ClusterSettings:
        """Return the parameters as settings of the training.

        Raises
        ------
        ConfigError
            If a value is out of range.
        """
        values = {setting: self.getOrDefault(name) for name, setting in self.SETTINGS.items() if self.isDefined(name)}
        with self._own_words():
            found = validate(self.METHOD, {**values, "patience": values["patience"] or None}, type(self).__name__)
        assert isinstance(found, KMeansSettings | PossibilisticSettings)
        return found

    def _fit(self, dataset: DataFrame) -> ModelT:
        from sparton.distributed.launch import LaunchSettings

        settings = self.settings()
        self._check_outputs(dataset)
        spark = dataset.sparkSession
        with self._own_words():
            workers = validate(LaunchSettings, {"workers": self.getNumWorkers()}, type(self).__name__)
            checked_lanes(settings.lanes, workers.workers, settings.batch_size)
        if self.getInMemory() and workers.workers > 1:
            raise ConfigError(
                f"{type(self).__name__}: inMemory is for one process, and numWorkers is {workers.workers}; "
                "leave one of them out"
            )
        with self._work_folder(spark) as folder, self._own_words(folder):
            bundle_folder = storage.join(folder, BUNDLE_FOLDER)
            rest = (storage.join(folder, "checkpoints"), bundle_folder, settings)
            rows, table = self._store(dataset, storage.join(folder, "rows"))
            if self.getInMemory():
                _train_in_memory(rows, table, workers, rest)
            else:
                _train_on_set(rows, table, storage.join(folder, "set"), workers, rest)
            model: Any = self.MODEL.from_bundle(bundle_folder)
        return self._copyValues(model)

    def _store(self, dataset: DataFrame, folder: str) -> tuple[StoredTable, TableSettings]:
        """Write the rows as they are, since a DataFrame may give others when it is read again; say how to read them."""
        from sparton.data.storing import store_rows

        inputs = self._inputs()
        rows = store_rows(dataset.select(*inputs.stored(dataset.schema)), folder)
        return rows, inputs.table(inputs.checked_length(rows))

    def _own_words(self, folder: str | None = None) -> contextlib.AbstractContextManager[None]:
        """Let errors name parameters in place of settings, and the DataFrame in place of its copy."""
        parameters = {setting: name for name, setting in self.SETTINGS.items()} | {"workers": "numWorkers"}
        return in_words_of(type(self).__name__, parameters, folder)

    @contextlib.contextmanager
    def _work_folder(self, spark: SparkSession) -> Iterator[str]:
        if not self.isSet(self.getParam("workFolder")):
            if not str(spark.sparkContext.master).startswith("local"):
                missing = f"{type(self).__name__}: workFolder is not set"
                raise ConfigError(f"{missing}; name a folder or URL that driver and executors share")
            with tempfile.TemporaryDirectory(prefix="sparton-cluster-") as folder:
                yield folder
            return
        folder = storage.absolute(storage.join(self.getOrDefault("workFolder"), f"sparton-cluster-{uuid.uuid4().hex}"))
        try:
            yield folder
        finally:
            storage.remove(folder)


def _train_on_set(
    rows: StoredTable,
    table: TableSettings,
    folder: str,
    workers: LaunchSettings,
    rest: tuple[str, str, ClusterSettings],
) -> None:
    """Shuffle the rows into a set that workers share, and train on it; ``rest`` is what else a training is given."""
    from sparton.data.tables import write_table_set
    from sparton.distributed.launch import launch
    from sparton.sgd.train import train

    write_table_set(rows.spark, rows, table, folder)
    launch(train, (folder, *rest), rows.spark, workers)


def _train_in_memory(
    rows: StoredTable, table: TableSettings, workers: LaunchSettings, rest: tuple[str, str, ClusterSettings]
) -> None:
    """Read the rows into this process, and train on them."""
    from sparton.data.in_memory import read_rows
    from sparton.distributed.launch import launch
    from sparton.sgd.train import train_rows

    quarantine = storage.join(rows.folder, QUARANTINE)
    found = read_rows(rows.folder, rows.sources, table, quarantine, "leave inMemory at False")
    launch(train_rows, (found, "", *rest), None, workers)


class TableClusters(Model, ClusterParams, MLWritable):
    """A model: ``transform`` appends the cluster of each row and what else is asked for.

    Parameters
    ----------
    files
        Content of the bundle's files by name; :meth:`from_bundle` reads them.
    """

    KIND: ClassVar[str]
    """What the bundle must be."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self._files = files

    @classmethod
    def from_bundle(cls, folder: str) -> Self:
        """Read a bundle, such as ``sparton cluster`` makes, on the driver.

        Its features, in the units of the training's table, are expected in ``inputCols``: the columns that the bundle
        names, unless it is of an array, whose name ``featuresCol`` then has to be.

        Raises
        ------
        DataError
            If a file is missing, its checksum is wrong, or the bundle is of another method.
        """
        description = bundle.load(folder)
        if description.kind != cls.KIND:
            raise DataError(f"{folder}: a bundle of kind {description.kind!r}, {cls.__name__} reads {cls.KIND!r}")
        model = cls(read_files(folder, bundle.FILES))
        # What the training computed on is no matter of the machine that reads.
        taken = {name: setting for name, setting in cls.SETTINGS.items() if name != "device"}
        chosen = {name: description.training.get(setting) for name, setting in taken.items()}
        known = {name: value for name, value in chosen.items() if value is not None}
        names = description.inputs.feature_names
        if not all(name.endswith(f"[{index}]") for index, name in enumerate(names)):
            known["inputCols"] = list(names)
        return model._set(**{**known, "patience": chosen["patience"] or 0})

    @property
    def files(self) -> dict[str, bytes]:
        """Content of the bundle's files by name."""
        return self._files

    @cached_property
    def description(self) -> bundle.Description:
        """What the bundle says."""
        return bundle.parse(self._files[bundle.DESCRIPTION].decode(), bundle.DESCRIPTION)

    @property
    def clusters(self) -> Clusters:
        """What assigns rows."""
        return self.description.clusters

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures of the training: the method's and ``sizes`` over all rows, and those of its last epoch."""
        return bundle.parse_metrics(self._files[bundle.METRICS].decode())

    @property
    def numFeatures(self) -> int:  # noqa: N802 - as in pyspark.ml
        """Number of features."""
        return len(self.description.inputs.feature_names)

    def clusterCenters(self) -> list[np.ndarray[Any, np.dtype[np.float64]]]:  # noqa: N802 - as in pyspark.ml
        """Return the centroids in the units of the features, one array each."""
        return list(self.clusters.centers)

    def predict(self, value: Vector) -> int:
        """Return the cluster of one vector."""
        return int(self.clusters.assign(np.asarray(value.toArray(), np.float32)[None])[0][0])

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_outputs(dataset)
        inputs = self._inputs()
        column, named = inputs.array(dataset.schema), inputs.named
        shared = dataset.sparkSession.sparkContext.broadcast(self.clusters)
        outputs = {self.OUTPUTS[parameter]: name for parameter, name in self._output_columns().items()}
        device, names = self._device(), self.description.inputs.feature_names
        computed = StructType([StructField(field, COMPUTED[field]) for field in outputs])

        def assign(values: pd.Series) -> pd.DataFrame:
            return assigned(values, shared.value, named, names, list(outputs), device)

        found = pandas_udf(assign, computed)(column)  # type: ignore[call-overload]
        return dataset.select("*", *(found[field].alias(name) for field, name in outputs.items()))

    def _device(self) -> Device:
        device = self.getDevice()
        if device not in get_args(Device):
            raise ConfigError(f"{type(self).__name__}: device: found {device!r}, expected auto, cpu or gpu")
        return cast(Device, device)

    def write(self) -> MLWriter:
        """Return a writer of the parameters and the bundle."""
        return BundleWriter(self)

    @classmethod
    def read(cls) -> MLReader[Any]:
        """Return the reader of what :meth:`write` wrote."""
        return BundleReader(cls)


def assigned(
    values: pd.Series, clusters: Clusters, named: str, names: Sequence[str], wanted: list[str], device: Device = "auto"
) -> pd.DataFrame:
    """Return what is wanted of rows, as columns.

    Parameters
    ----------
    values
        Arrays of float32, one a row.
    clusters
        What assigns them.
    named, names
        What messages call the columns that they come from, and each feature.
    wanted
        Names out of :data:`COMPUTED`; those of typicalities with possibilistic clusters only.
    device
        See :func:`sparton.sgd.backend.of_task`.

    Raises
    ------
    DataError
        If a row is null, of another length, or has values that are not finite.
    """
    from sparton.sgd.compute import own_threads

    width = clusters.coordinates.dimensions
    lengths = values.str.len()
    bad = lengths.index[lengths != width]
    if len(bad):
        found_one = "null" if np.isnan(lengths[bad[0]]) else f"{int(lengths[bad[0]])} values"
        raise DataError(f"{named}: found a row of {found_one}, expected {width} values as in training")
    rows = np.concatenate(values.to_numpy()).reshape(-1, width) if len(values) else np.zeros((0, width), np.float32)
    rows = np.asarray(rows, np.float32)
    infinite = np.flatnonzero(~np.isfinite(rows).all(axis=0))
    if infinite.size:
        raise DataError(f"{named}: found NaN or infinity (as float32) in {names[infinite[0]]}; drop or fill these rows")
    with own_threads():
        with in_words_of("", {"device": "device"}):
            backend = of_task(device)
        cluster, distance = clusters.assign(rows, backend)
        found: dict[str, Any] = {"cluster": cluster, "distance": distance}
        every = clusters.distances(rows, backend) if {"distances", "typicalities"} & set(wanted) else None
    if every is not None:
        found["distances"] = list(every)
    if isinstance(clusters, PossibilisticClusters):
        found["score"] = clusters.scores(cluster, distance)
        found["noise"] = clusters.noise(found["score"])
        if every is not None:
            found["typicalities"] = list(clusters.typicalities(every))
    return pd.DataFrame({name: found[name] for name in wanted})

"""What the Spark ML estimators and models that cluster tables have in common."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import pandas as pd
from pyspark.ml import Estimator, Model
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasFeaturesCol,
    HasInputCols,
    HasMaxIter,
    HasPredictionCol,
    HasSeed,
    HasStepSize,
    HasTol,
    HasWeightCol,
)
from pyspark.ml.util import DefaultParamsWritable, MLReader, MLWritable, MLWriter
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import ArrayType, BooleanType, DataType, FloatType, IntegerType, StructField, StructType

from sparton import storage
from sparton.config import validate
from sparton.data.settings import TRAIN, TableSettings
from sparton.errors import ConfigError, DataError
from sparton.ml.bundle_files import BUNDLE_FOLDER, BundleReader, BundleWriter, read_files
from sparton.ml.table_input import FEATURES, ID, WEIGHT, checked_length, features_column, weight_column
from sparton.sgd import bundle
from sparton.sgd.clusters import Clusters, PossibilisticClusters
from sparton.sgd.settings import ClusterSettings, KMeansSettings, PossibilisticSettings

if TYPE_CHECKING:
    from pyspark.ml.linalg import Vector
    from pyspark.sql import DataFrame, SparkSession

SHARED_SETTINGS = {
    "k": "n_clusters",
    "scaling": "scaling",
    "maxIter": "epochs",
    "batchSize": "batch_size",
    "stepRule": "step",
    "stepSize": "step_size",
    "stepDelay": "step_delay",
    "stepPower": "step_power",
    "initRows": "start_rows",
    "initCount": "start_count",
    "decay": "decay",
    "patience": "patience",
    "tol": "tolerance",
    "precision": "precision",
    "seed": "seed",
}
"""Which setting of :class:`sparton.sgd.settings.DescentSettings` each parameter is."""

COMPUTED: Mapping[str, DataType] = {
    "cluster": IntegerType(),
    "distance": FloatType(),
    "distances": ArrayType(FloatType()),
    "typicalities": ArrayType(FloatType()),
    "score": FloatType(),
    "noise": BooleanType(),
}
"""What can be computed of each row."""

ModelT = TypeVar("ModelT", bound="TableClusters")


class ClusterParams(
    HasFeaturesCol, HasInputCols, HasPredictionCol, HasWeightCol, HasMaxIter, HasTol, HasSeed, HasStepSize
):
    """Parameters of estimators and models; the names are those of pyspark.ml where it has one."""

    SETTINGS: ClassVar[Mapping[str, str]] = SHARED_SETTINGS
    """Which setting each parameter is."""

    METHOD: ClassVar[type[KMeansSettings] | type[PossibilisticSettings]]
    """The settings of the training."""

    OUTPUTS: ClassVar[Mapping[str, str]] = {
        "predictionCol": "cluster",
        "distanceCol": "distance",
        "distancesCol": "distances",
    }
    """What each parameter that names a column of the output is for, see :data:`COMPUTED`."""

    k: Param[int] = Param(Params._dummy(), "k", "clusters to find", TypeConverters.toInt)
    batchSize: Param[int] = Param(  # noqa: N815 - Spark ML names parameters this way
        Params._dummy(), "batchSize", "rows of one worker in one step", TypeConverters.toInt
    )
    scaling: Param[str] = Param(
        Params._dummy(), "scaling", "none, or standard: divide features by their deviation", TypeConverters.toString
    )
    stepRule: Param[str] = Param(  # noqa: N815
        Params._dummy(), "stepRule", "steps of centroids: counts, constant or polynomial", TypeConverters.toString
    )
    stepDelay: Param[float] = Param(  # noqa: N815
        Params._dummy(), "stepDelay", "t0 of polynomial steps, eta / (1 + t / t0) ** p", TypeConverters.toFloat
    )
    stepPower: Param[float] = Param(  # noqa: N815
        Params._dummy(), "stepPower", "p of polynomial steps, eta / (1 + t / t0) ** p", TypeConverters.toFloat
    )
    initRows: Param[int] = Param(  # noqa: N815
        Params._dummy(),
        "initRows",
        "rows of the sample that first centroids are found on; by default 20,000, or more where clusters are many",
        TypeConverters.toInt,
    )
    initCount: Param[float] = Param(  # noqa: N815
        Params._dummy(), "initCount", "rows that a first centroid counts as", TypeConverters.toFloat
    )
    decay: Param[float] = Param(
        Params._dummy(), "decay", "factor of the counts in each step; 1 forgets nothing", TypeConverters.toFloat
    )
    patience: Param[int] = Param(
        Params._dummy(),
        "patience",
        "steps without a lower smoothed objective that end the training; 0 takes all passes",
        TypeConverters.toInt,
    )
    precision: Param[str] = Param(
        Params._dummy(),
        "precision",
        "type in which points are multiplied with centroids, float32 or float64",
        TypeConverters.toString,
    )
    numWorkers: Param[int] = Param(  # noqa: N815
        Params._dummy(), "numWorkers", "training processes; more than one are Horovod's", TypeConverters.toInt
    )
    distanceCol: Param[str] = Param(  # noqa: N815
        Params._dummy(), "distanceCol", "column for the distance to the cluster's centroid", TypeConverters.toString
    )
    distancesCol: Param[str] = Param(  # noqa: N815
        Params._dummy(), "distancesCol", "column for the distances to all centroids", TypeConverters.toString
    )
    workFolder: Param[str] = Param(  # noqa: N815
        Params._dummy(),
        "workFolder",
        "folder that all workers can read and write, for the rows while fit runs; a temporary one on a local master",
        TypeConverters.toString,
    )

    def __init__(self) -> None:
        super().__init__()
        defaults = self.METHOD()
        chosen = {name: getattr(defaults, setting) for name, setting in self.SETTINGS.items()}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        # As in pyspark.ml, features are taken as they are; StandardScaler is the stage that scales them.
        self._setDefault(**{**chosen, "scaling": "none", "patience": 0}, numWorkers=1)

    def _input_columns(self) -> list[str]:
        return [str(name) for name in self.getOrDefault("inputCols")] if self.isDefined("inputCols") else []

    def _check_outputs(self, dataset: DataFrame) -> None:
        taken: dict[str, str] = {}
        for parameter, name in self._output_columns().items():
            if name in dataset.columns:
                raise DataError(f"the DataFrame: column {name} exists already; drop it or set another {parameter}")
            if name in taken:
                raise DataError(
                    f"{taken[name]} and {parameter} both name the column {name}; set another for one of them"
                )
            taken[name] = parameter

    def _output_columns(self) -> dict[str, str]:
        """Return the names of the columns to append, by parameter."""
        return {name: self.getOrDefault(name) for name in self.OUTPUTS if self.isDefined(name)}

    def setFeaturesCol(self, value: str) -> Self:  # noqa: N802 - Spark ML names setters this way
        """Set the column with a vector or an array of numbers."""
        return self._set(featuresCol=value)

    def setInputCols(self, value: list[str]) -> Self:  # noqa: N802
        """Set numeric columns that are the features, in place of ``featuresCol``."""
        return self._set(inputCols=value)

    def setPredictionCol(self, value: str) -> Self:  # noqa: N802
        """Set the column for the number of the cluster."""
        return self._set(predictionCol=value)

    def setDistancesCol(self, value: str) -> Self:  # noqa: N802
        """Set the column for the distances to all centroids; none by default."""
        return self._set(distancesCol=value)

    def setDistanceCol(self, value: str) -> Self:  # noqa: N802
        """Set the column for the distance to the cluster's centroid; none by default."""
        return self._set(distanceCol=value)


class TableClusterer(Estimator[ModelT], ClusterParams, DefaultParamsWritable, Generic[ModelT]):
    """An estimator: ``fit`` writes the rows to ``workFolder`` as a table set, trains on it and removes it."""

    MODEL: ClassVar[type[TableClusters]]

    def settings(self) -> ClusterSettings:
        """Return the parameters as settings of the training.

        Raises
        ------
        ConfigError
            If a value is out of range.
        """
        values = {setting: self.getOrDefault(name) for name, setting in self.SETTINGS.items() if self.isDefined(name)}
        found = validate(self.METHOD, {**values, "patience": values["patience"] or None}, type(self).__name__)
        assert isinstance(found, KMeansSettings | PossibilisticSettings)
        return found

    def _fit(self, dataset: DataFrame) -> ModelT:
        from sparton.distributed.launch import LaunchSettings, launch
        from sparton.sgd.train import train

        settings = self.settings()
        self._check_outputs(dataset)
        spark = dataset.sparkSession
        workers = validate(LaunchSettings, {"workers": self.getOrDefault("numWorkers")}, type(self).__name__)
        with self._work_folder(spark) as folder:
            places = {name: storage.join(folder, name) for name in ("set", "checkpoints", BUNDLE_FOLDER)}
            self._write_set(spark, dataset, folder, places["set"])
            launch(train, (*places.values(), settings), spark, workers)
            model: Any = self.MODEL.from_bundle(places[BUNDLE_FOLDER])
        return self._copyValues(model)

    def _write_set(self, spark: SparkSession, dataset: DataFrame, folder: str, target: str) -> None:
        """Write the rows, once as they are, since a DataFrame may give others when it is read again; then shuffled."""
        from sparton.data.storing import store_rows
        from sparton.data.tables import write_table_set

        inputs = self._input_columns()
        features = features_column(dataset.schema, self.getOrDefault("featuresCol"), inputs)
        weight = weight_column(
            dataset.schema, self.getOrDefault("weightCol") if self.isSet(self.getParam("weightCol")) else None
        )
        columns = (F.monotonically_increasing_id().alias(ID), features.alias(FEATURES), weight.alias(WEIGHT))
        rows = store_rows(dataset.select(*columns), storage.join(folder, "rows"))
        named = ", ".join(inputs) or self.getOrDefault("featuresCol")
        length = checked_length(rows, named)
        table = TableSettings(
            array=FEATURES, length=length, id=ID, weight=WEIGHT, splits={TRAIN: 1.0}, max_rejected=0.0
        )
        write_table_set(spark, rows, table, target)

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

    def setK(self, value: int) -> Self:  # noqa: N802
        """Set the number of clusters."""
        return self._set(k=value)

    def setWeightCol(self, value: str) -> Self:  # noqa: N802
        """Set the column with weights from 0; none by default."""
        return self._set(weightCol=value)

    def setMaxIter(self, value: int) -> Self:  # noqa: N802
        """Set the number of passes, at most."""
        return self._set(maxIter=value)

    def setBatchSize(self, value: int) -> Self:  # noqa: N802
        """Set the rows of one worker in one step."""
        return self._set(batchSize=value)

    def setDecay(self, value: float) -> Self:  # noqa: N802
        """Set the factor of the counts in each step."""
        return self._set(decay=value)

    def setSeed(self, value: int) -> Self:  # noqa: N802
        """Set the seed."""
        return self._set(seed=value)

    def setTol(self, value: float) -> Self:  # noqa: N802
        """Set the smoothed squared move, in units of the mean variance, below which training ends."""
        return self._set(tol=value)

    def setNumWorkers(self, value: int) -> Self:  # noqa: N802
        """Set the number of training processes."""
        return self._set(numWorkers=value)

    def setWorkFolder(self, value: str) -> Self:  # noqa: N802
        """Set the folder for the rows while ``fit`` runs."""
        return self._set(workFolder=value)


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
        chosen = {name: description.training[setting] for name, setting in cls.SETTINGS.items()}
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
        inputs, features = self._input_columns(), self.getOrDefault("featuresCol")
        column = features_column(dataset.schema, features, inputs)
        shared = dataset.sparkSession.sparkContext.broadcast(self.clusters)
        named = ", ".join(inputs) or features
        outputs = {self.OUTPUTS[parameter]: name for parameter, name in self._output_columns().items()}
        computed = StructType([StructField(field, COMPUTED[field]) for field in outputs])

        def assign(values: pd.Series) -> pd.DataFrame:
            return assigned(values, shared.value, named, list(outputs))

        found = pandas_udf(assign, computed)(column)  # type: ignore[call-overload]
        return dataset.select("*", *(found[field].alias(name) for field, name in outputs.items()))

    def write(self) -> MLWriter:
        """Return a writer of the parameters and the bundle."""
        return BundleWriter(self)

    @classmethod
    def read(cls) -> MLReader[Any]:
        """Return the reader of what :meth:`write` wrote."""
        return BundleReader(cls)


def assigned(values: pd.Series, clusters: Clusters, named: str, wanted: list[str]) -> pd.DataFrame:
    """Return what is wanted of rows, as columns.

    Parameters
    ----------
    values
        Arrays of float32, one a row.
    clusters
        What assigns them.
    named
        The columns that they come from, for messages.
    wanted
        Names out of :data:`COMPUTED`; those of typicalities with possibilistic clusters only.

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
    with own_threads():
        cluster, distance = clusters.assign(rows, threads=1)
        found: dict[str, Any] = {"cluster": cluster, "distance": distance}
        every = clusters.distances(rows) if {"distances", "typicalities"} & set(wanted) else None
    if every is not None:
        found["distances"] = list(every)
    if isinstance(clusters, PossibilisticClusters):
        found["score"] = clusters.scores(cluster, distance)
        found["noise"] = clusters.noise(found["score"])
        if every is not None:
            found["typicalities"] = list(clusters.typicalities(every))
    return pd.DataFrame({name: found[name] for name in wanted})

"""K-means by stochastic gradient descent as a Spark ML estimator and model."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyspark import keyword_only
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
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import FloatType, IntegerType, StructField, StructType

from sparton import storage
from sparton.config import validate
from sparton.data.settings import TRAIN, TableSettings
from sparton.errors import ConfigError, DataError
from sparton.ml.table_input import FEATURES, ID, WEIGHT, checked_length, features_column, weight_column
from sparton.sgd import bundle
from sparton.sgd.clusters import Clusters
from sparton.sgd.settings import ClusterSettings

if TYPE_CHECKING:
    from pyspark.ml.linalg import Vector
    from pyspark.sql import DataFrame, SparkSession

BUNDLE_FOLDER = "bundle"

SETTINGS = {
    "k": "n_clusters",
    "scaling": "scaling",
    "maxIter": "epochs",
    "batchSize": "batch_size",
    "initMode": "start",
    "stepRule": "step",
    "stepSize": "step_size",
    "decay": "decay",
    "reseedRatio": "reseed_ratio",
    "patience": "patience",
    "tol": "tolerance",
    "precision": "precision",
    "seed": "seed",
}
"""Which setting of :class:`sparton.sgd.settings.ClusterSettings` each parameter is."""


class _KMeansParams(
    HasFeaturesCol, HasInputCols, HasPredictionCol, HasWeightCol, HasMaxIter, HasTol, HasSeed, HasStepSize
):
    """What estimator and model have in common; the names are those of pyspark.ml where it has one."""

    k: Param[int] = Param(Params._dummy(), "k", "clusters to find", TypeConverters.toInt)
    batchSize: Param[int] = Param(  # noqa: N815 - Spark ML names parameters this way
        Params._dummy(), "batchSize", "rows of one worker in one step", TypeConverters.toInt
    )
    scaling: Param[str] = Param(
        Params._dummy(), "scaling", "none, or standard: divide features by their deviation", TypeConverters.toString
    )
    initMode: Param[str] = Param(  # noqa: N815
        Params._dummy(), "initMode", "first centroids: k-means++ or random", TypeConverters.toString
    )
    stepRule: Param[str] = Param(  # noqa: N815
        Params._dummy(), "stepRule", "steps of centroids: counts, constant or polynomial", TypeConverters.toString
    )
    decay: Param[float] = Param(
        Params._dummy(), "decay", "factor of the counts in each step; 1 forgets nothing", TypeConverters.toFloat
    )
    reseedRatio: Param[float] = Param(  # noqa: N815
        Params._dummy(),
        "reseedRatio",
        "centroids with a count below this fraction of the largest are put elsewhere; 0 never",
        TypeConverters.toFloat,
    )
    patience: Param[int] = Param(
        Params._dummy(),
        "patience",
        "steps without a lower smoothed inertia that end the training; 0 takes all passes",
        TypeConverters.toInt,
    )
    precision: Param[str] = Param(
        Params._dummy(),
        "precision",
        "type in which distances are compared, float32 or float64",
        TypeConverters.toString,
    )
    numWorkers: Param[int] = Param(  # noqa: N815
        Params._dummy(), "numWorkers", "training processes; more than one are Horovod's", TypeConverters.toInt
    )
    distanceCol: Param[str] = Param(  # noqa: N815
        Params._dummy(), "distanceCol", "column for the distance to the nearest centroid", TypeConverters.toString
    )
    workFolder: Param[str] = Param(  # noqa: N815
        Params._dummy(),
        "workFolder",
        "folder that all workers can read and write, for the rows while fit runs; a temporary one on a local master",
        TypeConverters.toString,
    )

    def __init__(self) -> None:
        super().__init__()
        defaults = ClusterSettings()
        chosen = {name: getattr(defaults, setting) for name, setting in SETTINGS.items()}
        # As in pyspark.ml, features are taken as they are; StandardScaler is the stage that scales them.
        self._setDefault(**{**chosen, "scaling": "none", "patience": 0}, numWorkers=1)

    def _input_columns(self) -> list[str]:
        return [str(name) for name in self.getOrDefault("inputCols")] if self.isDefined(self.inputCols) else []

    def _check_outputs(self, dataset: DataFrame) -> None:
        for name in self._output_columns():
            if name in dataset.columns:
                raise DataError(f"the DataFrame: column {name} exists already; drop it or set another predictionCol")

    def _output_columns(self) -> list[str]:
        distance = [self.getOrDefault(self.distanceCol)] if self.isDefined(self.distanceCol) else []
        return [self.getOrDefault(self.predictionCol), *distance]


class SGDKMeans(Estimator["SGDKMeansModel"], _KMeansParams, DefaultParamsReadable["SGDKMeans"], DefaultParamsWritable):
    """Mini-batch k-means of a DataFrame, by one process or by Horovod workers.

    ``fit`` writes the rows to ``workFolder`` as a table set, trains on it and removes it. Features are a vector or
    array in ``featuresCol``, or the numeric columns in ``inputCols``. The same rows in the same partitions give the
    same model. With ``numWorkers`` 1 it may be called from any thread, as ``CrossValidator`` does.

    Examples
    --------
    >>> model = SGDKMeans(k=3, inputCols=["a", "b"], seed=1).fit(frame)  # doctest: +SKIP
    >>> model.transform(frame).groupBy("prediction").count().show()  # doctest: +SKIP
    """

    @keyword_only
    def __init__(
        self,
        *,
        k: int = 8,
        featuresCol: str = "features",
        inputCols: list[str] | None = None,
        predictionCol: str = "prediction",
        distanceCol: str | None = None,
        weightCol: str | None = None,
        maxIter: int = 10,
        batchSize: int = 1024,
        scaling: str = "none",
        initMode: str = "k-means++",
        stepRule: str = "counts",
        stepSize: float = 0.1,
        decay: float = 1.0,
        reseedRatio: float = 0.01,
        patience: int = 0,
        tol: float = 0.0,
        precision: str = "float32",
        seed: int = 1,
        numWorkers: int = 1,
        workFolder: str | None = None,
    ) -> None:
        super().__init__()
        self._set(**self._input_kwargs)  # type: ignore[attr-defined]

    @keyword_only
    def setParams(self, **kwargs: Any) -> SGDKMeans:  # noqa: N802 - called by Spark ML
        """Set parameters by name."""
        return self._set(**self._input_kwargs)  # type: ignore[attr-defined]

    def settings(self) -> ClusterSettings:
        """Return the parameters as settings of the training.

        Raises
        ------
        ConfigError
            If a value is out of range.
        """
        values = {setting: self.getOrDefault(name) for name, setting in SETTINGS.items()}
        return validate(ClusterSettings, {**values, "patience": values["patience"] or None}, "SGDKMeans")

    def _fit(self, dataset: DataFrame) -> SGDKMeansModel:
        from sparton.distributed.launch import LaunchSettings, launch
        from sparton.sgd.train import train

        settings = self.settings()
        self._check_outputs(dataset)
        spark = dataset.sparkSession
        workers = validate(LaunchSettings, {"workers": self.getOrDefault(self.numWorkers)}, "SGDKMeans")
        with self._work_folder(spark) as folder:
            places = {name: storage.join(folder, name) for name in ("set", "checkpoints", BUNDLE_FOLDER)}
            self._write_set(spark, dataset, folder, places["set"])
            launch(train, (*places.values(), settings), spark, workers)
            model = SGDKMeansModel.from_bundle(places[BUNDLE_FOLDER])
        return self._copyValues(model)

    def _write_set(self, spark: SparkSession, dataset: DataFrame, folder: str, target: str) -> None:
        """Write the rows, once as they are, since a DataFrame may give others when it is read again; then shuffled."""
        from sparton.data.tables import write_table_set

        inputs = self._input_columns()
        features = features_column(dataset.schema, self.getOrDefault(self.featuresCol), inputs)
        weight = weight_column(
            dataset.schema, self.getOrDefault(self.weightCol) if self.isSet(self.weightCol) else None
        )
        plain = storage.join(folder, "rows")
        columns = (F.monotonically_increasing_id().alias(ID), features.alias(FEATURES), weight.alias(WEIGHT))
        dataset.select(*columns).write.parquet(storage.spark_url(plain))
        rows = spark.read.parquet(storage.spark_source(plain))
        named = ", ".join(inputs) or self.getOrDefault(self.featuresCol)
        length = checked_length(rows, named)
        table = TableSettings(
            array=FEATURES, length=length, id=ID, weight=WEIGHT, splits={TRAIN: 1.0}, max_rejected=0.0
        )
        write_table_set(spark, rows, table, target)

    @contextlib.contextmanager
    def _work_folder(self, spark: SparkSession) -> Iterator[str]:
        if not self.isSet(self.workFolder):
            if not str(spark.sparkContext.master).startswith("local"):
                raise ConfigError(
                    "SGDKMeans: workFolder is not set; name a folder or URL that driver and executors share"
                )
            with tempfile.TemporaryDirectory(prefix="sparton-kmeans-") as folder:
                yield folder
            return
        folder = storage.absolute(
            storage.join(self.getOrDefault(self.workFolder), f"sparton-kmeans-{uuid.uuid4().hex}")
        )
        try:
            yield folder
        finally:
            storage.remove(folder)

    def setK(self, value: int) -> SGDKMeans:  # noqa: N802
        """Set the number of clusters."""
        return self._set(k=value)

    def setFeaturesCol(self, value: str) -> SGDKMeans:  # noqa: N802
        """Set the column with a vector or an array of numbers."""
        return self._set(featuresCol=value)

    def setInputCols(self, value: list[str]) -> SGDKMeans:  # noqa: N802
        """Set numeric columns that are the features, in place of ``featuresCol``."""
        return self._set(inputCols=value)

    def setPredictionCol(self, value: str) -> SGDKMeans:  # noqa: N802
        """Set the column for the number of the cluster."""
        return self._set(predictionCol=value)

    def setDistanceCol(self, value: str) -> SGDKMeans:  # noqa: N802
        """Set the column for the distance to the nearest centroid; none by default."""
        return self._set(distanceCol=value)

    def setWeightCol(self, value: str) -> SGDKMeans:  # noqa: N802
        """Set the column with weights from 0; none by default."""
        return self._set(weightCol=value)

    def setMaxIter(self, value: int) -> SGDKMeans:  # noqa: N802
        """Set the number of passes, at most."""
        return self._set(maxIter=value)

    def setBatchSize(self, value: int) -> SGDKMeans:  # noqa: N802
        """Set the rows of one worker in one step."""
        return self._set(batchSize=value)

    def setDecay(self, value: float) -> SGDKMeans:  # noqa: N802
        """Set the factor of the counts in each step."""
        return self._set(decay=value)

    def setSeed(self, value: int) -> SGDKMeans:  # noqa: N802
        """Set the seed."""
        return self._set(seed=value)

    def setTol(self, value: float) -> SGDKMeans:  # noqa: N802
        """Set the smoothed squared move, in units of the mean variance, below which training ends."""
        return self._set(tol=value)

    def setNumWorkers(self, value: int) -> SGDKMeans:  # noqa: N802
        """Set the number of training processes."""
        return self._set(numWorkers=value)

    def setWorkFolder(self, value: str) -> SGDKMeans:  # noqa: N802
        """Set the folder for the rows while ``fit`` runs."""
        return self._set(workFolder=value)


class SGDKMeansModel(Model, _KMeansParams, MLReadable["SGDKMeansModel"], MLWritable):
    """Clusters that :class:`SGDKMeans` found: ``transform`` appends the nearest one and, if asked for, its distance.

    Parameters
    ----------
    files
        Content of the bundle's files by name; :meth:`from_bundle` reads them.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self._files = files

    @classmethod
    def from_bundle(cls, folder: str) -> SGDKMeansModel:
        """Read a bundle, such as ``sparton cluster`` makes, on the driver.

        Its features, scaled as they were in training, are expected in the bundle's order.

        Raises
        ------
        DataError
            If a file is missing or its checksum is wrong.
        """
        description = bundle.load(folder)
        model = cls({name: _content(storage.join(folder, name)) for name in bundle.FILES})
        chosen = {name: description.training[setting] for name, setting in SETTINGS.items()}
        return model._set(**{**chosen, "patience": chosen["patience"] or 0})

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
        """Figures of the training: ``inertia`` and ``sizes`` (sums of weights) over all rows, and those of its end."""
        return bundle.parse_metrics(self._files[bundle.METRICS].decode())

    @property
    def numFeatures(self) -> int:  # noqa: N802 - as in pyspark.ml
        """Number of features."""
        return len(self.description.inputs.feature_names)

    def clusterCenters(self) -> list[np.ndarray[Any, np.dtype[np.float64]]]:  # noqa: N802 - as in pyspark.ml
        """Return the centroids in the units of the features, one array each."""
        return list(self.clusters.centers)

    def predict(self, value: Vector) -> int:
        """Return the nearest cluster of one vector."""
        return int(self.clusters.assign(np.asarray(value.toArray(), np.float32)[None])[0][0])

    def setFeaturesCol(self, value: str) -> SGDKMeansModel:  # noqa: N802
        """Set the column with a vector or an array of numbers."""
        return self._set(featuresCol=value)

    def setInputCols(self, value: list[str]) -> SGDKMeansModel:  # noqa: N802
        """Set numeric columns that are the features, in place of ``featuresCol``."""
        return self._set(inputCols=value)

    def setPredictionCol(self, value: str) -> SGDKMeansModel:  # noqa: N802
        """Set the column for the number of the cluster."""
        return self._set(predictionCol=value)

    def setDistanceCol(self, value: str) -> SGDKMeansModel:  # noqa: N802
        """Set the column for the distance to the nearest centroid."""
        return self._set(distanceCol=value)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_outputs(dataset)
        inputs, features = self._input_columns(), self.getOrDefault(self.featuresCol)
        column = features_column(dataset.schema, features, inputs)
        shared = dataset.sparkSession.sparkContext.broadcast(self.clusters)
        named = ", ".join(inputs) or features

        def assign(values: pd.Series) -> pd.DataFrame:
            return assigned(values, shared.value, named)

        found = pandas_udf(assign, OUTPUT)(column)  # type: ignore[call-overload]
        outputs = zip(self._output_columns(), OUTPUT.names, strict=False)
        return dataset.select("*", *(found[field].alias(name) for name, field in outputs))

    def write(self) -> MLWriter:
        """Return a writer of the parameters and the bundle."""
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[SGDKMeansModel]:
        """Return the reader of what :meth:`write` wrote."""
        return _Reader()


OUTPUT = StructType([StructField("cluster", IntegerType()), StructField("distance", FloatType())])
"""What is computed of each row."""


def assigned(values: pd.Series, clusters: Clusters, named: str) -> pd.DataFrame:
    """Return cluster and distance of rows.

    Parameters
    ----------
    values
        Arrays of float32, one a row.
    clusters
        What assigns them.
    named
        The columns that they come from, for messages.

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
        raise DataError(f"{named}: found a row of {lengths[bad[0]]} values, expected {width} as in training")
    rows = np.concatenate(values.to_numpy()).reshape(-1, width) if len(values) else np.zeros((0, width), np.float32)
    with own_threads():
        cluster, distance = clusters.assign(np.asarray(rows, np.float32), threads=1)
    return pd.DataFrame({"cluster": cluster, "distance": distance})


def _content(path: str) -> bytes:
    with storage.open_file(path) as stream:
        content: bytes = stream.read()
    return content


class _Writer(MLWriter):
    def __init__(self, model: SGDKMeansModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:  # noqa: N802 - called by Spark ML
        DefaultParamsWriter.saveMetadata(self._model, path, self.sparkSession)
        folder = storage.join(path, BUNDLE_FOLDER)
        storage.make_dirs(folder)
        for name, content in self._model._files.items():
            with storage.open_file(storage.join(folder, name), "wb") as stream:
                stream.write(content)


class _Reader(MLReader[SGDKMeansModel]):
    def load(self, path: str) -> SGDKMeansModel:
        metadata: dict[str, Any] = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        model = SGDKMeansModel.from_bundle(storage.join(path, BUNDLE_FOLDER))
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model

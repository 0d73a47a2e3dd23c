"""Parameters of the Spark ML stages that cluster tables; the names are those of pyspark.ml where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

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
from pyspark.sql.types import ArrayType, BooleanType, DataType, FloatType, IntegerType

from sparton.errors import DataError
from sparton.ml.table_input import Inputs
from sparton.sgd.settings import KMeansSettings, PossibilisticSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SHARED_SETTINGS = {
    "k": "n_clusters",
    "scaling": "scaling",
    "maxIter": "epochs",
    "batchSize": "batch_size",
    "lanes": "lanes",
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
    "device": "device",
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
    lanes: Param[int] = Param(
        Params._dummy(),
        "lanes",
        "lanes of the order of rows: any number of workers that divides it takes the same batches, where batchSize "
        "times workers is the same; by default one for each worker",
        TypeConverters.toInt,
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
    device: Param[str] = Param(
        Params._dummy(),
        "device",
        "what computes: cpu, gpu or auto; of transform auto is a GPU that Spark has assigned to the task, else the CPU",
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
    inMemory: Param[bool] = Param(  # noqa: N815
        Params._dummy(),
        "inMemory",
        "whether all rows go into the driver's memory, where one process trains on them: quicker where they fit",
        TypeConverters.toBoolean,
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
        self._setDefault(**{**chosen, "scaling": "none", "patience": 0}, numWorkers=1, inMemory=False)

    def _inputs(self) -> Inputs:
        """Return the columns that are clustered.

        Raises
        ------
        DataError
            If one is named twice.
        """
        columns = self.getInputCols() if self.isDefined("inputCols") else ()
        weight = self.getWeightCol() if self.isSet("weightCol") else None
        return Inputs(self.getFeaturesCol(), tuple(map(str, columns)), weight)

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

    def setDistanceCol(self, value: str) -> Self:  # noqa: N802 - Spark ML names accessors this way
        """Set the column for the distance to the cluster's centroid; none by default."""
        return self._set(distanceCol=value)

    def setDistancesCol(self, value: str) -> Self:  # noqa: N802
        """Set the column for the distances to all centroids; none by default."""
        return self._set(distancesCol=value)

    def getK(self) -> int:  # noqa: N802
        """Return the number of clusters."""
        return self.getOrDefault(self.k)

    def getBatchSize(self) -> int:  # noqa: N802
        """Return the rows of one worker in one step."""
        return self.getOrDefault(self.batchSize)

    def getLanes(self) -> int:  # noqa: N802
        """Return the number of lanes; one for each worker by default."""
        return self.getOrDefault(self.lanes)

    def getScaling(self) -> str:  # noqa: N802
        """Return ``none``, or ``standard``: features are divided by their deviation."""
        return self.getOrDefault(self.scaling)

    def getStepRule(self) -> str:  # noqa: N802
        """Return the steps of centroids: ``counts``, ``constant`` or ``polynomial``."""
        return self.getOrDefault(self.stepRule)

    def getStepDelay(self) -> float:  # noqa: N802
        """Return t0 of polynomial steps."""
        return self.getOrDefault(self.stepDelay)

    def getStepPower(self) -> float:  # noqa: N802
        """Return p of polynomial steps."""
        return self.getOrDefault(self.stepPower)

    def getInitRows(self) -> int:  # noqa: N802
        """Return the rows of the sample that first centroids are found on."""
        return self.getOrDefault(self.initRows)

    def getInitCount(self) -> float:  # noqa: N802
        """Return the rows that a first centroid counts as."""
        return self.getOrDefault(self.initCount)

    def getDecay(self) -> float:  # noqa: N802
        """Return the factor of the counts in each step."""
        return self.getOrDefault(self.decay)

    def getPatience(self) -> int:  # noqa: N802
        """Return the steps without a lower smoothed objective that end the training; 0 takes all passes."""
        return self.getOrDefault(self.patience)

    def getPrecision(self) -> str:  # noqa: N802
        """Return the type in which points are multiplied with centroids."""
        return self.getOrDefault(self.precision)

    def getDevice(self) -> str:  # noqa: N802
        """Return what computes: ``cpu``, ``gpu`` or ``auto``."""
        return self.getOrDefault(self.device)

    def getNumWorkers(self) -> int:  # noqa: N802
        """Return the number of training processes."""
        return self.getOrDefault(self.numWorkers)

    def getInMemory(self) -> bool:  # noqa: N802
        """Return whether all rows go into the driver's memory."""
        return self.getOrDefault(self.inMemory)

    def getWorkFolder(self) -> str:  # noqa: N802
        """Return the folder for the rows while ``fit`` runs."""
        return self.getOrDefault(self.workFolder)

    def getDistanceCol(self) -> str:  # noqa: N802
        """Return the column for the distance to the cluster's centroid; none by default."""
        return self.getOrDefault(self.distanceCol)

    def getDistancesCol(self) -> str:  # noqa: N802
        """Return the column for the distances to all centroids; none by default."""
        return self.getOrDefault(self.distancesCol)


class TrainingParams(ClusterParams):
    """What is set of an estimator alone."""

    def setK(self, value: int) -> Self:  # noqa: N802
        """Set the number of clusters."""
        return self._set(k=value)

    def setBatchSize(self, value: int) -> Self:  # noqa: N802
        """Set the rows of one worker in one step."""
        return self._set(batchSize=value)

    def setLanes(self, value: int) -> Self:  # noqa: N802
        """Set the number of lanes; one for each worker by default."""
        return self._set(lanes=value)

    def setScaling(self, value: str) -> Self:  # noqa: N802
        """Set ``none``, or ``standard``: features are divided by their deviation."""
        return self._set(scaling=value)

    def setStepRule(self, value: str) -> Self:  # noqa: N802
        """Set the steps of centroids: ``counts``, ``constant`` or ``polynomial``."""
        return self._set(stepRule=value)

    def setStepDelay(self, value: float) -> Self:  # noqa: N802
        """Set t0 of polynomial steps."""
        return self._set(stepDelay=value)

    def setStepPower(self, value: float) -> Self:  # noqa: N802
        """Set p of polynomial steps."""
        return self._set(stepPower=value)

    def setInitRows(self, value: int) -> Self:  # noqa: N802
        """Set the rows of the sample that first centroids are found on."""
        return self._set(initRows=value)

    def setInitCount(self, value: float) -> Self:  # noqa: N802
        """Set the rows that a first centroid counts as."""
        return self._set(initCount=value)

    def setDecay(self, value: float) -> Self:  # noqa: N802
        """Set the factor of the counts in each step."""
        return self._set(decay=value)

    def setPatience(self, value: int) -> Self:  # noqa: N802
        """Set the steps without a lower smoothed objective that end the training; 0 takes all passes."""
        return self._set(patience=value)

    def setPrecision(self, value: str) -> Self:  # noqa: N802
        """Set the type in which points are multiplied with centroids."""
        return self._set(precision=value)

    def setDevice(self, value: str) -> Self:  # noqa: N802
        """Set what computes: ``cpu``, ``gpu`` or ``auto``."""
        return self._set(device=value)

    def setNumWorkers(self, value: int) -> Self:  # noqa: N802
        """Set the number of training processes."""
        return self._set(numWorkers=value)

    def setInMemory(self, value: bool) -> Self:  # noqa: N802
        """Set whether all rows go into the driver's memory, where one process trains on them."""
        return self._set(inMemory=value)

    def setWorkFolder(self, value: str) -> Self:  # noqa: N802
        """Set the folder for the rows while ``fit`` runs."""
        return self._set(workFolder=value)

    def setWeightCol(self, value: str) -> Self:  # noqa: N802
        """Set the column with weights from 0; none by default."""
        return self._set(weightCol=value)

    def setMaxIter(self, value: int) -> Self:  # noqa: N802
        """Set the number of passes, at most."""
        return self._set(maxIter=value)

    def setStepSize(self, value: float) -> Self:  # noqa: N802
        """Set the size of constant and polynomial steps; 1 is the whole way."""
        return self._set(stepSize=value)

    def setSeed(self, value: int) -> Self:  # noqa: N802
        """Set the seed."""
        return self._set(seed=value)

    def setTol(self, value: float) -> Self:  # noqa: N802
        """Set the smoothed squared move, in units of the mean variance, below which training ends."""
        return self._set(tol=value)

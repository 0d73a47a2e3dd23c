"""K-means by stochastic gradient descent as a Spark ML estimator and model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pyspark import keyword_only
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, MLReadable

from sparton.ml.clustering import TableClusterer, TableClusters
from sparton.ml.params import SHARED_SETTINGS, ClusterParams
from sparton.sgd.settings import KMeansSettings


class _KMeansParams(ClusterParams):
    """What estimator and model have beside the shared parameters."""

    SETTINGS: ClassVar[Mapping[str, str]] = {
        **SHARED_SETTINGS,
        "initMode": "start",
        "initTries": "start_tries",
        "reseedRatio": "reseed_ratio",
    }
    METHOD = KMeansSettings

    initMode: Param[str] = Param(  # noqa: N815 - Spark ML names parameters this way
        Params._dummy(), "initMode", "first centroids: k-means++ or random", TypeConverters.toString
    )
    initTries: Param[int] = Param(  # noqa: N815
        Params._dummy(),
        "initTries",
        "rows tried in the place of first centroids; by default two for each cluster after k-means++",
        TypeConverters.toInt,
    )
    reseedRatio: Param[float] = Param(  # noqa: N815
        Params._dummy(),
        "reseedRatio",
        "centroids with a count below this fraction of the largest are put elsewhere; 0 never",
        TypeConverters.toFloat,
    )

    def getInitMode(self) -> str:  # noqa: N802 - Spark ML names accessors this way
        """Return where first centroids come from: ``k-means++`` or ``random``."""
        return self.getOrDefault(self.initMode)

    def getInitTries(self) -> int:  # noqa: N802
        """Return the rows that are tried in the place of first centroids."""
        return self.getOrDefault(self.initTries)

    def getReseedRatio(self) -> float:  # noqa: N802
        """Return the fraction of the largest count below which a centroid is put elsewhere; 0 never does so."""
        return self.getOrDefault(self.reseedRatio)


class SGDKMeansModel(TableClusters, _KMeansParams, MLReadable["SGDKMeansModel"]):
    """Clusters that :class:`SGDKMeans` found: ``transform`` appends the nearest one and, if asked for, its distance."""

    KIND = "kmeans"


class SGDKMeans(TableClusterer["SGDKMeansModel"], _KMeansParams, DefaultParamsReadable["SGDKMeans"]):
    """Mini-batch k-means of a DataFrame, by one process or by Horovod workers.

    ``fit`` writes the rows to ``workFolder`` as a table set, trains on it and removes it. Features are a vector or
    array in ``featuresCol``, or the numeric columns in ``inputCols``. The same rows in the same partitions give the
    same model. With ``numWorkers`` 1 it may be called from any thread, as ``CrossValidator`` does.

    Examples
    --------
    >>> model = SGDKMeans(k=3, inputCols=["a", "b"], seed=1).fit(frame)  # doctest: +SKIP
    >>> model.transform(frame).groupBy("prediction").count().show()  # doctest: +SKIP
    """

    MODEL = SGDKMeansModel

    @keyword_only
    def __init__(
        self,
        *,
        k: int = 8,
        featuresCol: str = "features",
        inputCols: list[str] | None = None,
        predictionCol: str = "prediction",
        distanceCol: str | None = None,
        distancesCol: str | None = None,
        weightCol: str | None = None,
        maxIter: int = 10,
        batchSize: int = 1024,
        lanes: int | None = None,
        scaling: str = "none",
        initMode: str = "k-means++",
        initTries: int | None = None,
        initRows: int | None = None,
        initCount: float = 1.0,
        stepRule: str = "counts",
        stepSize: float = 0.1,
        stepDelay: float = 100.0,
        stepPower: float = 0.75,
        decay: float = 1.0,
        reseedRatio: float = 0.01,
        patience: int = 0,
        tol: float = 0.0,
        precision: str = "float32",
        device: str = "auto",
        seed: int = 1,
        numWorkers: int = 1,
        inMemory: bool = False,
        workFolder: str | None = None,
    ) -> None:
        super().__init__()
        self._set(**self._input_kwargs)  # type: ignore[attr-defined]

    @keyword_only
    def setParams(self, **kwargs: Any) -> SGDKMeans:  # noqa: N802 - called by Spark ML
        """Set parameters by name."""
        return self._set(**self._input_kwargs)  # type: ignore[attr-defined]

    def setInitMode(self, value: str) -> Self:  # noqa: N802
        """Set where first centroids come from: ``k-means++`` or ``random``."""
        return self._set(initMode=value)

    def setInitTries(self, value: int) -> Self:  # noqa: N802
        """Set the rows that are tried in the place of first centroids."""
        return self._set(initTries=value)

    def setReseedRatio(self, value: float) -> Self:  # noqa: N802
        """Set the fraction of the largest count below which a centroid is put elsewhere; 0 never does so."""
        return self._set(reseedRatio=value)

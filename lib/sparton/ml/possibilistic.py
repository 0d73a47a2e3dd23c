"""Possibilistic c-means by stochastic gradient descent as a Spark ML estimator and model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

from pyspark import keyword_only
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, MLReadable

from sparton.errors import ConfigError
from sparton.ml.clustering import TableClusterer, TableClusters
from sparton.ml.params import SHARED_SETTINGS, ClusterParams
from sparton.sgd.clusters import Clusters, PossibilisticClusters
from sparton.sgd.settings import PossibilisticSettings


class _PossibilisticParams(ClusterParams):
    """What estimator and model have beside the shared parameters."""

    SETTINGS: ClassVar[Mapping[str, str]] = {
        **SHARED_SETTINGS,
        "gammaFactor": "gamma_factor",
        "coincidence": "coincidence",
        "smallestMass": "smallest_mass",
        "noiseBelow": "noise_below",
    }
    METHOD = PossibilisticSettings
    OUTPUTS: ClassVar[Mapping[str, str]] = {
        **ClusterParams.OUTPUTS,
        "typicalitiesCol": "typicalities",
        "scoreCol": "score",
        "noiseCol": "noise",
    }

    gammaFactor: Param[float] = Param(  # noqa: N815 - Spark ML names parameters this way
        Params._dummy(),
        "gammaFactor",
        "squared width of a cluster over its mean squared distance in fuzzy c-means",
        TypeConverters.toFloat,
    )
    coincidence: Param[float] = Param(
        Params._dummy(),
        "coincidence",
        "squared distance, over the smaller squared width, below which two centroids become one; 0 keeps all",
        TypeConverters.toFloat,
    )
    smallestMass: Param[float] = Param(  # noqa: N815
        Params._dummy(),
        "smallestMass",
        "clusters whose typicalities sum up to less than this fraction of the largest sum are left out; 0 keeps all",
        TypeConverters.toFloat,
    )
    noiseBelow: Param[float] = Param(  # noqa: N815
        Params._dummy(),
        "noiseBelow",
        "rows whose largest typicality is below this are noise; where not set, 0.05 ** (1 / gammaFactor)",
        TypeConverters.toFloat,
    )
    typicalitiesCol: Param[str] = Param(  # noqa: N815
        Params._dummy(), "typicalitiesCol", "column for the typicalities in all clusters", TypeConverters.toString
    )
    scoreCol: Param[str] = Param(  # noqa: N815
        Params._dummy(),
        "scoreCol",
        "column for the anomaly score, minus the logarithm of the largest typicality",
        TypeConverters.toString,
    )
    noiseCol: Param[str] = Param(  # noqa: N815
        Params._dummy(), "noiseCol", "column for whether a row is noise", TypeConverters.toString
    )

    def setTypicalitiesCol(self, value: str) -> Self:  # noqa: N802 - Spark ML names accessors this way
        """Set the column for the typicalities in all clusters; none by default."""
        return self._set(typicalitiesCol=value)

    def setScoreCol(self, value: str) -> Self:  # noqa: N802
        """Set the column for the anomaly score; none by default."""
        return self._set(scoreCol=value)

    def setNoiseCol(self, value: str) -> Self:  # noqa: N802
        """Set the column for whether a row is noise; none by default."""
        return self._set(noiseCol=value)

    def getTypicalitiesCol(self) -> str:  # noqa: N802
        """Return the column for the typicalities in all clusters; none by default."""
        return self.getOrDefault(self.typicalitiesCol)

    def getScoreCol(self) -> str:  # noqa: N802
        """Return the column for the anomaly score; none by default."""
        return self.getOrDefault(self.scoreCol)

    def getNoiseCol(self) -> str:  # noqa: N802
        """Return the column for whether a row is noise; none by default."""
        return self.getOrDefault(self.noiseCol)

    def getGammaFactor(self) -> float:  # noqa: N802
        """Return the squared width of a cluster over its mean squared distance in fuzzy c-means."""
        return self.getOrDefault(self.gammaFactor)

    def getCoincidence(self) -> float:  # noqa: N802
        """Return the squared distance, over the smaller squared width, below which two centroids become one."""
        return self.getOrDefault(self.coincidence)

    def getSmallestMass(self) -> float:  # noqa: N802
        """Return the fraction of the largest sum of typicalities below which a cluster is left out."""
        return self.getOrDefault(self.smallestMass)

    def getNoiseBelow(self) -> float:  # noqa: N802
        """Return the largest typicality below which a row is noise."""
        return self.getOrDefault(self.noiseBelow)


class PossibilisticCMeansModel(TableClusters, _PossibilisticParams, MLReadable["PossibilisticCMeansModel"]):
    """Clusters that :class:`PossibilisticCMeans` found.

    ``transform`` appends the most typical cluster, of noise too, and if asked for its distance, the distances to all
    centroids, the typicalities in all clusters, an anomaly score, and whether a row is noise: by ``noiseBelow``, which
    may be set anew.
    """

    KIND = "pcm"

    @property
    def clusters(self) -> Clusters:
        """What assigns rows.

        Raises
        ------
        ConfigError
            If ``noiseBelow`` is out of range.
        """
        found = super().clusters
        if not self.isDefined(self.noiseBelow):
            return found
        limit = self.getNoiseBelow()
        if not 0 <= limit < 1:
            raise ConfigError(f"{type(self).__name__}: noiseBelow: found {limit:g}, expected a number from 0 below 1")
        assert isinstance(found, PossibilisticClusters)
        return replace(found, noise_below=limit)

    def setNoiseBelow(self, value: float) -> Self:  # noqa: N802 - Spark ML names accessors this way
        """Set the largest typicality below which a row is noise."""
        return self._set(noiseBelow=value)


class PossibilisticCMeans(
    TableClusterer["PossibilisticCMeansModel"],
    _PossibilisticParams,
    DefaultParamsReadable["PossibilisticCMeans"],
):
    """Possibilistic c-means of a DataFrame, by one process or by Horovod workers.

    ``k`` is the number of centroids to start with, two or three times as many as clusters are expected; the model may
    have less. Inputs, the work folder and several workers are as for :class:`sparton.ml.kmeans.SGDKMeans`.

    Examples
    --------
    >>> clusterer = PossibilisticCMeans(k=8, inputCols=["a", "b"], noiseCol="noise", scoreCol="score")
    >>> clusterer.fit(frame).transform(frame).where("not noise").show()  # doctest: +SKIP
    """

    MODEL = PossibilisticCMeansModel

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
        typicalitiesCol: str | None = None,
        scoreCol: str | None = None,
        noiseCol: str | None = None,
        weightCol: str | None = None,
        maxIter: int = 10,
        batchSize: int = 1024,
        lanes: int | None = None,
        scaling: str = "none",
        gammaFactor: float = 0.5,
        coincidence: float = 0.1,
        smallestMass: float = 0.05,
        noiseBelow: float | None = None,
        stepRule: str = "counts",
        stepSize: float = 0.5,
        stepDelay: float = 100.0,
        stepPower: float = 0.75,
        initRows: int | None = None,
        initCount: float = 1.0,
        decay: float = 1.0,
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
    def setParams(self, **kwargs: Any) -> PossibilisticCMeans:  # noqa: N802 - called by Spark ML
        """Set parameters by name."""
        return self._set(**self._input_kwargs)  # type: ignore[attr-defined]

    def setGammaFactor(self, value: float) -> Self:  # noqa: N802
        """Set the squared width of a cluster over its mean squared distance in fuzzy c-means."""
        return self._set(gammaFactor=value)

    def setCoincidence(self, value: float) -> Self:  # noqa: N802
        """Set the squared distance, over the smaller squared width, below which two centroids become one."""
        return self._set(coincidence=value)

    def setSmallestMass(self, value: float) -> Self:  # noqa: N802
        """Set the fraction of the largest sum of typicalities below which a cluster is left out."""
        return self._set(smallestMass=value)

    def setNoiseBelow(self, value: float) -> Self:  # noqa: N802
        """Set the largest typicality below which a row is noise."""
        return self._set(noiseBelow=value)

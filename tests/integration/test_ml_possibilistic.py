"""PossibilisticCMeans among Spark ML's own stages: columns, parameters, persistence, a tuned pipeline, errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import ClusteringEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import functions as F

from sparton.errors import ConfigError, DataError, TrainingError
from sparton.ml.kmeans import SGDKMeansModel
from sparton.ml.possibilistic import PossibilisticCMeans, PossibilisticCMeansModel
from tests.integration.test_ml_kmeans import check_accessors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CENTERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
ROWS, FAR = 300, 12
OUTPUTS = {
    "distanceCol": "away", "distancesCol": "distances", "typicalitiesCol": "typicalities", "scoreCol": "score",
    "noiseCol": "noise",
}  # fmt: skip


@pytest.fixture(scope="module")
def frame(spark: SparkSession) -> DataFrame:
    """Three clouds and a few rows far from all of them, as an array and two columns, with weights."""
    rng = np.random.default_rng(0)
    clouds = CENTERS[np.arange(ROWS) % 3] + rng.normal(0, 0.5, (ROWS, 2))
    values = np.concatenate([clouds, rng.uniform(4, 30, (FAR, 2))])
    rows = [(index, *map(float, row), 1.0 + index % 2) for index, row in enumerate(values)]
    found = spark.createDataFrame(rows, "row long, a double, b double, w double").coalesce(1)
    return found.withColumn("list", F.array("a", "b")).cache()


def estimator(**changes: Any) -> PossibilisticCMeans:
    chosen = {"k": 3, "featuresCol": "list", "maxIter": 6, "batchSize": 50, "decay": 0.9, "seed": 4}
    return PossibilisticCMeans(**{**chosen, **changes})


@pytest.fixture(scope="module")
def model(frame: DataFrame) -> PossibilisticCMeansModel:
    return estimator(**OUTPUTS).fit(frame)


def test_clouds_and_noise_are_found(frame: DataFrame, model: PossibilisticCMeansModel) -> None:
    found = model.transform(frame)
    assert found.columns == [*frame.columns, "prediction", *OUTPUTS.values()]
    types = [found.schema[name].dataType.simpleString() for name in found.columns[-6:]]
    assert types == ["int", "float", "array<float>", "array<float>", "float", "boolean"]
    rows, centers = found.toPandas(), np.array(model.clusterCenters())
    assert np.linalg.norm(centers[:, None] - CENTERS, axis=2).min(axis=0).max() < 0.2
    widths = np.asarray(model.description.widths)  # type: ignore[attr-defined]
    away = np.linalg.norm(rows[["a", "b"]].to_numpy()[:, None] - centers, axis=2)
    near = np.square(away) / widths
    assert np.array_equal(rows["prediction"], near.argmin(axis=1))
    assert np.allclose(np.stack(list(rows["distances"])), away, atol=1e-4)
    assert np.allclose(np.stack(list(rows["typicalities"])), np.exp(-near), atol=1e-4)
    assert np.allclose(rows["score"], near.min(axis=1), rtol=1e-3, atol=1e-5)
    assert np.allclose(rows["away"], away[np.arange(len(rows)), near.argmin(axis=1)], atol=1e-4)
    assert rows["noise"][ROWS:].mean() > 0.7 > 0.05 > rows["noise"][:ROWS].mean()
    assert model.metrics["merged"] + model.metrics["dead"] + len(centers) == 3
    assert model.predict(Vectors.dense(0.1, 9.8)) == int(rows["prediction"][2])
    plain = model.copy({model.predictionCol: "cluster", model.noiseCol: "odd", model.noiseBelow: 0.9})
    odd = plain.transform(frame).select("cluster", "odd").toPandas()["odd"]
    assert np.array_equal(odd, np.exp(-rows["score"]) < 0.9)
    assert odd.sum() > rows["noise"].sum()
    with pytest.raises(ConfigError, match=r"noiseBelow: found 1.5, expected a number from 0 below 1"):
        model.copy().setNoiseBelow(1.5).transform(frame)


def test_parameters_are_those_of_spark_ml() -> None:
    one = estimator(patience=7, workFolder="/tmp/x", **OUTPUTS)
    check_accessors(one.copy())
    for param in one.params:
        assert param.parent == one.uid
        assert param.doc
        assert hasattr(one, param.name)
        assert param.name in one.explainParams()
    other = one.copy({one.gammaFactor: 0.2})
    assert (one.getOrDefault("gammaFactor"), other.getOrDefault("gammaFactor"), other.uid) == (0.5, 0.2, one.uid)
    assert other.settings().model_dump()["noise_below"] is None
    found = one.setGammaFactor(1.0).setNoiseBelow(0.1).setK(5).setDecay(0.5).setMaxIter(2).settings().model_dump()
    assert (found["gamma_factor"], found["noise_below"], found["n_clusters"], found["epochs"]) == (1.0, 0.1, 5, 2)
    with pytest.raises(
        ConfigError, match=r"PossibilisticCMeans: gammaFactor: .* greater than or equal to 0.01. Received: 0.0"
    ):
        PossibilisticCMeans(gammaFactor=0.0).settings()


def test_estimator_and_model_are_written_and_read(
    frame: DataFrame, model: PossibilisticCMeansModel, tmp_path: Path
) -> None:
    one = estimator(inputCols=["a", "b"], **OUTPUTS)
    one.save(str(tmp_path / "estimator"))
    again = PossibilisticCMeans.load(str(tmp_path / "estimator"))
    assert again.uid == one.uid
    assert {p.name: one.getOrDefault(p) for p in one.params if one.isDefined(p)} == {
        p.name: again.getOrDefault(p) for p in again.params if again.isDefined(p)
    }
    model.save(str(tmp_path / "model"))
    loaded = PossibilisticCMeansModel.load(str(tmp_path / "model"))
    assert loaded.uid == model.uid
    assert loaded.extractParamMap().keys() == model.extractParamMap().keys()
    assert loaded.transform(frame).toPandas().equals(model.transform(frame).toPandas())
    with pytest.raises(DataError, match="a bundle of kind 'pcm', SGDKMeansModel reads 'kmeans'"):
        SGDKMeansModel.from_bundle(str(tmp_path / "model" / "bundle"))


def test_a_pipeline_with_it_is_tuned_written_and_read(frame: DataFrame, tmp_path: Path) -> None:
    one = estimator(featuresCol="features", maxIter=3, weightCol="w")
    pipeline = Pipeline(stages=[VectorAssembler(inputCols=["a", "b"], outputCol="features"), one])
    grid = ParamGridBuilder().addGrid(one.k, [2, 3]).build()
    clouds = frame.where(F.col("row") < ROWS)
    found = CrossValidator(
        estimator=pipeline, estimatorParamMaps=grid, evaluator=ClusteringEvaluator(), numFolds=2, seed=1, parallelism=2
    )
    fitted = found.fit(clouds)
    best = fitted.bestModel
    assert isinstance(best, PipelineModel)
    assert len(best.stages[-1].clusterCenters()) == 3
    assert fitted.avgMetrics[1] > 0.9 > fitted.avgMetrics[0]
    best.save(str(tmp_path / "pipeline"))
    loaded = PipelineModel.load(str(tmp_path / "pipeline"))
    expected = best.transform(frame).select("prediction").toPandas()
    assert loaded.transform(frame).select("prediction").toPandas().equals(expected)


@pytest.mark.parametrize(
    ("change", "params", "error", "message"),
    [
        (lambda df: df.limit(0), {}, DataError, "the DataFrame is empty"),
        (lambda df: df.withColumn("noise", F.lit(0)), {"noiseCol": "noise"}, DataError, "set another noiseCol"),
        (
            lambda df: df.withColumn("w", -F.col("w")),
            {"weightCol": "w"},
            DataError,
            "weightCol w: found null, negative",
        ),
        (
            lambda df: df.withColumn("list", F.array(F.col("row") % 3)),
            {},
            TrainingError,
            "gamma of 3 of 3 clusters is 0",
        ),
    ],
)
def test_bad_rows_are_named_and_nothing_is_left(
    frame: DataFrame, tmp_path: Path, change: Any, params: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        estimator(**params, workFolder=str(tmp_path)).fit(change(frame))
    assert list(tmp_path.iterdir()) == []

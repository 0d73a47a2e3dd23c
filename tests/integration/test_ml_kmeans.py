"""SGDKMeans among Spark ML's own stages: inputs, parameters, persistence, pipelines, cross-validation, errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import ClusteringEvaluator
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import functions as F

from sparton.errors import ConfigError, DataError, TrainingError, UsageError
from sparton.ml.kmeans import SGDKMeans, SGDKMeansModel
from sparton.ml.possibilistic import PossibilisticCMeans

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CENTERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
ROWS = 300


@pytest.fixture(scope="module")
def frame(spark: SparkSession) -> DataFrame:
    """Three clouds as a vector, an array and two columns, with weights."""
    rng = np.random.default_rng(0)
    values = CENTERS[np.arange(ROWS) % 3] + rng.normal(0, 0.5, (ROWS, 2))
    rows = [(index, *map(float, row), 1.0 + index % 2) for index, row in enumerate(values)]
    found = (
        spark.createDataFrame(rows, "row long, a double, b double, w double")
        .repartition(2, "row")
        .sortWithinPartitions("row")
    )
    return found.withColumn("list", F.array("a", "b")).withColumn("features", array_to_vector("list")).cache()


def estimator(**changes: Any) -> SGDKMeans:
    return SGDKMeans(**{"k": 3, "maxIter": 5, "batchSize": 50, "decay": 0.9, "seed": 4, **changes})


@pytest.fixture(scope="module")
def model(frame: DataFrame) -> SGDKMeansModel:
    return estimator(distanceCol="away").fit(frame)


def sorted_centers(found: SGDKMeansModel) -> np.ndarray[Any, Any]:
    centers = np.array(found.clusterCenters())
    whole = np.round(centers)
    return centers[np.lexsort((whole[:, 1], whole[:, 0]))]


def test_clouds_are_found_and_assigned(frame: DataFrame, model: SGDKMeansModel) -> None:
    assert np.abs(sorted_centers(model) - CENTERS[[0, 2, 1]]).max() < 0.2
    found = model.transform(frame)
    assert found.columns == [*frame.columns, "prediction", "away"]
    assert found.schema["prediction"].dataType.simpleString() == "int"
    rows = found.toPandas()
    points = rows[["a", "b"]].to_numpy()
    away = np.linalg.norm(points[:, None] - np.array(model.clusterCenters()), axis=2)
    assert np.array_equal(rows["prediction"], away.argmin(axis=1))
    assert np.allclose(rows["away"], away.min(axis=1), atol=1e-5)
    assert rows.groupby(rows["row"] % 3)["prediction"].nunique().tolist() == [1, 1, 1]
    assert model.metrics["inertia"] == pytest.approx(float(np.square(away.min(axis=1)).sum()), rel=1e-5)
    assert model.metrics["sizes"] == np.bincount(rows["prediction"]).tolist()
    assert model.predict(Vectors.dense(0.1, 9.0)) == int(rows["prediction"][rows["row"] % 3 == 2].iloc[0])
    assert model.numFeatures == 2


def test_vectors_arrays_and_columns_are_the_same_and_weights_count(frame: DataFrame, model: SGDKMeansModel) -> None:
    by_array = estimator(featuresCol="list").fit(frame)
    by_columns = estimator(inputCols=["a", "b"], weightCol="w").fit(frame)
    assert np.array_equal(sorted_centers(by_array), sorted_centers(model))
    assert sum(by_columns.metrics["sizes"]) == 450
    assert by_columns.description.inputs.feature_names == ("a", "b")
    assert by_array.description.inputs.feature_names == ("list[0]", "list[1]")
    assert not np.array_equal(sorted_centers(by_columns), sorted_centers(model))
    assert by_columns.transform(frame.drop("features", "list")).count() == ROWS


def check_accessors(stage: Any) -> None:
    """Each parameter has a getter, and of an estimator a setter that gives back the stage."""
    for param in stage.params:
        name = param.name[0].upper() + param.name[1:]
        setter = getattr(stage, f"set{name}")
        values = {"toInt": 3, "toFloat": 0.5, "toString": "x", "toListString": ["a"], "toBoolean": True}
        made = values[param.typeConverter.__name__]
        value = stage.getOrDefault(param) if stage.isDefined(param) else made
        assert setter(value) is stage
        assert getattr(stage, f"get{name}")() == value


def test_errors_of_the_training_name_parameters_and_columns(frame: DataFrame, model: SGDKMeansModel) -> None:
    with pytest.raises(TrainingError) as few:
        estimator(k=5).fit(frame.where("row < 2"))
    assert str(few.value) == "found 2 rows, expected at least k=5; lower k"
    with pytest.raises(TrainingError) as equal:
        estimator(k=4, inputCols=["c"]).fit(frame.select((F.col("row") % 2).alias("c")))
    assert str(equal.value).startswith("found 2 distinct rows in a sample of 300, expected at least k=4; lower k, or ")
    assert "raise initRows where" in str(equal.value)
    with pytest.raises(ConfigError, match=r"^SGDKMeans: numWorkers: .* greater than or equal to 1"):
        estimator(numWorkers=0).fit(frame)
    far = F.array(F.col("a"), F.when(F.col("row") == 3, float("inf")).otherwise(F.col("b")))
    told = r"featuresCol features: found NaN or infinity \(as float32\) in features\[1\]"
    with pytest.raises(PythonException, match=told):
        model.transform(frame.withColumn("features", array_to_vector(far))).collect()


def test_parameters_are_those_of_spark_ml() -> None:
    one = estimator(patience=7, workFolder="/tmp/x")
    for param in one.params:
        assert param.parent == one.uid
        assert param.doc
        assert hasattr(one, param.name)
        assert param.name in one.explainParams()
        if one.isDefined(param):
            assert one.getOrDefault(param) == one.getOrDefault(param.name)
    check_accessors(one.copy())
    other = one.copy({one.k: 9})
    assert (one.getOrDefault("k"), other.getOrDefault("k"), other.uid) == (3, 9, one.uid)
    assert other.getOrDefault("patience") == 7
    assert one.setK(5).setDecay(0.5).setTol(0.1).setMaxIter(2).settings().model_dump() == one.settings().model_dump()
    assert (one.settings().n_clusters, one.settings().tolerance, one.settings().epochs) == (5, 0.1, 2)
    assert SGDKMeans().settings().scaling == "none"
    assert SGDKMeans().settings().lanes is None
    assert one.setLanes(6).settings().lanes == SGDKMeans(lanes=6).settings().lanes == 6
    with pytest.raises(ConfigError, match=r"^SGDKMeans: k: .* greater than or equal to 1. Received: 0"):
        SGDKMeans(k=0).settings()
    with pytest.raises(TypeError, match="Could not convert"):
        SGDKMeans(k="three")  # type: ignore[arg-type]


def test_estimator_and_model_are_written_and_read(frame: DataFrame, model: SGDKMeansModel, tmp_path: Path) -> None:
    one = estimator(distanceCol="away", inputCols=["a", "b"])
    one.write().overwrite().save(str(tmp_path / "estimator"))
    again = SGDKMeans.load(str(tmp_path / "estimator"))
    assert again.uid == one.uid
    assert {p.name: one.getOrDefault(p) for p in one.params if one.isDefined(p)} == {
        p.name: again.getOrDefault(p) for p in again.params if again.isDefined(p)
    }
    model.save(str(tmp_path / "model"))
    loaded = SGDKMeansModel.load(str(tmp_path / "model"))
    assert loaded.uid == model.uid
    assert loaded.extractParamMap().keys() == model.extractParamMap().keys()
    assert np.array_equal(loaded.clusterCenters(), model.clusterCenters())
    assert loaded.transform(frame).toPandas().equals(model.transform(frame).toPandas())
    kept = model.copy({model.predictionCol: "found"})
    assert "found" in kept.transform(frame).columns
    assert "prediction" in model.transform(frame).columns
    files = sorted(path.name for path in (tmp_path / "model" / "bundle").iterdir() if not path.name.startswith("."))
    assert files == ["SHA256SUMS", "metrics.json", "model.json", "training_curve.csv"]
    damaged = tmp_path / "model" / "bundle" / "model.json"
    damaged.write_text(damaged.read_text().replace("float32", "float64"))
    with pytest.raises(DataError, match="SHA-256 is not the one"):
        SGDKMeansModel.load(str(tmp_path / "model"))


def test_it_is_a_stage_of_pipelines(frame: DataFrame, tmp_path: Path) -> None:
    stages = [
        VectorAssembler(inputCols=["a", "b"], outputCol="together"),
        StandardScaler(inputCol="together", outputCol="scaled", withMean=True),
        estimator(featuresCol="scaled"),
    ]
    fitted = Pipeline(stages=stages).fit(frame)
    fitted.save(str(tmp_path / "pipeline"))
    loaded = PipelineModel.load(str(tmp_path / "pipeline"))
    assert loaded.transform(frame).select("prediction").toPandas().equals(
        fitted.transform(frame).select("prediction").toPandas()
    )  # fmt: skip
    Pipeline(stages=stages).save(str(tmp_path / "unfitted"))
    assert isinstance(Pipeline.load(str(tmp_path / "unfitted")).getStages()[-1], SGDKMeans)


@pytest.mark.parametrize("in_memory", [False, True])
def test_cross_validation_finds_the_number_of_clusters(frame: DataFrame, tmp_path: Path, in_memory: bool) -> None:
    """Two fits at a time, each in a folder of its own."""
    one = estimator(maxIter=3, inMemory=in_memory, workFolder=str(tmp_path))
    grid = ParamGridBuilder().addGrid(one.k, [2, 3]).build()
    found = CrossValidator(
        estimator=one, estimatorParamMaps=grid, evaluator=ClusteringEvaluator(), numFolds=2, seed=1, parallelism=2
    )
    fitted = found.fit(frame)
    assert len(fitted.bestModel.clusterCenters()) == 3
    assert fitted.avgMetrics[1] > 0.9 > fitted.avgMetrics[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("kind", [SGDKMeans, PossibilisticCMeans])
def test_fits_at_the_same_time_are_those_one_after_the_other(
    frame: DataFrame, kind: type[Any], in_memory: bool
) -> None:
    one = kind(k=3, maxIter=2, batchSize=50, featuresCol="list", inMemory=in_memory)
    maps = ParamGridBuilder().addGrid(one.seed, [1, 2]).build()
    fits = one.fitMultiple(frame, maps)
    with ThreadPoolExecutor(2) as pool:
        found = dict(pool.map(lambda _: next(fits), maps))
    for index, chosen in enumerate(maps):
        expected = one.fit(frame, chosen)
        assert found[index].metrics["sizes"] == expected.metrics["sizes"]
        assert np.array_equal(found[index].clusterCenters(), expected.clusterCenters())


def test_nothing_is_left_in_the_work_folder(frame: DataFrame, tmp_path: Path) -> None:
    estimator(maxIter=1, workFolder=str(tmp_path)).fit(frame)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "params", "message"),
    [
        (lambda df: df.limit(0), {}, "the DataFrame is empty"),
        (
            lambda df: df,
            {"featuresCol": "vector"},
            r"\(featuresCol\): missing column\(s\) vector; found row, a",
        ),
        (
            lambda df: df.withColumn("a", F.lit("x")),
            {"inputCols": ["a", "b"]},
            r"\(inputCols\): column a is string, expected",
        ),
        (
            lambda df: df,
            {"featuresCol": "a"},
            r"\(featuresCol\): column a is double, expected a vector .* inputCols",
        ),
        (
            lambda df: df.withColumn("list", F.when(F.col("row") == 150, F.array(F.lit(1.0))).otherwise(F.col("list"))),
            {"featuresCol": "list"},
            "featuresCol list: found 1 to 2 values in a row, expected as many in each",
        ),
        (
            lambda df: df.withColumn("a", F.when(F.col("row") < 3, F.lit(float("nan"))).otherwise(F.col("a"))),
            {"inputCols": ["a", "b"]},
            r"inputCols a: found NaN or infinity \(as float32\) in 3 of 300 rows",
        ),
        (
            lambda df: df.withColumn("b", F.when(F.col("row") >= 2, F.col("b"))),
            {"inputCols": ["a", "b"]},
            "inputCols b: found nulls in 2 of 300 rows",
        ),
        (
            lambda df: df.withColumn("features", F.when(F.col("row") != 7, F.col("features"))),
            {},
            "featuresCol features: found nulls in 1 of 300 rows",
        ),
        (
            lambda df: df.withColumn("w", -F.col("w")),
            {"weightCol": "w"},
            "weightCol w: found null, negative or",
        ),
        (lambda df: df.withColumn("w", F.lit(0.0)), {"weightCol": "w"}, "weightCol w: found 0 in all 300 rows"),
        (lambda df: df, {"inputCols": ["a", "a"]}, "inputCols: column a is named twice"),
        (lambda df: df.withColumnRenamed("a", "Sparton_id"), {"inputCols": ["Sparton_id"]}, "sparton_id is taken"),
        (
            lambda df: df.select("row", F.lit(1.0).alias("a")),
            {"inputCols": ["a"]},
            r"^the DataFrame: no feature .* \(a\)",
        ),
        (lambda df: df, {"distanceCol": "prediction"}, "predictionCol and distanceCol both name the column prediction"),
        (lambda df: df.withColumn("prediction", F.lit(0)), {}, "column prediction exists already"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_left(
    frame: DataFrame, tmp_path: Path, change: Any, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        estimator(**params, workFolder=str(tmp_path)).fit(change(frame))
    assert list(tmp_path.iterdir()) == []


def test_lanes_that_do_not_fit_are_refused_and_those_that_do_are_kept(frame: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lanes: 3 lanes cannot be shared equally by 2 workers"):
        estimator(lanes=3, numWorkers=2, workFolder=str(tmp_path)).fit(frame)
    assert list(tmp_path.iterdir()) == []
    assert estimator(lanes=10).fit(frame).getOrDefault("lanes") == 10


def test_rows_of_another_length_are_not_assigned(frame: DataFrame, model: SGDKMeansModel) -> None:
    longer = frame.withColumn("features", array_to_vector(F.array("a", "b", "a")))
    with pytest.raises(PythonException, match=r"featuresCol features: found a row of 3 values, expected 2 values as"):
        model.transform(longer).collect()
    missing = frame.withColumn("features", F.when(F.col("row") != 7, F.col("features")))
    with pytest.raises(PythonException, match=r"featuresCol features: found a row of null, expected 2 values as"):
        model.transform(missing).collect()


def test_distances_from_all_centroids(frame: DataFrame, model: SGDKMeansModel) -> None:
    shown = model.copy({model.distancesCol: "all"}).transform(frame).toPandas()
    every = np.stack(shown["all"].to_numpy())
    assert every.shape == (ROWS, 3)
    np.testing.assert_array_equal(every.argmin(axis=1), shown["prediction"])
    np.testing.assert_allclose(every.min(axis=1), shown["away"], rtol=1e-3, atol=1e-3)


def test_rows_in_memory_are_clustered_as_those_of_a_set(
    frame: DataFrame, model: SGDKMeansModel, tmp_path: Path
) -> None:
    found = estimator(inMemory=True, workFolder=str(tmp_path)).fit(frame)
    assert np.abs(sorted_centers(found) - sorted_centers(model)).max() < 0.05
    assert found.metrics["sizes"] == model.metrics["sizes"]
    weighted = estimator(inMemory=True, inputCols=["a", "b"], weightCol="w").fit(frame)
    assert sum(weighted.metrics["sizes"]) == 450
    assert np.array_equal(
        sorted_centers(estimator(inMemory=True, featuresCol="list").fit(frame)), sorted_centers(found)
    )
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="SGDKMeans: inMemory is for one process, and numWorkers is 2"):
        estimator(inMemory=True, numWorkers=2, workFolder=str(tmp_path)).fit(frame)
    with pytest.raises(DataError, match="inputCols b: found nulls in 1 of"):
        estimator(inMemory=True, inputCols=["a", "b"]).fit(frame.selectExpr("a", "if(row = 5, null, b) b"))

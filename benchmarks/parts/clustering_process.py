"""One way from Parquet files to centroids, in a process of its own, so that its start and its memory count.

python -m parts.clustering_process WAY FOLDER CENTROIDS.npy '{"k": 100, ...}'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HEAP = "8g"


def main() -> None:
    """Cluster and write the centroids."""
    way, folder, target, options = sys.argv[1:]
    np.save(target, WAYS[way](folder, json.loads(options)))


def mllib(folder: str, options: dict[str, Any]) -> Any:
    """Spark MLlib's k-means with its own start."""
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.feature import VectorAssembler

    spark = _session()
    table = spark.read.parquet(folder)
    vectors = VectorAssembler(inputCols=table.columns, outputCol="features").transform(table).select("features")
    found = KMeans(k=options["k"], maxIter=options["iterations"], seed=options["seed"]).fit(vectors)
    return np.array(found.clusterCenters())


def estimator(folder: str, options: dict[str, Any], in_memory: bool = False) -> Any:
    """``SGDKMeans.fit`` on the same table."""
    from sparton.ml.kmeans import SGDKMeans

    table = _session().read.parquet(folder)
    found = SGDKMeans(
        k=options["k"],
        inputCols=table.columns,
        maxIter=options["passes"],
        batchSize=options["batch"],
        decay=options["decay"],
        seed=options["seed"],
        inMemory=in_memory,
    ).fit(table)
    return np.array(found.clusterCenters())


def mini_batch(folder: str, options: dict[str, Any]) -> Any:
    """All rows into memory, and scikit-learn's MiniBatchKMeans as it comes."""
    import pyarrow.parquet as pq
    from sklearn.cluster import MiniBatchKMeans

    paths = sorted(Path(folder).glob("*.parquet"))
    parts = [np.stack([column.to_numpy() for column in pq.read_table(path).columns], axis=1) for path in paths]
    return (
        MiniBatchKMeans(options["k"], n_init=1, random_state=options["seed"])
        .fit(np.concatenate(parts))
        .cluster_centers_
    )


WAYS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "mllib": mllib,
    "estimator": estimator,
    "in_memory": partial(estimator, in_memory=True),
    "mini_batch": mini_batch,
}


def _session() -> SparkSession:
    from sparton.pipeline.session import SparkSettings, spark_session

    return spark_session(SparkSettings(master="local[*]", conf={"spark.driver.memory": HEAP}), "clustering speed")


if __name__ == "__main__":
    main()

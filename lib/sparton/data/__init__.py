"""Tables and shards: schemas, generation on Spark, featurising, the shard writer, the plan and batches."""

from sparton.data.zip_imports import read_archives_once

read_archives_once()

"""Tables and shards: schemas, generation on Spark, featurising, the shard writer, the plan and batches."""

"""Spark ML faces of the models: estimators, models and transformers over DataFrames."""

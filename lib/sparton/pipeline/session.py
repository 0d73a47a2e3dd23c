"""The Spark session of a job."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pydantic import Field

from sparton.config import Config

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOCAL_DEFAULTS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
}
"""For a master inside this process: everything talks over loopback."""

DEFAULTS = {
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.compression.codec": "zstd",
}


class SparkSettings(Config):
    """How the job reaches Spark.

    Attributes
    ----------
    master
        Master URL; None leaves it to spark-submit, or to ``local[*]`` where nothing has been said.
    conf
        Further Spark properties.
    """

    master: str | None = None
    conf: dict[str, str] = Field(default_factory=dict)


def spark_session(settings: SparkSettings, app_name: str) -> SparkSession:
    """Return the active session, or make one from ``settings``.

    Properties given to spark-submit win over the defaults here; ``settings.conf`` wins over both.
    """
    from pyspark import SparkConf
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    submitted = SparkConf()
    master = settings.master or submitted.get("spark.master", None) or "local[*]"
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(app_name).master(master)
    defaults = DEFAULTS | (LOCAL_DEFAULTS if master.startswith("local") else {})
    for key, value in defaults.items():
        if not submitted.contains(key):
            builder = builder.config(key, value)
    for key, value in settings.conf.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("WARN")
    return session

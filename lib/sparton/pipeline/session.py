"""The Spark session of a job."""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from sparton.config import Config

if TYPE_CHECKING:
    from pyspark import SparkConf
    from pyspark.sql import SparkSession

LOOPBACK = "127.0.0.1"
GATEWAY = "PYSPARK_GATEWAY_PORT"
"""The variable by which spark-submit tells Python where its JVM listens."""

LOCAL_DEFAULTS = {
    "spark.driver.bindAddress": LOOPBACK,
    "spark.driver.host": LOOPBACK,
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
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
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    submitted = _submitted()
    master = settings.master or submitted.get("spark.master", None) or "local[*]"
    builder = SparkSession.builder.appName(app_name).master(master)
    defaults = dict(DEFAULTS)
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", LOOPBACK)
        defaults |= LOCAL_DEFAULTS | _quiet_log()
    for key, value in defaults.items():
        if not submitted.contains(key):
            builder = builder.config(key, value)
    for key, value in settings.conf.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("WARN")
    return session


def _submitted() -> SparkConf:
    """Return the properties given to spark-submit, none where Python was started by itself.

    They are in the JVM that started this process, and a ``SparkConf`` made before Python is connected to it is empty:
    the master given to spark-submit would be passed over.
    """
    from pyspark import SparkConf, SparkContext

    if GATEWAY in os.environ:
        SparkContext._ensure_initialized()
    return SparkConf()


def _quiet_log() -> dict[str, str]:
    """Return the property that makes a JVM started here log warnings only, unless the user has a configuration."""
    resource = resources.files("sparton.pipeline") / "log4j2.properties"
    if "SPARK_CONF_DIR" in os.environ or not isinstance(resource, Path):
        return {}
    return {"spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={resource.as_uri()}"}

"""The Spark session of a job."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from sparton.config import SECRET, Config

if TYPE_CHECKING:
    from pyspark import SparkConf
    from pyspark.sql import SparkSession

CANCEL_S = 5.0
"""How long Spark is waited for when its jobs are cancelled."""

LOOPBACK = "127.0.0.1"

MASTERS = re.compile(r"local(\[.+\])?|local-cluster\[.+\]|spark://.+|yarn|k8s://.+")
"""What Spark takes for a master."""

SECRETS = re.compile(r"(?i)secret|password|token|access[.]?key")
"""Properties that Spark itself does not show."""

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
        Master URL where this process starts Spark; None: ``local[*]``. Under spark-submit its master counts.
    conf
        Further Spark properties, such as ``--set spark.conf.spark.driver.memory=4g``. Secrets do not belong here, where
        they reach the JVM's command line and the run folder; they belong into ``spark-defaults.conf``.
    """

    master: str | None = None
    conf: dict[str, str] = Field(default_factory=dict)

    @field_validator("master")
    @classmethod
    def _known(cls, master: str | None) -> str | None:
        if master is not None and not MASTERS.fullmatch(master):
            raise ValueError("expected local, local[N], spark://HOST:PORT, yarn or k8s://URL")
        return master

    @field_validator("conf", mode="before")
    @classmethod
    def _as_texts(cls, conf: Any) -> Any:
        """Join names that ``--set spark.conf.NAME=VALUE`` has split at their dots, and write values as Spark does."""
        return dict(_flat(conf)) if isinstance(conf, dict) else conf

    @field_validator("conf")
    @classmethod
    def _without_secrets(cls, conf: dict[str, str]) -> dict[str, str]:
        for key in conf:
            if SECRETS.search(key) and not key.lower().endswith("file"):
                # Only the key is named: a validation error would show the value too.
                raise PydanticCustomError(
                    SECRET, "{key} is a secret, which would be seen in command lines and run folders; "
                    "put it into the spark-defaults.conf of SPARK_CONF_DIR", {"key": key},
                )  # fmt: skip
        return conf


def _flat(conf: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    for key, value in conf.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{rest}", inner) for rest, inner in _flat(value))
        elif isinstance(value, bool | int | float):
            yield key, str(value).lower()
        else:
            yield key, value


def spark_session(settings: SparkSettings, app_name: str) -> SparkSession:
    """Return the active session, or make one from ``settings``.

    Under spark-submit its master counts, and properties given there win over the defaults here; ``settings.conf`` wins
    over both.
    """
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    submitted = _submitted()
    master = submitted.get("spark.master", None) or settings.master or "local[*]"
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
    _cancel_aside(session)
    return session


def _cancel_aside(session: SparkSession) -> None:
    """Let Ctrl-C cancel Spark's jobs from another thread.

    The handler that PySpark installs asks the JVM from the very thread that may be waiting for its answer, which the
    connection does not allow: an error of Py4J would come out in place of the interruption. A JVM that has got the
    signal too, as all processes of a group do, may be gone and is not waited for long.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        def cancel() -> None:
            with contextlib.suppress(Exception):
                session.sparkContext.cancelAllJobs()

        cancelling = threading.Thread(target=cancel, daemon=True)
        cancelling.start()
        cancelling.join(CANCEL_S)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if ours and getattr(signal.getsignal(signal.SIGINT), "__module__", "").startswith("pyspark"):
        signal.signal(signal.SIGINT, interrupt)


def _submitted() -> SparkConf:
    """Return what spark-submit was told, which the JVM that it started knows; nothing without spark-submit.

    A JVM that this process started remembers what the first session was given; that is no wish for the next one.
    """
    from pyspark import SparkConf, SparkContext

    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return SparkConf(loadDefaults=False)
    SparkContext._ensure_initialized()
    return SparkConf()


def _quiet_log() -> dict[str, str]:
    """Return the property that makes a JVM started here log warnings only, unless the user has a configuration."""
    resource = resources.files("sparton.pipeline") / "log4j2.properties"
    if "SPARK_CONF_DIR" in os.environ or not isinstance(resource, Path):
        return {}
    return {"spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={resource.as_uri()}"}

"""One Spark session for all tests that a process runs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session on two local cores, as the jobs make it."""
    from sparton.pipeline.session import SparkSettings, spark_session

    os.environ["PYSPARK_PYTHON"] = sys.executable
    warehouse = tmp_path_factory.mktemp("warehouse")
    settings = SparkSettings(master="local[2]", conf={"spark.sql.warehouse.dir": str(warehouse)})
    session = spark_session(settings, "sparton-tests")
    yield session
    session.stop()


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Take back what the command line changes in the package's logger."""
    package = logging.getLogger("sparton")
    before = package.handlers, package.propagate, package.level
    yield
    package.handlers, package.propagate, package.level = before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)

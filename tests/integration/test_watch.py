"""Files that arrive in a folder: each ingested exactly once, over restarts, kills and repeated micro-batches."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from sparton.config import load_config
from sparton.data.ingest import read_ingest_record
from sparton.errors import DataError, UsageError
from sparton.pipeline import PipelineSettings, watch
from sparton.pipeline.stage import StageResult
from tests import layouts
from tests.synthetic import random_jets

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DEADLINE_S = 120


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three files of 40, 41 and 42 jets."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{number}.h5" for number in range(3)]
    for number, path in enumerate(paths):
        layouts.write_hls4ml(path, *random_jets(40 + number, seed=number))
    return paths


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox [1]"
    folder.mkdir()
    return folder


def arrive(path: Path, inbox: Path) -> None:
    """Put a file into the folder as a producer should: whole, by a rename."""
    aside = inbox.parent / f"{path.name}.part"
    shutil.copy(path, aside)
    aside.rename(inbox / path.name)


def settings(inbox: Path, *overrides: str) -> PipelineSettings:
    return load_config(PipelineSettings, None, [f"workspace={inbox.parent / 'work'}", *overrides])


def look(inbox: Path, *overrides: str) -> StageResult:
    return watch(settings(inbox, *overrides), str(inbox))


def ids(inbox: Path) -> list[int]:
    """Return the identifiers in the table as often as they stand there."""
    found: list[int] = []
    for path in (inbox.parent / "work" / "jets").glob("*.parquet"):
        found += pq.read_table(path, columns=["jet_id"]).column("jet_id").to_pylist()
    return found


def expect(inbox: Path, jets: int) -> None:
    found = ids(inbox)
    assert (len(found), len(set(found))) == (jets, jets)


def test_new_files_are_added_once_over_restarts(spark: SparkSession, inbox: Path, files: list[Path]) -> None:
    arrive(files[0], inbox)
    arrive(files[1], inbox)
    first = look(inbox, "watch.files_per_batch=1")
    assert (first.summary["batches"], first.summary["jets"]) == (2, 81)
    assert look(inbox).summary["batches"] == 0
    arrive(files[2], inbox)
    assert look(inbox).summary["jets"] == 123
    expect(inbox, 123)


def test_neither_age_nor_name_lets_a_file_be_passed_over(spark: SparkSession, inbox: Path, files: list[Path]) -> None:
    arrive(files[0], inbox)
    look(inbox)
    arrive(files[1], inbox)
    (inbox / "1.h5").rename(inbox / "x[1] %20#?.h5")
    old = inbox.parent / "old"
    shutil.copy(files[2], old)
    os.utime(old, (1e9, 1e9))  # as out of an archive
    old.rename(inbox / "X1.H5")
    look(inbox)
    expect(inbox, 123)


def test_spark_lists_the_files_and_never_loads_them(spark: SparkSession, inbox: Path, files: list[Path]) -> None:
    limit = "spark.sql.sources.binaryFile.maxLength"
    arrive(files[0], inbox)
    spark.conf.set(limit, 1)  # bytes of content that Spark's source would load
    try:
        look(inbox)
    finally:
        spark.conf.unset(limit)
    expect(inbox, 40)


def test_a_batch_that_is_repeated_adds_nothing(spark: SparkSession, inbox: Path, files: list[Path]) -> None:
    for path in files:
        arrive(path, inbox)
    look(inbox)
    shutil.rmtree(inbox.parent / "work" / "checkpoints")  # as if Spark had died before it noted the batch
    assert look(inbox).summary["jets"] == 123
    expect(inbox, 123)


def test_a_table_that_was_removed_is_made_anew(spark: SparkSession, inbox: Path, files: list[Path]) -> None:
    arrive(files[0], inbox)
    look(inbox)
    shutil.rmtree(inbox.parent / "work" / "jets")
    look(inbox)
    expect(inbox, 40)


def test_beyond_the_limit_the_query_ends_and_goes_on_when_the_file_is_gone(
    spark: SparkSession, inbox: Path, files: list[Path]
) -> None:
    arrive(files[0], inbox)
    look(inbox)
    (inbox / "bad.h5").write_text("no jets")
    arrive(files[1], inbox)
    with pytest.raises(DataError, match="--max-rejected"):
        look(inbox)
    expect(inbox, 40)
    (inbox / "bad.h5").unlink()
    look(inbox)
    expect(inbox, 81)


def test_bad_files_within_the_limit_are_set_aside(spark: SparkSession, inbox: Path, files: list[Path]) -> None:
    (inbox / "bad.h5").write_text("no jets")
    arrive(files[0], inbox)
    look(inbox, "ingest.max_rejected=1")
    record = read_ingest_record(str(inbox.parent / "work" / "jets"))
    assert record is not None
    assert sorted(source.reason for source in record.sources) == ["", "unreadable"]
    expect(inbox, 40)


def test_a_file_that_was_empty_at_first_is_taken_when_it_has_content(
    spark: SparkSession, inbox: Path, files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    arrive(files[0], inbox)
    (inbox / "late.h5").touch()
    with caplog.at_level(logging.WARNING):
        look(inbox)
    assert f"{inbox}/late.h5: 0 bytes, passed over" in caplog.text
    expect(inbox, 40)
    shutil.copy(files[1], inbox / "late.h5")
    assert look(inbox).summary["batches"] == 1
    expect(inbox, 40 + 41)
    assert look(inbox).summary["batches"] == 0
    expect(inbox, 40 + 41)


def test_missing_folder(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        watch(settings(tmp_path / "inbox"), str(tmp_path / "inbox"))


def test_killed_query_goes_on_where_it_was_and_ends_at_ctrl_c(inbox: Path, files: list[Path]) -> None:
    work = inbox.parent / "work"
    command = [sys.executable, "-m", "sparton", "ingest", "--watch", str(inbox), "--workspace", str(work)]
    command += ["--format", "hls4ml", "--master", "local[1]", "--trigger", "0.5"]
    arrive(files[0], inbox)
    with running(command, inbox.parent / "first.log") as query:
        wait_for(lambda: (work / "jets" / "_ingest.json").exists(), query)
        arrive(files[1], inbox)
        wait_for(lambda: any(work.glob("jets.staging-*")) or len(ids(inbox)) > 40, query)
    arrive(files[2], inbox)
    with running(command, inbox.parent / "second.log") as query:
        wait_for(lambda: len(ids(inbox)) == 123, query)
        os.killpg(query.pid, signal.SIGINT)
        assert query.wait(DEADLINE_S) == 130
    said = (inbox.parent / "second.log").read_text()
    assert "sparton ingest: interrupted. What was published before stays" in said.splitlines()[-1]
    assert not re.search("Traceback|Exception|ERROR", said)
    expect(inbox, 123)
    assert not list(work.glob("jets.staging-*"))


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, which is killed in the end."""
    with log.open("w") as stream, subprocess.Popen(command, stderr=stream, stdout=stream, process_group=0) as query:
        try:
            yield query
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(query.pid, signal.SIGKILL)


def wait_for(condition: object, query: subprocess.Popen[bytes]) -> None:
    assert callable(condition)
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert query.poll() is None, "the query ended"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)

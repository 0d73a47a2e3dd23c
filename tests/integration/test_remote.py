"""Remote storage over a real network protocol: files, tables and sets, read by Spark and Python, written by tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton import pipeline
from sparton.config import load_config
from sparton.data.manifest import read_manifest
from sparton.pipeline import PipelineSettings
from tests import layouts, webhdfs
from tests.synthetic import random_jets

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SMALL = ["prepare.features.n_particles=16", "prepare.rows_per_shard=64", "prepare.mass_window=null"]


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its URL."""
    (tmp_path / "remote").mkdir()
    with webhdfs.serve(tmp_path / "remote") as url:
        yield tmp_path / "remote", url


def test_the_way_from_files_to_an_extended_set(spark: SparkSession, remote: tuple[Path, str]) -> None:
    """HLS4ML files to a jets table to a set, then both once more with another file; nothing is a local path."""
    root, url = remote
    settings = load_config(PipelineSettings, None, [*SMALL, f"workspace={url}/work", "ingest.task_bytes=1000000"])
    hardest: list[np.ndarray] = []
    (root / "in").mkdir()
    for number in range(2):
        jets, label = random_jets(150, seed=number)
        hardest.append(jets.px[jets.offsets[:-1]])
        layouts.write_hls4ml(root / "in" / f"{number}.h5", jets, label)
        pipeline.ingest(settings, input=f"{url}/in/*.h5", append=True)
        pipeline.prepare(settings, append=True)
        table = pa.concat_tables([pq.read_table(path) for path in sorted((root / "work" / "jets").glob("*.parquet"))])
        found = np.array([values[0] for values in table.column("px").to_pylist()], np.float32)
        assert np.array_equal(np.sort(found), np.sort(np.concatenate(hardest)))
        manifest = read_manifest(f"{url}/work/set")
        shards = [root / "work" / "set" / shard.path for part in manifest.splits.values() for shard in part]
        ids = [i for shard in shards for i in pq.ParquetFile(shard).read(["jet_id"]).column("jet_id").to_pylist()]
        assert sorted(ids) == sorted(table.column("jet_id").to_pylist())
        for name in ("jets", "set"):
            assert pipeline.info(f"{url}/work/{name}", verify=True).problems == []
    assert sorted(path.name for path in (root / "work").iterdir()) == ["jets", "runs", "set"]

"""``info --verify``: one flipped byte anywhere is found and named, in every kind of folder. No Spark."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton import __version__, pipeline, storage
from sparton.cli import main
from sparton.config import Config
from sparton.data.featurize import encode_features
from sparton.data.ingest import RECORD, IngestRecord
from sparton.data.manifest import Counts, Shard, TableManifest
from sparton.data.schema import JETS_ARROW, TABLE_ARROW
from sparton.data.shards import shard_path, write_file
from sparton.pipeline.stage import StageCall, run_stage
from sparton.ucluster.bundle import FORMAT, Description
from tests.clouds import SMALL, inputs
from tests.synthetic import jets_table

ROWS = 40


class Nothing(Config):
    """No settings."""


def stage(folder: Path, name: str, body: Callable[[str], dict[str, Any]]) -> Path:
    settings = pipeline.PipelineSettings(workspace=str(folder / "work"))
    run_stage(StageCall(name, {"none": Nothing()}, {}, str(folder / name), settings), body)
    return folder / name


def jets(folder: Path) -> Path:
    def body(staging: str) -> dict[str, Any]:
        for part in range(2):
            pq.write_table(jets_table(ROWS, seed=part), storage.join(staging, f"part-{part}.parquet"))
        return {}

    return stage(folder, "generate", body)


def ingested(folder: Path) -> Path:
    def body(staging: str) -> dict[str, Any]:
        for part in range(2):
            pq.write_table(jets_table(ROWS, seed=part), storage.join(staging, f"part-{part}.parquet"))
        files = {f"part-{part}.parquet": ROWS for part in range(2)}
        record = IngestRecord(
            format="hls4ml", version=__version__, settings={}, extra_columns=(), sources=(), files=files
        )
        storage.write_json(storage.join(staging, RECORD), record.model_dump(mode="json"))
        return {}

    return stage(folder, "ingest", body)


def table_set(folder: Path) -> Path:
    def body(staging: str) -> dict[str, Any]:
        storage.make_dirs(storage.join(staging, "split=train"))
        shards = []
        for number in range(2):
            columns = [
                pa.array(range(number * ROWS, (number + 1) * ROWS), pa.int64()),
                encode_features(np.random.default_rng(number).standard_normal((ROWS, 3)).astype(np.float32)),
                pa.nulls(ROWS, pa.float32()),
                pa.array(np.ones(ROWS, np.float32)),
            ]
            table = pa.Table.from_arrays(columns, schema=TABLE_ARROW)
            path = shard_path("train", number)
            size, digest = write_file(storage.join(staging, path), table, "snappy")
            shards.append(Shard(path=path, rows=ROWS, bytes=size, sha256=digest))
        manifest = TableManifest(
            feature_names=("a", "b", "c"), feature_mean=(0, 0, 0), feature_std=(1, 1, 1), feature_count=2 * ROWS,
            feature_squares=(1, 1, 1), splits={"train": tuple(shards)}, rows_per_shard=ROWS, seed=0, settings={},
            counts=Counts(read=2 * ROWS, kept=2 * ROWS),
        )  # fmt: skip
        manifest.write(staging)
        return {}

    return stage(folder, "prepare", body)


def bundle(folder: Path) -> Path:
    """A bundle that was copied without the record of its stage."""
    target = folder / "model"
    target.mkdir()
    (target / "weights.h5").write_bytes(bytes(range(200)))
    described = Description(
        format=FORMAT,
        model=SMALL,
        inputs=inputs(),
        centroids=((0.0, 1.0),) * 3,
        training={"jets": 10, "workers": 1},
        versions={},
    )
    (target / "model.json").write_text(described.model_dump_json())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(target.iterdir())]
    (target / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return target


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("make", [jets, ingested, table_set, bundle])
def test_one_flipped_byte_is_found_and_named(
    make: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path)
    assert main(["info", str(folder), "--verify"]) == 0
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".parquet", ".h5", ".json")):
        if path.name.startswith("_stage"):
            continue  # the record itself has no checksum; damage to it makes it unreadable or the others differ
        size = path.stat().st_size
        for place in (0, size // 2, size - 6, size - 1):
            flip(path, place)
            capsys.readouterr()
            status = main(["info", str(folder), "--verify"])
            error = capsys.readouterr().err
            assert (status, path.name in error) == (1, True), (path.name, place, error)
            flip(path, place)
    assert main(["info", str(folder), "--verify"]) == 0


def test_rows_come_from_the_manifest_without_opening_a_shard(tmp_path: Path) -> None:
    folder = table_set(tmp_path)
    shard = next(folder.rglob("*.parquet"))
    shard.write_bytes(b"x" * shard.stat().st_size)
    found = pipeline.info(str(folder))
    assert found.rows == 2 * ROWS
    assert found.columns == {"id": "int64", "features": "binary", "target": "float", "weight": "float"}
    assert found.problems == []
    assert any("not readable as Parquet" in line for line in pipeline.info(str(folder), verify=True).problems)


@pytest.mark.parametrize("change", ["row groups", "rows", "schema"])
def test_a_footer_that_breaks_the_contract_is_found_though_the_checksum_is_right(change: str, tmp_path: Path) -> None:
    folder = table_set(tmp_path)
    path = folder / shard_path("train", 1)
    table = pq.ParquetFile(path).read()
    if change == "row groups":
        pq.write_table(table, path, row_group_size=10)
    elif change == "rows":
        pq.write_table(table.slice(1), path)
    else:
        pq.write_table(table.drop_columns(["weight"]), path)
    manifest = storage.read_json(str(folder / "_manifest.json"))
    content = path.read_bytes()
    entry = manifest["splits"]["train"][1]
    entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    storage.write_json(str(folder / "_manifest.json"), manifest)
    (folder / "_stage.json").unlink()
    problems = pipeline.info(str(folder), verify=True).problems
    assert [change in line and str(path) in line for line in problems] == [True]


def test_a_file_that_no_stage_wrote_is_named(tmp_path: Path) -> None:
    folder = jets(tmp_path)
    pq.write_table(jets_table(3), folder / "stray.parquet")
    assert pipeline.info(str(folder)).problems == [
        f"{folder}/stray.parquet: not written by the stage that made the folder; remove it"
    ]
    (folder / "stray.parquet").unlink()
    (folder / "_notes.txt").write_text("mine")
    assert pipeline.info(str(folder)).problems == []


def test_a_part_with_other_columns_or_rows_is_named(tmp_path: Path) -> None:
    folder = ingested(tmp_path)
    (folder / "_stage.json").unlink()
    pq.write_table(jets_table(ROWS - 1), folder / "part-0.parquet")
    pq.write_table(JETS_ARROW.empty_table().drop_columns(["label"]), folder / "part-1.parquet")
    problems = "; ".join(pipeline.info(str(folder), verify=True).problems)
    assert f"{folder}/part-0.parquet: {ROWS - 1} rows, expected {ROWS}" in problems
    assert f"{folder}/part-1.parquet: columns differ" in problems

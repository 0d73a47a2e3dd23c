"""An executor killed while it writes: every good row arrives once, or the old output stays and a rerun works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparton.data.manifest import read_manifest
from sparton.pipeline import info
from tests import layouts, vault
from tests.synthetic import jets_table, random_jets

SMALL_SET = [
    "--set", "prepare.features.n_particles=16", "--set", "prepare.rows_per_shard=64",
    "--set", "prepare.mass_window=null",
]  # fmt: skip

COMMANDS = """
import json, sys
from sparton import storage
from sparton.cli import main
ended = []
for command in json.loads(sys.argv[1]):
    status = main(command)
    ended.append([status, {path: storage.size("vault://out/" + path) for path in storage.list_files("vault://out")}])
print("ended", json.dumps(ended))
"""


def run(
    commands: list[list[str]], environment: dict[str, str], master: str
) -> tuple[list[int], list[dict[str, int]], str]:
    """Run commands in one Spark session.

    Returns their statuses, the files of ``vault://out`` after each and what they said.
    """
    ended = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([[*command, "--master", master] for command in commands])],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line for line in ended.stdout.splitlines() if line.startswith("ended")]
    assert found, ended.stderr[-3000:]
    statuses, files = zip(*json.loads(found[0].partition(" ")[2]), strict=True)
    return list(statuses), list(files), ended.stderr


def ids_of(folder: Path) -> list[Any]:
    files = [path for path in sorted(folder.rglob("*.parquet")) if "_quarantine" not in str(path)]
    return sorted(i for path in files for i in pq.ParquetFile(path).read(["jet_id"]).column("jet_id").to_pylist())


def test_ingest_and_prepare_outlive_an_executor(tmp_path: Path) -> None:
    store, environment = vault.install(tmp_path, "/.jets-", "/.shard-", victim="executor")
    (store / "in").mkdir()
    for number in range(2):
        layouts.write_hls4ml(store / "in" / f"{number}.h5", *random_jets(150, seed=number))
    ingest = ["ingest", "--input", "vault://in", "--workspace", "vault://out", "--set", "ingest.task_bytes=1000000"]
    prepare = ["prepare", "--input", str(store / "out" / "jets"), "--workspace", "vault://out", *SMALL_SET]
    statuses, _, said = run([ingest, prepare, ingest, prepare], environment, "local-cluster[2,1,1024]")
    assert statuses == [0, 0, 0, 0], said[-3000:]
    assert said.count("up to date") == 2
    for text in ("jets", "shard"):
        assert f"/.{text}-" in (store / f"killed-{text}").read_text()

    jets = pa.concat_tables([pq.read_table(path) for path in sorted((store / "out" / "jets").glob("*.parquet"))])
    written = [random_jets(150, seed=number)[0] for number in range(2)]
    hardest = np.concatenate([made.px[made.offsets[:-1]] for made in written])
    found = np.array([values[0] for values in jets.column("px").to_pylist()], np.float32)
    assert np.array_equal(np.sort(found), np.sort(hardest))
    manifest = read_manifest(str(store / "out" / "set"))
    assert manifest.counts.kept == 300
    assert ids_of(store / "out" / "set") == sorted(jets.column("jet_id").to_pylist())
    for folder in ("jets", "set"):
        assert info(str(store / "out" / folder), verify=True).problems == []
        assert not list((store / "out" / folder).rglob(".*"))


def test_a_stage_that_may_not_try_again_leaves_the_old_set(tmp_path: Path) -> None:
    store, environment = vault.install(tmp_path, "split=late/.shard-")
    (store / "jets").mkdir()
    pq.write_table(jets_table(300, seed=1), store / "jets" / "a.parquet")
    prepare = ["prepare", "--input", str(store / "jets"), "--workspace", "vault://out", *SMALL_SET]
    again = [*prepare, "--set", "prepare.splits={train: 0.5, late: 0.5}"]
    statuses, files, said = run([prepare, again, again], environment, "local[2]")  # where a task has one attempt
    assert statuses == [0, 1, 0], said[-3000:]
    lines = [line for line in said.splitlines() if line.startswith("sparton prepare: ")]
    assert len(lines) == 1
    assert lines[0].startswith("sparton prepare: writing shards to vault://out/set.staging-")
    assert "Python worker exited unexpectedly" in lines[0]
    before, after, _ = ({path: size for path, size in found.items() if "runs/" not in path} for found in files)
    assert after == before
    assert ids_of(store / "out" / "set") == list(range(300))
    assert (store / "out" / "set" / "split=late").is_dir()

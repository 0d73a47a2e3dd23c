"""Ingest on Spark: good rows arrive once, the rest is quarantined with its reason, nothing half done is published."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton import publication
from sparton.config import load_config
from sparton.data.events import events_view
from sparton.data.ingest import read_ingest_record, write_jets
from sparton.data.ingest_plan import SourceFile
from sparton.data.ingest_settings import IngestSettings
from sparton.data.ingest_tasks import examine_files
from sparton.data.sources import identity
from sparton.data.sources.registry import make_source
from sparton.errors import DataError, UsageError
from sparton.physics.jets import Jets
from sparton.pipeline import PipelineSettings, info, ingest
from sparton.pipeline.stage import StageResult
from tests import layouts, unprivileged, vault
from tests.synthetic import jets_table, random_jets

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]
SMALL_TASKS = ("ingest.task_bytes=200000",)


def run(folder: Path, inputs: Any, *overrides: str, **arguments: Any) -> StageResult:
    settings = load_config(PipelineSettings, None, [f"workspace={folder}", *SMALL_TASKS, *overrides])
    return ingest(settings, input=[str(path) for path in inputs], **arguments)


def table(folder: Path) -> pa.Table:
    files = sorted((folder / "jets").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in files]).sort_by("jet_id")


def quarantine(folder: Path) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]).to_pylist()


def leading(batch: pa.Table) -> np.ndarray:
    """Return the hardest px of each jet: what tells the synthetic jets apart."""
    return np.array([values[0] for values in batch.column("px").to_pylist()], np.float32)


def break_rows(path: Path) -> dict[int, str]:
    """Damage some rows of an HLS4ML file and return the reasons by row; row 9 can be mended."""
    with h5py.File(path, "a") as file:
        particles = file["jetConstituentList"]
        block = particles[:]
        block[3, 1, 0] = np.nan
        block[4, 0, 2] = np.inf
        block[5, 2, 3] = -1.0
        block[6] = 0
        block[7, 0, 5] = np.nan  # a column that is not used
        block[9, :3] = block[9, [2, 0, 1]]
        particles[:] = block
        file["jets"][8, 3] = np.nan
    return {3: "not_finite", 4: "not_finite", 5: "negative_energy", 6: "no_constituents", 8: "not_finite"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Jets]]:
    """A folder of good and broken files."""
    folder = tmp_path_factory.mktemp("source")
    jets = {name: random_jets(count, seed=seed) for name, count, seed in (("a", 300, 1), ("b", 200, 2), ("c", 150, 3))}
    for name, made in jets.items():
        layouts.write_hls4ml(folder / f"{name}.h5", *made)
    break_rows(folder / "b.h5")
    shutil.copy(folder / "a.h5", folder / "copy.h5")
    content = (folder / "a.h5").read_bytes()
    (folder / "cut.h5").write_bytes(content[: len(content) // 2])
    (folder / "empty.h5").touch()
    (folder / "notes.h5").write_text("no jets in here")
    for name, key in (("nokey", "jetConstituentList"), ("shape", "jets"), ("dtype", "jets")):
        layouts.write_hls4ml(folder / f"{name}.h5", *random_jets(20, seed=9))
        with h5py.File(folder / f"{name}.h5", "a") as file:
            del file[key]
            if name != "nokey":
                file.create_dataset(key, data=np.zeros((20, 60, 2)) if name == "shape" else np.full((20, 59), b"x"))
    layouts.write_hls4ml(folder / "inside.h5", *random_jets(120, seed=4), chunks=True, compression="gzip")
    with h5py.File(folder / "inside.h5") as file:
        chunk = file["jetConstituentList"].id.get_chunk_info(3)
    with (folder / "inside.h5").open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"\xff" * chunk.size)
    return folder, {name: made[0] for name, made in jets.items()}


FILES = {
    "copy.h5": "duplicate_file",
    "cut.h5": "truncated",
    "dtype.h5": "wrong_dtype",
    "empty.h5": "empty_file",
    "inside.h5": "unreadable",
    "nokey.h5": "missing_key",
    "notes.h5": "unreadable",
    "shape.h5": "wrong_shape",
}
ROWS = {3: "not_finite", 4: "not_finite", 5: "negative_energy", 6: "no_constituents", 8: "not_finite"}


@pytest.fixture(scope="module")
def made(
    spark: SparkSession, source: tuple[Path, dict[str, Jets]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, StageResult]:
    workspace = tmp_path_factory.mktemp("made")
    return workspace, run(workspace, [source[0]], "ingest.max_rejected=1")


@pytest.mark.parametrize("name", list(FILES))
def test_bad_file_is_quarantined_with_its_reason(name: str, made: tuple[Path, StageResult]) -> None:
    found = [row for row in quarantine(made[0] / "jets" / "_quarantine") if row["file"].endswith(f"/{name}")]
    assert [(row["reason"], row["row"]) for row in found] == [(FILES[name], None)]
    assert found[0]["detail"]
    assert found[0]["sha256"] or name == "empty.h5"


@pytest.mark.parametrize("row", list(ROWS))
def test_bad_row_is_quarantined_with_its_reason(row: int, made: tuple[Path, StageResult]) -> None:
    found = [entry for entry in quarantine(made[0] / "jets" / "_quarantine") if entry["row"] == row]
    assert [entry["reason"] for entry in found] == [ROWS[row]]
    assert found[0]["file"].endswith("/b.h5")
    assert found[0]["detail"]
    assert found[0]["sha256"]


def test_good_rows_all_arrive_once(made: tuple[Path, StageResult], source: tuple[Path, dict[str, Jets]]) -> None:
    found = table(made[0])
    assert found.num_rows == 300 + 200 - len(ROWS) + 150
    assert pa.compute.count_distinct(found.column("jet_id")).as_py() == found.num_rows
    expected = []
    for name, jets in source[1].items():
        kept = [row for row in range(len(jets)) if name != "b" or row not in ROWS]
        expected.append(jets.px[jets.offsets[:-1][kept]])
    assert np.array_equal(np.sort(leading(found)), np.sort(np.concatenate(expected)))
    assert made[1].summary["jets"] == found.num_rows


def test_order_is_repaired_and_counted(made: tuple[Path, StageResult], source: tuple[Path, dict[str, Jets]]) -> None:
    assert made[1].summary["repaired"] == {"reordered_jets": 1}
    jets = source[1]["b"]
    mine = table(made[0]).filter(pa.compute.equal(table(made[0]).column("jet_mass"), jets.jet_mass[9]))
    assert mine.column("px").to_pylist() == [jets.px[jets.offsets[9] : jets.offsets[10]].tolist()]


def test_record_and_info(made: tuple[Path, StageResult]) -> None:
    record = read_ingest_record(str(made[0] / "jets"))
    assert record is not None
    assert {Path(s.path).name: s.reason for s in record.sources if s.reason} == FILES
    used = {Path(source.path).name: source for source in record.sources if not source.reason}
    assert (used["b.h5"].rows, used["b.h5"].jets) == (200, 195)
    assert used["b.h5"].rejected == Counter(ROWS.values())
    assert sum(record.files.values()) == 645
    described = info(str(made[0] / "jets"), verify=True)
    assert (described.kind, described.rows, described.problems) == ("jets table", 645, [])
    assert described.details["format"] == "hls4ml"
    assert described.details["files left out"] == Counter(FILES.values())


def test_spark_reads_the_table_without_the_quarantine(spark: SparkSession, made: tuple[Path, StageResult]) -> None:
    assert spark.read.parquet(str(made[0] / "jets")).count() == 645


def test_second_run_is_skipped(made: tuple[Path, StageResult], source: tuple[Path, dict[str, Jets]]) -> None:
    again = run(made[0], [source[0]], "ingest.max_rejected=1")
    assert again.skipped
    assert again.summary == made[1].summary


def test_ids_hang_on_content_and_row_alone(
    made: tuple[Path, StageResult], source: tuple[Path, dict[str, Jets]], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(source[0] / "b.h5", moved / "renamed.h5")
    run(tmp_path, [moved / "*.h5"], "ingest.max_rejected=0.1", "ingest.task_bytes=1000000000")
    mine, all_jets = table(tmp_path), table(made[0])
    assert mine.num_rows == 195
    both = all_jets.filter(pa.compute.is_in(all_jets.column("jet_id"), mine.column("jet_id")))
    assert both.equals(mine)


def test_beyond_the_limit_nothing_is_published(source: tuple[Path, dict[str, Jets]], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"5 of 200 jets rejected \(not_finite 3, .*in .*b\.h5.*--max-rejected.* listed"
    ):
        run(tmp_path, [source[0] / "b.h5"])
    assert not (tmp_path / "jets").exists()
    (kept,) = tmp_path.glob("runs/*-ingest/_quarantine")
    assert {row["row"]: row["reason"] for row in quarantine(kept)} == ROWS
    with pytest.raises(DataError, match=r"1 of 2 files rejected \(truncated 1\).* is .*cut\.h5: .*truncated"):
        run(tmp_path, [source[0] / "c.h5", source[0] / "cut.h5"])
    assert not (tmp_path / "jets").exists()


def test_nothing_usable_is_an_error(source: tuple[Path, dict[str, Jets]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 1 file\(s\) holds a jet"):
        run(tmp_path, [source[0] / "empty.h5"], "ingest.max_rejected=1")
    assert not (tmp_path / "jets").exists()


def test_unknown_label(source: tuple[Path, dict[str, Jets]], tmp_path: Path) -> None:
    result = run(tmp_path, [source[0] / "c.h5"], "ingest.labels=[W,Z]", "ingest.max_rejected=0.9")
    assert set(table(tmp_path).column("label").to_pylist()) == {"W", "Z"}
    assert set(result.summary["rejected jets"]) == {"unknown_label"}
    assert result.summary["jets"] + result.summary["rejected jets"]["unknown_label"] == 150


def test_append_adds_what_is_new(
    source: tuple[Path, dict[str, Jets]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files whose checksums begin alike, too: those in the table keep their identifiers, new ones get others."""
    monkeypatch.setattr(identity, "file_bits", lambda sha256, salt=0, turn=0: 7 + turn)
    folder = source[0]
    run(tmp_path, [folder / "a.h5"], append=True)
    before_ids = set(table(tmp_path).column("jet_id").to_pylist())
    before = {path.name: path.stat().st_ino for path in (tmp_path / "jets").glob("*.parquet")}
    before_rows = table(tmp_path).num_rows
    more = [folder / "copy.h5", folder / "c.h5", folder / "cut.h5"]
    result = run(tmp_path, more, "ingest.max_rejected=1", append=True)
    assert result.summary["jets"] == table(tmp_path).num_rows == 450
    ids = set(table(tmp_path).column("jet_id").to_pylist())
    assert len(ids) == 450
    assert before_ids < ids
    added = {name: result.summary[name] for name in ("new files", "jets added", "rejected in new files")}
    assert added == {"new files": 1, "jets added": 450 - before_rows, "rejected in new files": 0}
    after = {path.name: path.stat().st_ino for path in (tmp_path / "jets").glob("*.parquet")}
    assert before.items() < after.items()
    assert [row["reason"] for row in quarantine(tmp_path / "jets" / "_quarantine")] == ["truncated"]
    again = run(tmp_path, more, "ingest.max_rejected=1", append=True)
    assert (again.skipped, again.run_folder) == (True, None)
    assert again.summary["jets"] == 450
    assert {path.name for path in (tmp_path / "jets").glob("*.parquet")} == set(after)
    assert len(quarantine(tmp_path / "jets" / "_quarantine")) == 1
    assert info(str(tmp_path / "jets"), verify=True).problems == []
    with pytest.raises(UsageError, match="they must be the same"):
        run(tmp_path, [folder / "b.h5"], "ingest.hls4ml.jet_columns=[multiplicity]", append=True)


def test_a_file_replaced_while_it_is_read_gives_nothing(spark: SparkSession, tmp_path: Path) -> None:
    """By one with as many rows, after its checksum was taken; its jets come out of the copy that was left out."""
    inputs = [tmp_path / name for name in ("a.h5", "b.h5", "copy.h5")]
    layouts.write_hls4ml(inputs[0], *random_jets(30, seed=1))
    layouts.write_hls4ml(inputs[1], *random_jets(20, seed=2))
    shutil.copy(*inputs[::2])
    expected = np.concatenate([random_jets(count, seed)[0].jet_pt for count, seed in ((30, 1), (20, 2))])
    settings = IngestSettings(max_rejected=1)
    paths = [str(path) for path in inputs]
    found = examine_files(spark, make_source("hls4ml", settings.hls4ml), paths)
    layouts.write_hls4ml(inputs[0], *random_jets(30, seed=3))
    record = write_jets(spark, paths, settings, str(tmp_path / "jets"), found)
    assert [(source.reason, source.jets) for source in record.sources] == [("changed", 0), ("", 20), ("", 30)]
    assert sorted(table(tmp_path).column("jet_pt").to_pylist()) == sorted(expected.tolist())
    (row,) = quarantine(tmp_path / "jets" / "_quarantine")
    assert (row["file"], row["reason"], row["sha256"]) == (paths[0], "changed", record.sources[2].sha256)


def test_a_file_that_changed_since_its_jets_were_taken_is_not_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    layouts.write_hls4ml(path, *random_jets(30, seed=1))
    run(tmp_path, [path], append=True)
    layouts.write_hls4ml(path, *random_jets(50, seed=1))
    with pytest.raises(DataError, match="changed"):
        run(tmp_path, [path], append=True)
    result = run(tmp_path, [path], "ingest.max_rejected=1", append=True)
    assert (result.summary["jets"], result.summary["jets added"]) == (30, 0)
    (row,) = quarantine(tmp_path / "jets" / "_quarantine")
    assert row["reason"] == "changed"
    assert "ingest all files anew, without --append" in row["detail"]
    assert run(tmp_path, [path], "ingest.max_rejected=1", append=True).skipped


def test_ids_that_a_table_brought_along_are_compared_with_those_made_here(tmp_path: Path) -> None:
    """The same file again by way of a table of its jets; formats come one after the other, in either order."""
    layouts.write_hls4ml(tmp_path / "a.h5", *random_jets(30, seed=1))
    run(tmp_path / "one", [tmp_path / "a.h5"])
    table_of = ("ingest.format=parquet", "ingest.max_rejected=1")
    for name, steps in (("two", (True, False)), ("three", (False, True))):
        for as_table in steps:
            if as_table:
                run(tmp_path / name, [tmp_path / "one" / "jets"], *table_of, append=True)
            else:
                run(tmp_path / name, [tmp_path / "a.h5"], "ingest.max_rejected=1", append=True)
        ids = table(tmp_path / name).column("jet_id").to_pylist()
        assert len(ids) == len(set(ids)) == 30


def test_duplicate_ids_of_own_tables(spark: SparkSession, tmp_path: Path) -> None:
    first, second = jets_table(100, seed=1), jets_table(80, seed=2, first_id=90)
    energy = first.column("energy").to_pylist()
    energy[95][0] = -1.0  # so that the second file's jet 95 is the only good one
    first = first.set_column(9, first.schema.field(9), pa.array(energy, first.schema.field(9).type))
    twice = pa.concat_tables([second, second.slice(70, 5)])
    pq.write_table(first, tmp_path / "1.parquet", row_group_size=30)
    pq.write_table(twice, tmp_path / "2.parquet", row_group_size=30)
    settings = ("ingest.format=parquet", "ingest.max_rejected=0.2", "ingest.task_bytes=20000")
    result = run(tmp_path, [tmp_path / "1.parquet", tmp_path / "2.parquet"], *settings)
    found = table(tmp_path)
    assert found.column("jet_id").to_pylist() == list(range(170))
    assert result.summary["rejected jets"] == {"duplicate_jet_id": 9 + 5, "negative_energy": 1}
    doubles = [r for r in quarantine(tmp_path / "jets" / "_quarantine") if r["reason"] == "duplicate_jet_id"]
    assert {(Path(row["file"]).name, row["row"]) for row in doubles} == {
        ("2.parquet", row) for row in (0, 1, 2, 3, 4, 6, 7, 8, 9, 80, 81, 82, 83, 84)
    }
    pq.write_table(jets_table(10, seed=3, first_id=165), tmp_path / "3.parquet")
    run(tmp_path, [tmp_path / "3.parquet"], "ingest.format=parquet", "ingest.max_rejected=0.9", append=True)
    assert table(tmp_path).column("jet_id").to_pylist() == list(range(175))


def test_a_damaged_file_takes_nothing_from_its_mended_copy(spark: SparkSession, tmp_path: Path) -> None:
    """The tasks that read the damaged file run again; what they wrote at first doubles no jet of another file."""
    jets = jets_table(120, seed=1)
    pq.write_table(jets, tmp_path / "0.parquet", row_group_size=10)
    chunk = pq.read_metadata(tmp_path / "0.parquet").row_group(11).column(6)
    with (tmp_path / "0.parquet").open("r+b") as stream:
        stream.seek(chunk.data_page_offset)
        stream.write(b"\xff" * chunk.total_compressed_size)
    pq.write_table(jets, tmp_path / "1.parquet", row_group_size=12)
    settings = ("ingest.format=parquet", "ingest.max_rejected=1", "ingest.task_bytes=20000")
    result = run(tmp_path, [tmp_path / "0.parquet", tmp_path / "1.parquet"], *settings)
    assert result.summary["files left out"] == {"unreadable": 1}
    assert result.summary["rejected jets"] == "none"
    assert table(tmp_path).column("jet_id").to_pylist() == list(range(120))


def test_phi_outside_its_range_is_moved_and_counted(spark: SparkSession, tmp_path: Path) -> None:
    jets = jets_table(50, seed=1)
    phi = jets.column("jet_phi").to_numpy().copy()
    phi[:3] += np.float32(2 * np.pi) * np.array([1, -1, 2], np.float32)
    phi[3] = np.float32(np.pi)  # lies above pi
    pq.write_table(jets.set_column(4, "jet_phi", pa.array(phi)), tmp_path / "a.parquet")
    result = run(tmp_path, [tmp_path / "a.parquet"], "ingest.format=parquet")
    found = table(tmp_path).column("jet_phi").to_numpy().astype(np.float64)
    assert result.summary["repaired"] == {"wrapped_phi": 4}
    assert np.all((found >= -np.pi) & (found < np.pi))
    assert np.allclose(np.cos(found - phi), 1, atol=1e-12)


def test_a_key_that_comes_later_is_a_reason_to_run_again(spark: SparkSession, tmp_path: Path) -> None:
    events, _ = layouts.pair_events(random_jets(8, seed=4)[0])
    layouts.write_lhco(tmp_path / "box.h5", events, None)
    settings = ("ingest.format=lhco", "ingest.max_rejected=1", "ingest.lhco.jets=all")
    run(tmp_path, [tmp_path / "box.h5"], *settings)
    assert set(table(tmp_path).column("label").to_pylist()) == {None}
    (tmp_path / "box.masterkey").write_text("1\n1\n1\n1\n")
    assert not run(tmp_path, [tmp_path / "box.h5"], *settings).skipped
    assert set(table(tmp_path).column("label").to_pylist()) == {"signal"}
    assert run(tmp_path, [tmp_path / "box.h5"], *settings).skipped
    with pytest.raises(UsageError, match=r"made with lhco\.radius 1\.0, the settings say 0\.8"):
        run(tmp_path, [tmp_path / "box.h5"], *settings, "ingest.lhco.radius=0.8", append=True)


def test_events_view(spark: SparkSession, tmp_path: Path) -> None:
    jets, _ = random_jets(60, seed=4)
    events, _ = layouts.pair_events(jets)
    layouts.write_lhco(tmp_path / "a.h5", events, np.arange(30) % 2)
    run(tmp_path, [tmp_path / "a.h5"], "ingest.format=lhco", "ingest.max_rejected=0.9")
    view = events_view(spark.read.parquet(str(tmp_path / "jets"))).toPandas().sort_values("event_id")
    found = table(tmp_path).to_pandas().sort_values(["event_id", "jet_mass"], ascending=[True, False])
    assert len(view) * 2 == len(found) > 40
    assert view["heavy"].map(lambda jet: jet["jet_id"]).tolist() == found["jet_id"][::2].tolist()
    assert view["light"].map(lambda jet: jet["jet_id"]).tolist() == found["jet_id"][1::2].tolist()
    assert view["label"].tolist() == found["label"][::2].tolist()
    sums = (
        found.assign(
            x=found.jet_pt * np.cos(found.jet_phi),
            y=found.jet_pt * np.sin(found.jet_phi),
            z=found.jet_pt * np.sinh(found.jet_eta),
            e=np.sqrt((found.jet_pt * np.cosh(found.jet_eta)).astype(float) ** 2 + found.jet_mass.astype(float) ** 2),
        )
        .groupby("event_id")[["x", "y", "z", "e"]]
        .sum()
    )
    mass = np.sqrt(sums.e**2 - sums.x**2 - sums.y**2 - sums.z**2)
    assert np.allclose(view["dijet_mass"], mass, rtol=1e-4)


EXAMINE = """
import dataclasses, json, sys
from sparton.data.ingest_plan import examine_file
from sparton.data.sources.registry import OPTIONS, make_source
source = make_source("hls4ml", OPTIONS["hls4ml"]())
print(json.dumps([dataclasses.asdict(examine_file(source, path)) for path in sys.argv[1:]]))
"""


def test_a_file_that_may_not_be_read_is_set_aside(
    spark: SparkSession, source: tuple[Path, dict[str, Jets]], tmp_path: Path
) -> None:
    """As it is to a user without the right, which the user who runs the tests may have."""
    paths = [str(shutil.copy(source[0] / name, tmp_path)) for name in ("a.h5", "c.h5")]
    Path(paths[1]).chmod(0)
    ended = unprivileged.run([sys.executable, "-c", EXAMINE, *paths])
    found = [SourceFile(**file) for file in json.loads(ended.stdout)]
    with pytest.raises(DataError, match=r"1 of 2 files rejected \(permission_denied 1\).*--max-rejected"):
        write_jets(spark, paths, IngestSettings(), str(tmp_path / "refused"), found)
    write_jets(spark, paths, IngestSettings(max_rejected=0.5), str(tmp_path / "jets"), found)
    assert table(tmp_path).num_rows == 300
    (row,) = quarantine(tmp_path / "jets" / "_quarantine")
    assert (row["file"], row["reason"]) == (paths[1], "permission_denied")


def test_second_run_on_one_output_is_refused(source: tuple[Path, dict[str, Jets]], tmp_path: Path) -> None:
    with (
        publication.publish(str(tmp_path / "jets")),
        pytest.raises(DataError, match=r"another run \(process \d+ on .*\) is writing it"),
    ):
        run(tmp_path, [source[0] / "c.h5"])
    assert not (tmp_path / "jets" / "_ingest.json").exists()


def test_full_disk_publishes_nothing(source: tuple[Path, dict[str, Jets]], small_disk: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No space left on device"):
        run(tmp_path, [source[0] / "a.h5"], output=str(small_disk / "jets"))
    assert list(small_disk.iterdir()) == []
    run(tmp_path, [source[0] / "a.h5"])
    assert table(tmp_path).num_rows == 300


def test_killed_writer_and_storage_that_is_not_local(source: tuple[Path, dict[str, Jets]], tmp_path: Path) -> None:
    store, environment = vault.install(tmp_path, "/.jets-")
    (store / "in").mkdir()
    for name in ("a.h5", "c.h5"):
        shutil.copy(source[0] / name, store / "in")
    command = ["ingest", "--input", "vault://in/*.h5", "--workspace", "vault://out", "--master", "local[2,4]"]
    command += ["--set", SMALL_TASKS[0]]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "ingest_jets.py"), *command[1:]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ".jets-" in (store / "killed-jets").read_text()
    found = table(store / "out")
    assert found.num_rows == 450
    expected = np.concatenate([jets.px[jets.offsets[:-1]] for name, jets in source[1].items() if name != "b"])
    assert np.array_equal(np.sort(leading(found)), np.sort(expected))
    assert not list((store / "out" / "jets").rglob(".*"))
    assert info(str(store / "out" / "jets"), verify=True).problems == []

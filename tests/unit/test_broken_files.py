"""Files that cannot be used: each kind of damage has its reason, and no reader stops at it."""

from __future__ import annotations

import errno
import gc
import io
import json
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from fsspec.implementations.memory import MemoryFileSystem

from sparton.data.ingest import IngestRecord
from sparton.data.ingest import _source_records as source_records
from sparton.data.ingest import _without_failures as without_failures
from sparton.data.ingest_plan import Part, SourceFile, examine_file, split_work, with_bits, without_doubles
from sparton.data.ingest_settings import IngestSettings
from sparton.data.ingest_tasks import Failure, FileCount, IngestJob, IngestTask, TaskResult, run_task
from sparton.data.sources import identity
from sparton.data.sources.block import BadFileError, JetBlock, bad_file, read_blocks
from sparton.data.sources.jets import JetsOptions, JetsParquet
from sparton.data.sources.registry import OPTIONS, SOURCES, make_source
from sparton.errors import DataError
from sparton.pipeline.ingestion import find_files
from tests import layouts, unprivileged
from tests.synthetic import jets_table, random_jets


def reason_of(path: Path | str, name: str = "hls4ml", **options: Any) -> tuple[str, str]:
    file = examine_file(make_source(name, OPTIONS[name](**options)), str(path))
    return file.reason, file.detail


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.h5"
    layouts.write_hls4ml(path, *random_jets(20, seed=1))
    return path


def test_good_file(good: Path) -> None:
    file = examine_file(make_source("hls4ml", OPTIONS["hls4ml"]()), str(good))
    assert (file.reason, file.rows, file.bytes) == ("", 20, good.stat().st_size)


def test_truncated_hdf5(good: Path) -> None:
    content = good.read_bytes()
    good.write_bytes(content[: len(content) // 2])
    reason, detail = reason_of(good)
    assert reason == "truncated"
    assert "truncated file" in detail


def test_missing_key(good: Path) -> None:
    with h5py.File(good, "a") as file:
        del file["jetConstituentList"]
    reason, detail = reason_of(good)
    assert reason == "missing_key"
    assert "no dataset 'jetConstituentList'; found jetFeatureNames" in detail


@pytest.mark.parametrize("shape", [(20, 1600), (19, 100, 16), (20, 0, 16), (20, 100, 7)])
def test_wrong_shape(good: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(good, "a") as file:
        del file["jetConstituentList"]
        file.create_dataset("jetConstituentList", data=np.zeros(shape))
    assert reason_of(good)[0] == "wrong_shape"


def test_wrong_dtype(good: Path) -> None:
    with h5py.File(good, "a") as file:
        del file["jets"]
        file.create_dataset("jets", data=np.full((20, 59), b"1.0"))
    reason, detail = reason_of(good)
    assert reason == "wrong_dtype"
    assert "'jets'" in detail


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.h5").touch()
    assert reason_of(tmp_path / "empty.h5") == ("empty_file", "0 bytes")


@pytest.mark.parametrize("name", ["hls4ml", "lhco", "toptagging", "jetclass", "pfnano", "flat", "parquet"])
def test_another_kind_of_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no jets in here\n" * 300)
    assert reason_of(tmp_path / "notes", name)[0] == "unreadable"


def test_permission_denied(good: Path) -> None:
    good.chmod(0)
    code = (
        "import json, sys\n"
        "from sparton.data.ingest_plan import examine_file\n"
        "from sparton.data.sources.registry import OPTIONS, make_source\n"
        "file = examine_file(make_source('hls4ml', OPTIONS['hls4ml']()), sys.argv[1])\n"
        "print(json.dumps([file.reason, file.detail]))\n"
    )
    ended = unprivileged.run([sys.executable, "-c", code, str(good)])
    reason, detail = json.loads(ended.stdout)
    assert reason == "permission_denied"
    assert "Permission denied" in detail


class Refusing(MemoryFileSystem):
    """Storage that answers as told."""

    protocol = "refusing"
    answer: Exception = PermissionError("access denied by policy")

    def _open(self, *arguments: Any, **keywords: Any) -> Any:
        raise self.answer

    def info(self, path: str, **keywords: Any) -> dict[str, Any]:
        return {"name": path, "size": 10, "type": "file"}


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], str]:
    fsspec.register_implementation("refusing", Refusing, clobber=True)

    def answer(error: Exception) -> str:
        monkeypatch.setattr(Refusing, "answer", error)
        return "refusing://bucket/a.h5"

    return answer


def test_permission_denied_by_remote_storage(refusing: Callable[[Exception], str]) -> None:
    path = refusing(PermissionError("access denied by policy"))
    assert reason_of(path) == ("permission_denied", "PermissionError: access denied by policy")


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError("peer"), TimeoutError("slow"), OSError(errno.ENOSPC, "full"), OSError(errno.EMFILE, "x")],
)
def test_failures_of_network_and_machine_are_no_reason(error: Exception, refusing: Callable[[Exception], str]) -> None:
    with pytest.raises(type(error)):
        reason_of(refusing(error))


def test_memory_that_runs_out_is_no_reason() -> None:
    with pytest.raises(MemoryError), bad_file(SOURCES["parquet"].errors):
        raise pa.lib.ArrowMemoryError("malloc of size 128 failed")


def test_file_that_vanished(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "gone.h5")[0] == "missing_file"


def test_link_to_nothing_is_a_file_that_is_missing(good: Path) -> None:
    (good.parent / "link.h5").symlink_to(good.parent / "nowhere.h5")
    found = find_files([str(good.parent)], make_source("hls4ml", OPTIONS["hls4ml"]()))
    assert [Path(file.path).name for file in found.files] == ["good.h5", "link.h5"]
    assert reason_of(found.files[1].path)[0] == "missing_file"


class Forgetful(JetsParquet):
    """A reader that leaves out a row of each block."""

    def blocks(self, handle: Any, start: int, stop: int) -> Iterator[JetBlock]:
        yield from super().blocks(handle, start + 1, stop)


def test_rows_that_a_reader_left_out_are_missed(tmp_path: Path) -> None:
    pq.write_table(jets_table(20), tmp_path / "a.parquet")
    source = Forgetful(JetsOptions())
    (file,) = with_bits([examine_file(source, str(tmp_path / "a.parquet"))], salt=0)
    job = IngestJob(source, (file,), str(tmp_path), "jets", IngestSettings(format="parquet"))
    with pytest.raises(DataError, match=r"a\.parquet: 19 rows were read, expected 20 from row 0 on"):
        run_task(job, IngestTask(0, (Part(0, 0, 20),)))
    with pytest.raises(DataError, match=r"a\.parquet: 10 rows were read, expected 20"):
        source_records(job, [TaskResult(number=0, counts=(FileCount(file=0, rows=10, jets=10),))])


def test_damage_inside_is_met_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    layouts.write_hls4ml(path, *random_jets(200, seed=1), chunks=True, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["jetConstituentList"].id.get_chunk_info(1)
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"\xff" * chunk.size)
    source = make_source("hls4ml", OPTIONS["hls4ml"]())
    assert examine_file(source, str(path)).reason == ""
    with pytest.raises(BadFileError) as caught:
        list(read_blocks(source, str(path), 0, 200))
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_root_and_parquet(share: float, tmp_path: Path) -> None:
    jets, label = random_jets(50, seed=1)
    layouts.write_jetclass(tmp_path / "a.root", jets, label)
    pq.write_table(jets_table(50), tmp_path / "a.parquet")
    for name, path in (("jetclass", tmp_path / "a.root"), ("parquet", tmp_path / "a.parquet")):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        source = make_source(name, OPTIONS[name]())
        found = examine_file(source, str(path)).reason
        if not found:
            with pytest.raises(BadFileError) as caught:
                list(read_blocks(source, str(path), 0, 50))
            found = caught.value.reason
        assert found in ("truncated", "unreadable", "missing_key")


def test_missing_branch_tree_and_column(tmp_path: Path) -> None:
    jets, label = random_jets(10, seed=1)
    layouts.write_jetclass(tmp_path / "a.root", jets, label)
    reason, detail = reason_of(tmp_path / "a.root", "pfnano")
    assert (reason, detail) == ("missing_key", "no tree 'Events'; found tree")
    assert reason_of(tmp_path / "a.root", "pfnano", tree="tree")[0] == "missing_key"
    table = jets_table(10)
    pq.write_table(table.drop(["pz"]), tmp_path / "a.parquet")
    assert reason_of(tmp_path / "a.parquet", "parquet")[1].startswith("no column pz; found jet_id")
    pq.write_table(table.set_column(6, "px", pa.array(["x"] * 10)), tmp_path / "b.parquet")
    assert reason_of(tmp_path / "b.parquet", "parquet") == (
        "wrong_dtype",
        "column px: string, expected lists of numbers",
    )


def test_identifiers_are_integers(tmp_path: Path) -> None:
    table = jets_table(10)
    place = table.schema.get_field_index("jet_id")
    broken = table.set_column(place, "jet_id", pa.array(np.arange(10) + 0.5))
    pq.write_table(broken, tmp_path / "a.parquet")
    assert reason_of(tmp_path / "a.parquet", "parquet") == ("wrong_dtype", "column jet_id: double, expected integers")


def test_a_column_that_an_option_asks_for_is_told_from_one_of_the_format(tmp_path: Path) -> None:
    jets, label = random_jets(20, seed=1)
    layouts.write_jetclass(tmp_path / "a.root", jets, label)
    reason, detail = reason_of(tmp_path / "a.root", "jetclass", jet_columns=["jet_nope"])
    assert reason == "missing_key"
    assert "no branch jet_nope (ingest.jetclass.jet_columns asks for jet_nope)" in detail


def test_an_rntuple_is_named(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mkrntuple("tree", {"jet_pt": np.float32})
    reason, detail = reason_of(tmp_path / "a.root", "jetclass")
    assert reason == "wrong_dtype"
    assert "'tree' is an object of ROOT's " in detail
    assert "RNTuple, expected a TTree" in detail


def test_lhco_shape_and_key(tmp_path: Path) -> None:
    layouts.write_lhco(tmp_path / "a.h5", np.zeros((5, 700, 3)), None)
    (tmp_path / "a.masterkey").write_text("1 0")
    assert reason_of(tmp_path / "a.h5", "lhco") == ("wrong_shape", "the key has 2 entries for 5 events")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("df/block0_values", data=np.zeros((5, 2102)))
    assert reason_of(tmp_path / "b.h5", "lhco")[0] == "wrong_shape"


def test_toptagging_fields(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("table/table", data=np.zeros(3, [("values_block_0", "<i8", (804,))]))
    assert reason_of(tmp_path / "a.h5", "toptagging")[0] == "wrong_dtype"
    with h5py.File(tmp_path / "b.h5", "w") as file:
        kind = [("values_block_0", "<f4", (805,)), ("values_block_1", "<i8", (2,))]
        file.create_dataset("table/table", data=np.zeros(3, kind))
    assert reason_of(tmp_path / "b.h5", "toptagging")[0] == "wrong_shape"


def files(*sizes: tuple[int, int]) -> list[SourceFile]:
    return [SourceFile(f"f{i}", size, f"{i:064x}", rows, 10, 1, "", "") for i, (rows, size) in enumerate(sizes)]


@pytest.mark.parametrize("slots", [1, 2, 16])
@pytest.mark.parametrize("task_bytes", [1 << 20, 1 << 24, 1 << 40])
def test_work_is_split_without_loss(slots: int, task_bytes: int) -> None:
    found = files((1000, 300 << 20), (7, 100), (0, 50), (995, 1 << 30), (20, 1 << 20))
    found[1] = SourceFile("bad", 100, "x", 7, 10, 1, "unreadable", "")
    tasks = split_work(found, task_bytes, slots)
    parts = [part for task in tasks for part in task]
    for number, file in enumerate(found):
        mine = [part for part in parts if part.file == number]
        expected = 0 if file.reason else file.rows or 0
        assert sum(part.stop - part.start for part in mine) == expected
        assert [part.start for part in mine] == [0, *(part.stop for part in mine)][: len(mine)]
        assert all(part.start % 10 == 0 for part in mine)
    assert all(tasks)
    size = [sum((p.stop - p.start) * found[p.file].bytes / (found[p.file].rows or 1) for p in task) for task in tasks]
    step = max(10 * file.bytes / file.rows for file in found if file.rows)
    assert max(size) <= max(task_bytes, step) + step


def test_doubles() -> None:
    one, two, three = files((10, 100), (10, 100), (10, 100))
    two = SourceFile("copy", 100, one.sha256, 10, 10, 1, "", "")
    marked = without_doubles([one, two, three])
    assert [file.reason for file in marked] == ["", "duplicate_file", ""]
    assert marked[1].detail == "same content as f0"


def test_files_whose_checksums_begin_alike_get_different_bits() -> None:
    """Whatever their order; a file that is in the table already keeps its own, in records of earlier versions too."""
    found = [
        SourceFile(name, 1, "a" * 8 + end * 56, 1, 1, 1, reason, "")
        for name, end, reason in (("c", "2", ""), ("a", "0", ""), ("bad", "1", "unreadable"), ("b", "1", ""))
    ]
    bits = {file.path: file.bits for file in with_bits(found, salt=0)}
    assert bits["bad"] is None
    assert bits["a"] == int("a" * 8, 16)
    assert len({bits["a"], bits["b"], bits["c"]}) == 3
    assert {file.path: file.bits for file in with_bits(found[::-1], salt=0)} == bits
    assert {file.path: file.bits for file in with_bits(found, salt=1)} != bits
    old = {"path": "c", "bytes": 1, "sha256": found[0].sha256, "rows": 1, "jets": 1}
    told = {"format": "hls4ml", "version": "0", "settings": {"salt": 0}, "extra_columns": (), "files": {}}
    for held in (old, old | {"bits": int("a" * 8, 16)}):
        record = IngestRecord.model_validate(told | {"sources": (held,)})
        (new,) = with_bits(found[1:2], 0, record.bits())
        assert record.bits() == {int("a" * 8, 16)}
        assert new.bits not in record.bits()


def test_identifiers_do_not_meet() -> None:
    rows = np.array([0, 1, (1 << 24) - 1])
    for several in (False, True):
        jet, event = identity.identifiers(identity.file_bits("f" * 64), rows, np.array([0, 5, 63]), several)
        assert (jet > 0).all()
        assert (jet >= 1 << 62).all()  # generated tables stay far below
        assert np.unique(jet).size == 3
        assert (event <= jet).all()
    first, _ = identity.identifiers(5, rows, 0 * rows, False)
    second, _ = identity.identifiers(6, rows, 0 * rows, False)
    assert first.max() < second.min()
    assert identity.file_bits("ab" * 32, 1) != identity.file_bits("ab" * 32)


def test_doubles_are_sought_anew_without_a_file_that_turned_out_bad_later() -> None:
    job = IngestJob(JetsParquet(JetsOptions()), tuple(files(*[(10, 100)] * 3)), "", "jets", IngestSettings())
    tasks = {number: IngestTask(number, (Part(number, 0, 10),)) for number in range(3)}
    tasks[2] = IngestTask(2, (Part(2, 0, 10),), np.array([4]))  # doubles a jet of the first file
    failed = TaskResult(number=0, failure=Failure(file=0, reason="unreadable", detail="x"))
    job, again = without_failures(job, tasks, {0: failed, 1: TaskResult(number=1), 2: TaskResult(number=2)})
    assert [file.reason for file in job.files] == ["unreadable", "", ""]
    assert [(task.number, task.parts, task.excluded.size) for task in again] == [(0, (), 0), (2, (Part(2, 0, 10),), 0)]


def test_a_copy_takes_the_place_of_a_file_that_turned_out_bad() -> None:
    one, other = files((10, 100), (10, 100))
    copy = SourceFile("copy", 100, one.sha256, 10, 10, 1, "", "")
    found = tuple(with_bits(without_doubles([one, other, copy]), salt=0))
    job = IngestJob(JetsParquet(JetsOptions()), found, "", "jets", IngestSettings())
    tasks = {0: IngestTask(0, (Part(0, 0, 10), Part(1, 0, 4))), 1: IngestTask(1, (Part(1, 4, 10),))}
    failed = TaskResult(number=0, failure=Failure(file=0, reason="changed", detail="x"))
    job, again = without_failures(job, tasks, {0: failed, 1: TaskResult(number=1)})
    assert [file.reason for file in job.files] == ["changed", "", ""]
    assert job.files[2].bits == found[0].bits
    assert [(task.number, task.parts) for task in again] == [(0, (Part(2, 0, 10), Part(1, 0, 4)))]
    failed = TaskResult(number=0, failure=Failure(file=2, reason="unreadable", detail="x"))
    job, again = without_failures(job, {0: again[0], 1: tasks[1]}, {0: failed, 1: TaskResult(number=1)})
    assert [file.reason for file in job.files] == ["changed", "", "unreadable"]
    assert [task.parts for task in again] == [(Part(1, 0, 4),)]


class Flow(io.BytesIO):
    """Content that breaks off after some reads, with an error of the client's own."""

    left: ClassVar[int]
    alive: ClassVar[weakref.WeakSet[Flow]] = weakref.WeakSet()

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        Flow.alive.add(self)

    def read(self, size: int | None = -1, /) -> bytes:
        self._count()
        return super().read(size)

    def readinto(self, target: Any, /) -> int:
        self._count()
        return super().readinto(target)

    @staticmethod
    def _count() -> None:
        Flow.left -= 1
        if Flow.left < 0:
            raise RuntimeError("the client gave up")


@pytest.mark.parametrize(("name", "writer"), [("hls4ml", layouts.write_hls4ml), ("jetclass", layouts.write_jetclass)])
def test_a_connection_that_breaks_is_no_reason(
    name: str, writer: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the library makes of the failure (h5py: an OSError, uproot: whatever) does not put the file aside.

    Nothing of the file stays behind either: HDF5 handles that outlive the interpreter crash the process at its end.
    """
    writer(tmp_path / "a", *random_jets(200, seed=1))
    MemoryFileSystem().pipe_file("/bucket/a", (tmp_path / "a").read_bytes())
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda self, path, **_: Flow(self.store[path].getvalue()))
    source = make_source(name, OPTIONS[name]())

    def read_all() -> int:
        assert examine_file(source, "memory://bucket/a").rows == 200
        return sum(len(block) for block in read_blocks(source, "memory://bucket/a", 0, 200))

    Flow.left = 10_000
    assert read_all() == 200
    needed = 10_000 - Flow.left
    for left in range(0, needed, max(1, needed // 8)):
        Flow.left = left
        with pytest.raises(ConnectionError, match="memory://bucket/a: RuntimeError: the client gave up"):
            read_all()
    gc.collect()
    assert not Flow.alive

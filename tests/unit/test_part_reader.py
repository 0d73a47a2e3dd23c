"""A part of a file as read: all its rows, of the content whose checksum was taken; what of it the lazy readers keep."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from sparton import storage
from sparton.data import part_reader
from sparton.data.ingest_plan import Part, SourceFile, examine_file, with_bits
from sparton.data.ingest_settings import IngestSettings
from sparton.data.ingest_tasks import IngestJob, IngestTask, run_task
from sparton.data.part_reader import read_part
from sparton.data.sources.block import BadFileError, Source
from sparton.data.sources.reading import ReadPlan, ReadSettings, read_task
from sparton.data.sources.registry import OPTIONS, SOURCES, make_source
from sparton.errors import DataError
from tests import layouts
from tests.synthetic import jets_table, random_jets


def write(name: str, path: Path, jets: int, seed: int) -> None:
    """Write a file of a format; formats of events have two jets in each."""
    made, label = random_jets(jets, seed=seed)
    writers = {
        "hls4ml": lambda: layouts.write_hls4ml(path, made, label),
        "lhco": lambda: layouts.write_lhco(path, layouts.pair_events(made)[0], np.zeros(jets // 2)),
        "toptagging": lambda: layouts.write_toptagging(path, made, label == "t"),
        "jetclass": lambda: layouts.write_jetclass(path, made, label),
        "pfnano": lambda: layouts.write_pfnano(path, made),
        "flat": lambda: layouts.write_flat(path, made, label),
        "parquet": lambda: pq.write_table(jets_table(jets, seed=seed), path),
    }
    writers[name]()


def examined(name: str, path: Path | str) -> tuple[Source, SourceFile]:
    source = make_source(name, OPTIONS[name]())
    (file,) = with_bits([examine_file(source, str(path))], salt=0)
    assert file.reason == ""
    return source, file


def whole(file: SourceFile) -> Part:
    return Part(0, 0, file.rows or 0)


@pytest.mark.parametrize("jets", [12, 8])
@pytest.mark.parametrize("name", list(SOURCES))
def test_a_file_replaced_after_its_checksum_is_noticed(name: str, jets: int, tmp_path: Path) -> None:
    """By one with as many rows, or with fewer; formats whose rows are events, too."""
    path = tmp_path / "file"
    write(name, path, 12, seed=1)
    source, file = examined(name, path)
    assert sum(block.rows for block in read_part(source, file, whole(file))) == file.rows
    write(name, path, jets, seed=2)
    with pytest.raises(BadFileError, match="its content was replaced after its checksum was taken") as caught:
        list(read_part(source, file, whole(file)))
    assert caught.value.reason == "changed"
    job = IngestJob(source, (file,), str(tmp_path), "jets", IngestSettings(format=name))  # type: ignore[arg-type]
    result = run_task(job, IngestTask(0, (whole(file),)))
    assert result.failure is not None
    assert (result.failure.reason, result.files) == ("changed", ())


def test_a_key_replaced_after_its_file_was_examined_is_noticed(tmp_path: Path) -> None:
    write("lhco", tmp_path / "box.H5", 12, seed=1)
    (tmp_path / "box.MASTERKEY").write_text("0 1 0 1 0 1")
    source, file = examined("lhco", tmp_path / "box.H5")
    (block,) = read_part(source, file, whole(file))
    assert {"signal", "background"} <= set(block.label.to_pylist())
    (tmp_path / "box.MASTERKEY").write_text("1 1 1 1 1 1 ")
    with pytest.raises(BadFileError, match="a file beside it was replaced"):
        list(read_part(source, file, whole(file)))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are read for their checksum from now on."""
    paths: list[str] = []
    original = storage.sha256

    def sha256(path: str) -> str:
        paths.append(path)
        return original(path)

    monkeypatch.setattr(part_reader.storage, "sha256", sha256)
    return paths


def test_a_file_is_read_again_only_where_storage_says_that_it_may_have_changed(
    tmp_path: Path, hashed: list[str]
) -> None:
    path = tmp_path / "a.parquet"
    write("parquet", path, 20, seed=1)
    source, file = examined("parquet", path)
    hashed.clear()
    list(read_part(source, file, whole(file)))
    assert hashed == []
    os.utime(path, (1e9, 1e9))
    list(read_part(source, file, whole(file)))
    assert hashed == [str(path)]


def test_where_storage_tells_sizes_alone_the_last_range_has_the_file_read_again(
    tmp_path: Path, hashed: list[str]
) -> None:
    """The two contents have one size, so that nothing but the checksum tells them apart."""
    memory = fsspec.filesystem("memory")
    write("parquet", tmp_path / "a.parquet", 20, seed=1)
    content = (tmp_path / "a.parquet").read_bytes()
    memory.pipe_file("/parts/a.parquet", content)
    source, file = examined("parquet", "memory://parts/a.parquet")
    assert file.version == ""
    hashed.clear()
    list(read_part(source, file, Part(0, 0, 10)))
    assert hashed == []
    list(read_part(source, file, Part(0, 10, 20)))
    assert hashed == ["memory://parts/a.parquet"]
    place = content.index(b"synthetic")
    memory.pipe_file("/parts/a.parquet", content[:place] + b"Synthetic" + content[place + 9 :])
    with pytest.raises(BadFileError) as caught:
        list(read_part(source, file, Part(0, 10, 20)))
    assert caught.value.reason == "changed"
    memory.rm("/parts", recursive=True)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Source, SourceFile]:
    """A file of four row groups of 25 jets, the third of which cannot be read."""
    path = tmp_path / "a.parquet"
    pq.write_table(jets_table(100, seed=1), path, row_group_size=25)
    chunk = pq.read_metadata(path).row_group(2).column(6)
    with path.open("r+b") as stream:
        stream.seek(chunk.data_page_offset)
        stream.write(b"\xff" * chunk.total_compressed_size)
    return examined("parquet", path)


def ids(source: Source, file: SourceFile, on_bad: str, *ranges: tuple[int, int]) -> list[int]:
    plan = ReadPlan(source, ReadSettings(on_bad=on_bad), (file,), ())  # type: ignore[arg-type]
    batches = [batch for start, stop in ranges for batch in read_task(plan, [Part(0, start, stop)])]
    return [jet for batch in batches for jet in batch.column("jet_id").to_pylist()]


def test_drop_keeps_the_jets_before_the_damage_and_other_ranges(
    damaged: tuple[Source, SourceFile], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparton.data.sources.columns.BLOCK_BYTES", 10_000)  # several blocks in each row group
    source, file = damaged
    with caplog.at_level(logging.WARNING):
        found = ids(source, file, "drop", (0, 75), (75, 100))
    kept = found.index(75)
    assert found == [*range(kept), *range(75, 100)]
    assert 0 < kept <= 50
    assert "a.parquet: unreadable" in caplog.text
    assert f"rows {kept} to 74 left out" in caplog.text
    assert ids(source, file, "drop", (0, 75), (75, 100)) == found
    with pytest.raises(DataError, match=r"a\.parquet: unreadable .* met while reading; option on_bad=drop leaves out"):
        ids(source, file, "fail", (0, 75))


@pytest.mark.parametrize("on_bad", ["drop", "fail"])
def test_a_file_that_is_not_the_planned_one_ends_the_query(on_bad: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write("parquet", path, 20, seed=1)
    source, file = examined("parquet", path)
    write("parquet", path, 20, seed=2)
    with pytest.raises(DataError, match=r"a\.parquet: changed since the query was planned .* run it again"):
        ids(source, file, on_bad, (0, 20))
    path.unlink()
    with pytest.raises(DataError, match="missing_file since the query was planned"):
        ids(source, file, on_bad, (0, 20))

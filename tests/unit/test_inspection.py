"""``info`` says what it knows, and does not call good what it could not compare."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton import storage
from sparton.data.quarantine import rejected_rows
from sparton.errors import DataError, UsageError
from sparton.pipeline import PipelineSettings, info
from sparton.pipeline.inspection import SHOWN_ROWS, show
from sparton.pipeline.stage import StageCall, run_stage


def plain_table(folder: Path) -> Path:
    folder.mkdir()
    pq.write_table(pa.table({"x": [1.0, 2.0]}), folder / "a.parquet")
    return folder


def test_nothing_to_compare_is_not_called_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = info(str(plain_table(tmp_path / "table")))
    assert (found.rows, found.comparable) == (2, False)
    show(found)
    assert "no record says what the folder should hold" in capsys.readouterr().out


def test_missing_weights_are_found_without_reading_the_others(tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  weights.weights.h5\n")
    found = info(str(tmp_path))
    assert found.problems == [f"{tmp_path}/weights.weights.h5: missing"]
    with pytest.raises(DataError, match="missing"):
        show(found, as_json=True)


def test_workspace_and_file_are_no_folders_of_a_stage(tmp_path: Path) -> None:
    settings = PipelineSettings(workspace=str(tmp_path))
    call = StageCall("generate", {}, {}, str(tmp_path / "jets"), settings)
    run_stage(call, lambda staging: {"written": pq.write_table(pa.table({"x": [1]}), f"{staging}/a.parquet")})
    with pytest.raises(UsageError, match="a workspace; name one of the folders in it: jets"):
        info(str(tmp_path))
    storage.write_text(str(tmp_path / "note"), "x")
    with pytest.raises(UsageError, match="a file, expected a folder"):
        info(str(tmp_path / "note"))


def test_a_quarantine_shows_its_first_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reason, detail = np.full(30, "not_finite"), np.full(30, "px is not finite", object)
    pq.write_table(
        pa.Table.from_batches([rejected_rows("/data/a.h5", np.arange(30), reason, detail)]), tmp_path / "a.parquet"
    )
    found = info(str(tmp_path))
    assert (found.kind, found.rows, len(found.rejected)) == ("quarantine", 30, SHOWN_ROWS)
    show(found)
    assert re.search("/data/a.h5.*19.*not_finite.*px is not finite", capsys.readouterr().out)

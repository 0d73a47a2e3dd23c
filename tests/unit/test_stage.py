"""Stages: skipped when up to date, redone when something changed, never half published."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest

from sparton import storage
from sparton.config import Config, load_config
from sparton.errors import DataError, UsageError
from sparton.pipeline import cluster, run, train
from sparton.pipeline.checkpoints import WORKERS, Workers, checkpoint_folder, discard, kept
from sparton.pipeline.record import bad_files, content_fingerprint, read_record
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage
from sparton.pipeline.workflow import closing_rows
from sparton.sgd.settings import KMeansSettings, PossibilisticSettings
from sparton.ucluster.settings import TrainSettings


class Scale(Config):
    factor: int = 2


def scale(workspace: Path, factor: int = 2, force: bool = False, stage: str = "scale") -> StageResult:
    """A stage that multiplies the number in ``in/number``."""
    source = storage.join(str(workspace), "in")

    def body(staging: str) -> dict[str, Any]:
        number = int(storage.read_text(storage.join(source, "number"))) * factor
        storage.write_text(storage.join(staging, "number"), str(number))
        return {"number": number}

    settings = PipelineSettings(workspace=str(workspace))
    call = StageCall(
        stage, {"scale": Scale(factor=factor)}, {"numbers": source}, str(workspace / "out"), settings, force
    )
    return run_stage(call, body)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    storage.write_text(str(tmp_path / "in" / "number"), "21")
    return tmp_path


def test_first_run_publishes_with_a_record(workspace: Path) -> None:
    result = scale(workspace)
    assert not result.skipped
    assert result.summary == {"number": 42}
    record = read_record(str(workspace / "out"))
    assert record is not None
    assert record.stage == "scale"
    assert record.settings == {"scale": {"factor": 2}}
    assert [entry.path for entry in record.files] == ["number"]
    assert bad_files(str(workspace / "out"), record.files) == []


def test_run_folder_holds_settings_log_and_summary(workspace: Path) -> None:
    folder = Path(str(scale(workspace).run_folder))
    assert load_config(PipelineSettings, folder / "config.yaml") == PipelineSettings(workspace=str(workspace))
    assert storage.read_json(str(folder / "summary.json")) == {"number": 42}
    assert "done in" in (folder / "log.txt").read_text()


def test_second_run_is_skipped_and_still_has_the_summary(workspace: Path) -> None:
    scale(workspace)
    result = scale(workspace)
    assert result.skipped
    assert result.summary == {"number": 42}
    assert len(list((workspace / "runs").iterdir())) == 1


def test_force_runs_again(workspace: Path) -> None:
    scale(workspace)
    assert not scale(workspace, force=True).skipped


def test_changed_settings_run_again(workspace: Path) -> None:
    scale(workspace)
    assert scale(workspace, factor=3).summary == {"number": 63}
    assert (workspace / "out" / "number").read_text() == "63"


def test_changed_input_runs_again(workspace: Path) -> None:
    scale(workspace)
    storage.write_text(str(workspace / "in" / "number"), "100")
    assert scale(workspace).summary == {"number": 200}


def test_damaged_output_runs_again(workspace: Path) -> None:
    scale(workspace)
    (workspace / "out" / "number").unlink()
    assert not scale(workspace).skipped


def test_failure_keeps_the_old_output_and_logs_the_reason(workspace: Path) -> None:
    scale(workspace)
    storage.write_text(str(workspace / "in" / "number"), "no number")
    with pytest.raises(ValueError, match="invalid literal"):
        scale(workspace)
    assert (workspace / "out" / "number").read_text() == "42"
    assert sorted(entry.name for entry in workspace.iterdir()) == ["in", "out", "runs"]
    logs = [folder / "log.txt" for folder in sorted((workspace / "runs").iterdir())]
    assert "invalid literal" in logs[-1].read_text()


def test_missing_input_names_folder_and_role(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder at .*/in for the numbers"):
        scale(tmp_path)


def test_damaged_input_is_refused_even_where_the_output_is_up_to_date(workspace: Path) -> None:
    scale(workspace)
    settings = PipelineSettings(workspace=str(workspace))

    def read() -> StageResult:
        call = StageCall("read", {}, {"product": str(workspace / "out")}, str(workspace / "read"), settings)
        return run_stage(call, lambda staging: {})

    read()
    (workspace / "out" / "number").unlink()
    with pytest.raises(DataError, match=r"out/number: missing; restore the file, or run sparton scale --force"):
        read()


def test_foreign_output_is_not_overwritten(workspace: Path) -> None:
    storage.write_text(str(workspace / "out" / "thesis.tex"), "years of work")
    with pytest.raises(UsageError, match="not overwritten by 'scale'"):
        scale(workspace, force=True)
    assert (workspace / "out" / "thesis.tex").read_text() == "years of work"


def test_output_of_another_stage_is_not_overwritten(workspace: Path) -> None:
    scale(workspace)
    with pytest.raises(UsageError, match="made by the stage 'scale', not overwritten by 'other'"):
        scale(workspace, stage="other")


def test_bad_files_are_named_with_the_reason(workspace: Path) -> None:
    scale(workspace)
    out = workspace / "out"
    record = read_record(str(out))
    assert record is not None
    (out / "number").write_text("43")
    assert bad_files(str(out), record.files, checksums=False) == []
    assert bad_files(str(out), record.files) == [f"{out}/number: checksum differs from the one recorded"]
    (out / "number").write_text("4242")
    assert bad_files(str(out), record.files) == [f"{out}/number: 4 bytes, expected 2"]
    (out / "number").unlink()
    assert bad_files(str(out), record.files) == [f"{out}/number: missing"]


def test_damaged_record_is_an_error_that_names_it(workspace: Path) -> None:
    scale(workspace)
    storage.write_text(str(workspace / "out" / "_stage.json"), "{}")
    with pytest.raises(DataError, match=r"_stage\.json: not a stage record"):
        scale(workspace)


def test_content_fingerprint_ignores_names_but_not_content(workspace: Path) -> None:
    scale(workspace)
    first = content_fingerprint(str(workspace / "out"))
    scale(workspace, force=True)
    assert content_fingerprint(str(workspace / "out")) == first
    scale(workspace, factor=5)
    assert content_fingerprint(str(workspace / "out")) != first


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def test_full_disk_names_the_file_and_leaves_nothing(workspace: Path, small_disk: Path) -> None:
    fill(small_disk)
    for output in (small_disk / "out", small_disk / "work" / "out"):
        call = StageCall("scale", {}, {}, str(output), PipelineSettings(workspace=str(workspace)))
        with pytest.raises(OSError, match=f"No space left on device: '{output.parent}/.out.lock'"):
            run_stage(call, lambda staging: {})
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["filler"]
    call = StageCall("scale", {}, {}, str(workspace / "out"), PipelineSettings(workspace=str(small_disk)))
    with pytest.raises(OSError, match=r"No space left on device: '.*/config.yaml'"):
        run_stage(call, lambda staging: {})


def test_a_log_that_cannot_be_written_does_not_hide_why_a_stage_failed(
    workspace: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(staging: str) -> dict[str, Any]:
        fill(small_disk)
        logging.getLogger("sparton").info("x" * 10_000)
        raise DataError("the reason")

    settings = PipelineSettings(workspace=str(small_disk))
    with pytest.raises(DataError, match=r"^the reason$"):
        run_stage(StageCall("scale", {}, {}, str(workspace / "out"), settings), body)
    assert "Logging error" not in capsys.readouterr().err
    assert not (workspace / "out").exists()


SAME: dict[str, Config] = {}
"""Sections of which all that decides the output decides what may go on."""


def training_call(workspace: Path, workers: int = 1, factor: int = 2) -> StageCall:
    sections = {"scale": Scale(factor=factor), WORKERS: Workers(count=workers)}
    settings = PipelineSettings(workspace=str(workspace))
    return StageCall("scale", sections, {"numbers": str(workspace / "in")}, str(workspace / "out"), settings)


def test_checkpoints_are_of_settings_and_data_whatever_the_number_of_workers(workspace: Path) -> None:
    one, two, other = (training_call(workspace, *values) for values in ((1, 2), (2, 2), (1, 3)))
    assert one.fingerprint() != two.fingerprint()
    assert checkpoint_folder(one, SAME) == checkpoint_folder(two, SAME) != checkpoint_folder(other, SAME)
    lasting = {"scale": Scale(factor=5)}
    assert checkpoint_folder(one, lasting) == checkpoint_folder(other, lasting) != checkpoint_folder(one, SAME)
    storage.write_text(str(workspace / "in" / "number"), "22")
    assert checkpoint_folder(training_call(workspace), SAME) != checkpoint_folder(one, SAME)


@pytest.mark.parametrize("settings", [TrainSettings(), KMeansSettings(), PossibilisticSettings()])
def test_with_lanes_a_training_may_go_on_with_other_rows_a_worker(
    settings: TrainSettings | KMeansSettings | PossibilisticSettings,
) -> None:
    def lasting(**changes: Any) -> Config:
        return settings.model_copy(update=changes).lasting()

    assert lasting() != lasting(batch_size=24)
    assert lasting(lanes=4) == lasting(lanes=4, batch_size=24) != lasting(lanes=2)
    assert lasting(lanes=4) != lasting(lanes=4, seed=9)
    assert lasting(checkpoint_seconds=1.0) == lasting()
    assert settings.model_copy(update={"lanes": 4, "batch_size": 24}).deciding() != settings.deciding()


@pytest.mark.parametrize("section", ["train", "cluster"])
def test_lanes_that_do_not_fit_the_workers_are_refused_before_anything_else(section: str, tmp_path: Path) -> None:
    kind = {"train": "jets", "cluster": "table"}[section]
    values = {"kind": kind, "workspace": str(tmp_path), "launch": {"workers": 2}, section: {"lanes": 3}}
    settings = PipelineSettings.model_validate(values)
    stage = {"train": train, "cluster": cluster}[section]
    for call in (stage, run):
        with pytest.raises(UsageError, match=rf"^{section}.lanes: 3 lanes cannot be shared equally by 2 workers"):
            call(settings)
    assert not list(tmp_path.iterdir())


def test_two_runs_of_one_training_do_not_share_checkpoints(workspace: Path) -> None:
    folder = checkpoint_folder(training_call(workspace), SAME)
    with kept(folder, force=False):
        storage.write_text(storage.join(folder, "step"), "1")
        with pytest.raises(DataError, match=r"another run .* is writing it"), kept(folder, force=False):
            pass
        discard(folder)  # as a third run would, whose bundle of the same training is published
        assert storage.exists(folder)
    assert storage.exists(folder)  # until the bundle is published
    discard(folder)
    assert not storage.exists(folder)
    discard(folder)


def test_checkpoints_outlive_a_failure_and_are_removed_on_demand(workspace: Path) -> None:
    folder = checkpoint_folder(training_call(workspace), SAME)
    with contextlib.suppress(RuntimeError), kept(folder, force=False):
        storage.write_text(storage.join(folder, "step"), "1")
        raise RuntimeError
    with kept(folder, force=False):
        assert storage.read_text(storage.join(folder, "step")) == "1"
        storage.write_text(storage.join(folder, "step"), "1")
    storage.write_text(storage.join(folder, "step"), "1")
    with kept(folder, force=True):
        assert not storage.exists(folder)


def test_a_run_of_a_training_without_a_timed_step_ends_with_its_table() -> None:
    stages: dict[str, dict[str, Any]] = {
        "generate": {"jets": {"W": 3}},
        "train": {"workers": 1, "steps": 1},
        "evaluate": {"test jets": 3, "report": "report.html"},
    }
    rows = closing_rows([StageResult(name, f"out/{name}", summary, False, 1.0) for name, summary in stages.items()])
    assert (rows["steps"], rows["report"]) == (1, "out/evaluate/report.html")
    assert "jets/s in training steps" not in rows
    stages["train"]["jets/s"] = 9.5
    rows = closing_rows([StageResult(name, f"out/{name}", summary, False, 1.0) for name, summary in stages.items()])
    assert rows["jets/s in training steps"] == 9.5

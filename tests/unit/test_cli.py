"""The command line: help that reads, and the exit status and one line for what goes wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparton import storage
from sparton.cli import STAGES, main
from sparton.config import load_config
from sparton.errors import ConfigError, WorkerError
from sparton.pipeline.session import SparkSettings
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, run_stage


def outcome(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit status and what went to standard error."""
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, capsys.readouterr().err.strip()


def test_help_lists_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for command in (*STAGES, "run", "info"):
        assert re.search(rf"^ +{command}\s", text, re.MULTILINE)


@pytest.mark.parametrize("command", [*STAGES, "run", "info"])
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: sparton {command}" in text
    if command != "info":
        assert "--set SECTION.KEY=VALUE" in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["genrate"],
        ["train", "--workers", "two"],
        ["train", "--retries", "-1"],
        ["stream-cluster", "--workers", "2"],
        ["stream-cluster", "--retries", "1"],
        ["info"],
        ["ingest", "--input", "x", "--trigger", "5"],
        ["stream-cluster", "--force"],
        ["stream-cluster", "--trigger", "now"],
        ["stream-cluster", "--max-rejected", "2"],
    ],
)
def test_wrong_usage_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, error = outcome(arguments, capsys)
    assert status == 2
    assert error


@pytest.mark.parametrize("command", ["train", "cluster", "run"])
@pytest.mark.parametrize(
    ("started", "arguments", "expected"),
    [
        ({"RANK": "0"}, [], "HOROVOD_RANK=0 and HOROVOD_SIZE=None: expected both"),
        ({"RANK": "2", "SIZE": "2"}, ["--workers", "2"], "HOROVOD_RANK=2 and HOROVOD_SIZE=2: expected a rank below"),
        ({"RANK": "0", "SIZE": "2"}, ["--workers", "3"], "launch.workers=3, but 2 processes were started"),
        ({"RANK": "1", "SIZE": "2"}, ["--workers", "3"], "launch.workers=3, but 2 processes were started"),
        (
            {"RANK": "0", "SIZE": "2"},
            ["--workers", "2", "--set", "launch.launcher=barrier"],
            "launch.launcher=barrier, but 2 processes were started",
        ),
        ({}, ["--set", "launch.launcher=external"], "nothing in the environment says that horovodrun"),
    ],
)
def test_another_world_than_the_settings_is_refused_before_anything_is_written(
    command: str,
    started: dict[str, str],
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in started.items():
        monkeypatch.setenv(f"HOROVOD_{name}", value)
    (tmp_path / "set").mkdir()
    folder = [] if command == "run" else ["--input", str(tmp_path / "set")]
    status, error = outcome([command, "--workspace", str(tmp_path / "w"), *folder, *arguments], capsys)
    assert status == 2
    if command == "run" and "processes were started" in expected:
        expected = "2 processes were started, which would all run 'run'; start 'train' or 'cluster' alone"
    assert error.startswith(f"sparton {command}: ")
    assert expected in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_secrets_are_refused_without_being_shown(capsys: pytest.CaptureFixture[str]) -> None:
    status, error = outcome(["generate", "--set", "spark.conf.spark.authenticate.secret=sesame"], capsys)
    assert status == 2
    assert "spark.authenticate.secret is a secret" in error
    assert "sesame" not in error
    status, error = outcome(["generate", "--set", "spark.conf={spark.authenticate.secret: sesame}"], capsys)
    assert status == 2
    assert error == (
        "sparton generate: --set spark.conf: spark.conf: spark.authenticate.secret is a secret, which would be seen in "
        "command lines and run folders; put it into the spark-defaults.conf of SPARK_CONF_DIR"
    )


def test_properties_of_spark_are_given_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("spark: {conf: {spark.speculation: false, spark.task.cpus: 2, spark.a.b: c}}\n")
    given = ["spark.conf.spark.speculation=true", "spark.conf.spark.a.d=1.5", "spark.conf.spark.a.b.e=f"]
    settings = load_config(PipelineSettings, tmp_path / "c.yaml", given)
    assert settings.spark.conf == {
        "spark.speculation": "true", "spark.task.cpus": "2", "spark.a.b": "c", "spark.a.d": "1.5", "spark.a.b.e": "f"
    }  # fmt: skip
    assert load_config(PipelineSettings, None, ["spark.conf={spark.speculation: true}"]).spark.conf == {
        "spark.speculation": "true"
    }
    with pytest.raises(ConfigError, match=r"spark\.conf"):
        load_config(PipelineSettings, None, ["spark.conf={spark.jars: [a, b]}"])


def test_a_lost_worker_is_told_with_the_way_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise WorkerError("rank 1 of 2: the process was killed by signal 9 (SIGKILL)")

    monkeypatch.setattr("sparton.pipeline.training.run_stage", lost)
    monkeypatch.setattr("sparton.pipeline.training.StageCall", lambda *_: None)
    monkeypatch.setattr("sparton.pipeline.training.checkpoint_folder", lambda *_: "")
    status, error = outcome(["train"], capsys)
    assert status == 1
    assert error.splitlines() == [
        "sparton train: rank 1 of 2: the process was killed by signal 9 (SIGKILL)",
        "What was published before stays; the same command goes on from the last checkpoint, if there is one; "
        "where Spark starts the workers, --retries N does so by itself",
    ]


def test_files_of_secrets_are_no_secrets() -> None:
    SparkSettings(conf={"spark.authenticate.secret.file": "/etc/spark/secret"})


def test_unknown_key_is_one_line_with_the_nearest_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("generate:\n  jets_per_proces: 5\n")
    status, error = outcome(["generate", "--config", str(config)], capsys)
    assert status == 2
    assert error.splitlines() == [
        f"sparton generate: {config}: unknown key 'generate.jets_per_proces'; did you mean 'jets_per_process'?"
    ]


def test_unknown_process_is_refused_before_spark_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "--workspace", str(tmp_path / "w"), "--set", "generate.processes=[Higgs]"]
    status, error = outcome(arguments, capsys)
    assert status == 2
    assert "Higgs" in error
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("stage", ["prepare", "train", "assign", "evaluate"])
def test_missing_input_is_one_line_that_says_what_to_run(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = outcome([stage, "--workspace", str(tmp_path / "w")], capsys)
    assert status == 2
    assert len(error.splitlines()) == 1
    assert error.startswith(f"sparton {stage}: no folder at {tmp_path}/w/")
    assert not (tmp_path / "w").exists()


def test_a_file_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage.write_text(str(tmp_path / "a.parquet"), "x")
    arguments = ["prepare", "--workspace", str(tmp_path / "w"), "--input", str(tmp_path / "a.parquet")]
    status, error = outcome(arguments, capsys)
    assert (status, "a file, expected a folder" in error) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "way_on"),
    [
        (["train"], "goes on from the last checkpoint, if there is one"),
        (["ingest", "--input", "x"], "begins anew"),
        (["ingest", "--watch", "x"], "goes on with the files that the table does not hold yet"),
        (["stream-cluster"], "goes on after the last batch that ended"),
    ],
)
def test_ctrl_c_says_what_is_true_of_the_command(
    arguments: list[str], way_on: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparton.cli._settings", interrupt)
    status, error = outcome(arguments, capsys)
    assert status == 130
    assert error == (f"sparton {arguments[0]}: interrupted. What was published before stays; the same command {way_on}")


TERMINATED = """
import os, signal, sys
from sparton import cli, publication

def write(options):
    with publication.publish(sys.argv[1]) as staging:
        os.kill(os.getpid(), signal.SIGTERM)

cli._run_one = write
sys.exit(cli.main(["prepare"]))
"""


def test_sigterm_leaves_nothing_half_written(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TERMINATED, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr.startswith("sparton prepare: interrupted. What was published before stays")
    assert list(tmp_path.iterdir()) == []


CALLED = """
import os, signal, sys
from pathlib import Path
from sparton.config import Config
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, run_stage

def body(staging):
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    return {}

folder = sys.argv[1]
call = StageCall("prepare", {}, {}, folder + "/out", PipelineSettings(workspace=folder), force=True)
run_stage(call, body if sys.argv[2:] else lambda staging: {})
"""


def call_stage(folder: Path, *number: str) -> int:
    """Call a stage from Python, where nobody has a handler; a signal comes while it writes."""
    ended = subprocess.run([sys.executable, "-c", CALLED, str(folder), *number], check=False)
    shutil.rmtree(folder / "runs")
    return ended.returncode


def test_sigterm_leaves_nothing_half_written_in_a_program_either(tmp_path: Path) -> None:
    assert call_stage(tmp_path, "SIGTERM") == 143
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_stage_left_is_removed_by_one_that_has_nothing_to_do(tmp_path: Path) -> None:
    assert call_stage(tmp_path) == 0
    assert call_stage(tmp_path, "SIGKILL") == -signal.SIGKILL
    names = [path.name for path in tmp_path.iterdir()]
    assert any(name.startswith("out.staging-") for name in names)
    assert ".out.lock" in names
    call = StageCall("prepare", {}, {}, str(tmp_path / "out"), PipelineSettings(workspace=str(tmp_path)))
    assert run_stage(call, lambda staging: {}).skipped
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_sigterm_leaves_it_to_the_handler_of_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of --watch waits for the batch under way; afterwards SIGTERM is what it was."""
    pressed = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        monkeypatch.setattr("sparton.cli._run_one", lambda options: os.kill(os.getpid(), signal.SIGTERM))
        assert main(["prepare"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_info_on_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(["info", str(tmp_path / "missing")], capsys)[0] == 2
    storage.write_text(str(tmp_path / "notes" / "a.txt"), "hello")
    status, error = outcome(["info", str(tmp_path / "notes")], capsys)
    assert status == 2
    assert "neither published by a stage" in error


def test_folder_that_cannot_be_made_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, error = outcome(["generate", "--workspace", "/proc/nothing"], capsys)
    assert status == 1
    assert len(error.splitlines()) == 1
    assert "/proc/nothing" in error


def test_names_made_of_digits_are_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, error = outcome(["train", "--workspace", "20241122", "--input", str(tmp_path / "none")], capsys)
    assert status == 2
    assert "no folder at" in error


def test_what_a_storage_client_raises_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})

    def refuse(path: str) -> bool:
        raise refusal("Unable to locate\ncredentials")

    monkeypatch.setattr("sparton.storage.exists", refuse)
    status, said = outcome(["info", str(tmp_path)], capsys)
    assert (status, said) == (1, "sparton info: storage: Unable to locate credentials")


def test_a_command_loads_neither_spark_ml_nor_tensorflow_before_it_needs_them() -> None:
    slow = {"pyspark.ml", "tensorflow", "numba", "pandas"}
    code = f"import sys, sparton.pipeline; print(sorted({slow} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

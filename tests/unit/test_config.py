"""Configuration: YAML and overrides in, a validated frozen object or one clear error out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import Field, ValidationError

from sparton.config import Config, fingerprint, load_config
from sparton.errors import ConfigError
from sparton.pipeline.settings import PipelineSettings


class Inner(Config):
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = 1e-3


class Outer(Config):
    workspace: str = "runs"
    train: Inner = Inner()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_file_then_overrides(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "workspace: here\ntrain:\n  batch_size: 64\n")
    settings = load_config(Outer, path, ["train.learning_rate=1e-2", "train.batch_size=128"])
    assert settings == Outer(workspace="here", train=Inner(batch_size=128, learning_rate=0.01))


def test_defaults_without_a_file() -> None:
    assert load_config(Outer, None) == Outer()


def test_empty_file_gives_defaults(tmp_path: Path) -> None:
    assert load_config(Outer, write(tmp_path / "c.yaml", "")) == Outer()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Outer().workspace = "elsewhere"  # type: ignore[misc]


def test_sections_made_in_python_say_what_is_wrong_in_one_line() -> None:
    with pytest.raises(ConfigError) as unknown:
        Outer(workspce="runs")  # type: ignore[call-arg]
    assert str(unknown.value) == "Outer: unknown key 'workspce'; did you mean 'workspace'?"
    with pytest.raises(ConfigError) as nested:
        Outer(train={"batch_size": 0, "wrong": 1})  # type: ignore[arg-type]
    first, second = str(nested.value).split("; ", 1)
    assert first.startswith("Outer: train.batch_size: Input should be greater")
    assert second.startswith("Outer: unknown key 'train.wrong'")


def test_unknown_key_names_its_nearest_match(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "train:\n  batchsize: 64\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: unknown key 'train.batchsize'; did you mean 'batch_size'\?"):
        load_config(Outer, path)


def test_unknown_section_names_its_nearest_match() -> None:
    with pytest.raises(ConfigError, match="unknown key 'trian'; did you mean 'train'"):
        load_config(Outer, None, ["trian.batch_size=1"])


def test_unknown_key_without_a_near_one_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="known keys: batch_size, learning_rate"):
        load_config(Outer, None, ["train.xyzzy=1"])


def test_value_out_of_range_says_what_was_received() -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size: .*greater than or equal to 1.*Received: 0"):
        load_config(Outer, None, ["train.batch_size=0"])


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, None, ["train.batch_size=many", "train.learning_rate=high"])
    assert "train.batch_size" in str(caught.value)
    assert "train.learning_rate" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("workspace.a=3", "Received"),
        ("train={", "not readable as YAML"),
    ],
)
def test_malformed_override(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, None, [override])


def test_override_below_a_value_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "workspace: here\n")
    with pytest.raises(ConfigError, match="'workspace' is a value, not a section"):
        load_config(Outer, path, ["workspace.a=3"])


@pytest.mark.parametrize("text", ["[1, 2", "- a\n- b\n", "just text"])
def test_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(Outer, write(tmp_path / "c.yaml", text))


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(Outer, "nowhere.yaml")


def test_yaml_cannot_construct_objects(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "workspace: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_config(Outer, path)


def test_yaml_round_trip(tmp_path: Path) -> None:
    settings = Outer(workspace="größe", train=Inner(learning_rate=3e-7))
    assert load_config(Outer, write(tmp_path / "c.yaml", settings.to_yaml())) == settings


def test_fingerprint_follows_the_values_only() -> None:
    assert Outer().fingerprint() == Outer(workspace="runs").fingerprint()
    assert Outer().fingerprint() != Outer(train=Inner(batch_size=33)).fingerprint()
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generate.processes=W", "expected a list, such as [a, b]. Received: W"),
        ("generate=3", "expected a section with keys. Received: 3"),
        ("generate.seed=", "Received: null"),
        ("spark.master=lokal", "expected local, local[N]"),
        ("prepare.splits={train: 0.5, val: 0.25}", "the fractions sum to 0.75, expected 1"),
    ],
)
def test_bad_override_is_named_as_such_in_plain_words(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(PipelineSettings, None, [override])
    assert str(caught.value).startswith(f"--set {override}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "option", "value", "message"),
    [
        ("ingest.format", "--format", "hls4m", "expected 'hls4ml', .*Received: hls4m; did you mean 'hls4ml'"),
        ("ingest.max_rejected", "--max-rejected", 2.0, "less than or equal to 1. Received: 2.0"),
        ("watch.trigger", "--trigger", "foo", "watch.trigger: expected available-now, or a number of seconds above 0"),
        ("watch.trigger", "--trigger", "-1", "watch.trigger: expected available-now, or a number"),
    ],
)
def test_an_option_is_named_as_it_was_typed(key: str, option: str, value: str | float, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(PipelineSettings, None, [], {key: (option, value)})
    assert re.fullmatch(rf"{option} {value}: .*{message}.*", str(caught.value))
    assert "; --" not in str(caught.value)


def test_numbers_of_seconds_are_triggers() -> None:
    assert load_config(PipelineSettings, None, ["watch.trigger=0.5"]).watch.trigger == 0.5
    assert load_config(PipelineSettings, None, [], {"watch.trigger": ("--trigger", "60")}).watch.trigger == 60


def test_unknown_section_of_an_override_is_named_with_it() -> None:
    with pytest.raises(ConfigError, match=r"^--set ingst.salt=1: unknown key 'ingst'; did you mean 'ingest'"):
        load_config(PipelineSettings, None, ["ingst.salt=1"])


def test_unknown_key_of_an_entry_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'rules.columns.jet_pt.mn'; did you mean 'min'"):
        load_config(PipelineSettings, None, ['rules.columns={"jet_pt":{"mn":0}}'])
    with pytest.raises(ConfigError, match=r"known keys: min_fraction, classes"):
        load_config(PipelineSettings, None, ['rules.balance={"label":{"xyzzy":0}}'])


def test_sections_of_several_kinds_are_as_plain_as_others() -> None:
    found = load_config(PipelineSettings, None, ["cluster.method=pcm", "cluster.gamma_factor=0.2"])
    assert (found.cluster.method, found.cluster.model_dump()["gamma_factor"]) == ("pcm", 0.2)
    assert load_config(PipelineSettings, None).cluster.method == "kmeans"
    again = PipelineSettings.model_validate(yaml.safe_load(found.to_yaml()))
    assert again == found
    for overrides, message in (
        (
            ["cluster.method=dbscan"],
            "--set cluster.method=dbscan: cluster.method: expected 'kmeans' or 'pcm'. Received: dbscan",
        ),
        (["cluster.method=kmean"], "expected 'kmeans' or 'pcm'. Received: kmean; did you mean 'kmeans'?"),
        (["cluster.gamma_factor=1"], "unknown key 'cluster.gamma_factor'; it is one of 'pcm', not of 'kmeans'"),
        (["cluster.method=pcm", "cluster.gama=1"], "unknown key 'cluster.gama'; did you mean 'gamma_factor'?"),
        (["cluster.method=pcm", "cluster.decay=2"], "--set cluster.decay=2: cluster.decay: Input should be less than"),
        (["cluster=3"], "cluster: expected a section with keys. Received: 3"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_config(PipelineSettings, None, overrides)

"""The stage ``validate``: jets table, sets of both kinds, reference and drift, exit status 3, one job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparton.cli import main
from sparton.config import load_config
from sparton.data.validation.profile import Request
from sparton.data.validation.scan import measures
from sparton.data.validation.settings import RulesSettings
from sparton.errors import DataError, RulesError, UsageError
from sparton.pipeline import PipelineSettings, validate
from sparton.pipeline.record import read_record
from sparton.pipeline.validation import read_validation
from tests.integration.test_batches import write_set
from tests.synthetic import jets_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JETS = 600
RULES: dict[str, Any] = {
    "min_rows": JETS,
    "columns": {
        "jet_id": {"unique": True, "max_nulls": 0},
        "jet_pt": {"min": 500, "max": 5000},
        "jet_phi": {"min": -3.1415927, "max": 3.1415927},
        "energy": {"min": 0, "finite": True, "max_nulls": 0},
        "label": {"values": ["W", "Z", "t"]},
    },
    "balance": {"label": {"min_fraction": 0.2, "classes": ["W", "Z", "t"]}},
    "drift": {"columns": ["jet_mass", "px"]},
}


def settings_of(workspace: Path, rules: dict[str, Any]) -> PipelineSettings:
    return PipelineSettings(workspace=str(workspace), rules=RulesSettings.model_validate(rules))


def store(table: pa.Table, folder: Path, parts: int = 3) -> Path:
    folder.mkdir(parents=True)
    rows = -(-table.num_rows // parts)
    for part in range(parts):
        pq.write_table(table.slice(part * rows, rows), folder / f"part-{part}.parquet")
    return folder


def failures(workspace: Path, folder: Path, rules: dict[str, Any], **options: Any) -> dict[tuple[str, str], int]:
    output = str(workspace / "validation")
    with pytest.raises(RulesError):
        validate(settings_of(workspace, rules), input=str(folder), output=output, **options)
    return {(outcome.rule, outcome.column): outcome.rows for outcome in read_validation(output).failures}


@pytest.fixture(scope="module")
def jets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(jets_table(JETS, seed=1), tmp_path_factory.mktemp("validation") / "jets")


def test_sound_jets_keep_the_rules_and_make_a_reference(spark: SparkSession, jets: Path, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, RULES)
    result = validate(settings, input=str(jets), write_reference=str(tmp_path / "reference"))
    assert result.summary["failed"] == 0
    assert read_record(result.output) is not None
    against = validate(settings, input=str(jets), reference=str(tmp_path / "reference"))
    assert against.summary == {"rules": result.summary["rules"] + 4, "failed": 0}
    assert validate(settings, input=str(jets), reference=str(tmp_path / "reference")).skipped

    moved = jets_table(JETS, seed=2, mean_constituents=20)
    index = moved.schema.get_field_index("jet_mass")
    mass = pa.array(moved.column("jet_mass").to_numpy() * 1.5)
    other = store(moved.set_column(index, moved.schema.field(index), mass), tmp_path / "other")
    found = failures(tmp_path / "w", other, RULES, reference=str(tmp_path / "reference"))
    assert {("psi", "jet_mass"), ("ks", "jet_mass")} <= found.keys()


def test_broken_jets_are_counted_and_the_command_ends_with_three(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = jets_table(JETS, seed=1)
    energy = table.column("energy").to_pylist()
    energy[3][0], energy[3][1], energy[5][1] = float("nan"), float("nan"), -2.0
    label = ["q" if row < 4 else name for row, name in enumerate(table.column("label").to_pylist())]
    ids = [7 if row in (20, 300, 500) else value for row, value in enumerate(table.column("jet_id").to_pylist())]
    for name, values in (("energy", energy), ("label", label), ("jet_id", ids)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    folder = store(table, tmp_path / "jets")
    rules = RULES | {"drift": {}}
    config = tmp_path / "rules.yaml"
    config.write_text(settings_of(tmp_path, rules).to_yaml())
    status = main(["validate", "--config", str(config), "--input", str(folder)])
    captured = capsys.readouterr()
    assert status == 3
    assert captured.err.splitlines()[-1].startswith(f"sparton validate: {folder}: 5 rules do not hold (unique jet_id")
    assert "expected" in captured.out
    assert main(["validate", "--config", str(config), "--input", str(folder)]) == 3  # up to date, and still broken
    assert failures(tmp_path / "w", folder, rules) == {
        ("unique", "jet_id"): 3,
        ("min", "energy"): 2,
        ("finite", "energy"): 1,
        ("values", "label"): 4,
        ("balance", "label"): 4,
    }


def test_sets_of_both_kinds_are_tables_too(spark: SparkSession, tmp_path: Path) -> None:
    write_set(str(tmp_path / "set"), (40, 17))
    rules = {
        "columns": {
            "jet_id": {"unique": True},
            "features": {"finite": True, "min": 0, "max": 50},
            "n_particles": {"min": 1, "max": 6},
            "split": {"values": ["train"]},
        }
    }
    assert failures(tmp_path / "w", tmp_path / "set", rules) == {("max", "features"): 7}
    plain = store(pa.table({"x": [1.5, None, 2.5], "y": [True, False, True]}), tmp_path / "plain")
    rules = {"columns": {"x": {"max_nulls": 0.1}, "y": {"min": 1}}}
    assert failures(tmp_path / "p", plain, rules) == {("max_nulls", "x"): 1, ("min", "y"): 1}


@pytest.mark.parametrize(("unique", "exchanges", "scans"), [(False, 1, 1), (True, 3, 2)])
def test_a_table_is_read_once_and_a_unique_column_once_more(
    spark: SparkSession, jets: Path, unique: bool, exchanges: int, scans: int
) -> None:
    columns = {**RULES["columns"], "jet_id": {"unique": unique, "max_nulls": 0}}
    request = Request(RulesSettings.model_validate(RULES | {"columns": columns, "drift": {}}))
    frame = measures(spark.read.parquet(str(jets)), request)
    plan = frame._jdf.queryExecution().executedPlan().toString()
    assert len(re.findall(r"\bExchange\b", plan)) == exchanges
    assert len(re.findall(r"\bFileScan parquet\b", plan)) == scans


def test_values_beyond_those_of_the_reference_are_drift(spark: SparkSession, tmp_path: Path) -> None:
    """One value, and whole numbers whose largest grows: what no bin of equal population would tell apart."""
    rules = {"drift": {"columns": ["x", "n"]}}
    tables = {
        name: store(pa.table({"x": np.full(400, x), "n": np.where(np.arange(400) % 2, n, 0)}), tmp_path / name)
        for name, x, n in (("old", 5.0, 1), ("new", 6.0, 2))
    }
    reference = str(tmp_path / "reference")
    validate(settings_of(tmp_path, rules), input=str(tables["old"]), write_reference=reference)
    validate(settings_of(tmp_path, rules), input=str(tables["old"]), reference=reference)
    found = failures(tmp_path / "w", tables["new"], rules, reference=reference)
    assert found.keys() == {("psi", "x"), ("ks", "x"), ("psi", "n"), ("ks", "n")}


def test_names_with_dots_are_names(spark: SparkSession, tmp_path: Path) -> None:
    folder = store(pa.table({"fj.pt": pa.array([1.0, 2.0, 2.0, -3.0]), "fj": pa.array(range(4))}), tmp_path / "table")
    rules = {"columns": {"fj.pt": {"min": 0, "unique": True}}}
    assert failures(tmp_path, folder, rules) == {("min", "fj.pt"): 1, ("unique", "fj.pt"): 1}


def test_impossible_calls_are_refused(spark: SparkSession, jets: Path, tmp_path: Path) -> None:
    def call(rules: dict[str, Any], **options: Any) -> None:
        validate(settings_of(tmp_path, rules), input=str(jets), **options)

    with pytest.raises(UsageError, match="no rule in the section 'rules'"):
        call({})
    with pytest.raises(UsageError, match="name one with --reference"):
        call(RULES)
    with pytest.raises(UsageError, match=r"of use with rules\.drift\.columns only"):
        call({"columns": {"jet_pt": {"min": 0}}}, reference=str(jets))
    with pytest.raises(DataError, match=r"rules: the table has no column .*Correct the name in the section rules"):
        call({"columns": {"pt": {"min": 0}}})
    with pytest.raises(DataError, match="make a reference with 'sparton validate --write-reference"):
        call(RULES, reference=str(jets))
    with pytest.raises(DataError, match="column label: it is text, expected numbers"):
        call({"columns": {"label": {"min": 0}}})


def test_rules_are_read_from_yaml(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("rules:\n  columns:\n    jet_pt: {min: 0, finit: true}\n")
    with pytest.raises(UsageError, match=r"unknown key 'rules.columns.jet_pt.finit'"):
        load_config(PipelineSettings, config)

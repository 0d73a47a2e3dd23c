"""The quality study on a few hundred jets: what is done is not done again, and what there is becomes a page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from parts.recipes import CEILING, DEFAULT, FULL, REFERENCE, SHORT
from parts.study import LabelledJets, Run, StudyTrainer, Supervised, home, run
from parts.study_pages import write_pages
from sparton.data.manifest import read_manifest
from sparton.data.prepare import PrepareSettings, write_training_set
from sparton.report.baselines import mass_baselines
from sparton.ucluster import bundle
from sparton.ucluster.predict import assign
from sparton.ucluster.settings import TrainSettings
from tests.clouds import SMALL
from tests.synthetic import jets_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JETS = 300
TRAINING = TrainSettings(
    batch_size=64, pretrain_epochs=1, joint_epochs=1, centroids="classifier", balance=0, agreement=1
)


def item(name: str, trainer: type[StudyTrainer], **training: int) -> Run:
    return Run(name, f"run {name}", FULL, "set", SMALL, TRAINING.model_copy(update=training), trainer)


RUNS = [item(DEFAULT, StudyTrainer), item(CEILING, Supervised, pretrain_epochs=1, joint_epochs=0)]


@pytest.fixture(scope="module")
def jets(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("set")
    settings = PrepareSettings.model_validate(
        {
            "mass_window": None,
            "features": {"n_particles": 12, "mass_bin_edges": [0, 85, 130]},
            "rows_per_shard": 100,
            "splits": {"train": 0.6, "val": 0.1, "test": 0.3},
        }
    )
    write_training_set(spark, spark.createDataFrame(jets_table(JETS).to_pandas()), settings, str(folder / "set"))
    return str(folder / "set")


def test_study_runs_once_resumes_and_writes_its_page(
    jets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = LabelledJets.read(jets, "test")
    first = RUNS[0]
    with monkeypatch.context() as patch:
        save = StudyTrainer._save

        def killed(trainer: StudyTrainer) -> None:
            save(trainer)
            raise KeyboardInterrupt

        patch.setattr(StudyTrainer, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(first, jets, tmp_path, test)
    own = home(first, jets, tmp_path)
    assert [path.name for path in own.glob("epoch-*.json")] == ["epoch-001.json"]
    results = [run(each, jets, tmp_path, test) for each in RUNS]
    assert [epoch["epoch"] for epoch in results[0]["epochs"]] == [1, 2]
    assert [epoch["joint"] for epoch in results[0]["epochs"]] == [False, True]
    assert results[0]["final"]["accuracy"] == results[0]["epochs"][-1]["accuracy"]

    # Killed and continued it ends with the bits of a run that was not.
    run(first, jets, tmp_path / "whole", test)
    whole = bundle.load(str(home(first, jets, tmp_path / "whole") / "model")).model
    for one, other in zip(whole.variables, bundle.load(str(own / "model")).model.variables, strict=True):
        np.testing.assert_array_equal(one, other)

    # The bundle that the run leaves says of the test jets what the study says.
    found = assign(bundle.load(str(own / "model")), test.features, test.n_particles)[2]
    table = np.asarray(results[0]["final"]["contingency"])
    np.testing.assert_array_equal(np.bincount(found, minlength=3), table.sum(axis=1))
    assert table.sum() == len(test.label)

    monkeypatch.setattr(StudyTrainer, "run", None)
    assert [run(each, jets, tmp_path, test) for each in RUNS] == results
    results += [results[0] | {"name": name, "text": f"run {name}", "group": SHORT} for name in (REFERENCE, "other")]
    page = tmp_path / "docs" / "quality.md"
    page.parent.mkdir()
    names = ("results", "ablations")
    marks = [f"<!-- {name} {end} -->" for name in names for end in ("begin: made by benchmarks/quality.py", "end")]
    page.write_text("Title\n" + "\n".join(marks) + "\nThe end\n")
    baselines = mass_baselines(test.mass, 3, 1, test.label, len(test.classes))
    write_pages(page.parent, results, baselines, {"test": len(test.label)})
    text = page.read_text()
    assert f"| run {DEFAULT}, seed 1 | {results[0]['final']['accuracy']:.3f} |" in text
    assert "| run other |" in text
    assert text.startswith("Title\n")
    assert text.endswith("\nThe end\n")
    stored = json.loads((page.parent / "quality" / "results.json").read_text())
    assert [each["name"] for each in stored["runs"]] == [DEFAULT, CEILING, REFERENCE, "other"]
    assert sorted(path.name for path in (page.parent / "images").iterdir()) == [
        "quality_ablations.svg",
        "quality_confusion.svg",
        "quality_epochs.svg",
    ]


def test_a_run_on_fewer_jets_takes_whole_shards_and_is_another_run(jets: str) -> None:
    manifest, whole = read_manifest(jets), RUNS[0]
    shards = [shard.rows for shard in manifest.shards("train")]
    assert len(shards) > 1
    for wanted, expected in ((1, shards[0]), (shards[0], shards[0]), (shards[0] + 1, sum(shards[:2])), (10**6, None)):
        part = replace(whole, train_jets=wanted).part(manifest)
        assert part.rows("train") == (sum(shards) if expected is None else expected)
        assert part.shards("test") == manifest.shards("test")
    assert whole.part(manifest) == manifest
    assert replace(whole, train_jets=100).identity(manifest) != whole.identity(manifest)

"""Exported models: the same numbers as ``assign``, for any batch, in a process that knows nothing of Sparton."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from sparton.cli import main
from sparton.ucluster import bundle, predict
from sparton.ucluster.serving import SIGNATURE, write_saved_model
from sparton.ucluster.settings import ModelSettings
from tests.clouds import SLOTS, SMALL, SMALL_PUBLISHED, SMALL_WITH_MEANS, SMALL_WITH_MULTIPLICITY, clouds, write_bundle

STRANGER = """
import sys
import numpy as np
import tensorflow as tf
found = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
given = np.load(sys.argv[2])
result = found(**{name: tf.constant(given[name]) for name in given.files})
np.savez(sys.argv[3], **{name: value.numpy() for name, value in result.items()})
assert "sparton" not in sys.modules
"""


@pytest.mark.parametrize(
    "settings",
    [SMALL, SMALL_WITH_MULTIPLICITY, SMALL_WITH_MEANS, SMALL_PUBLISHED],
    ids=["default", "multiplicity", "means", "published"],
)
def test_signature_gives_what_assign_gives_for_any_batch(settings: ModelSettings, tmp_path: Path) -> None:
    write_bundle(str(tmp_path / "bundle"), settings)
    loaded = bundle.load(str(tmp_path / "bundle"))
    write_saved_model(loaded, str(tmp_path / "serving"))
    serve = tf.saved_model.load(str(tmp_path / "serving")).signatures[SIGNATURE]
    for counts in ([5], [3, SLOTS, 1, 7, 2]):
        features, n_particles = clouds(counts, seed=len(counts))
        found = serve(features=tf.constant(features), n_particles=tf.constant(n_particles))
        expected = predict.assign(loaded, features, n_particles)
        for name, values in zip(("embedding", "distance", "cluster"), expected, strict=True):
            assert found[name].dtype == values.dtype
            np.testing.assert_allclose(found[name], values, atol=1e-5)


def test_command_publishes_a_model_that_runs_without_the_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(str(tmp_path / "model"))
    command = ["export", "--workspace", str(tmp_path)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "export: done" in printed
    assert f"float32 [batch, {SLOTS}, 8]" in printed
    features, n_particles = clouds([4, 9, 12])
    np.savez(tmp_path / "given.npz", features=features, n_particles=n_particles)
    arguments = [str(tmp_path / name) for name in ("serving", "given.npz", "found.npz")]
    run = subprocess.run([sys.executable, "-c", STRANGER, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "found.npz")
    embedding, distance, cluster = predict.assign(bundle.load(str(tmp_path / "model")), features, n_particles)
    np.testing.assert_allclose(found["embedding"], embedding, atol=1e-5)
    np.testing.assert_allclose(found["distance"], distance, atol=1e-5)
    np.testing.assert_array_equal(found["cluster"], cluster)
    assert main(command) == 0
    assert "export: up to date" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "serving"), "--verify"]) == 0
    assert "SavedModel" in capsys.readouterr().out


def test_a_damaged_bundle_exports_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(str(tmp_path / "model"))
    (tmp_path / "model" / "model.json").write_text("{}")
    assert main(["export", "--workspace", str(tmp_path)]) == 1
    assert "model.json: SHA-256 is not the one in SHA256SUMS" in capsys.readouterr().err
    assert not (tmp_path / "serving").exists()
    assert main(["export", "--workspace", str(tmp_path), "--model", str(tmp_path / "none")]) == 2

"""What the comparison with the published code says of embeddings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

import published_weights
from parts import published_graph


def test_differences_are_counted_and_so_are_jets_in_another_cluster() -> None:
    centroids = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    published = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.5], [0.49999, 0.0]], np.float32)
    own = published + np.array([[0, 0], [5e-6, 0], [0, -5e-5], [2e-5, 0]], np.float32)
    first, second = published_weights.compare(own, published, centroids)
    assert "of 4 embeddings 1 within 1e-06, 2 within 1e-05, 4 within 1e-04" in first
    assert "largest differences 5.0e-05, 2.0e-05, 5.0e-06" in first
    assert second == "jets in another cluster: 1"


def test_a_folder_without_the_published_code_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.zeros((1, 100, 8), np.float32))
    arguments = [str(tmp_path), "none", str(tmp_path / "features.npy"), str(tmp_path / "found.npy")]
    program = [sys.executable, published_graph.__file__, *arguments]
    run = subprocess.run(program, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "found no models/gapnet_classify.py" in run.stderr
    assert not (tmp_path / "found.npy").exists()

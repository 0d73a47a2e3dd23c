"""N Horovod workers with shares of the same global batches find the clusters that one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparton.distributed.direct import DIRECT_SUM_BYTES
from sparton.distributed.world import Connection
from tests.clustering_exactness_program import CUTS, found

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def alone() -> dict[str, np.ndarray]:
    return found(Connection.local(), ())


@pytest.mark.parametrize(
    ("workers", "direct_sum_bytes"),
    [
        (2, DIRECT_SUM_BYTES),
        *(pytest.param(*case, marks=SLOW) for case in ((2, 0), (3, DIRECT_SUM_BYTES), (3, 0), (4, 0))),
    ],
)
def test_workers_find_what_one_finds(
    alone: dict[str, np.ndarray], tmp_path: Path, workers: int, direct_sum_bytes: int
) -> None:
    """K-means with re-seeding and both steps of possibilistic c-means, to 1e-12 in float64 and 1e-5 in float32.

    Sums go from rank to rank, or by Horovod. All of the states counts, and the sums over all rows with the last.
    """
    command = ["horovodrun", "-np", str(workers), "--gloo", "--network-interfaces", "lo", sys.executable]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    program = str(ROOT / "tests" / "clustering_exactness_program.py")
    ended = subprocess.run(
        [*command, program, str(tmp_path), str(direct_sum_bytes)],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    for number in range(len(CUTS[workers])):
        ranks = [dict(np.load(tmp_path / f"{number}-{rank}.npz")) for rank in range(workers)]
        for other in ranks[1:]:
            assert all(np.array_equal(other[name], value) for name, value in ranks[0].items())
        assert ranks[0].keys() == alone.keys()
        for name, expected in alone.items():
            tolerance, value = TOLERANCE[name.split("/")[1]], ranks[0][name]
            if name.endswith("/residuals"):  # sums that nearly vanish, of rows of the size of 1
                tolerance *= 10
            scale = max(float(np.abs(expected).max()), 1.0)
            assert np.abs(value - expected).max() <= tolerance * scale, (name, number)

"""Clusters of this process's share of each global batch; horovodrun starts one process for each rank."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sparton.distributed.world import Connection, connect
from sparton.sgd.settings import ClusterSettings
from tests.unit.test_sgd_trainer import POSSIBILISTIC, SETTINGS, trained_on

CASES: dict[str, ClusterSettings] = {
    "kmeans": SETTINGS.model_copy(update={"reseed_ratio": 0.7}),
    "pcm": POSSIBILISTIC[0],
    "pcm-plain": POSSIBILISTIC[1],
}
"""Centroids are put elsewhere, or merged, in each."""

CUTS: dict[int, list[tuple[int, ...]]] = {1: [()], 2: [(11,), (0,)], 3: [(0, 17)], 4: [(3, 10, 10)]}
"""Where global batches are cut into shares of the ranks, by the number of these: ragged ones, and empty ones."""

DTYPES = ("float64", "float32")


def found(connection: Connection, cuts: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return state and sums over all rows after each case's training, by case, type and name."""
    arrays: dict[str, np.ndarray] = {}
    for name, settings in CASES.items():
        for dtype in DTYPES:
            trained = trained_on(connection, cuts, dtype, settings)
            assert sum(row.mended for row in trained.rows) > 0
            for part in (trained.state, trained.totals):
                arrays |= {f"{name}/{dtype}/{key}": np.asarray(value) for key, value in part._asdict().items()}
            arrays[f"{name}/{dtype}/objective"] = np.array([row.train_objective for row in trained.rows])
    return arrays


def main() -> None:
    """Write what each rank finds."""
    folder = Path(sys.argv[1])
    connection = connect(direct_sum_bytes=int(sys.argv[2]))
    world = connection.world
    for number, cuts in enumerate(CUTS[world.size]):
        np.savez(folder / f"{number}-{world.rank}.npz", **found(connection, cuts))


if __name__ == "__main__":
    main()

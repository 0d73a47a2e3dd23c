"""Peak memory of a process that feeds, with few rows and with ten times as many."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from parts.contest import Line
from parts.feeding import write_set
from sparton.data.featurize import FeatureSpec
from sparton.data.manifest import Manifest
from sparton.data.settings import TRAIN

MORE = 10
PROGRAM = """
import sys
from sparton.data.batches import batches
from sparton.data.manifest import read_manifest
from sparton.data.plan import plan_epoch
folder, split, repeats, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
stored = read_manifest(folder)
manifest = stored.model_copy(update={"splits": {split: stored.splits[split] * repeats}})
plan = plan_epoch(manifest.shard_rows(split), 1, batch, 0, 0)
for _ in batches(folder, manifest, split, plan, 0):
    pass
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0])
"""


def contest_memory(folder: Path, shards: int, batch: int, bandwidth: float) -> list[Line]:
    """Feed a set once and ten times over, each in a process of its own."""
    spec = FeatureSpec()
    target = str(folder / "memory")
    manifest = write_set(target, shards, spec)
    manifest.write(target)
    found = [_feed(target, manifest, repeats, batch) for repeats in (1, MORE)]
    return [
        _line(manifest, repeats, found[0][1], *pair, bandwidth) for repeats, pair in zip((1, MORE), found, strict=True)
    ]


def _feed(folder: str, manifest: Manifest, repeats: int, batch: int) -> tuple[float, int]:
    """Return the seconds and the peak resident bytes of a process."""
    started = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, folder, TRAIN, str(repeats), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, int(done.stdout) * 1024


def _line(manifest: Manifest, repeats: int, first: int, seconds: float, peak: int, bandwidth: float) -> Line:
    rows = manifest.rows(TRAIN) * repeats
    size = rows * manifest.n_particles * len(manifest.feature_names) * 4
    return Line(
        contest="memory",
        name=f"sparton batches, {repeats} x the rows",
        rows=rows,
        seconds=seconds,
        fastest=seconds,
        cpu=0.0,
        rows_per_second=rows / seconds,
        mb_per_second=size / seconds / 1e6,
        ratio=peak / first,
        goal="ratio of peaks <= 1.10" if repeats > 1 else "",
        floor=size / bandwidth,
        note=f"peak {peak / 1e6:,.0f} MB, whole process",
    )

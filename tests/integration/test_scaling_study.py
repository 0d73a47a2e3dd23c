"""The scaling study with few steps: real workers, pinned and connected, and the page that they fill."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import scaling
from parts import scaling_pages
from parts.scaling_measure import SIZES

DOCS = Path(__file__).resolve().parents[2] / "docs"
CORES = sorted(os.sched_getaffinity(0))[:2]

pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="one core to pin workers to")


@pytest.mark.slow
def test_two_pinned_workers_train_and_fill_the_page(tmp_path: Path) -> None:
    shutil.copy(DOCS / scaling_pages.PAGE, tmp_path)
    small = ["--rounds", "1", "--steps", "2", "--batch-size", "8", "--repeats", "2"]
    assert scaling.main([*small, "--docs", str(tmp_path), "--folder", str(tmp_path), "--save"]) == 0
    results = scaling_pages.read(tmp_path)
    workers = results["efficiency"]["machine"]["workers"]
    assert [each["cores"] for each in workers] == [[core] for core in CORES] * 2
    assert {each["threads"] for each in workers} == {"1"}
    halves = results["efficiency"]["exchange"]
    assert halves["float16"]["gradient_bytes"] * 2 == halves["float32"]["gradient_bytes"]
    full, half = (halves[name]["collectives"] for name in ("float32", "float16"))
    # The gradients are one collective, and the only one that changes with their type.
    assert max(full) == halves["float32"]["gradient_bytes"]
    assert max(half) == halves["float16"]["gradient_bytes"]
    assert sorted(full)[:-1] == sorted(half)[:-1]
    assert all(line["efficiency"] > 0 for line in results["efficiency"]["lines"])
    assert [line["shares"]["exchange"] > 0 for line in results["efficiency"]["lines"]] == [True] * 6
    assert len(results["calibration"]["Horovod float32"]["seconds"]) == len(SIZES)
    assert results["model"]["scenarios"]["loopback"]["workload"]["collectives"] == full
    text = (tmp_path / scaling_pages.PAGE).read_text()
    assert "| memory | direct | float32 |" in text
    assert "| 64 MiB |" in text

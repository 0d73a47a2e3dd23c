"""What the benchmarks share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Random jets and the writers of public layouts are those of the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

"""Commands for which permissions hold even where the tests run as root, who may otherwise read everything."""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import Any

PR_CAPBSET_DROP = 24
OVERRIDES = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of capabilities(7)."""


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command without the right to read what its permissions forbid; its children have none either."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def drop() -> None:
        if os.geteuid():
            return
        for capability in OVERRIDES:
            if prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")

    return subprocess.run(command, preexec_fn=drop, capture_output=True, text=True, check=False, **options)

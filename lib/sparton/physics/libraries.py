"""The optional packages of generation, imported on first use.

Pythia 8 and FastJet are under the GPL (version 2 or later), so Sparton does not depend on them unless the extra
``sparton[gen]`` is asked for.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from typing import Any

from sparton.errors import SpartonError


@functools.cache
def load(name: str) -> Any:
    """Import one of ``pythia8mc``, ``fastjet``, ``awkward``; silence FastJet's banner.

    Raises
    ------
    SpartonError
        If the package is not installed; the message names the extra that has it.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise SpartonError(
            f"generating and grooming jets needs {name}, which cannot be imported ({error}); "
            "pip install 'sparton[gen]' (it holds Pythia 8 and FastJet, licensed GPL-2-or-later)"
        ) from None
    if name == "fastjet":
        module._swig.ClusterSequence.set_fastjet_banner_stream(None)
    return module


def versions() -> dict[str, str]:
    """Return the installed versions of Pythia 8 and FastJet; events change between versions of Pythia."""
    for name in ("pythia8mc", "fastjet"):
        load(name)
    return {name: importlib.metadata.version(name) for name in ("pythia8mc", "fastjet")}

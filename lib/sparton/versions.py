"""Versions of the packages that results depend on, for provenance."""

from __future__ import annotations

import platform
from importlib import metadata

from sparton import __version__

PACKAGES = (
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "horovod",
    "pyspark",
    "petastorm",
    "pyarrow",
    "numpy",
    "pythia8mc",
    "fastjet",
)


def installed_versions() -> dict[str, str]:
    """Return the versions of Sparton, Python and those of :data:`PACKAGES` that are installed, by name."""
    found = {"sparton": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

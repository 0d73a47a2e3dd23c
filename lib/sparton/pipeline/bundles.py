"""What a model bundle holds, told before anything of it is built."""

from __future__ import annotations

from typing import Literal

from sparton import storage
from sparton.errors import DataError

DESCRIPTION = "model.json"

BundleKind = Literal["ucluster", "table"]


def bundle_kind(folder: str) -> BundleKind:
    """Return whether a bundle is a UCluster network for jets, or clusters of a table by one of its methods.

    Raises
    ------
    DataError
        If it is neither.
    """
    from sparton.sgd.bundle import KINDS

    path = storage.join(folder, DESCRIPTION)
    if not storage.exists(path):
        raise DataError(f"{path}: no such file; expected a model bundle, made by 'sparton train' or 'sparton cluster'")
    values = storage.read_json(path)
    kind = values.get("kind", "ucluster") if isinstance(values, dict) else None
    if kind == "ucluster":
        return "ucluster"
    if kind in KINDS:
        return "table"
    names = ", ".join(map(repr, KINDS))
    raise DataError(f"{path}: a bundle of kind {kind!r}, this release reads {names} and those of UCluster")

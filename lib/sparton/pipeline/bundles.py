"""What a model bundle holds, told before anything of it is built."""

from __future__ import annotations

from typing import Literal

from sparton import storage
from sparton.errors import DataError

DESCRIPTION = "model.json"

BundleKind = Literal["ucluster", "kmeans"]


def bundle_kind(folder: str) -> BundleKind:
    """Return whether a bundle is a UCluster network for jets or k-means clusters of a table.

    Raises
    ------
    DataError
        If it is neither.
    """
    path = storage.join(folder, DESCRIPTION)
    if not storage.exists(path):
        raise DataError(f"{path}: no such file; expected a model bundle, made by 'sparton train' or 'sparton cluster'")
    values = storage.read_json(path)
    kind = values.get("kind", "ucluster") if isinstance(values, dict) else None
    if kind == "ucluster" or kind == "kmeans":
        found: BundleKind = kind
        return found
    raise DataError(f"{path}: a bundle of kind {kind!r}, this release reads 'kmeans' and those of UCluster")

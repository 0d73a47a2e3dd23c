"""Spark's Python tasks start without reading Spark's own archives again.

Before each task Spark calls :func:`importlib.invalidate_caches`, since files may have been added to the path. Python
before 3.12 then reads the directories of all zips on the path anew, ``pyspark.zip`` among them: 0.15 s of each task.
"""

from __future__ import annotations

import os
import sys
import zipimport
from typing import Any

LAZY_SINCE = (3, 12)


def read_archives_once() -> None:
    """In a Python worker of Spark, read the directory of a zip again only if the file has changed."""
    main = sys.modules.get("__main__")
    if sys.version_info >= LAZY_SINCE or getattr(getattr(main, "__spec__", None), "name", "") != "pyspark.daemon":
        return
    patch(zipimport.zipimporter)


def patch(importer: Any) -> None:
    """Let a class of importers keep what it has read of archives that are as they were."""
    read = importer.invalidate_caches
    known = {
        found.archive: _state(found.archive)
        for found in sys.path_importer_cache.values()
        if isinstance(found, zipimport.zipimporter)
    }

    def invalidate_caches(self: Any) -> None:
        state = _state(self.archive)
        if state is None or known.get(self.archive) != state:
            read(self)
            known[self.archive] = state

    importer.invalidate_caches = invalidate_caches


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size

"""Archives on the path are read again when they have changed, and only then."""

from __future__ import annotations

import importlib
import sys
import zipfile
import zipimport
from pathlib import Path

import pytest

from sparton.data.zip_imports import patch, read_archives_once

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python reads archives lazily by itself")


def write(path: Path, *modules: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in modules:
            archive.writestr(f"{name}.py", "")


def test_only_a_changed_archive_is_read_again(tmp_path: Path) -> None:
    reads = []

    class Importer(zipimport.zipimporter):
        def invalidate_caches(self) -> None:
            reads.append(self.archive)
            super().invalidate_caches()

    path = tmp_path / "modules.zip"
    write(path, "sparton_first")
    patch(Importer)
    importer = Importer(str(path))
    importer.invalidate_caches()
    importer.invalidate_caches()
    assert reads == [str(path)]
    assert importer.find_spec("sparton_second") is None
    write(path, "sparton_first", "sparton_second", "sparton_third")
    importer.invalidate_caches()
    assert reads == [str(path)] * 2
    assert importer.find_spec("sparton_second") is not None
    path.unlink()
    importer.invalidate_caches()
    assert importer.find_spec("sparton_second") is None


def test_other_processes_are_left_alone() -> None:
    before = zipimport.zipimporter.invalidate_caches
    read_archives_once()
    importlib.invalidate_caches()
    assert zipimport.zipimporter.invalidate_caches is before

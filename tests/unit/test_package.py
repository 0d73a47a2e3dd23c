"""The release: a zip that Spark's executors import and a wheel, with the same content."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import package

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of this clone."""
    return package.write_zip(ROOT, tmp_path_factory.mktemp("dist"))


def run_isolated(archive: Path, code: str) -> str:
    """Run Python with the archive alone on its path (and the installed libraries, but not the clone)."""
    script = (
        "import sys\n"
        f"sys.path = [place for place in sys.path if not place.startswith({str(ROOT / 'lib')!r})]\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
        f"sys.path.insert(0, {str(archive)!r})\n{code}"
    )
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=archive.parent, capture_output=True, text=True, check=True).stdout


def test_the_zip_is_imported_by_itself(built: Path) -> None:
    out = run_isolated(built, "import sparton, sparton.config; print(sparton.__file__); print(sparton.__version__)")
    file, version = out.splitlines()
    assert file == f"{built}/sparton/__init__.py"
    assert built.name == f"sparton-{version}.zip"


def test_package_data_is_read_from_the_zip(built: Path) -> None:
    code = (
        "from importlib.resources import files\n"
        "print(len((files('sparton') / 'py.typed').read_bytes()))\n"
        "print((files('sparton') / 'report' / 'report.html').read_text(encoding='utf-8')[:200])"
    )
    size, page = run_isolated(built, code).split("\n", 1)
    assert int(size) == (ROOT / "lib" / "sparton" / "py.typed").stat().st_size
    assert page.strip() in (ROOT / "lib" / "sparton" / "report" / "report.html").read_text(encoding="utf-8")


def test_every_module_is_in_the_zip_and_nothing_else(built: Path) -> None:
    names = zipfile.ZipFile(built).namelist()
    modules = {path.relative_to(ROOT / "lib").as_posix() for path in (ROOT / "lib" / "sparton").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert names == sorted(names)
    assert all(name.startswith("sparton/") and not name.endswith(".pyc") for name in names)


def test_the_same_sources_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    assert package.write_zip(ROOT, tmp_path).read_bytes() == built.read_bytes()


def test_the_wheel_holds_what_the_zip_holds_every_time(built: Path, tmp_path: Path) -> None:
    first, second = (package.build_wheel(ROOT, folder) for folder in (_new(tmp_path / "a"), _new(tmp_path / "b")))
    assert first.read_bytes() == second.read_bytes()
    names = [name for name in zipfile.ZipFile(first).namelist() if ".dist-info/" not in name]
    assert sorted(names) == zipfile.ZipFile(built).namelist()
    version = package.version(ROOT)
    metadata = zipfile.ZipFile(first).read(f"sparton-{version}.dist-info/METADATA").decode()
    assert f"Version: {version}\n" in metadata
    assert (
        "sparton = sparton.cli:main"
        in zipfile.ZipFile(first).read(f"sparton-{version}.dist-info/entry_points.txt").decode()
    )


PROVIDED = {"keras": "tensorflow", "ml_dtypes": "tensorflow", "py4j": "pyspark", "horovod": "make env builds it"}
"""Modules that come with a package that is declared, or are built."""


def test_what_is_imported_is_declared() -> None:
    """The extras that build or check the project do not count."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    running = [extras[name] for name in extras if name not in ("horovod-build", "dev")]
    declared = {
        re.match(r"[\w.-]+", requirement).group().lower()  # type: ignore[union-attr]
        for requirement in itertools.chain(project["dependencies"], *running)
    }
    known = importlib.metadata.packages_distributions()
    for module in sorted(_imported() - set(sys.stdlib_module_names) - set(PROVIDED) - {"sparton"}):
        assert declared & {name.lower().replace("_", "-") for name in known.get(module, [])}, module


def _imported() -> set[str]:
    """The first parts of the names of all modules that the library imports."""
    found: set[str] = set()
    for path in (ROOT / "lib" / "sparton").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder

"""Build the release: a zip for ``spark-submit --py-files`` and a wheel, both in dist/.

Spark puts a zip on the executors' path, but not a wheel. The same sources give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first time that a zip can hold: every member gets it."""

EARLIEST_EPOCH = "315532800"
"""The same in seconds since 1970, as the wheel's builder takes it."""


def package_files(root: Path) -> list[Path]:
    """Return the package's modules and the data that pyproject.toml declares, sorted, relative to ``root/lib``."""
    settings = _pyproject(root)["tool"]["setuptools"]
    lib = root / "lib"
    found = set((lib / "sparton").rglob("*.py"))
    for package, patterns in settings["package-data"].items():
        for pattern in patterns:
            found |= set((lib / package.replace(".", "/")).glob(pattern))
    return sorted(path.relative_to(lib) for path in found)


def version(root: Path) -> str:
    """Return the version that pyproject.toml gives."""
    return str(_pyproject(root)["project"]["version"])


def write_zip(root: Path, folder: Path) -> Path:
    """Write ``sparton-<version>.zip``, with ``sparton/`` at its top, and return its path."""
    target = folder / f"sparton-{version(root)}.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for name in package_files(root):
            member = zipfile.ZipInfo(name.as_posix(), date_time=EARLIEST)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, (root / "lib" / name).read_bytes())
    return target


def build_wheel(root: Path, folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that no earlier build leaks into it, and return its path."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "source"
        wheels = Path(scratch) / "wheels"
        present = [Path(name) for name in ("pyproject.toml", "README.md", "LICENSE") if (root / name).is_file()]
        for name in (*present, *(Path("lib") / file for file in package_files(root))):
            _copy(root / name, copy / name)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        env = {**os.environ, "SOURCE_DATE_EPOCH": EARLIEST_EPOCH, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run([*command, "--wheel-dir", str(wheels), str(copy)], check=True, env=env)
        (wheel,) = wheels.glob("*.whl")
        return Path(shutil.copy(wheel, folder / wheel.name))


def main() -> int:
    """Build both into dist/ and print their paths."""
    folder = ROOT / "dist"
    folder.mkdir(exist_ok=True)
    for built in (write_zip(ROOT, folder), build_wheel(ROOT, folder)):
        print(f"{built.relative_to(ROOT)} ({built.stat().st_size / 1024:.0f} KiB)")
    return 0


def _pyproject(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


if __name__ == "__main__":
    sys.exit(main())

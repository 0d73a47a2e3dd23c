"""Where the environment's parts lie, and the pins they are made from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The folders of one clone and of this user's cache.

    Attributes
    ----------
    root
        The clone.
    cache
        What outlives the clone: built wheels, shared between environments.
    """

    root: Path
    cache: Path

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """The virtual environment's interpreter."""
        return self.venv / "bin" / "python"

    @property
    def packages_lock(self) -> Path:
        """The pins of every package but Horovod."""
        return self.root / "conf" / "requirements.lock"

    @property
    def horovod_lock(self) -> Path:
        """Horovod's pin."""
        return self.root / "conf" / "horovod" / "requirements.lock"

    @property
    def horovod_headers(self) -> Path:
        """The folder of headers that Horovod's build finds first."""
        return self.root / "conf" / "horovod" / "include"

    def header_files(self) -> list[Path]:
        """Return the headers themselves, in a fixed order."""
        return sorted(path for path in self.horovod_headers.rglob("*") if path.is_file())

    @property
    def logs(self) -> Path:
        """The folder of the commands' outputs, outside .venv so that it outlives one."""
        return self.root / ".cache" / "logs"

    def log(self, name: str) -> Path:
        """Return the file that keeps the output of one step's command."""
        return self.logs / f"{name}.log"

    def scripts(self) -> list[Path]:
        """Return the code that makes the environment, in a fixed order."""
        tools = self.root / "tools"
        return [tools / "setup_env.py", *sorted((tools / "environment").glob("*.py"))]


def cache_folder(environ: Mapping[str, str], root: Path) -> Path:
    """Return SPARTON_CACHE or the user's cache folder for this project; one in the clone where that is not writable."""
    home = Path(environ.get("HOME") or "/")
    default = Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "sparton"
    chosen = Path(environ.get("SPARTON_CACHE") or default).absolute()
    existing = next(folder for folder in (chosen, *chosen.parents) if folder.exists())
    return chosen if existing.is_dir() and os.access(existing, os.W_OK) else root / ".cache" / "sparton"


def pins(lock: Path) -> dict[str, str]:
    """Return the versions that a requirements file pins, by package name."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))

"""The virtual environment: made, filled from the lock, and joined by this project."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from environment.console import SetupError, progress, run_logged
from environment.java import Java
from environment.layout import Layout, pins

PYTHON_WAY_OUT = "install its venv (Debian: apt-get install python3.11-venv) or choose: make PYTHON=/path/to/python3.11"
REGISTRY_WAY_OUT = "is the package registry within reach? See to the network and pip's settings (pip config list)"
REGISTRY_MARKS = ("connection broken by", "No matching distribution found")
"""What pip prints where it got nothing from a registry."""


def require_venv_module() -> None:
    """Raise `SetupError` where this Python cannot make virtual environments, as Debian's without python3.11-venv."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f"{sys.executable} cannot make virtual environments (no module {module}); {PYTHON_WAY_OUT}"
            )


def works(layout: Layout) -> bool:
    """Tell whether a virtual environment of this Python's release is there, with a pip that runs."""
    command = [str(layout.python), "-c", "import pip, sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return False
    release = "{} {}".format(*sys.version_info)
    # The program pip is the last thing that comes into a new environment.
    return done.returncode == 0 and done.stdout.strip() == release and layout.python.with_name("pip").exists()


def create(layout: Layout, env: Mapping[str, str]) -> None:
    """Make an empty virtual environment in place of any that is there."""
    command = [sys.executable, "-m", "venv", "--clear", str(layout.venv)]
    with progress(f"making .venv with {sys.executable}", ".venv made"):
        try:
            run_logged(command, layout.log("venv"), "making .venv", env)
        except SetupError as error:
            raise SetupError(f"{error}; {PYTHON_WAY_OUT}") from None
    if not works(layout):
        raise SetupError(f"pip does not run in the .venv that {sys.executable} made; {PYTHON_WAY_OUT}")


def install_packages(layout: Layout, env: Mapping[str, str]) -> None:
    """Install exactly the packages of the lock, checked by hash."""
    count = len(pins(layout.packages_lock))
    # Modules are compiled when they are first imported, which most never are.
    command = [*pip(layout), "install", "--no-compile", "--require-hashes", "-r", str(layout.packages_lock)]
    with progress(f"installing {count} pinned packages (3 to 6 minutes)", f"{count} packages installed"):
        run_pip(command, layout.log("packages"), "installing the packages of conf/requirements.lock", env)


def install_project(layout: Layout, env: Mapping[str, str]) -> None:
    """Install this project itself, editable."""
    command = [*pip(layout), "install", "--no-deps", "--no-build-isolation", "--no-index", "-e", str(layout.root)]
    with progress("installing sparton itself, editable", "sparton installed"):
        run_logged(command, layout.log("project"), "installing sparton", env)


def write_activation(layout: Layout, java: Java) -> None:
    """Write ``.venv/sparton-env``, which a shell sources before it runs anything of the project."""
    lines = [
        "# Written by tools/setup_env.py. Use: . .venv/sparton-env",
        # Another Spark's or Python's settings would lead this environment astray.
        "unset PYTHONHOME PYTHONPATH SPARK_HOME PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON",
        # Each worker would compile TensorFlow anew, which takes longer than the rest of its start.
        "unset PYTHONDONTWRITEBYTECODE",
        f"export JAVA_HOME={shlex.quote(str(java.home))}",
        f"export SPARK_CONF_DIR={shlex.quote(str(layout.root / 'conf'))}",
        f'export PATH={shlex.quote(str(layout.python.parent))}:"$JAVA_HOME/bin:$PATH"',
    ]
    path = layout.venv / "sparton-env"
    aside = path.with_suffix(".new")
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    aside.replace(path)


def pip(layout: Layout) -> list[str]:
    """Return how the virtual environment's pip is called."""
    return [str(layout.python), "-m", "pip", "--disable-pip-version-check", "--no-input"]


def run_pip(command: list[str], log: Path, purpose: str, env: Mapping[str, str]) -> None:
    """Run a pip that uses the network; a failure that may come from there says so."""
    try:
        run_logged(command, log, purpose, env)
    except SetupError as error:
        output = log.read_text(encoding="utf-8", errors="replace")
        if any(mark in output for mark in REGISTRY_MARKS):
            raise SetupError(f"{error}; {REGISTRY_WAY_OUT}") from None
        raise


def tool_environment(layout: Layout, env: Mapping[str, str]) -> dict[str, str]:
    """Return ``env`` with the virtual environment's programs first on the path."""
    return {**env, "PATH": os.pathsep.join([str(Path(layout.python).parent), env.get("PATH", os.defpath)])}

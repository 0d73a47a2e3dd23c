"""The C++ compiler that builds Horovod."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from environment.console import SetupError

NAMES = ("c++", "g++", "clang++")
WAY_OUT = "install one (Debian, Ubuntu: apt-get install g++ make) or set CXX"
PROGRAM = "#include <optional>\n#include <string>\nint main() { return std::optional<std::string>().has_value(); }\n"


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command and its family with the major version, as ``gcc12``."""

    command: str
    family: str


def require_compiler(environ: Mapping[str, str]) -> Compiler:
    """Return the compiler of CXX or of the path that compiles and links C++17.

    Raises
    ------
    SetupError
        If there is none, if it does not compile, or if ``make`` is missing.
    """
    path = environ.get("PATH", os.defpath)
    names = (environ["CXX"],) if environ.get("CXX") else NAMES
    command = next((found for name in names if (found := shutil.which(name, path=path))), None)
    if command is None:
        raise SetupError(f"no C++ compiler found (looked for {', '.join(names)}); {WAY_OUT}")
    if shutil.which("make", path=path) is None:
        raise SetupError(f"no make found, which Horovod's build runs; {WAY_OUT}")
    _try_out(command, environ)
    version = _run([command, "--version"], environ).stdout
    # GCC prints its program's name, "(Debian 12.2.0-14) 12.2.0" and a copyright; clang says its name.
    family = "clang" if "clang" in version.lower() else "gcc"
    major = re.search(r"\d+", _run([command, "-dumpversion"], environ).stdout)
    return Compiler(command, family + (major.group() if major else ""))


def _try_out(command: str, environ: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cc"
        source.write_text(PROGRAM, encoding="utf-8")
        done = _run([command, "-std=c++17", str(source), "-o", str(source.with_suffix(""))], environ)
    if done.returncode:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise SetupError(f"the C++ compiler {command} does not compile a C++17 program ({said}); {WAY_OUT}")


def _run(command: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=dict(environ),
        check=False,
    )

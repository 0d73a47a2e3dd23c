"""A Java that runs Spark: from JAVA_HOME, the path, the usual folders, or Debian's packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from environment.console import SetupError, progress, run_logged, say

SUPPORTED = (17, 21)
PACKAGES = ("openjdk-17-jre-headless", "openjdk-21-jre-headless")
"""Debian's and Ubuntu's packages in order of preference; a release carries at least one of them."""

FOLDERS = (Path("/usr/lib/jvm"), Path("/usr/java"), Path("/opt/java"))
WAY_OUT = f"install one (Debian, Ubuntu: apt-get install {PACKAGES[0]}) or set JAVA_HOME"
PROBE_S = 30.0


@dataclass(frozen=True)
class Java:
    """A Java found on this machine: its home and its version (8, 17, 21 ...)."""

    home: Path
    version: int


def parse_version(output: str) -> int | None:
    """Return the feature release in what ``java -version`` printed: 8 for ``1.8.0_392``, 17 for ``17.0.15``."""
    match = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(match.group(1)) if match else None


def probe(executable: Path) -> Java | str:
    """Run a ``java``; return it if it runs Spark, else the reason against it."""
    # Spark 4 asks every Java for this module, which trimmed runtimes lack and Java 8 cannot even parse.
    status, output = _output(executable, "--add-modules=jdk.incubator.vector", "-XshowSettings:properties", "-version")
    lacks_module = status != 0
    if lacks_module:
        status, output = _output(executable, "-version")
    version = parse_version(output)
    if status or version is None:
        return f"{executable} does not run"
    if version not in SUPPORTED:
        return f"{executable} is Java {version}"
    if lacks_module:
        return f"{executable} lacks the module jdk.incubator.vector"
    home = re.search(r"^\s*java\.home = (.+)$", output, re.MULTILINE)
    return Java(Path(home.group(1).strip()) if home else executable.resolve().parent.parent, version)


def _output(*command: str | Path) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROBE_S,
            text=True,
            errors="replace",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 1, ""
    return done.returncode, done.stdout


def candidates(environ: Mapping[str, str], folders: Sequence[Path]) -> Iterator[Path]:
    """Give every ``java`` worth a try, each once: JAVA_HOME's, those on the path, those of the usual folders."""
    homes = [Path(environ["JAVA_HOME"])] if environ.get("JAVA_HOME") else []
    places = [home / "bin" for home in homes]
    places += [Path(place) for place in environ.get("PATH", "").split(os.pathsep) if place]
    for version in SUPPORTED:
        places += [home / "bin" for folder in folders for home in sorted(folder.glob(f"*{version}*"))]
    seen: set[Path] = set()
    for place in places:
        executable = place / "java"
        if executable.is_file() and os.access(executable, os.X_OK) and executable.resolve() not in seen:
            seen.add(executable.resolve())
            yield executable


def find(environ: Mapping[str, str], folders: Sequence[Path] = FOLDERS) -> tuple[Java | None, list[str]]:
    """Return the first Java that runs Spark (None: there is none) and the reasons against those before it."""
    reasons = []
    if environ.get("JAVA_HOME") and not (Path(environ["JAVA_HOME"]) / "bin" / "java").is_file():
        reasons.append(f"JAVA_HOME={environ['JAVA_HOME']} has no bin/java")
    for executable in candidates(environ, folders):
        found = probe(executable)
        if isinstance(found, Java):
            return found, reasons
        reasons.append(found)
    return None, reasons


def provide(environ: Mapping[str, str], logs: Path, folders: Sequence[Path] = FOLDERS) -> Java:
    """Return a Java that runs Spark; install Debian's where there is none and this user may.

    Raises
    ------
    SetupError
        If there is none and none can be installed.
    """
    java, reasons = find(environ, folders)
    if java is None:
        aside = f" ({'; '.join(reasons)})" if reasons else ""
        apt = apt_command(environ)
        if apt is None:
            raise SetupError(f"no Java 17 or 21 found{aside}; {WAY_OUT}")
        say(f"no Java 17 or 21 found{aside}")
        _install(apt, logs, environ)
        java, _ = find(environ, folders)
        if java is None:
            raise SetupError(f"the Java that apt-get installed is not found; {WAY_OUT}")
    elif reasons:
        say(f"{'; '.join(reasons)}; using Java {java.version} in {java.home}")
    return java


def apt_command(environ: Mapping[str, str]) -> list[str] | None:
    """Return how this user runs apt-get without being asked anything, or None."""
    path = environ.get("PATH", os.defpath)
    apt = shutil.which("apt-get", path=path)
    if apt is None:
        return None
    if os.geteuid() == 0:
        return [apt]
    sudo = shutil.which("sudo", path=path)
    if sudo is None or _output(sudo, "-n", "true")[0]:
        return None
    return [sudo, "-n", apt]


def _install(apt: list[str], logs: Path, environ: Mapping[str, str]) -> None:
    env = {**environ, "DEBIAN_FRONTEND": "noninteractive"}
    failures = []
    with progress(f"installing Java with {' '.join(apt)} (about 1 minute)", "apt-get ended"):
        try:
            run_logged([*apt, "update"], logs / "apt-update.log", "apt-get update", env)
        except SetupError as error:
            say(f"{error}; going on with the package lists that are here")
        for package in PACKAGES:
            say(f"apt-get install {package}")
            command = [*apt, "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", package]
            try:
                return run_logged(command, logs / f"{package}.log", f"apt-get install {package}", env)
            except SetupError as error:
                failures.append(str(error))
    raise SetupError(f"{'; '.join(failures)}; {WAY_OUT}")

"""Horovod's wheel: built from source against the installed TensorFlow, kept for the next environment."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from environment.compiler import Compiler
from environment.console import SetupError, progress, run_logged, say
from environment.layout import Layout, pins
from environment.stamps import digest, exclusive
from environment.venv import pip, run_pip, tool_environment

OPTIONS = {
    "HOROVOD_WITH_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_CPU_OPERATIONS": "GLOO",
    # Headers that GCC 13 and later no longer include through others.
    "CXXFLAGS": "-include stdexcept -include string -include cstdint",
}
MEMORY_PER_JOB = 2 * 1024**3
"""Bytes that one compiler process may need on TensorFlow's headers."""

CHECK = "import horovod.tensorflow as hvd; raise SystemExit(None if hvd.gloo_built() else 'error: built without Gloo')"


def install(layout: Layout, compiler: Compiler, env: Mapping[str, str]) -> None:
    """Install Horovod from the cached wheel, which is built first where it is missing or does not load.

    Raises
    ------
    SetupError
        If the build fails or its result cannot be imported.
    """
    entry = layout.cache / "wheels" / wheel_key(layout, compiler)
    with exclusive(entry.with_name(f"{entry.name}.lock"), "the wheel cache"):
        cached = cached_wheel(entry)
        if cached:
            try:
                return _install_wheel(cached, layout, env)
            except SetupError as error:
                say(f"the cached wheel is of no use here: {error}")
        build(entry, layout, compiler, env)
        built = cached_wheel(entry)
        if built is None:
            raise SetupError(f"Horovod's build left no wheel in {entry}; its output: {layout.log('horovod-build')}")
        _install_wheel(built, layout, env)


def wheel_key(layout: Layout, compiler: Compiler) -> str:
    """Return the name of what a wheel can be used for: versions, interpreter, machine, C++ and C libraries, options."""
    packages = pins(layout.packages_lock)
    tensorflow = packages.get("tensorflow-cpu") or packages.get("tensorflow")
    libc = "".join(platform.libc_ver())
    recipe = digest(layout.horovod_lock, repr(sorted(OPTIONS.items())), *layout.header_files())[:8]
    return "-".join(
        [
            f"horovod{pins(layout.horovod_lock)['horovod']}",
            f"tf{tensorflow}",
            f"cp{sys.version_info.major}{sys.version_info.minor}",
            platform.machine(),
            compiler.family,
            libc,
            recipe,
        ]
    )


def cached_wheel(entry: Path) -> Path | None:
    """Return the wheel of a cache entry if it is there and its checksum is right."""
    wheel = next(iter(entry.glob("*.whl")), None)
    sums = entry / "SHA256SUMS"
    if wheel is None or not sums.is_file():
        return None
    if sums.read_text(encoding="utf-8") != _sums(wheel):
        say(f"the cached wheel {wheel} is damaged; building it anew")
        return None
    return wheel


def build(entry: Path, layout: Layout, compiler: Compiler, env: Mapping[str, str]) -> None:
    """Build the wheel from the hash-checked source into a cache entry, which appears when it is whole."""
    staging = entry.with_name(f"{entry.name}.building")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    # pip's own cache would hand out a wheel that was built against another TensorFlow.
    command = [*pip(layout), "wheel", "--verbose", "--no-build-isolation", "--no-deps", "--no-cache-dir", "--no-binary"]
    command += ["horovod", "--require-hashes", "-r", str(layout.horovod_lock), "--wheel-dir", str(staging)]
    log = layout.log("horovod-build")
    version = pins(layout.horovod_lock)["horovod"]
    say(f"no built wheel in {entry}")
    with progress(
        f"building Horovod {version} with {compiler.command} (4 to 8 minutes on 2 cores, once)", "Horovod built"
    ):
        run_pip(command, log, f"building Horovod {version}", build_environment(layout, compiler, env))
    for wheel in staging.glob("*.whl"):
        (staging / "SHA256SUMS").write_text(_sums(wheel), encoding="utf-8")
    shutil.rmtree(entry, ignore_errors=True)
    staging.replace(entry)


def build_environment(layout: Layout, compiler: Compiler, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of Horovod's build: its options alone, our headers first, no flags of an outer make."""
    outer = ("HOROVOD_", "MAKE", "MFLAGS")
    base = {name: value for name, value in tool_environment(layout, env).items() if not name.startswith(outer)}
    headers = [str(layout.horovod_headers), *filter(None, [env.get("CPATH")])]
    return (
        base
        | OPTIONS
        | {
            "CPATH": os.pathsep.join(headers),
            "CXX": compiler.command,
            "HOROVOD_CMAKE": str(layout.python.with_name("cmake")),
            "MAKEFLAGS": f"-j{build_jobs()}",
        }
    )


def build_jobs() -> int:
    """Return how many compilers run at once: one a core, fewer where memory is short."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // MEMORY_PER_JOB))


def _install_wheel(wheel: Path, layout: Layout, env: Mapping[str, str]) -> None:
    with progress(f"installing {wheel}", "Horovod installed and loaded"):
        command = [*pip(layout), "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
        run_logged(command, layout.log("horovod-install"), "installing Horovod's wheel", env)
        run_logged([str(layout.python), "-c", CHECK], layout.log("horovod-check"), "loading Horovod", env)


def _sums(wheel: Path) -> str:
    return f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n"

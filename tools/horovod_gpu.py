"""Build Horovod with NCCL for a Python whose TensorFlow uses CUDA; `make horovod-gpu` calls it.

The wheel comes into ``dist/gpu`` of this clone, to be installed on the machines with GPUs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from environment import horovod
from environment.compiler import Compiler, require_compiler
from environment.console import SetupError, clean_environment, progress, say
from environment.layout import Layout, cache_folder, pins
from environment.venv import run_pip

OPTIONS = horovod.OPTIONS | {"HOROVOD_GPU_OPERATIONS": "NCCL"}
ASK = "import tensorflow as tf; print(tf.__version__, tf.test.is_built_with_cuda())"
HEADER = "include/nccl.h"
PLACES = ("/usr", "/usr/local", "/usr/local/nccl")


@dataclass(frozen=True)
class Toolkit:
    """Where CUDA and NCCL lie, each with ``include`` and ``lib``."""

    cuda: Path
    nccl: Path


def find_toolkit(environ: Mapping[str, str]) -> Toolkit:
    """Return the CUDA toolkit and NCCL of this machine.

    Raises
    ------
    SetupError
        Naming what is missing.
    """
    compiler = shutil.which("nvcc", path=environ.get("PATH", os.defpath))
    named = environ.get("HOROVOD_CUDA_HOME") or environ.get("CUDA_HOME")
    cuda = Path(named) if named else Path(compiler).resolve().parents[1] if compiler else Path("/usr/local/cuda")
    if not (cuda / "bin" / "nvcc").exists():
        raise SetupError(
            f"no CUDA toolkit in {cuda} (looked for bin/nvcc); install the one that your TensorFlow was built with, or "
            "name its folder in HOROVOD_CUDA_HOME"
        )
    own = environ.get("HOROVOD_NCCL_HOME")
    nccl = next((place for place in map(Path, (own,) if own else PLACES) if (place / HEADER).exists()), None)
    if nccl is None:
        raise SetupError(
            f"no NCCL in {own or ', '.join(PLACES)} (looked for {HEADER}); install it with headers (Debian, Ubuntu: "
            "libnccl-dev of NVIDIA's repository), or name its folder in HOROVOD_NCCL_HOME"
        )
    return Toolkit(cuda, nccl)


def require_tensorflow(python: str) -> str:
    """Return the version of an interpreter's TensorFlow, which must be built with CUDA.

    Raises
    ------
    SetupError
        If there is none, or it computes on CPUs alone.
    """
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, env=quiet, check=False)
    said = done.stdout.split()
    if done.returncode or len(said) != 2:
        raise SetupError(f"{python} has no TensorFlow that loads; install tensorflow[and-cuda] for it first")
    if said[1] != "True":
        raise SetupError(
            f"TensorFlow {said[0]} of {python} is built without CUDA; name the Python of the machines with GPUs: "
            "make horovod-gpu GPU_PYTHON=/path/to/python"
        )
    return said[0]


def build_environment(layout: Layout, compiler: Compiler, toolkit: Toolkit, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the build: that of the CPU's wheel, with NCCL for operations on GPUs."""
    homes = {"HOROVOD_CUDA_HOME": str(toolkit.cuda), "HOROVOD_NCCL_HOME": str(toolkit.nccl)}
    return horovod.build_environment(layout, compiler, env) | OPTIONS | homes


def build(layout: Layout, python: str, env: Mapping[str, str]) -> Path:
    """Build the wheel and return it."""
    toolkit = find_toolkit(env)
    version = require_tensorflow(python)
    compiler = require_compiler(env)
    target = layout.root / "dist" / "gpu"
    command = [python, "-m", "pip", "wheel", "--verbose", "--no-build-isolation", "--no-deps", "--no-cache-dir"]
    command += [
        "--no-binary",
        "horovod",
        "--require-hashes",
        "-r",
        str(layout.horovod_lock),
        "--wheel-dir",
        str(target),
    ]
    number = pins(layout.horovod_lock)["horovod"]
    with progress(f"building Horovod {number} with NCCL for TensorFlow {version} of {python}", "Horovod built"):
        run_pip(
            command,
            layout.log("horovod-gpu-build"),
            f"building Horovod {number} with NCCL",
            build_environment(layout, compiler, toolkit, env),
        )
    return next(target.glob("horovod-*.whl"))


def main() -> int:
    """Return the exit status: 0 when the wheel is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the machines with GPUs")
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    env = clean_environment(os.environ)
    try:
        wheel = build(Layout(root, cache_folder(env, root)), options.python, env)
    except SetupError as error:
        print(f"horovod-gpu: {error}", file=sys.stderr)
        return 1
    say(f"{wheel}: install it there with pip install --no-deps, then horovodrun --check-build shows NCCL")
    return 0


if __name__ == "__main__":
    sys.exit(main())

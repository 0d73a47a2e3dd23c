"""The order of a setup: what must be there, then each step whose inputs have changed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from itertools import dropwhile
from pathlib import Path
from types import FrameType

from environment import horovod, java, venv
from environment.compiler import require_compiler
from environment.console import SetupError, clean_environment, duration, say
from environment.layout import Layout, cache_folder
from environment.stamps import Stamps, digest, exclusive

INTERRUPTED = 130


def main() -> int:
    """Make or refresh the environment of this clone; return the exit status."""
    root = Path(__file__).resolve().parents[2]
    env = clean_environment(os.environ)
    layout = Layout(root=root, cache=cache_folder(env, root))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with exclusive(root / ".cache" / "setup.lock", "this clone"):
            set_up(layout, env)
    except SetupError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error}; make room or give write permission, then run it again"
    except KeyboardInterrupt:
        print("environment: interrupted; run it again to continue", file=sys.stderr)
        return INTERRUPTED
    else:
        return 0
    print(f"environment: {reason}", file=sys.stderr)
    return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def step_inputs(layout: Layout) -> dict[str, str]:
    """Return the digest of each step's inputs, in order; each holds the ones before it."""
    made = digest(str(layout.root))
    packages = digest(made, layout.packages_lock, *layout.scripts())
    built = digest(packages, layout.horovod_lock, *layout.header_files())
    project = digest(built, layout.root / "pyproject.toml")
    return {"venv": made, "packages": packages, "horovod": built, "project": project}


def stale_steps(layout: Layout, stamps: Stamps, inputs: Mapping[str, str]) -> list[str]:
    """Return the steps to do: the first that is not current and all after it."""
    steps = list(inputs)
    # A pip that was cut off may leave half a package, which the next pip takes for a whole one: start from empty.
    if not os.path.exists(layout.python) or stamps.was_interrupted("packages"):
        return steps
    return list(dropwhile(lambda step: stamps.is_current(step, inputs[step]), steps))


def set_up(layout: Layout, env: Mapping[str, str]) -> None:
    """Do the steps that are not current, after everything that they need has been found."""
    start = time.monotonic()
    if sys.platform != "linux":
        raise SetupError(f"needs Linux, found {sys.platform}; use a Linux machine, container or virtual machine")
    stamps = Stamps(layout.venv / "sparton-stamps")
    inputs = step_inputs(layout)
    stale = stale_steps(layout, stamps, inputs)
    # What is missing is said before minutes of work, not after.
    if "venv" in stale:
        venv.require_venv_module()
    compiler = require_compiler(env) if "horovod" in stale else None
    runtime = java.provide(env, layout.logs)
    adopted = not stamps.knows("venv") and venv.works(layout)
    for step in stale:
        with stamps.step(step, inputs[step]):
            if step == "venv" and not adopted:
                venv.create(layout, env)
            elif step == "packages":
                venv.install_packages(layout, env)
            elif step == "horovod" and compiler is not None:
                horovod.install(layout, compiler, env)
            elif step == "project":
                venv.install_project(layout, env)
    venv.write_activation(layout, runtime)
    took = f"ready after {duration(time.monotonic() - start)}" if stale else "up to date"
    say(f"{took}: .venv, Java {runtime.version} in {runtime.home}")

"""What Horovod does not offer: exit statuses as they happen, and launching without a fork or a stray traceback.

Each hook replaces a name in one of Horovod's modules for the time of a launch.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

END_GRACE_S = 15.0  # for the other workers to end by themselves after one has failed

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def installed(exited: Callable[[int, int | None], None]) -> Iterator[None]:
    """Install all hooks; ``exited(rank, status)`` is called when a worker's process has ended.

    Raises
    ------
    ImportError
        If Horovod is not installed.
    """
    with _no_fork(), _quiet_cancellation(), _watched_exits(exited):
        yield


@contextlib.contextmanager
def _watched_exits(exited: Callable[[int, int | None], None]) -> Iterator[None]:
    """Report each exit at once, and end the remaining workers some time after a failure.

    Horovod waits for all of its workers before it looks at any status, so one that died while it started was noticed
    only when the others had waited for it in vain.
    """
    module: Any = importlib.import_module("horovod.spark.gloo_run")
    original = module._exec_command_fn
    failed = threading.Event()

    def watched(*arguments: Any) -> Callable[..., tuple[int | None, float]]:
        execute = original(*arguments)

        def run(command: str, slot: Any, events: list[threading.Event] | None) -> tuple[int | None, float]:
            code, ended = execute(command, slot, [*(events or []), failed])
            exited(slot.rank, code)
            if code != 0:
                _set_after(failed, END_GRACE_S)
            return code, ended

        return run

    module._exec_command_fn = watched
    try:
        yield
    finally:
        module._exec_command_fn = original


@contextlib.contextmanager
def _no_fork() -> Iterator[None]:
    """Keep Horovod from asking a forked copy of the driver whether it was built with Gloo.

    The copy imports TensorFlow (seconds, and a deadlock where the driver's own TensorFlow holds locks) and, when it
    ends, its garbage collection speaks on the driver's connection to the JVM. A worker says the same when it starts.
    """
    from horovod.runner import launch as horovod_launch

    original = horovod_launch.gloo_built
    horovod_launch.gloo_built = lambda verbose=False: True
    try:
        yield
    finally:
        horovod_launch.gloo_built = original


@contextlib.contextmanager
def _quiet_cancellation() -> Iterator[None]:
    """Log, instead of printing on standard error, that Horovod's own Spark job was cancelled after a failure."""
    original = threading.excepthook

    def hook(event: threading.ExceptHookArgs) -> None:
        if event.thread is not None and "run_spark" in event.thread.name:
            logger.debug("the Spark job of the workers ended with %s", event.exc_type.__name__)
        else:
            original(event)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = original


def _set_after(event: threading.Event, seconds: float) -> None:
    timer = threading.Timer(seconds, event.set)
    timer.daemon = True
    timer.start()

"""What every launcher offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

MAX_REASON = 500  # characters of the one-line reason; the whole message is in the traceback


class Launcher(ABC):
    """Runs a function on all ranks of a world.

    Attributes
    ----------
    name
        What ``launch.launcher`` calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        """Run ``fn(connection, *args)`` on every rank and return the results in the order of ranks.

        Raises
        ------
        WorkerError
            If a worker failed in a way that a new start may mend.
        TrainingError
            If it failed in another way, or the world cannot start.
        """


def reason(error: BaseException) -> str:
    """Return what one line says of an error that ended a rank."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]

"""What every launcher offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar


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

"""Structured Streaming queries that a command waits for: when they look, how they end, and why they failed."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from sparton.errors import SpartonError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.streaming.query import StreamingQuery
    from pyspark.sql.streaming.readwriter import DataStreamWriter

POLL_S = 1  # how often an interrupt is noticed

AVAILABLE_NOW: Final = "available-now"

ANY_AGE = "36500d"
"""Age of files that Spark's source still looks at. Its default, a week before the newest that it has seen, would pass
over files that come with their old times, as out of an archive."""

PLAN = "=== Streaming Query ==="
"""What Spark's message goes on with after its reason."""

logger = logging.getLogger(__name__)


def _when(trigger: Any) -> Any:
    """Say in one sentence what neither of the two kinds accepts."""
    if trigger != AVAILABLE_NOW:
        seconds = 0.0
        with contextlib.suppress(TypeError, ValueError):
            seconds = 0.0 if isinstance(trigger, bool) else float(trigger)
        if not 0 < seconds < float("inf"):
            raise ValueError("expected available-now, or a number of seconds above 0")
    return trigger


Trigger = Annotated[Literal["available-now"] | Annotated[float, Field(gt=0)], BeforeValidator(_when)]
"""When a query looks for new data."""

Callback = Callable[["DataFrame", int], None]


class _EndingError(Exception):
    """A micro-batch that would begin when the query is about to end; a later query gets its data."""


@dataclass
class Batches:
    """What the query's callback tells the thread that waits for it."""

    error: Exception | None = None
    ending: bool = False

    def guarded(self, callback: Callback) -> Callback:
        """Return the callback with its errors remembered, and with none of it once the query is ending."""

        def call(batch: DataFrame, number: int) -> None:
            try:
                if self.ending:
                    raise _EndingError
                callback(batch, number)
            except Exception as error:
                self.error = error
                raise

        return call


def triggered(writer: DataStreamWriter, trigger: str | float) -> DataStreamWriter:
    """Return a writer that looks when the trigger says."""
    if trigger == AVAILABLE_NOW:
        return writer.trigger(availableNow=True)
    return writer.trigger(processingTime=f"{trigger} seconds")


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Yield what Ctrl-C sets; a second one ends the process, as if it were killed.

    PySpark's own handler cancels all jobs: the micro-batch that is under way would fail, as if for a reason of its own.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield pressed
        return
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def wait(query: StreamingQuery, batches: Batches, stop: Callable[[], bool], command: str) -> None:
    """Wait for the query's end; ``stop`` ends it after the micro-batch that is under way.

    Raises
    ------
    Exception
        That of the callback.
    SpartonError
        If the query failed for a reason of Spark's.
    """
    try:
        while not query.awaitTermination(POLL_S) and not stop():
            pass
        batches.ending = True
        if query.isActive:
            logger.info("%s: ending after this batch (Ctrl-C again: at once)", command)
        _finish(query)
    except Exception as error:
        if isinstance(batches.error, _EndingError):
            return
        if batches.error is None:
            reason, _, _ = str(error).partition(PLAN)
            raise SpartonError(f"the query failed: {' '.join(reason.split())}") from error
        raise batches.error from error
    finally:
        query.stop()


def _finish(query: StreamingQuery) -> None:
    while query.isActive and query.status["isTriggerActive"]:
        query.awaitTermination(POLL_S)

"""When ``ingest --watch`` looks for new files."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sparton.config import Config


class WatchSettings(Config):
    """How a folder is watched.

    Attributes
    ----------
    trigger
        ``available-now``: ingest what is there, then end. A number: look for new files every so many seconds until
        interrupted.
    files_per_batch
        Files of a micro-batch at most; each publishes the table anew.
    """

    trigger: Literal["available-now"] | Annotated[float, Field(gt=0)] = "available-now"
    files_per_batch: int = Field(default=1000, ge=1)

    @field_validator("trigger", mode="before")
    @classmethod
    def _when(cls, trigger: Any) -> Any:
        """Say in one sentence what neither of the two kinds accepts."""
        if trigger != "available-now":
            seconds = 0.0
            with contextlib.suppress(TypeError, ValueError):
                seconds = 0.0 if isinstance(trigger, bool) else float(trigger)
            if not 0 < seconds < float("inf"):
                raise ValueError("expected available-now, or a number of seconds above 0")
        return trigger

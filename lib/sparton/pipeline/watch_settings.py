"""When ``ingest --watch`` looks for new files."""

from __future__ import annotations

from pydantic import Field

from sparton.config import Config
from sparton.pipeline.queries import AVAILABLE_NOW, Trigger


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

    trigger: Trigger = AVAILABLE_NOW
    files_per_batch: int = Field(default=1000, ge=1)

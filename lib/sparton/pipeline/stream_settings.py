"""Where a stream of rows comes from, and when it is looked at."""

from __future__ import annotations

from pydantic import Field

from sparton.pipeline.queries import AVAILABLE_NOW, Trigger
from sparton.sgd.stream_settings import StreamSettings


class StreamJobSettings(StreamSettings):
    """How clusters follow Parquet files that arrive in a folder; ``cluster`` says by which method.

    Attributes
    ----------
    trigger
        ``available-now``: take what is there, then end. A number: look for new files every so many seconds until
        interrupted.
    files_per_batch
        Files of a micro-batch at most; a micro-batch is one step. Of what is there already it decides the steps, so
        change it only where another cut is meant.
    source_schema
        Columns of the files with their types, such as ``a double, b double``; None takes those of the first file.
    """

    trigger: Trigger = AVAILABLE_NOW
    files_per_batch: int = Field(default=100, ge=1)
    source_schema: str | None = Field(default=None, min_length=1)

    def online(self) -> StreamSettings:
        """Return what decides the steps and the states, whatever the source."""
        return StreamSettings(**{name: getattr(self, name) for name in StreamSettings.model_fields})

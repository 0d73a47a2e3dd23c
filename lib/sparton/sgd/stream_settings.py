"""How clusters follow a stream."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from sparton.config import Config
from sparton.sgd.settings import Positive


class StreamSettings(Config):
    """How clusters are updated by the micro-batches of a stream; ``cluster`` says by which method.

    Attributes
    ----------
    half_life
        After how much of the stream what came before counts half, in units of ``half_life_unit``; None takes
        ``cluster.decay``, per micro-batch.
    half_life_unit
        ``batches``: micro-batches that have rows. ``rows``: rows, however they are cut into micro-batches.
    start_after
        Rows that must have arrived before the first centroids are found; None takes 10 (possibilistic c-means: 50) for
        each cluster. Where a bundle is the start, nothing is waited for.
    parts
        Parts that the rows of a micro-batch are dealt to by their content; each is summed by one task. It decides how
        sums are rounded, so it must not change while a stream goes on.
    publish_every
        Micro-batches from one bundle to the next; there is one at the end in any case.
    states_kept
        States that are kept, the last one included.
    """

    half_life: Positive | None = None
    half_life_unit: Literal["batches", "rows"] = "batches"
    start_after: int | None = Field(default=None, ge=1)
    parts: int = Field(default=16, ge=1, le=10_000)
    publish_every: int = Field(default=10, ge=1)
    states_kept: int = Field(default=3, ge=2)

    def deciding(self) -> Self:
        """Return these settings without those that change no state."""
        return self.without("publish_every", "states_kept")

    def remembered(self, decay: float, rows: int) -> float:
        """Return the factor of what came before in a step with ``rows`` rows; ``decay`` where no half-life is set."""
        if self.half_life is None:
            return decay
        return float(0.5 ** ((rows if self.half_life_unit == "rows" else 1) / self.half_life))

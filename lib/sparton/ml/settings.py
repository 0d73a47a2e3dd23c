"""Settings of assignment; a module of its own, since Spark ML is slow to import."""

from __future__ import annotations

from pydantic import Field

from sparton.config import Config


class AssignSettings(Config):
    """How jets, or the rows of a table, are assigned.

    Attributes
    ----------
    batch_size
        Jets that the network takes at once.
    distances
        Whether the assignments of a table hold the distances to all centroids; with many clusters they are most of
        it. Those of jets always do.
    """

    batch_size: int = Field(default=512, ge=1)
    distances: bool = True

"""What is kept of a stream after each micro-batch, under the batch's number: one checkpoint, whole or not there.

Whoever finds a state knows the batches that are in it, so none counts twice and none is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sparton import storage
from sparton.distributed import checkpoint
from sparton.errors import DataError
from sparton.sgd.bundle import TableInputs
from sparton.sgd.curve import CurveRow
from sparton.sgd.kmeans import KMeansState, KMeansStatistics
from sparton.sgd.online import Model
from sparton.sgd.possibilistic import PossibilisticState, PossibilisticStatistics
from sparton.sgd.stream_sample import Sample

STATES = "states"

KINDS: Final[Mapping[str, tuple[Any, Any]]] = {
    "kmeans": (KMeansState, KMeansStatistics),
    "pcm": (PossibilisticState, PossibilisticStatistics),
}
"""States and statistics of the methods."""

CURVE_ROWS = 512
"""Rows of the training curve that are kept, the last ones."""


@dataclass(frozen=True)
class StreamState:
    """A stream after one of its micro-batches.

    Attributes
    ----------
    batch
        Number of the last micro-batch; -1 before the first.
    query
        Identity of Spark's query, whose checkpoint counts these batches; empty before the first.
    batches, rows
        Micro-batches with rows, and rows that are in the clusters, the sample's included.
    rejected
        Rows that were left out, by reason.
    sample
        Of the rows that came before the first centroids were found; then none.
    model
        The clusters; None as long as there are none.
    curve
        One row a micro-batch, the last :data:`CURVE_ROWS`.
    line
        What is told of the last micro-batch.
    """

    sample: Sample
    model: Model | None = None
    batch: int = -1
    query: str = ""
    batches: int = 0
    rows: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    curve: tuple[CurveRow, ...] = ()
    line: Mapping[str, Any] = field(default_factory=dict)


def save(folder: str, state: StreamState, keep: int) -> None:
    """Write a state, and remove those that it makes superfluous."""
    arrays: dict[str, NDArray[Any]] = {f"sample/{name}": value for name, value in state.sample._asdict().items()}
    notes: dict[str, Any] = {
        "step": state.batch,
        "query": state.query,
        "batches": state.batches,
        "rows": state.rows,
        "rejected": dict(state.rejected),
        "curve": [asdict(row) for row in state.curve[-CURVE_ROWS:]],
        "line": dict(state.line),
    }
    if state.model is not None:
        notes["inputs"] = state.model.inputs.model_dump(mode="json")
        for part in ("state", "totals"):
            values = getattr(state.model, part)._asdict()
            arrays |= {f"{part}/{name}": np.asarray(value) for name, value in values.items()}
    checkpoint.save(storage.join(folder, STATES), arrays, notes, keep)


def begun(folder: str) -> bool:
    """Tell whether there is a state, sound or not."""
    return bool(checkpoint.steps(storage.join(folder, STATES)))


def load(folder: str, kind: str) -> StreamState | None:
    """Return the last state that is sound, of a method; None where there has been none.

    Raises
    ------
    DataError
        If there are states, and none of them is sound.
    """
    states = storage.join(folder, STATES)
    found = checkpoint.latest(states)
    if found is None:
        if begun(folder):
            raise DataError(
                f"{states}: none of the states is sound, so nothing tells which batches they held; restore the folder, "
                f"or remove {folder} to begin the stream anew"
            )
        return None
    arrays, notes = found

    def part(name: str, of: Any) -> Any:
        return of(*(arrays[f"{name}/{column}"] for column in of._fields))

    model = None
    if "inputs" in notes:
        inputs = TableInputs.model_validate(notes["inputs"])
        model = Model(inputs, *(part(name, of) for name, of in zip(("state", "totals"), KINDS[kind], strict=True)))
    return StreamState(
        sample=part("sample", Sample),
        model=model,
        batch=notes["step"],
        query=notes["query"],
        batches=notes["batches"],
        rows=notes["rows"],
        rejected=notes["rejected"],
        curve=tuple(CurveRow(**row) for row in notes["curve"]),
        line=notes["line"],
    )

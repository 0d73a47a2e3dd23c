"""K-means and possibilistic c-means of a streaming DataFrame, each of its rows counted exactly once.

The state after a micro-batch is written as a whole under the batch's number. A batch that Spark repeats after a kill is
in the state already, and passed over, or gives what it would have given: its sums do not depend on how Spark cuts and
orders the rows (:mod:`sparton.ml.stream_rows`), and whatever is drawn by lot hangs on the seed and the rows.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from sparton import lease, publication, storage
from sparton.data.quarantine import FOLDER as QUARANTINE
from sparton.data.quarantine import enforce_limit
from sparton.data.settings import TableSettings
from sparton.errors import DataError, TrainingError, UsageError
from sparton.ml import query_checkpoint, stream_identity
from sparton.ml.stream_rows import Found, Reduction, encoder_of, names_of, projected, reduced, sample, sums
from sparton.sgd import bundle, stream_log, stream_state
from sparton.sgd.curve import CurveRow, to_csv
from sparton.sgd.online import Model, Online, Step, fitted
from sparton.sgd.settings import ClusterSettings
from sparton.sgd.stream_sample import Sample, by_weight, evenly
from sparton.sgd.stream_settings import StreamSettings
from sparton.sgd.stream_state import StreamState
from sparton.versions import installed_versions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.streaming.query import StreamingQuery
    from pyspark.sql.streaming.readwriter import DataStreamWriter

    from sparton.data.table_encoder import TableEncoder

CHECKPOINT = "checkpoint"

OF_EPOCHS = ("epochs", "batch_size", "lanes", "patience", "tolerance")
"""Settings of trainings that have epochs."""

STATE = "state"
"""What a bundle's training says of the state that it was made from."""

Callback = Callable[["DataFrame", int], None]

logger = logging.getLogger(__name__)


class StreamClustering:
    """Clusters that follow a streaming DataFrame, from any source; a context manager that holds the state folder.

    Parameters
    ----------
    stream
        A streaming DataFrame with the columns that ``table`` names.
    folder
        Folder (or URL) for the states, Spark's checkpoint, metrics and quarantine; missing or empty at first.
    output
        Folder (or URL) to publish bundles at.
    cluster
        Method, number of clusters and steps.
    table
        The columns, and how many rows may be rejected: ``columns`` or ``array`` and ``length``, ``weight``, ``target``
        (not read), ``max_rejected`` of each micro-batch.
    settings
        Forgetting, start, and how often a bundle is published.
    start
        Bundle whose clusters go on, statistics and scaling included; None finds the first centroids on the first rows.
    source
        What the stream is read from; the states of another one are refused.
    finish
        Called with a bundle's folder before it is published, to add to it.

    Raises
    ------
    UsageError
        If the DataFrame is no stream, settings contradict each other or the bundle, or something else stands at the
        output.
    DataError
        If a column is missing or not numeric, or the bundle is damaged or of other features.

    Examples
    --------
    >>> with StreamClustering(stream, "state", "model", KMeansSettings(n_clusters=8)) as clustering:
    ...     clustering.start(availableNow=True).awaitTermination()
    ...     clustering.publish()  # doctest: +SKIP
    """

    def __init__(
        self,
        stream: DataFrame,
        folder: str,
        output: str,
        cluster: ClusterSettings,
        table: TableSettings | None = None,
        settings: StreamSettings | None = None,
        start: str | None = None,
        source: str = "",
        finish: Callable[[str, StreamState], None] | None = None,
    ) -> None:
        if not stream.isStreaming:
            raise UsageError(
                "the stream: a DataFrame that ends, expected one of spark.readStream; tables are for SGDKMeans and "
                "PossibilisticCMeans"
            )
        self.folder, self.output = storage.absolute(folder), storage.absolute(output)
        self._table, self._settings = table or TableSettings(), settings or StreamSettings()
        self._finish = finish
        known = stream_identity.read(self.folder)
        names, fitting, description = None, cluster, None
        if known is not None:
            names, fitting = known.features, known.cluster
        if start is not None and not stream_state.begun(self.folder):
            description = bundle.load(start)
            names, fitting = description.inputs.feature_names, fitted(cluster, description, start)
        self.names = names_of(stream, self._table, names)
        if description is not None and self.names != description.inputs.feature_names:
            raise DataError(
                f"the stream: features {', '.join(self.names)}; the bundle {start} was made from "
                f"{', '.join(description.inputs.feature_names)}. Name these columns in this order (table.columns)"
            )
        self.online = Online(fitting, self._settings)
        if start is None:
            self.online.check_sample()
        self._encoder: TableEncoder = encoder_of(self.names, self._table)
        self._rows = projected(stream, self._encoder)
        asked = {
            "source": source,
            "features": list(self.names),
            "columns": {name: getattr(self._table, name) for name in ("array", "length", "weight")},
            "cluster": cluster.deciding().without(*OF_EPOCHS).model_dump(mode="json"),
            "stream": self._settings.deciding().model_dump(mode="json"),
            "start": None if start is None else storage.absolute(start),
        }
        self._identity = stream_identity.Known(asked, fitting, stream.schema.json())
        first = None if description is None else self.online.go_on(description)
        self._begin = StreamState(Sample.nothing(len(self.names)), first)
        _check_output(self.output)
        self.state = self._begin
        self._held = contextlib.ExitStack()
        self._still_held: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        """Take the state folder.

        Raises
        ------
        DataError
            If another run holds it, it is of another stream or of other settings, or nothing in it is sound.
        """
        parent = storage.parent(self.folder)
        storage.make_dirs(parent)
        lock = storage.join(parent, f".{storage.name(self.folder)}.lock")
        self._still_held = self._held.enter_context(lease.held(*storage.filesystem_of(lock), self.folder))
        try:
            stream_identity.claim(self.folder, self._identity)
            self.state = self._last_state()
            stream_log.settle(self.folder, self.state.line)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._still_held = None
        self._held.close()

    @property
    def checkpoint(self) -> str:
        """Spark's checkpoint."""
        return storage.join(self.folder, CHECKPOINT)

    @property
    def unit(self) -> str:
        """What the figures call the mean objective of the rows."""
        return f"mean_{self.online.words.objective}"

    def writer(self, guard: Callable[[Callback], Callback] = lambda callback: callback) -> DataStreamWriter:
        """Return what starts the query, once it has a trigger; ``guard`` is put around what takes its batches.

        Raises
        ------
        UsageError
            Outside of a ``with`` block: the state folder is not held, and what is in it not known.
        """
        self._require_held()
        writer = self._rows.writeStream.option("checkpointLocation", storage.spark_url(self.checkpoint))
        return writer.foreachBatch(guard(self.update))

    def start(self, **trigger: Any) -> StreamingQuery:
        """Start the query; ``trigger`` is that of Spark's ``DataStreamWriter``, such as ``availableNow=True``."""
        return self.writer().trigger(**trigger).start()

    def update(self, batch: DataFrame, number: int) -> None:
        """Take a micro-batch: one step of the method, and a new state.

        Raises
        ------
        DataError
            If too many rows are rejected, a file cannot be read, the state folder was taken over, or batches are
            missing between this one and the state. The state is that of the batch before.
        TrainingError
            If sums are not finite, or of possibilistic c-means a cluster has no width at the start, or all have died.
        """
        state, started = self.state, time.perf_counter()
        if number <= state.batch:
            logger.info("stream: batch %d is in the state already", number)
            self._publish_if_due()  # who wrote the state may have died before
            return
        if number != state.batch + 1:
            raise DataError(
                f"{self.folder}: Spark hands out batch {number}, the state is that of batch {state.batch}; what is "
                "between them is lost to it. Restore the folder as a whole, or remove it to begin anew"
            )
        after, step = self._after(batch, number, started)
        self._require_held()
        stream_state.save(self.folder, after, self._settings.states_kept)
        self.state = after
        stream_log.write(self.folder, after.line)
        logger.info(self._sentence(after, step))
        if step is not None:
            self._publish_if_due()

    def figures(self) -> dict[str, Any]:
        """Return what a person wants to know of the state."""
        state = self.state
        found: dict[str, Any] = {
            "batches": state.batches,
            "rows": state.rows,
            "rejected": dict(state.rejected) or "none",
        }
        if state.model is None:
            return found | {"clusters": f"none yet, the first centroids wait for {self._waited_for(state)}"}
        counts = self.online.outcome(state.model).counts if state.curve else state.model.state.counts
        found["clusters"] = len(counts)
        if state.curve:
            found[self.unit.replace("_", " ")] = self.online.mean_objective(state.model)
            found["largest move"] = state.line.get("largest_move")
        return found

    def publish(self) -> bool:
        """Publish the clusters as a bundle, unless they are already; tell whether there are some.

        Raises
        ------
        DataError
            If another run is publishing there.
        TrainingError
            If possibilistic clusters have no rows.
        """
        state, model = self.state, self.state.model
        if model is None or not state.curve:
            return False
        mark = f"{state.query} {state.batch}"
        if _mark_of(self.output) == mark:
            return True
        found = self.online.outcome(model)
        training = self.online.cluster.model_dump(mode="json")
        training |= {"workers": 1, "rows": state.rows, "batches": state.batches, STATE: mark}
        description = bundle.describe(model.inputs, found.clusters, found.counts, training, installed_versions())
        metrics = state.curve[-1].named(self.online.words) | found.figures | {"sizes": found.sizes.tolist()}
        with publication.publish(self.output) as staging:
            bundle.save(staging, description, metrics, to_csv(state.curve, self.online.words))
            if self._finish is not None:
                self._finish(staging, state)
            self._require_held()
        logger.info("stream: published the clusters after batch %d at %s", state.batch, self.output)
        return True

    def _publish_if_due(self) -> None:
        if self.state.model is not None and self.state.batches % self._settings.publish_every == 0:
            self.publish()

    def _after(self, batch: DataFrame, number: int, started: float) -> tuple[StreamState, Step | None]:
        """Return the state with a micro-batch, and what the step did; None where none was made."""
        state, seed = self.state, self.online.cluster.seed
        model, seen = state.model, state.sample
        quarantine: str | None = self._quarantine(number)
        found: Found[Any] | None = None
        if model is None:
            count, keys = self.online.cluster.sample_rows, evenly(seed)
            found = self._reduced(batch, number, sample(count, keys), quarantine)
            seen, quarantine = Sample.together([seen, found.value]).lowest(count, keys), None
            if self.online.can_begin(state.rows + _kept(found), seen):
                logger.info("stream: first centroids from a sample of %d distinct rows", len(seen.ids))
                model, seen = self.online.begin(self.names, seen), Sample.nothing(len(self.names))
        step, mended = None, 0
        if model is not None:
            method = self.online.method(model.inputs)
            kind = stream_state.KINDS[self.online.cluster.method][1]
            found = self._reduced(batch, number, sums(method, model.state, kind), quarantine)
            if self.online.weight(found.value) > 0:
                model, step = self.online.step(model, found.value, _kept(found))
                self._check_alive(model, step, number)
                model, mended = self._mended(model, batch, number)
        assert found is not None
        after = replace(
            state,
            sample=seen,
            model=model,
            batch=number,
            query=state.query or query_checkpoint.query_of(self.checkpoint) or "",
            batches=state.batches + (_kept(found) > 0),
            rows=state.rows + _kept(found),
            rejected=dict(Counter(state.rejected) + found.rejected),
        )
        return self._told(after, found, step, mended, time.perf_counter() - started), step

    def _reduced(self, batch: DataFrame, number: int, reduction: Reduction[Any], quarantine: str | None) -> Found[Any]:
        """Return what a batch's rows are reduced to; too many rejected ones are an error."""
        what = f"batch {number}"
        found = reduced(batch, self._encoder, reduction, self._settings.parts, quarantine, what)
        try:
            enforce_limit(found.rejected, found.read, self._table.max_rejected, what, example=found.example)
        except DataError as error:
            listed = f"They are listed in {self._quarantine(number)} (sparton info)"
            raise DataError(f"{error}. {listed}") from None
        return found

    def _check_alive(self, model: Model, step: Step, number: int) -> None:
        """Warn of a batch that no possibilistic cluster fits; once all have died, the stream has nothing to follow."""
        try:
            self.online.check_alive(model)
        except TrainingError as error:
            kept = [f"the state of batch {self.state.batch} ({self.folder})"] if self.state.batch >= 0 else []
            kept += [f"the bundle published last ({self.output})"] if _mark_of(self.output) else []
            raise TrainingError(
                f"batch {number}: {error}. Kept: {' and '.join(kept) or 'nothing'}. Begin anew with another state "
                "folder (--state) on rows like those of this batch, which give new centroids and widths, or from a "
                "bundle of such rows (--model); take a larger cluster.gamma_factor, or a longer stream.half_life where "
                "earlier rows will come again"
            ) from None
        if self.online.fits_none(step):
            logger.warning(
                "stream: batch %d: typicalities are next to 0 in all clusters: no row is like any centroid, and none "
                "moves; begin anew where the rows stay like that, or take a larger cluster.gamma_factor",
                number,
            )

    def _require_held(self) -> None:
        if self._still_held is None:
            raise UsageError(f"{self.folder}: not held; use it inside 'with StreamClustering(...) as clustering:'")
        self._still_held()

    def _quarantine(self, number: int) -> str:
        return storage.join(self.folder, QUARANTINE, f"batch-{number:09d}")

    def _mended(self, model: Model, batch: DataFrame, number: int) -> tuple[Model, int]:
        """Return the clusters after what a step cannot do has been done; the batch is read again if rows are needed."""
        found = Sample.nothing(len(self.names))
        starved = self.online.starved(model)
        if starved:
            keys = by_weight(self.online.cluster.seed, int(model.state.step))
            found = self._reduced(batch, number, sample(starved, keys), None).value
        return self.online.mend(model, found)

    def _told(
        self, state: StreamState, found: Found[Any], step: Step | None, mended: int, seconds: float
    ) -> StreamState:
        """Return the state with the line and the row of the curve of its last micro-batch."""
        rows = _kept(found)
        line: dict[str, Any] = {
            "batch": state.batch,
            "read": found.read,
            "rows": rows,
            "rejected": dict(found.rejected),
        }
        curve = state.curve
        if step is not None and state.model is not None:
            smoothed, share = self.online.mean_objective(state.model), self.online.smallest_share(state.model)
            line |= {
                "weight": step.weight,
                self.unit: step.objective,
                f"smoothed_{self.unit}": smoothed,
                "largest_move": _short(step.moves.max()),
                self.online.words.mended: mended,
                "moves": [_short(move) for move in step.moves],
                "sizes": [_short(size) for size in step.sizes],
            }
            curve += (
                CurveRow(
                    epoch=state.batches,
                    step=int(state.model.state.step),
                    train_objective=step.objective,
                    smoothed_objective=smoothed,
                    largest_move=step.shift**0.5,
                    smallest_cluster=share,
                    mended=mended,
                    rows_per_second=round(rows / seconds, 1),
                    seconds=round(seconds, 3),
                ),
            )
        return replace(state, line=line | {"seconds": round(seconds, 3)}, curve=curve[-stream_state.CURVE_ROWS :])

    def _sentence(self, state: StreamState, step: Step | None) -> str:
        line = state.line
        rejected = sum(line["rejected"].values())
        text = f"stream: batch {state.batch}, {line['rows']:,} rows" + (f", {rejected:,} rejected" if rejected else "")
        if step is not None:
            words = self.online.words
            mended = f", {line[words.mended]} {words.mended}" if line[words.mended] else ""
            return (
                f"{text}: {words.objective} {step.objective:.6g}, cluster {int(step.moves.argmax())} moved by "
                f"{line['largest_move']:.3g} of its width{mended}"
            )
        if state.model is None and line["rows"]:
            return f"{text}: the first centroids wait for {self._waited_for(state)}"
        return text

    def _waited_for(self, state: StreamState) -> str | None:
        return self.online.wait(state.rows, state.sample)

    def _last_state(self) -> StreamState:
        """Return the state to go on from, after Spark's checkpoint has been brought in line with it."""
        found = stream_state.load(self.folder, self.online.cluster.method)
        query, done = query_checkpoint.query_of(self.checkpoint), query_checkpoint.committed(self.checkpoint)
        if found is None:
            if done >= 0:
                raise DataError(
                    f"{self.folder}: Spark's checkpoint is that of batch {done}, but there is no state; restore the "
                    "folder as a whole, or remove it to begin anew"
                )
            return self._begin
        if query != found.query:
            what = "missing" if query is None else "of another query"
            raise DataError(
                f"{self.checkpoint}: {what}, while the state is that of batch {found.batch}; the two belong together. "
                "Restore the folder as a whole, or remove it to begin anew"
            )
        if (planned := query_checkpoint.planned(self.checkpoint)) < found.batch:
            # Spark would make a batch of that number out of other rows, which would be passed over.
            raise DataError(
                f"{self.checkpoint}: ends with batch {planned}, while the state is that of batch {found.batch}; the "
                "two belong together. Restore the folder as a whole, or remove it to begin anew"
            )
        if done > found.batch:
            query_checkpoint.roll_back(self.checkpoint, found.batch)
        return found


def _check_output(output: str) -> None:
    if storage.list_files(output) and not storage.exists(storage.join(output, bundle.DESCRIPTION)):
        raise UsageError(f"{output}: not a bundle, not overwritten; choose another output or remove it")


def _mark_of(output: str) -> str | None:
    """Return the state that the bundle there was made from; None where there is no bundle of a stream."""
    if not storage.exists(storage.join(output, bundle.DESCRIPTION)):
        return None
    mark = bundle.read_description(output).training.get(STATE)
    return None if mark is None else str(mark)


def _kept(found: Found[Any]) -> int:
    return found.read - sum(found.rejected.values())


def _short(value: float) -> float:
    return float(f"{value:.6g}")

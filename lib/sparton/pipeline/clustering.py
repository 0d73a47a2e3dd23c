"""Stage ``cluster``: a table to a bundle of clusters.

A table set is read batch by batch, by one process or by Horovod workers on Spark; a folder of Parquet files as they are
goes into the memory of this process, and nothing else is started.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sparton import storage
from sparton.config import Config, fingerprint
from sparton.data.manifest import is_plain
from sparton.data.quarantine import FOLDER as QUARANTINE
from sparton.distributed.seen import where_seen
from sparton.errors import UsageError
from sparton.pipeline.checkpoints import WORKERS, Workers, checkpoint_folder, discard, kept
from sparton.pipeline.record import recorded_sums
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage
from sparton.pipeline.times import time_figures
from sparton.pipeline.together import call_others, dismiss_others, follow, others_rank

if TYPE_CHECKING:
    from sparton.sgd.train import ClusterSummary

SHOWN_SIZES = 20

SIZES = {"kmeans": "cluster sizes", "pcm": "sums of typicalities"}
"""What the sizes of clusters are by each method, over all rows."""


def cluster(
    settings: PipelineSettings, *, input: str | None = None, output: str | None = None, force: bool = False
) -> StageResult:
    """Cluster the rows of a table by k-means or possibilistic c-means and publish the bundle.

    Checkpoints go to ``<workspace>/checkpoints``, in a folder of this very combination of settings and data. A run
    that was killed is continued from there; ``force`` starts anew. Targets are not read.

    Under horovodrun or MPI every process calls this. Rank 0 is the one that publishes; the others train with it.

    Parameters
    ----------
    settings
        The section ``cluster`` and the number of workers decide the clusters; of Parquet files as they are also the
        section ``table``, which names the columns (splits and shards in it are for sets).
    input
        Table set, or a folder of Parquet files, whose rows are all taken; None takes ``<workspace>/set``.
    output
        Folder to publish; None takes ``<workspace>/model``.
    force
        Run even where the output is up to date, from the first epoch.

    Raises
    ------
    UsageError
        If the input is missing, something that this stage did not make stands at the output, the lanes cannot be
        shared equally by the workers, or several workers shall share files that are no set.
    ConfigError
        If other workers than those of ``launch`` were started by something outside, or none.
    DataError
        If the input is a set of another kind, no feature varies, or a shard is not what its manifest says. Of files as
        they are: if a column is missing or not numeric, they do not fit into memory, or too many rows are rejected.
    TrainingError
        If there are fewer distinct rows than clusters, a cluster of possibilistic c-means has no width, slots are
        missing, a worker fails or ranks disagree.
    """
    settings.check_training("cluster")
    data, chosen = settings.folder("set", input), settings.cluster
    if not storage.exists(data):
        raise UsageError(
            f"no folder at {data}, expected a table set or one of Parquet files; run 'sparton prepare --kind table', "
            "or name another one (--input)"
        )
    plain = is_plain(data)
    sections: dict[str, Config] = {"cluster": chosen.deciding(), WORKERS: Workers(count=settings.launch.workers)}
    if plain:
        _require_one_process(settings, data)
        sections |= {"table": settings.table}
    role = "table" if plain else "set"
    call = StageCall("cluster", sections, {role: data}, settings.folder("model", output), settings, force)
    checkpoints = checkpoint_folder(call, {"cluster": chosen.lasting()})
    rank = others_rank()
    if rank is not None:
        from sparton.sgd.train import train

        return follow(call, train, (data, checkpoints, "", chosen), rank)

    def body(staging: str) -> dict[str, Any]:
        with kept(checkpoints, force):
            summary, read = (_train_rows if plain else _train_set)(settings, call, checkpoints, staging)
        return read | {
            "workers": settings.launch.workers,
            "steps": summary.steps,
            "epochs": summary.epochs,
            "rows/s in training steps": summary.rows_per_second,
            "clusters": len(summary.sizes),
            **{name.replace("_", " "): value for name, value in summary.figures.items()},
            SIZES[chosen.method]: _shown(summary.sizes),
            **time_figures(summary.times.figures()),
        }

    result = run_stage(call, body)
    discard(checkpoints)
    if result.skipped:
        dismiss_others(call)
    return result


def _train_set(
    settings: PipelineSettings, call: StageCall, checkpoints: str, staging: str
) -> tuple[ClusterSummary, dict[str, Any]]:
    from sparton.distributed.launch import launch, needs_spark
    from sparton.sgd.train import check_rows, read_table_set, train

    data = call.inputs["set"]
    check_rows(read_table_set(data), data)  # what cannot be clustered is refused before workers start
    spark = spark_session(settings.spark, "sparton cluster") if needs_spark(settings.launch) else None
    written, arguments = (staging, storage.parent(checkpoints)), (data, checkpoints, staging, settings.cluster)
    call_others(call)
    return launch(where_seen, (written, train, *arguments), spark, settings.launch)[0], {}


def _train_rows(
    settings: PipelineSettings, call: StageCall, checkpoints: str, staging: str
) -> tuple[ClusterSummary, dict[str, Any]]:
    from sparton.data.in_memory import read_table
    from sparton.data.source_files import find_sources_here
    from sparton.distributed.launch import launch

    data = call.inputs["table"]
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(_load, settings.cluster.precision)  # which takes about as long as reading the rows
        sources = find_sources_here(data, recorded_sums(data))
        table = read_table(data, sources, settings.table, storage.join(staging, QUARANTINE))
        train_rows = loading.result()
    identity = fingerprint([settings.table.model_dump(mode="json"), [source.file.sha256 for source in sources]])
    summary = launch(train_rows, (table, identity, checkpoints, staging, settings.cluster), None, settings.launch)[0]
    return summary, {"rows read": table.counts.read, "rejected": table.counts.rejected or "none"}


def _load(precision: str) -> Callable[..., ClusterSummary]:
    """Load what trains, and return it."""
    from sparton.sgd.compute import warm_up
    from sparton.sgd.train import train_rows

    warm_up(precision)
    return train_rows


def _require_one_process(settings: PipelineSettings, data: str) -> None:
    from sparton.distributed.launch import needs_spark

    if settings.launch.workers > 1 or needs_spark(settings.launch):
        raise UsageError(
            f"{data}: no table set ({storage.MANIFEST} is missing), and files as they are go into the memory of one "
            "process; make a set that workers can share by 'sparton prepare --kind table', or leave --workers at 1"
        )


def _shown(sizes: tuple[float, ...]) -> Any:
    """Return the sums of weights as a list where a person can read it, else the smallest and the largest."""
    plain = [int(size) if size == int(size) else round(size, 3) for size in sizes]
    return plain if len(plain) <= SHOWN_SIZES else f"{len(plain)} of {min(plain):,} to {max(plain):,}"

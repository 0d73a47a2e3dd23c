"""Stage ``cluster``: a table set to a bundle of clusters, by one process or by Horovod workers on Spark."""

from __future__ import annotations

from typing import Any

from sparton import storage
from sparton.pipeline.checkpoints import WORKERS, Workers, checkpoint_folder, discard, kept
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage
from sparton.pipeline.times import time_figures

SHOWN_SIZES = 20

SIZES = {"kmeans": "cluster sizes", "pcm": "sums of typicalities"}
"""What the sizes of clusters are by each method, over all rows."""


def cluster(
    settings: PipelineSettings, *, input: str | None = None, output: str | None = None, force: bool = False
) -> StageResult:
    """Cluster the rows of a table set by k-means or possibilistic c-means and publish the bundle.

    Checkpoints go to ``<workspace>/checkpoints``, in a folder of this very combination of settings and data. A run
    that was killed is continued from there; ``force`` starts anew. Targets are not read.

    Parameters
    ----------
    settings
        The section ``cluster`` and the number of workers decide the clusters.
    input
        Table set; None takes ``<workspace>/set``.
    output
        Folder to publish; None takes ``<workspace>/model``.
    force
        Run even where the output is up to date, from the first epoch.

    Raises
    ------
    UsageError
        If the input is missing, something that this stage did not make stands at the output, or the lanes cannot be
        shared equally by the workers.
    DataError
        If the input is not a table set, no feature varies, or a shard is not what its manifest says.
    TrainingError
        If there are fewer distinct rows than clusters, a cluster of possibilistic c-means has no width, slots are
        missing, a worker fails or ranks disagree.
    """
    data, chosen = settings.folder("set", input), settings.cluster
    settings.check_lanes("cluster")
    sections = {"cluster": chosen.deciding(), WORKERS: Workers(count=settings.launch.workers)}
    call = StageCall("cluster", sections, {"set": data}, settings.folder("model", output), settings, force)
    checkpoints = checkpoint_folder(call, {"cluster": chosen.lasting()}) if storage.exists(data) else ""

    def body(staging: str) -> dict[str, Any]:
        from sparton.distributed.launch import launch, needs_spark
        from sparton.sgd.train import check_rows, read_table_set, train

        check_rows(read_table_set(data), data)  # what cannot be clustered is refused before workers start
        spark = spark_session(settings.spark, "sparton cluster") if needs_spark(settings.launch) else None
        with kept(checkpoints, force):
            summary = launch(train, (data, checkpoints, staging, chosen), spark, settings.launch)[0]
        return {
            "workers": settings.launch.workers,
            "steps": summary.steps,
            "epochs": summary.epochs,
            "rows/s in training steps": summary.rows_per_second,
            "clusters": len(summary.sizes),
            **{name.replace("_", " "): value for name, value in summary.figures.items()},
            SIZES[chosen.method]: _shown(summary.sizes),
            **time_figures(summary.times),
        }

    result = run_stage(call, body)
    discard(checkpoints)
    return result


def _shown(sizes: tuple[float, ...]) -> Any:
    """Return the sums of weights as a list where a person can read it, else the smallest and the largest."""
    plain = [int(size) if size == int(size) else round(size, 3) for size in sizes]
    return plain if len(plain) <= SHOWN_SIZES else f"{len(plain)} of {min(plain):,} to {max(plain):,}"

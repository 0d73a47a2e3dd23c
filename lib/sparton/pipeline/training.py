"""Stage ``train``: a training set to a model bundle, by one process or by Horovod workers on Spark."""

from __future__ import annotations

import logging
from typing import Any

from sparton import storage
from sparton.distributed.launch import launch, needs_spark
from sparton.distributed.seen import where_seen
from sparton.pipeline.checkpoints import WORKERS, Workers, checkpoint_folder, discard, kept
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage
from sparton.pipeline.times import time_figures
from sparton.pipeline.together import call_others, dismiss_others, follow, others_rank

logger = logging.getLogger(__name__)


def train(
    settings: PipelineSettings, *, input: str | None = None, output: str | None = None, force: bool = False
) -> StageResult:
    """Train UCluster and publish the bundle.

    Checkpoints go to ``<workspace>/checkpoints``, in a folder of this very combination of settings and data. A run
    that was killed is continued from there, by another number of workers too; ``force`` starts anew.

    Under horovodrun or MPI every process calls this. Rank 0 is the one that publishes; the others train with it.

    Parameters
    ----------
    settings
        The sections ``model`` and ``train`` and the number of workers decide the model, and the content of the bundle
        ``train.start_from`` where that is given.
    input
        Training set; None takes ``<workspace>/set``.
    output
        Folder to publish; None takes ``<workspace>/model``.
    force
        Run even where the output is up to date, from the first epoch.

    Raises
    ------
    UsageError
        If the input is missing, something that this stage did not make stands at the output, or the lanes cannot be
        shared equally by the workers.
    ConfigError
        If the bundle to start from is of another network or of other inputs, or other workers than those of
        ``launch`` were started by something outside: before anything is written, on every rank.
    DataError
        If the input is not a training set, or a shard is not what its manifest says.
    TrainingError
        If slots are missing, a worker fails, ranks disagree, a loss is not finite or gradients keep overflowing.
    """
    settings.check_training("train")
    data, start = settings.folder("set", input), settings.train.start_from
    inputs = {"set": data} | ({"bundle": storage.absolute(start)} if start is not None else {})
    training = settings.train.model_copy(update={"start_from": inputs.get("bundle")})
    # Of the bundle its content counts, as that of every input, and not its place.
    deciding, lasting = (part.without("start_from") for part in (training.deciding(), training.lasting()))
    sections = {"model": settings.model, "train": deciding, WORKERS: Workers(count=settings.launch.workers)}
    call = StageCall("train", sections, inputs, settings.folder("model", output), settings, force)
    found = all(storage.exists(folder) for folder in inputs.values())
    checkpoints = checkpoint_folder(call, {"train": lasting}) if found else ""
    rank = others_rank()
    if rank is not None:
        from sparton.ucluster.train import train as train_ucluster

        return follow(call, train_ucluster, (data, checkpoints, "", settings.model, training), rank)

    def body(staging: str) -> dict[str, Any]:
        logger.info("loading TensorFlow%s", " and Spark" if needs_spark(settings.launch) else "")
        from sparton.data.manifest import read_manifest
        from sparton.ucluster.bundle import read_description, verify
        from sparton.ucluster.start import check_centroids, check_fits, check_selection
        from sparton.ucluster.train import train as train_ucluster

        manifest = read_manifest(data)  # what is no training set is refused before workers start
        check_centroids(settings.model, training, manifest)
        check_selection(training, manifest)
        if training.start_from is not None:
            verify(training.start_from)
            check_fits(read_description(training.start_from), training.start_from, settings.model, manifest)
        spark = spark_session(settings.spark, "sparton train") if needs_spark(settings.launch) else None
        arguments = (data, checkpoints, staging, settings.model, training)
        with kept(checkpoints, force):
            call_others(call)
            written = (staging, storage.parent(checkpoints))
            summary = launch(where_seen, (written, train_ucluster, *arguments), spark, settings.launch)[0]
        return {
            "workers": settings.launch.workers,
            "steps": summary.steps,
            **({} if summary.skipped is None else {"skipped steps": summary.skipped}),
            "epochs": summary.epochs,
            **({} if training.select == "last" else {"epoch kept": summary.kept}),
            **({} if summary.jets_per_second is None else {"jets/s": summary.jets_per_second}),
            **time_figures(summary.times.figures()),
        }

    result = run_stage(call, body)
    discard(checkpoints)
    if result.skipped:
        dismiss_others(call)
    return result

"""Stage ``import-checkpoint``: weights that the published code trained to a model bundle."""

from __future__ import annotations

import math
from typing import Any

from sparton import storage
from sparton.config import Config
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage


class CheckpointFile(Config):
    """One file of a checkpoint: its name and the SHA-256 (hex) of its content."""

    name: str
    sha256: str


class CheckpointFiles(Config):
    """The files of a checkpoint; their content decides whether an output is up to date."""

    files: tuple[CheckpointFile, ...]


def import_checkpoint(
    settings: PipelineSettings, *, checkpoint: str, output: str | None = None, force: bool = False
) -> StageResult:
    """Turn a TensorFlow 1 checkpoint of the published network for jets into a bundle.

    ``assign``, ``evaluate`` and further training (``train.start_from``) accept it like one that ``train`` made. Nothing
    in the checkpoint is executed.

    Parameters
    ----------
    settings
        The section ``model`` has the network's sizes, by default the published ones; it is read as that of the network
        ``published``.
    checkpoint
        Path or URL that the checkpoint's files begin with, without ``.index`` and ``.data-...``.
    output
        Folder to publish; None takes ``<workspace>/model``.
    force
        Run even where the output is up to date.

    Raises
    ------
    UsageError
        If there is no such checkpoint, or something that this stage did not make stands at the output.
    DataError
        If the checkpoint is damaged, or lacks a tensor of the network or has it in another shape.
    """
    from sparton.ucluster.published_checkpoint import checkpoint_files

    prefix = storage.absolute(checkpoint)
    model = settings.model.published()
    files = tuple(
        CheckpointFile(name=storage.name(path), sha256=storage.sha256(path)) for path in checkpoint_files(prefix)
    )
    sections = {"model": model, "checkpoint": CheckpointFiles(files=files)}
    call = StageCall("import-checkpoint", sections, {}, settings.folder("model", output), settings, force)

    def body(staging: str) -> dict[str, Any]:
        from sparton.ucluster.published_checkpoint import write_bundle

        network, steps = write_bundle(prefix, model, staging)
        return {
            "tensors": len(network.variables),
            "trainable values": sum(math.prod(variable.shape) for variable in network.trainable_variables),
            "clusters": model.n_clusters,
            "steps of training": steps,
        }

    return run_stage(call, body)

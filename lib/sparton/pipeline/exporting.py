"""Stage ``export``: a model bundle to a TensorFlow SavedModel."""

from __future__ import annotations

from typing import Any

from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage


def export(
    settings: PipelineSettings, *, model: str | None = None, output: str | None = None, force: bool = False
) -> StageResult:
    """Write a bundle as a SavedModel, which TensorFlow and its servers run without Sparton.

    Parameters
    ----------
    settings
        Its workspace is where folders are that are not given.
    model
        Bundle; None takes ``<workspace>/model``.
    output
        Folder to publish; None takes ``<workspace>/serving``.
    force
        Run even where the output is up to date.

    Raises
    ------
    UsageError
        If the bundle is missing, or something that this stage did not make stands at the output.
    DataError
        If the bundle is damaged.
    """
    inputs = {"model": settings.folder("model", model)}
    call = StageCall("export", {}, inputs, settings.folder("serving", output), settings, force)

    def body(staging: str) -> dict[str, Any]:
        from sparton.ucluster import bundle
        from sparton.ucluster.serving import SIGNATURE, write_saved_model

        found = bundle.load(inputs["model"])
        write_saved_model(found, staging)
        read, shape = found.description.inputs, found.description.model
        return {
            "signature": SIGNATURE,
            "features": f"float32 [batch, {read.n_particles}, {read.n_features}]: {', '.join(read.feature_names)}",
            "n_particles": "int32 [batch]",
            "embedding": f"float32 [batch, {shape.embedding}]",
            "distance": f"float32 [batch, {shape.n_clusters}]",
            "cluster": "int32 [batch]",
        }

    return run_stage(call, body)

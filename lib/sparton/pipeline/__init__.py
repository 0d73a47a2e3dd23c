"""The stages: pure functions of (settings, input folders) to a published output folder."""

from __future__ import annotations

from sparton.pipeline.assignment import assign
from sparton.pipeline.clustering import cluster
from sparton.pipeline.evaluation import evaluate
from sparton.pipeline.exporting import export
from sparton.pipeline.generation import generate
from sparton.pipeline.importing import import_checkpoint
from sparton.pipeline.ingestion import ingest
from sparton.pipeline.inspection import info
from sparton.pipeline.preparation import prepare
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageResult
from sparton.pipeline.streaming import stream_cluster
from sparton.pipeline.training import train
from sparton.pipeline.validation import validate
from sparton.pipeline.watching import watch
from sparton.pipeline.workflow import run

__all__ = [
    "PipelineSettings",
    "StageResult",
    "assign",
    "cluster",
    "evaluate",
    "export",
    "generate",
    "import_checkpoint",
    "info",
    "ingest",
    "prepare",
    "run",
    "stream_cluster",
    "train",
    "validate",
    "watch",
]

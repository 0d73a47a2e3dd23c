"""The whole configuration file: one section a stage, and where and how the stages run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sparton import storage
from sparton.config import Config
from sparton.data.ingest_settings import IngestSettings
from sparton.data.plan import checked_lanes
from sparton.data.settings import PrepareSettings, TableSettings
from sparton.data.validation.settings import RulesSettings
from sparton.distributed.launch import LaunchSettings, check_surroundings
from sparton.ml.settings import AssignSettings
from sparton.physics.settings import GenerationSettings
from sparton.pipeline.evaluation import EvaluateSettings
from sparton.pipeline.session import SparkSettings
from sparton.pipeline.stream_settings import StreamJobSettings
from sparton.pipeline.watch_settings import WatchSettings
from sparton.sgd.settings import ClusterSettings, KMeansSettings
from sparton.ucluster.settings import ModelSettings, TrainSettings


class PipelineSettings(Config):
    """Settings of a pipeline.

    Attributes
    ----------
    workspace
        Folder (or URL) below which stages publish their outputs unless told otherwise: ``jets``, ``set``, ``model``,
        ``serving``, ``assignments``, ``report``, ``validation``; and that holds ``runs``, ``checkpoints`` and the
        states of a ``stream``.
    kind
        What the pipeline is about: ``jets``, trained and assigned by UCluster, or ``table``, any table of numbers,
        clustered by one of the methods of ``cluster``. It decides which stages ``run`` takes, and what ``prepare``
        makes without ``--kind``.
    generate, ingest, prepare, table, rules, model, train, cluster, assign, evaluate
        What the stages compute (``table``: what ``prepare --kind table`` does; ``rules``: what ``validate`` checks);
        these decide whether an output is up to date.
    watch
        When ``ingest --watch`` looks for new files; changes nothing in the table.
    stream
        How ``stream-cluster`` follows files that arrive; ``table`` names their columns, ``cluster`` the method.
    launch, spark
        Where it runs and with how many workers. The number of workers decides the global batch, so it counts too;
        the rest changes nothing in the results.
    """

    workspace: str = Field(default="runs/default", min_length=1)
    kind: Literal["jets", "table"] = "jets"
    generate: GenerationSettings = GenerationSettings()
    ingest: IngestSettings = IngestSettings()
    watch: WatchSettings = WatchSettings()
    prepare: PrepareSettings = PrepareSettings()
    table: TableSettings = TableSettings()
    rules: RulesSettings = RulesSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    cluster: ClusterSettings = KMeansSettings()
    stream: StreamJobSettings = StreamJobSettings()
    launch: LaunchSettings = LaunchSettings()
    assign: AssignSettings = AssignSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    spark: SparkSettings = SparkSettings()

    def folder(self, role: str, given: str | None = None) -> str:
        """Return the folder of a role: the one given, else its place in the workspace."""
        return storage.absolute(given if given is not None else storage.join(self.workspace, role))

    def check_training(self, section: Literal["train", "cluster"]) -> None:
        """Check that the workers of a training can share its lanes, and are those that were started, if any were.

        Raises
        ------
        ConfigError
            If other workers than those of ``launch`` were started by something outside, or none.
        UsageError
            If workers would have unequal numbers of lanes, or lanes unequal numbers of rows in a step.
        """
        training: TrainSettings | ClusterSettings = self.train if section == "train" else self.cluster
        checked_lanes(training.lanes, self.launch.workers, training.batch_size, f"{section}.lanes")
        check_surroundings(self.launch)

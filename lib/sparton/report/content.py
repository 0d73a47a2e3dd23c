"""What a report holds: metrics (also written as ``metrics.json``), figures with captions, and provenance."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from matplotlib.figure import Figure

from sparton.report.baselines import BaselineResult
from sparton.report.metrics import LabelMetrics
from sparton.report.profiles import ClusterProfile, LabelFreeMetrics


@dataclass(frozen=True)
class ElbowPoint:
    """What a number of clusters gives on a sample: mean squared distance from the nearest centroid, and silhouette."""

    n_clusters: int
    mean_inertia: float
    silhouette: float | None


@dataclass(frozen=True)
class EvaluationMetrics:
    """Every number of an evaluation, as plain Python values.

    ``rows`` counts the jets of the split, or what ``unit`` calls them; ``labels`` is None if they carry no labels;
    ``even_sizes`` tells whether the method was told that the clusters are of about equal size; ``elbow`` compares
    numbers of clusters. The page shows the profile columns named in ``shown``, all of them where it is empty.
    ``noise`` counts the rows of no cluster, which enter nothing but ``rows``; None where each row has one.
    """

    split: str
    rows: int
    n_clusters: int
    clusters: LabelFreeMetrics
    profiles: tuple[ClusterProfile, ...]
    baselines: tuple[BaselineResult, ...] = ()
    labels: LabelMetrics | None = None
    method: str = "UCluster"
    even_sizes: bool = False
    unit: str = "jets"
    shown: tuple[str, ...] = ()
    elbow: tuple[ElbowPoint, ...] = ()
    noise: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return nested dicts and lists of JSON types; numbers that are not finite become None."""
        plain = _plain(asdict(self))
        assert isinstance(plain, dict)
        return plain


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the page: ``name`` identifies it, ``title`` heads it, ``caption`` says what one sees."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from.

    Creation time (ISO 8601), versions, inputs' fingerprints, settings (YAML) by what they decide, and what the training
    has taken.
    """

    created: str
    seed: int
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    training: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportContent:
    """A whole report."""

    title: str
    metrics: EvaluationMetrics
    figures: tuple[ReportFigure, ...]
    provenance: Provenance


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""The figures of a jet clustering's report, drawn from a sample of jets, with captions that read the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparton.errors import DataError
from sparton.report import curve as curves
from sparton.report import figures, histograms
from sparton.report.content import EvaluationMetrics, ReportFigure
from sparton.report.profiles import sample
from sparton.report.style import Groups, make_groups, thousands

#: Points of the embedding that are drawn.
SCATTER_ROWS = 4000

#: Captions name the medians of at most so many clusters.
MAX_NAMED = 6


@dataclass(frozen=True)
class JetSample:
    """Jets of the evaluated split, all of them or a random sample; ``label`` is None without labels.

    Shapes: jet_mass (GeV), n_constituents and cluster [n], embedding [n, D], label [n] (class index, -1 for none),
    centroids [K, D].
    """

    jet_mass: npt.NDArray[np.floating[Any]]
    n_constituents: npt.NDArray[np.integer[Any]]
    cluster: npt.NDArray[np.integer[Any]]
    embedding: npt.NDArray[np.floating[Any]]
    centroids: npt.NDArray[np.floating[Any]]
    label: npt.NDArray[np.integer[Any]] | None = None

    def __post_init__(self) -> None:
        rows = len(self.cluster)
        for name in ("jet_mass", "n_constituents", "embedding", "label"):
            column = getattr(self, name)
            if column is not None and len(column) != rows:
                raise DataError(f"sample: found {len(column)} rows of {name}, expected {rows} as in cluster")
        if not rows or self.embedding.shape[1:] != self.centroids.shape[1:]:
            shapes = f"{self.embedding.shape} and {self.centroids.shape}"
            raise DataError(f"sample: embedding and centroids have shapes {shapes}; expected [n > 0, D] and [K, D]")


def gallery(
    jets: JetSample, metrics: EvaluationMetrics, curve: curves.TrainingCurve | None = None, seed: int = 0
) -> tuple[ReportFigure, ...]:
    """Draw every figure that the data allow, in the order of the page.

    Parameters
    ----------
    jets
        The jets to draw; histograms show all of them, the embedding a seeded sample.
    metrics
        The numbers that colours, captions, confusion and bars are taken from.
    curve
        The training curve; None leaves its figures out.
    seed
        Seed of the embedding's sample.
    """
    labels = metrics.labels
    groups = make_groups(metrics.n_clusters, labels.classes if labels else (), labels.permutation if labels else ())
    return (
        *results(metrics, groups),
        *_distributions(jets, metrics, groups),
        *_embedding(jets, groups, seed),
        *(training(curve) if curve is not None else ()),
    )


def _distributions(jets: JetSample, metrics: EvaluationMetrics, groups: Groups) -> Iterator[ReportFigure]:
    shown = (
        ""
        if len(jets.cluster) == metrics.rows
        else f" A random sample of {thousands(len(jets.cluster))} jets is shown."
    )
    read = "Filled: the clusters."
    if jets.label is not None:
        read = "Filled: the clusters; lines: the true classes. Where fill and line agree, cluster and class do."
    oracle = any(item.reads_labels for item in metrics.baselines)
    cuts = " Dashed: the best cuts that labels can buy, a ceiling for the mass and not a method." if oracle else ""
    yield ReportFigure(
        "mass",
        "Jet mass by cluster",
        f"{read} {_medians(metrics, 'jet_mass', 'GeV')}{cuts}{shown}",
        histograms.mass_by_cluster(jets.jet_mass, jets.cluster, groups, jets.label, metrics.baselines),
    )
    yield ReportFigure(
        "multiplicity",
        "Constituents by cluster",
        f"{read} {_medians(metrics, 'n_constituents', 'constituents')}{shown}",
        histograms.multiplicity_by_cluster(jets.n_constituents, jets.cluster, groups, jets.label),
    )


def _embedding(jets: JetSample, groups: Groups, seed: int) -> Iterator[ReportFigure]:
    if jets.embedding.shape[1] == 1:
        lines = "" if jets.label is None else " Lines: the true classes, which the network never saw."
        yield ReportFigure(
            "embedding",
            "Embedding, by cluster",
            "Where the network puts the jets on its one axis; the colour is the nearest centroid (crosses). Separate "
            f"peaks mean clusters that the network finds by itself.{lines}",
            histograms.embedding_by_cluster(
                jets.embedding[:, 0], jets.centroids[:, 0], jets.cluster, groups, jets.label
            ),
        )
        return
    projection = figures.project(jets.embedding, jets.centroids)
    rows = sample(len(jets.cluster), SCATTER_ROWS, seed)
    drawn = figures.Projection(projection.points[rows], projection.centroids, projection.explained)
    note = f"{thousands(len(rows))} jets, embedding in {jets.embedding.shape[1]} dimensions"
    yield ReportFigure(
        "embedding-clusters",
        "Embedding, by cluster",
        "Each point is a jet where the network puts it, seen along the two directions of largest variance; its colour "
        "is the nearest centroid (crosses). Separate clouds mean clusters that the network finds by itself.",
        figures.embedding_scatter(drawn, jets.cluster[rows], groups.clusters, groups, note),
    )
    if jets.label is not None:
        yield ReportFigure(
            "embedding-classes",
            "The same embedding, by true class",
            "The same jets, coloured by the class that generated them. The network never saw these labels; where a "
            "cloud mixes colours, the classes look alike to it.",
            figures.embedding_scatter(drawn, jets.label[rows], groups.classes, groups, note),
        )


def results(metrics: EvaluationMetrics, groups: Groups) -> Iterator[ReportFigure]:
    """Yield the figures of the agreement with labels; none without labels."""
    labels = metrics.labels
    if labels is None:
        return
    if any(item.accuracy is not None for item in metrics.baselines):
        yield ReportFigure(
            "accuracy",
            "Accuracy beside the mass alone",
            f"{metrics.method} against partitions of the jet mass, each matched with the classes by one assignment "
            "over the whole split. The hatched bar chose its cuts by reading the labels.",
            figures.accuracy_bars(metrics.method, labels, metrics.baselines),
        )
    pairs = zip(labels.class_recall, labels.classes, strict=True)
    recalls = [(recall, name) for recall, name in pairs if recall is not None]
    best, worst = max(recalls), min(recalls)
    yield ReportFigure(
        "confusion",
        "Confusion of classes",
        f"Rows: where the {metrics.unit} of each true class end up, as a share and a count. {best[1]} is found best "
        f"({best[0]:.1%}), {worst[1]} worst ({worst[0]:.1%}).".replace("%", " %"),
        figures.confusion_matrix(labels, groups),
    )


def training(curve: curves.TrainingCurve) -> Iterator[ReportFigure]:
    """Yield the figures of the training curve."""
    phases = " The dotted line marks the end of pre-training." if curve.boundaries() else ""
    if curves.loss_columns(curve):
        lines = ", validation solid and training dashed" if curves.is_validated(curve) else ""
        yield ReportFigure(
            "losses",
            "Training losses",
            f"Losses by epoch{lines}.{phases}",
            curves.draw_losses(curve),
        )
    if curves.monitor_columns(curve):
        yield ReportFigure(
            "monitors",
            "Schedules and monitors",
            f"What the trainer set and watched, by epoch; none of it reads labels.{phases}",
            curves.draw_monitors(curve),
        )


def _medians(metrics: EvaluationMetrics, column: str, unit: str) -> str:
    """Say the median of a column in each cluster, by rising median."""
    known = [(item.columns[column].median, item) for item in metrics.profiles if column in item.columns]
    ordered = sorted(((median, item) for median, item in known if median is not None), key=lambda pair: pair[0])
    if not 0 < len(ordered) <= MAX_NAMED:
        return ""
    parts = [f"{median:.0f} {unit} in cluster {item.cluster}" for median, item in ordered]
    return f"Median {', '.join(parts)}."

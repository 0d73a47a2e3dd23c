"""The figures of the clusters of a table, drawn from their profiles and a sample of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparton.report import curve as curves
from sparton.report import figures
from sparton.report.content import ElbowPoint, EvaluationMetrics, ReportFigure
from sparton.report.gallery import SCATTER_ROWS, results, training
from sparton.report.profiles import sample
from sparton.report.style import COLOURS, GRID, INK, MUTED, make_groups, new_figure, styled, thousands

FloatArray = npt.NDArray[np.float64]

#: Clusters and features of the map of profiles.
MAP_CLUSTERS, MAP_FEATURES = 40, 24

#: Deviations at which the map's colours end.
MAP_LIMIT = 2.5


@dataclass(frozen=True)
class TableSample:
    """Rows of the evaluated split, all or a random sample, as points: [n, d] with their cluster [n]; centroids [K, d].

    ``deviations`` [K, d] are the clusters' means, from the mean of all rows and in units of their deviation;
    ``features`` names their columns.
    """

    points: FloatArray
    cluster: npt.NDArray[np.integer[Any]]
    centroids: FloatArray
    deviations: FloatArray
    features: tuple[str, ...]


def table_gallery(
    rows: TableSample, metrics: EvaluationMetrics, curve: curves.TrainingCurve | None = None, seed: int = 0
) -> tuple[ReportFigure, ...]:
    """Draw every figure that the data allow, in the order of the page.

    Parameters
    ----------
    rows
        The rows to draw, and the profiles.
    metrics
        The numbers that colours and captions are taken from.
    curve
        The training curve; None leaves its figures out.
    seed
        Seed of the points that are drawn.
    """
    labels = metrics.labels
    groups = make_groups(metrics.n_clusters, labels.classes if labels else (), labels.permutation if labels else ())
    return (
        *results(metrics, groups),
        _profiles(rows, metrics),
        *_scatter(rows, groups, seed),
        *_elbow(metrics),
        *(training(curve) if curve is not None else ()),
    )


def telling_features(deviations: npt.ArrayLike, sizes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the features, those first whose means differ most between clusters: the share of variance between them.

    Parameters
    ----------
    deviations
        Means of clusters from the mean of all rows, in units of its deviation, [K, d]; empty clusters are NaN.
    sizes
        Rows of each cluster, [K].
    """
    weight = np.asarray(sizes, np.float64)
    between = weight @ np.nan_to_num(np.square(np.asarray(deviations, np.float64))) / max(weight.sum(), 1.0)
    return np.argsort(-between, kind="stable")


def _profiles(rows: TableSample, metrics: EvaluationMetrics) -> ReportFigure:
    sizes = np.asarray(metrics.clusters.sizes)
    chosen = telling_features(rows.deviations, sizes)[:MAP_FEATURES]
    largest = np.argsort(-sizes, kind="stable")[:MAP_CLUSTERS]
    left_out = []
    if len(largest) < len(sizes):
        left_out.append(f"the {len(largest)} largest of {len(sizes)} clusters")
    if len(chosen) < len(rows.features):
        left_out.append(f"the {len(chosen)} features that tell most, of {len(rows.features)}")
    shown = f" Shown: {' and '.join(left_out)}; metrics.json has all." if left_out else ""
    names = [rows.features[index] for index in chosen]
    return ReportFigure(
        "profiles",
        "What sets the clusters apart",
        "Mean of each feature in each cluster, from the mean of all rows and in units of their standard deviation; "
        f"features that tell clusters apart come first, large clusters on top.{shown}",
        profile_map(rows.deviations[largest][:, chosen], [f"{index}" for index in largest], names),
    )


def _scatter(rows: TableSample, groups: Any, seed: int) -> Iterator[ReportFigure]:
    if rows.points.shape[1] < 2 or len(rows.points) < 2:
        return
    projection = figures.project(rows.points, rows.centroids)
    drawn = sample(len(rows.points), SCATTER_ROWS, seed)
    yield ReportFigure(
        "points",
        "Rows, by cluster",
        "Each point is a row, seen along the two directions of largest variance of the scaled features; its colour is "
        "its cluster (crosses: the centroids). What overlaps here may be apart along other directions.",
        figures.embedding_scatter(
            figures.Projection(projection.points[drawn], projection.centroids, projection.explained),
            rows.cluster[drawn],
            groups.clusters,
            groups,
            f"{thousands(len(drawn))} rows in {rows.points.shape[1]} dimensions",
        ),
    )


def _elbow(metrics: EvaluationMetrics) -> Iterator[ReportFigure]:
    if metrics.elbow:
        yield ReportFigure(
            "elbow",
            "Number of clusters",
            "Mean squared distance from the nearest centroid, and mean silhouette, of k-means with other numbers of "
            "clusters on the sample. Where the first curve bends, more clusters divide what belongs together.",
            elbow_curves(metrics.elbow, metrics.n_clusters),
        )


@styled
def profile_map(deviations: npt.ArrayLike, clusters: Sequence[str], features: Sequence[str]) -> Figure:
    """Draw deviations [K, d] as a map, blue below the mean of all rows and red above; empty clusters stay blank."""
    values = np.ma.masked_invalid(np.asarray(deviations, np.float64))
    figure, (axes,) = new_figure()
    image = axes.imshow(values, cmap="RdBu_r", vmin=-MAP_LIMIT, vmax=MAP_LIMIT, aspect="auto", interpolation="nearest")
    crowded = max(len(clusters), len(features)) > 12
    axes.set_xticks(np.arange(len(features)), features, rotation=60, ha="right", fontsize=7 if crowded else 9)
    axes.set_yticks(np.arange(len(clusters)), clusters, fontsize=6 if len(clusters) > 20 else 9)
    axes.tick_params(which="both", length=0)
    axes.minorticks_off()
    axes.set_ylabel("cluster")
    bar = figure.colorbar(image, ax=axes, extend="both", shrink=0.9)
    bar.set_label("deviations from the mean")
    bar.ax.minorticks_off()
    return figure


@styled
def elbow_curves(points: Sequence[ElbowPoint], chosen: int) -> Figure:
    """Draw inertia and silhouette against the number of clusters; a line marks the one that was chosen."""
    figure, (upper, lower) = new_figure(rows=2)
    numbers = [point.n_clusters for point in points]
    upper.plot(numbers, [point.mean_inertia for point in points], color=COLOURS[0], marker="o")
    silhouettes = [np.nan if point.silhouette is None else point.silhouette for point in points]
    lower.plot(numbers, silhouettes, color=COLOURS[5], marker="o")
    upper.set_ylabel("mean squared distance")
    lower.set_ylabel("silhouette")
    lower.set_xlabel("clusters")
    for axes in (upper, lower):
        axes.axvline(chosen, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        axes.grid(color=GRID)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.minorticks_off()
    upper.set_title(f"dotted: the {chosen} clusters of the bundle", color=INK, fontsize=10)
    return figure

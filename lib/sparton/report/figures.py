"""Figures of the evaluation. Each function takes arrays and returns a Matplotlib figure that belongs to no registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from sparton.report.baselines import BaselineResult
from sparton.report.metrics import LabelMetrics
from sparton.report.style import (
    GRID,
    INK,
    MUTED,
    PAPER,
    Group,
    Groups,
    add_legend,
    new_figure,
    note,
    percent,
    shown_name,
    styled,
    thousands,
)

FloatArray = npt.NDArray[np.float64]

_ACCENT = "#3f90da"


@dataclass(frozen=True)
class Projection:
    """Embeddings [n, 2] and centroids [K, 2] in the plane of the largest variance, with each axis' share of it."""

    points: FloatArray
    centroids: FloatArray
    explained: tuple[float, float]


def project(embedding: npt.ArrayLike, centroids: npt.ArrayLike) -> Projection:
    """Project embeddings [n, D] and centroids [K, D] on the two leading principal components of the embeddings.

    Signs are fixed so that the largest loading of each component is positive. D is at least 2.
    """
    points, centres = np.asarray(embedding, dtype=np.float64), np.asarray(centroids, dtype=np.float64)
    mean = points.mean(axis=0)
    variance, vectors = np.linalg.eigh(np.cov(points, rowvar=False, bias=True))
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    shares = np.clip(variance[::-1], 0, None) / max(variance.clip(0).sum(), 1e-300)
    return Projection((points - mean) @ axes, (centres - mean) @ axes, (float(shares[0]), float(shares[1])))


@styled
def embedding_scatter(
    projection: Projection, member: npt.ArrayLike, members: Sequence[Group], groups: Groups, title: str
) -> Figure:
    """Draw a projected embedding with its centroids.

    Points are coloured by their index ``member`` [n] into ``members`` (clusters or classes; negative: none).
    """
    figure, (axes,) = new_figure()
    index = np.asarray(member, dtype=np.int64)
    colours = np.array([to_rgba(MUTED), *(to_rgba(group.colour) for group in members)])[np.maximum(index, -1) + 1]
    size = float(np.clip(12_000 / max(len(index), 1), 3, 14))
    horizontal, vertical = projection.points.T
    axes.scatter(horizontal, vertical, s=size, c=colours, alpha=0.55, linewidths=0, rasterized=True)
    for centre, group in zip(projection.centroids, groups.clusters, strict=True):
        axes.plot(*centre, marker="X", markersize=12, color=group.colour, markeredgecolor=INK, markeredgewidth=1.4)
    _zoom(axes, projection)
    first, second = (f"{100 * share:.0f} % of variance" for share in projection.explained)
    axes.set_xlabel(f"first principal component ({first})", fontsize=10)
    axes.set_ylabel(f"second principal component ({second})", fontsize=10)
    axes.set_title(title, color=MUTED, fontsize=9.5)
    listed = [members[index] for index in groups.order] if members is groups.clusters else members
    handles = [Line2D([], [], marker="o", linestyle="", markersize=6, color=group.colour) for group in listed]
    cross = Line2D([], [], marker="X", linestyle="", markersize=8, color=PAPER, markeredgecolor=INK)
    add_legend(axes, [*handles, cross], [*(group.name for group in listed), "centroids"])
    return figure


@styled
def confusion_matrix(labels: LabelMetrics, groups: Groups) -> Figure:
    """Draw how the jets of each true class spread over the matched clusters: row fractions and counts.

    Matrices of more than five columns show the fractions only, those of more than ten the shades only.
    """
    counts = np.asarray(labels.confusion, dtype=np.int64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = new_figure()
    dense, crowded = counts.shape[1] > 5, counts.shape[1] > 10
    for (row, column), count in np.ndenumerate(counts):
        _draw_cell(axes, column, row, share[row, column])
        if not crowded:
            _write_cell(axes, column, row, share[row, column], None if dense else int(count))
    columns = _confusion_columns(labels, groups)
    axes.set(xlim=(0, counts.shape[1]), ylim=(counts.shape[0], 0))
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=10 - 2 * dense - 2 * crowded)
    axes.tick_params(axis="x", rotation=90 if crowded else 40 if dense else 0)
    axes.set_yticks(np.arange(len(labels.classes)) + 0.5, labels.classes, fontsize=12)
    axes.tick_params(which="both", length=0)
    axes.minorticks_off()
    axes.set_xlabel("found in", loc="center")
    axes.set_ylabel("true class", loc="center")
    return figure


@styled
def accuracy_bars(method: str, labels: LabelMetrics, baselines: Sequence[BaselineResult]) -> Figure:
    """Draw the method's accuracy beside the baselines'; those that read labels are hatched."""
    figure, (axes,) = new_figure()
    _draw_bar(axes, 0, labels.accuracy, method, _ACCENT, 1.0, hatched=False)
    judged = [(item, item.accuracy) for item in baselines if item.accuracy is not None]
    for row, (item, accuracy) in enumerate(judged, start=1):
        _draw_bar(axes, row, accuracy, shown_name(item), MUTED, 0.55, hatched=item.reads_labels)
    floor = labels.largest_class_fraction
    axes.axvline(floor, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_title(f"dotted: all jets in one cluster, {percent(floor)}", color=MUTED, fontsize=9.5)
    axes.set(xlim=(0, 1.12), ylim=(len(judged) + 0.45, -0.7), yticks=[], xticks=np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.grid(axis="x", color=GRID)
    axes.tick_params(which="both", top=False)
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("jets matched with their class")
    return figure


def _draw_cell(axes: Axes, column: int, row: int, share: float) -> None:
    """Draw one cell of a confusion matrix, the deeper the larger its share of the row."""
    face = (*to_rgba(_ACCENT)[:3], share)
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor=GRID, linewidth=1))


def _write_cell(axes: Axes, column: int, row: int, share: float, count: int | None) -> None:
    """Write a cell's share and count; None leaves the count out."""
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
    centre = (column + 0.5, row + 0.5)
    if count is None:
        note(axes, percent(share), centre, (0, 0), fontsize=9, **style)
    else:
        note(axes, percent(share), centre, (0, 5), fontsize=14, fontweight="bold", **style)
        note(axes, thousands(count), centre, (0, -11), fontsize=10, **style)


def _draw_bar(axes: Axes, row: int, value: float, name: str, colour: str, opacity: float, hatched: bool) -> None:
    """Draw one horizontal bar with its name above and its value at its end."""
    face = "none" if hatched else (*to_rgba(colour)[:3], opacity)
    axes.barh(row, value, height=0.5, facecolor=face, edgecolor=colour, hatch="///" if hatched else None)
    weight = "bold" if row == 0 else "normal"
    note(axes, percent(value), (value, row), (6, 0), va="center", color=INK, fontsize=12, fontweight=weight)
    plate = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    note(axes, name, (0, row - 0.25), (2, 4), color=INK, fontsize=10.5, fontweight=weight, bbox=plate)


def _zoom(axes: Axes, projection: Projection) -> None:
    """Show all centroids and all but the outermost points."""
    low, high = np.percentile(projection.points, [0.5, 99.5], axis=0)
    low = np.minimum(low, projection.centroids.min(axis=0))
    high = np.maximum(high, projection.centroids.max(axis=0))
    margin = 0.08 * np.maximum(high - low, 1e-9)
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + 2 * margin[1]))


def _confusion_columns(labels: LabelMetrics, groups: Groups) -> list[str]:
    matched = {label: groups.clusters[cluster].name for cluster, label in enumerate(labels.permutation) if label >= 0}
    named = [matched.get(index, f"no cluster\n({name})") for index, name in enumerate(labels.classes)]
    spare = [groups.clusters[index].name + "\nunmatched" for index, label in enumerate(labels.permutation) if label < 0]
    return [name.replace(" (", "\n(") for name in named] + spare

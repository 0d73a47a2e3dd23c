"""Histograms of the jet mass, the multiplicity and a 1-d embedding by cluster and class, with the baselines' cuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mplhep
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparton.report.baselines import BaselineResult
from sparton.report.style import INK, MUTED, Groups, add_legend, new_figure, note, shown_name, styled

FloatArray = npt.NDArray[np.float64]

#: Share of the values, in percent, cut off at each end of a drawn range.
_TAIL = 0.2
_MAX_BINS = 120
_FILL = 0.35


@styled
def mass_by_cluster(
    mass: npt.ArrayLike,
    cluster: npt.ArrayLike,
    groups: Groups,
    label: npt.ArrayLike | None = None,
    baselines: Sequence[BaselineResult] = (),
) -> Figure:
    """Draw the jet mass (GeV) [n] by cluster [n] and, as outlines, by true class [n]; above it the baselines' cuts."""
    values = np.asarray(mass, dtype=np.float64)
    edges = _bin_edges(values)
    if baselines:
        figure, (strip, axes) = new_figure(rows=2, ratios=(0.19 * len(baselines), 3.0))
    else:
        figure, (axes,) = new_figure()
    _draw_groups(axes, values, edges, cluster, groups, label)
    if baselines:
        _draw_cuts(strip, axes, baselines)
    axes.set_xlabel("jet mass [GeV]")
    axes.set_ylabel(f"jets / {edges[1] - edges[0]:g} GeV")
    return figure


@styled
def multiplicity_by_cluster(
    n_constituents: npt.ArrayLike, cluster: npt.ArrayLike, groups: Groups, label: npt.ArrayLike | None = None
) -> Figure:
    """Draw the number of constituents [n] by cluster [n] and, as outlines, by true class [n]."""
    values = np.asarray(n_constituents, dtype=np.float64)
    figure, (axes,) = new_figure()
    edges = _bin_edges(values, whole=True)
    _draw_groups(axes, values, edges, cluster, groups, label)
    width = edges[1] - edges[0]
    axes.set_xlabel("constituents in the jet")
    axes.set_ylabel("jets" if width == 1 else f"jets / {width:g} constituents")
    return figure


@styled
def embedding_by_cluster(
    embedding: npt.ArrayLike,
    centroids: npt.ArrayLike,
    cluster: npt.ArrayLike,
    groups: Groups,
    label: npt.ArrayLike | None = None,
) -> Figure:
    """Draw a 1-d embedding [n] by cluster [n] and, as outlines, by true class [n], with its centroids [K]."""
    values = np.asarray(embedding, dtype=np.float64)
    figure, (axes,) = new_figure()
    _draw_groups(axes, values, _bin_edges(values), cluster, groups, label)
    for centre, group in zip(np.asarray(centroids, dtype=np.float64), groups.clusters, strict=True):
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "zorder": 5}
        axes.plot(centre, 0.035, marker="X", markersize=12, color=group.colour, markeredgecolor=INK, **place)
    axes.set_xlabel("embedding")
    axes.set_ylabel("jets")
    return figure


def _draw_groups(
    axes: Axes,
    values: FloatArray,
    edges: FloatArray,
    cluster: npt.ArrayLike,
    groups: Groups,
    label: npt.ArrayLike | None,
) -> None:
    """Fill one histogram a cluster and outline one a class; without classes, outline the clusters."""
    handles: list[Patch | Line2D] = []
    clusters = _histograms(values, edges, cluster, len(groups.clusters))
    classes = _histograms(values, edges, label, len(groups.classes)) if label is not None else clusters[:0]
    for index in groups.order:
        group = groups.clusters[index]
        mplhep.histplot(clusters[index], edges, ax=axes, histtype="fill", color=group.colour, alpha=_FILL, flow="none")
        if label is None:
            _outline(axes, clusters[index], edges, group.colour)
        handles.append(Patch(facecolor=(*to_rgba(group.colour)[:3], _FILL), label=group.name))
    for heights, group in zip(classes, groups.classes, strict=False):
        _outline(axes, heights, edges, group.colour)
        handles.append(Line2D([], [], color=group.colour, label=f"true {group.name}"))
    peak = max(1, int(clusters.max(initial=0)), int(classes.max(initial=0)))
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, peak * 1.22))
    add_legend(axes, handles, [str(handle.get_label()) for handle in handles])


def _histograms(values: FloatArray, edges: FloatArray, member: npt.ArrayLike, n_groups: int) -> npt.NDArray[np.int64]:
    """Count values [n] by group [n] and bin, int64 [n_groups, bins]."""
    index = np.asarray(member)
    return np.stack([np.histogram(values[index == group], edges)[0] for group in range(n_groups)])


def _outline(axes: Axes, heights: npt.NDArray[np.int64], edges: FloatArray, colour: str) -> None:
    mplhep.histplot(heights, edges, ax=axes, histtype="step", color=colour, linewidth=1.6, flow="none", yerr=False)


def _draw_cuts(strip: Axes, axes: Axes, baselines: Sequence[BaselineResult]) -> None:
    """Mark each baseline's cuts on a line of its own, and the oracle's through the histogram.

    The names stand on the side that leaves more room beside the cuts.
    """
    left, right = axes.get_xlim()
    cuts = [cut for baseline in baselines for cut in baseline.cuts] or [left]
    side = 1 if right - max(cuts) > min(cuts) - left else 0
    for row, baseline in enumerate(baselines):
        colour = INK if baseline.reads_labels else MUTED
        strip.vlines(baseline.cuts, row - 0.36, row + 0.36, color=colour, linewidth=2)
        align = {"ha": "right" if side else "left", "va": "center"}
        anchor = ("axes fraction", "data")
        # Short, since the strip's title says the rest and cuts may lie where a long name would stand.
        name = "oracle, reads labels" if baseline.reads_labels else shown_name(baseline).removesuffix(" on mass")
        note(strip, name, (side, row), (3 - 6 * side, 0), anchor, color=colour, fontsize=9.5, **align)
        for cut in baseline.cuts if baseline.reads_labels else ():
            axes.axvline(cut, ymax=0.985, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    strip.set(ylim=(len(baselines) - 0.5, -0.5), yticks=[])
    strip.tick_params(which="both", length=0, labelbottom=False)
    strip.spines[:].set_visible(False)
    strip.set_title("cuts of the baselines on mass alone", color=MUTED, fontsize=9.5, pad=4)


def _bin_edges(values: FloatArray, whole: bool = False) -> FloatArray:
    """Return edges at multiples of a round width over all but the tails; for whole numbers, half way between.

    The number of bins grows as the cube root of the number of values.
    """
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL]) if len(values) else (0.0, 1.0)
    span = max(float(high - low), 1.0 if whole else 1e-6)
    steps = [1, 2, 5] if whole else [1, 2, 2.5, 4, 5]
    widths = np.ravel(np.geomspace(1.0 if whole else 1e-3, 1e9, 10 if whole else 13)[:, None] * steps)
    bins = np.clip(5 * np.cbrt(len(values)), 20, _MAX_BINS)
    width = float(widths[np.searchsorted(widths, span / bins)])
    first, last = np.floor(low / width), np.floor(high / width) + 1
    return np.arange(first, last + 1) * width - (0.5 if whole else 0.0)

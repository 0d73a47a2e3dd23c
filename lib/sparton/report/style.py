"""Colours and Matplotlib style shared by all figures, and their form in the page: adaptive, self-contained SVG."""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import matplotlib
import mplhep
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparton.report.baselines import BaselineResult

P = ParamSpec("P")
R = TypeVar("R")

#: Neutral colours; in the SVG each becomes a variable that follows the reader's light or dark preference.
INK, MUTED, GRID, PAPER = "#1c2631", "#5c6875", "#e2e7ec", "#fefefe"
_DARK = {INK: "#dfe5eb", MUTED: "#9aa6b2", GRID: "#323c47", PAPER: "#1b222a"}
_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}

#: Petroff's colour-blind-safe sequence (arXiv:2107.02270), usable on light and dark ground.
COLOURS = ("#3f90da", "#ffa90e", "#e42536", "#964a8b", "#a96b59", "#2f9e86", "#b9ac70", "#717581", "#92dadd", "#e76300")
_CLASS_COLOURS = {"W": 0, "Z": 1, "t": 2, "g": 3, "q": 4, "background": 0, "signal": 2}

#: Inches; a column of the page is 5.6 in wide at 96 pixels an inch.
SIZE = (5.6, 4.3)

_MAX_NAMES = 12

_RC: Any = {
    **mplhep.style.ATLAS,
    "font.size": 11,
    "font.sans-serif": ["TeX Gyre Heros", "Liberation Sans", "DejaVu Sans"],
    "figure.figsize": SIZE,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.labelpad": 5,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.autolimit_mode": "data",
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "ytick.minor.visible": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "legend.fontsize": 9.5,
    "legend.borderpad": 0.4,
    "legend.frameon": True,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.8,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 1.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "sparton",
    **{f"{axis}tick.{key}": value for axis in "xy" for key, value in (("color", MUTED), ("labelcolor", INK))},
    **{f"{axis}tick.labelsize": 10 for axis in "xy"},
    **{f"{axis}tick.{level}.size": size for axis in "xy" for level, size in (("major", 5), ("minor", 2.5))},
}


@dataclass(frozen=True)
class Group:
    """A cluster or class as the figures show it."""

    name: str
    colour: str


@dataclass(frozen=True)
class Groups:
    """Every cluster and class with its name and colour; a cluster has the colour of the class it is matched with."""

    clusters: tuple[Group, ...]
    classes: tuple[Group, ...] = ()
    permutation: tuple[int, ...] = ()

    @property
    def order(self) -> list[int]:
        """Cluster indexes in the order in which they are listed: by matched class, then those without one."""
        rank = [match if match >= 0 else len(self.classes) for match in self.permutation] or [0] * len(self.clusters)
        return sorted(range(len(self.clusters)), key=lambda index: (rank[index], index))


def make_groups(n_clusters: int, classes: Sequence[str] = (), permutation: Sequence[int] = ()) -> Groups:
    """Choose names and colours.

    Parameters
    ----------
    n_clusters
        Number of clusters.
    classes
        Class names; known jet classes keep the same colour in every report.
    permutation
        The class index of each cluster, -1 for none; empty without labels.
    """
    taken = [_CLASS_COLOURS[name] for name in classes if name in _CLASS_COLOURS]
    free = [index for index in range(len(COLOURS)) if index not in taken]
    spare = iter(free * (1 + (len(classes) + n_clusters) // max(len(free), 1)))
    indexes = [_CLASS_COLOURS[name] if name in _CLASS_COLOURS else next(spare) for name in classes]
    class_groups = tuple(Group(name, COLOURS[index]) for name, index in zip(classes, indexes, strict=True))
    clusters = []
    for index in range(n_clusters):
        matched = permutation[index] if len(permutation) else -1
        if matched >= 0:
            clusters.append(Group(f"cluster {index} ({classes[matched]})", class_groups[matched].colour))
        else:
            clusters.append(Group(f"cluster {index}", COLOURS[next(spare)]))
    return Groups(tuple(clusters), class_groups, tuple(int(match) for match in permutation))


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a figure function under the report's style and leave Matplotlib's settings as they were."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_RC):
            return function(*args, **kwargs)

    return wrapper


def new_figure(rows: int = 1, ratios: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """Return a figure outside pyplot's registry, so that nothing has to be closed, and its stacked axes.

    The axes share the horizontal range.
    """
    figure = Figure(figsize=SIZE)
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=ratios)
    return figure, list(grid[:, 0])


def add_legend(axes: Axes, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Name the groups, the first twelve of them."""
    if len(names) > _MAX_NAMES:
        handles = [*handles[:_MAX_NAMES], Line2D([], [], linestyle="")]
        names = [*names[:_MAX_NAMES], f"and {len(names) - _MAX_NAMES} more"]
    axes.legend(handles, names, ncols=2 if len(names) > 5 else 1, handlelength=1.4, columnspacing=1.2)


def note(
    axes: Axes,
    text: str,
    anchor: tuple[float, float],
    offset: tuple[float, float],
    coordinates: str | tuple[str, str] = "data",
    **style: Any,
) -> None:
    """Write text at an offset in points from an anchor."""
    axes.annotate(text, anchor, offset, xycoords=coordinates, textcoords="offset points", **style)


def percent(share: float) -> str:
    """Return a share as figures print it."""
    return f"{100 * share:.1f} %"


def thousands(number: int) -> str:
    """Return a whole number with a thin space between thousands."""
    return f"{number:,}".replace(",", "\u2009")


def shown_name(baseline: BaselineResult) -> str:
    """Return a baseline's name, which says so if it reads labels."""
    return f"{baseline.name}, reads labels" if baseline.reads_labels else baseline.name


@styled
def to_svg(figure: Figure) -> str:
    """Draw a figure as SVG text whose neutral colours follow ``prefers-color-scheme``; text is drawn as paths.

    Browsers that do not ask for a colour scheme inside images show the light form on a light ground.
    """
    FigureCanvasSVG(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    for colour, name in _NAMES.items():
        text = re.sub(rf"(?<=[: ]){colour}(?=[;\"])", f"var(--{name})", text)
    return re.sub(r"(<svg[^>]*>)", lambda match: match.group(1) + _stylesheet(), text, count=1)


def data_uri(figure: Figure) -> str:
    """Return a figure as a ``data:`` address of its SVG."""
    return "data:image/svg+xml;base64," + base64.b64encode(to_svg(figure).encode("utf-8")).decode("ascii")


def _stylesheet() -> str:
    light = "".join(f"--{name}:{colour};" for colour, name in _NAMES.items())
    dark = "".join(f"--{_NAMES[colour]}:{value};" for colour, value in _DARK.items())
    return f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"

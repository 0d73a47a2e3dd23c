"""The training curve: a CSV with one row an epoch, read as columns and drawn as far as they are present."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparton.errors import DataError
from sparton.report.style import COLOURS, GRID, INK, MUTED, new_figure, note, styled

FloatArray = npt.NDArray[np.float64]

_SPLITS = {"train": (0, (4, 2)), "val": "solid", "test": "solid", "smoothed": "solid", "": "solid"}
_LOSSES = ("loss", "focal", "clustering", "total", "inertia", "cost")
_NOT_DRAWN = ("epoch", "step", "phase", "seconds", "time")
_LABELS = {
    "alpha": r"$\alpha$ (inverse temperature)",
    "learning_rate": "learning rate",
    "jets_per_second": "jets / s",
    "loss": "total loss",
    "total": "total loss",
    "focal": "focal loss",
    "clustering": "clustering loss",
    "inertia": "mean squared distance",
    "cost": "mean cost",
    "rows_per_second": "rows / s",
}
_PHASES = {"pretrain": "pre-training", "joint": "joint training"}
_MAX_STRIPS = 4
# None of the colours that stand for a jet class elsewhere on the page.
_LOSS_COLOURS = (INK, COLOURS[3], COLOURS[5], COLOURS[4])


@dataclass(frozen=True)
class TrainingCurve:
    """Columns of equal length [epochs]: ``epoch``, ``phase`` (may be empty) and the numbers, NaN where missing."""

    epoch: FloatArray
    phase: tuple[str, ...]
    columns: dict[str, FloatArray]

    def boundaries(self) -> list[float]:
        """Return the epochs, half way between two rows, at which the phase changes."""
        pairs = zip(self.phase[:-1], self.phase[1:], strict=True)
        return [float(self.epoch[i : i + 2].mean()) for i, (old, new) in enumerate(pairs) if old != new]


def parse_curve(text: str) -> TrainingCurve:
    """Read the text of a training curve; columns that hold no number at all are left out.

    Raises
    ------
    DataError
        If there is no header, or a row has another number of fields.
    """
    header, *rows = [row for row in csv.reader(io.StringIO(text)) if row] or [[]]
    if not header:
        raise DataError("training curve: found no header, expected CSV with a column epoch and losses")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"training curve, line {number}: found {len(row)} fields, expected {len(header)}")
    cells = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    numbers = {name: np.array([_number(cell) for cell in column]) for name, column in cells.items() if name != "phase"}
    present = {name: column for name, column in numbers.items() if np.isfinite(column).any()}
    epoch = present.get("epoch", np.arange(len(rows), dtype=np.float64))
    return TrainingCurve(epoch, tuple(cells.get("phase", ())), present)


def loss_columns(curve: TrainingCurve) -> list[str]:
    """Return the names of the loss columns, in the file's order."""
    return [name for name in curve.columns if _split_name(name)[1] in _LOSSES]


def monitor_columns(curve: TrainingCurve) -> list[str]:
    """Return the names of the other columns that are drawn, at most four: schedules and speed, then what is left.

    Clocks and counters are not drawn.
    """
    losses = loss_columns(curve)
    others = [name for name in curve.columns if name not in losses and not _is_clock(name)]
    return sorted(others, key=lambda name: name not in _LABELS)[:_MAX_STRIPS]


def is_validated(curve: TrainingCurve) -> bool:
    """Tell whether there are losses on a validation split."""
    return any(_split_name(name)[0] == "val" for name in loss_columns(curve))


_SPLIT_NAMES = {"val": "validation", "train": "training", "smoothed": "smoothed"}


@styled
def draw_losses(curve: TrainingCurve) -> Figure:
    """Draw each kind of loss against the epoch in a panel of its own: validation solid, others dashed."""
    kinds: dict[str, list[str]] = {}
    for name in loss_columns(curve):
        kinds.setdefault(_split_name(name)[1], []).append(name)
    figure, panels = new_figure(rows=max(len(kinds), 1))
    for row, (axes, (kind, names)) in enumerate(zip(panels, kinds.items(), strict=False)):
        for name in names:
            split = _split_name(name)[0]
            colour = _LOSS_COLOURS[row % len(_LOSS_COLOURS)]
            _line(axes, curve, name, color=colour, linestyle=_SPLITS[split], label=_SPLIT_NAMES.get(split, kind))
        axes.legend()
        _phases(axes, curve, named=row == 0)
        axes.set_ylabel(_LABELS.get(kind, kind))
        axes.margins(y=0.12)
        _epochs(axes)
        if row < len(kinds) - 1:
            axes.set_xlabel("")
    return figure


@styled
def draw_monitors(curve: TrainingCurve) -> Figure:
    """Draw the schedules and monitors, one strip each, against the epoch."""
    names = monitor_columns(curve)
    figure, strips = new_figure(rows=max(len(names), 1))
    for index, (name, axes) in enumerate(zip(names, strips, strict=False)):
        _line(axes, curve, name, color=COLOURS[5])
        _phases(axes, curve, named=False)
        axes.set_title(_LABELS.get(name, name.replace("_", " ")), fontsize=10, color=INK, pad=3)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.margins(y=0.15)
        _epochs(axes)
        if index < len(names) - 1:
            axes.set_xlabel("")
    return figure


def _line(axes: Axes, curve: TrainingCurve, name: str, **style: object) -> None:
    """Draw one column, with a gap where the phase changes: what a loss means changes with it."""
    values = curve.columns[name]
    known = np.isfinite(values)
    marker = "o" if known.sum() < 25 else ""
    epoch, values = curve.epoch[known], values[known]
    gaps = np.searchsorted(epoch, curve.boundaries())
    pieces = np.insert(epoch, gaps, np.nan), np.insert(values, gaps, np.nan)
    axes.plot(*pieces, marker=marker, markersize=3, **style)  # type: ignore[arg-type]


def _phases(axes: Axes, curve: TrainingCurve, named: bool) -> None:
    axes.grid(axis="y", color=GRID)
    for boundary in curve.boundaries():
        axes.axvline(boundary, color=MUTED, linewidth=1.0, linestyle=(0, (2, 2)))
    if not named or not curve.phase:
        return
    edges = [float(curve.epoch[0]), *curve.boundaries(), float(curve.epoch[-1])]
    for phase, left, right in zip(_runs(curve.phase), edges[:-1], edges[1:], strict=True):
        middle = ((left + right) / 2, 1.0)
        anchor = ("data", "axes fraction")
        note(axes, _PHASES.get(phase, phase), middle, (0, 4), anchor, ha="center", color=MUTED, fontsize=9.5)


def _runs(phases: Sequence[str]) -> list[str]:
    return [phase for index, phase in enumerate(phases) if index == 0 or phases[index - 1] != phase]


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.minorticks_off()
    axes.margins(x=0.03)


def _split_name(name: str) -> tuple[str, str]:
    """Return (split, quantity) of a column: ``val_focal`` gives ("val", "focal"), ``focal_loss`` ("", "focal")."""
    split, _, rest = name.partition("_")
    split, base = (split, rest) if split in _SPLITS and rest else ("", name)
    return split, base.removesuffix("_loss")


def _is_clock(name: str) -> bool:
    return name in _NOT_DRAWN or name.endswith(("_seconds", "_s"))


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")

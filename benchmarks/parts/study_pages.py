"""The quality study as a table, figures and one file of raw results; everything is made from the results alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from parts.pages import fill
from parts.recipes import CEILING, DEFAULT, PROPORTIONAL_RUN, PUBLISHED_RUN, REFERENCE, SHORT, WIDE_CEILING
from sparton import storage
from sparton.report.baselines import BaselineResult
from sparton.report.figures import confusion_matrix
from sparton.report.metrics import LabelMetrics, describe_labels
from sparton.report.style import COLOURS, GRID, INK, MUTED, make_groups, new_figure, percent, styled, to_svg

PAGE, RESULTS = "quality.md", "quality/results.json"
SCRIPT = "quality.py"
FIGURE = "![Test accuracy of the ablations](images/quality_ablations.svg)"

FULL_RUNS = (DEFAULT, CEILING, WIDE_CEILING, PUBLISHED_RUN, PROPORTIONAL_RUN)

Result = dict[str, Any]


def write_pages(docs: Path, results: Sequence[Result], baselines: Sequence[BaselineResult], data: Result) -> None:
    """Write raw results and figures below ``docs``, and the tables into its page where that has their markers."""
    folder = docs / "images"
    folder.mkdir(parents=True, exist_ok=True)
    (docs / RESULTS).parent.mkdir(parents=True, exist_ok=True)
    baseline_rows = [
        {"name": item.name, "reads_labels": item.reads_labels, "accuracy": item.accuracy,
         "adjusted_rand_index": item.adjusted_rand_index,
         "normalized_mutual_information": item.normalized_mutual_information}
        for item in baselines
    ]  # fmt: skip
    storage.write_json(
        str(docs / RESULTS), {"data": data, "baselines": baseline_rows, "runs": [compact(result) for result in results]}
    )
    for name, figure in figures(results, baselines):
        (folder / f"quality_{name}.svg").write_text(to_svg(figure), encoding="utf-8")
    page = docs / PAGE
    if page.exists():
        text = page.read_text(encoding="utf-8")
        for name, lines in (("results", main_table(results, baselines)), ("ablations", ablation_table(results))):
            text = fill(text, name, SCRIPT, lines)
        page.write_text(text, encoding="utf-8")


def compact(result: Result) -> Result:
    """Return a result with accuracies to five digits, and of the curves what the page shows."""
    shown = ("val_focal", "val_clustering", "changed", "smallest_cluster")
    epochs = [
        {
            "epoch": epoch["epoch"],
            "joint": epoch["joint"],
            "accuracy": round(epoch["accuracy"], 5),
            **{name: _rounded(epoch["curve"][name]) for name in shown},
        }
        for epoch in result["epochs"]
    ]
    final = {name: _rounded(value) for name, value in result["final"].items()}
    return result | {"epochs": epochs, "final": final, "seconds": round(result["seconds"], 1)}


def main_table(results: Sequence[Result], baselines: Sequence[BaselineResult]) -> list[str]:
    """Return the Markdown table of baselines, default recipe, ceiling and published network."""
    lines = [
        "| | accuracy | best epoch | least validation loss | ARI | NMI | W found as Z | Z found as W | t |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for item in baselines:
        name = f"{item.name}{', chosen with labels' if item.reads_labels else ''}"
        scores = (item.accuracy, item.adjusted_rand_index, item.normalized_mutual_information)
        accuracy, rand, information = (_number(score) for score in scores)
        lines.append(f"| {name} | {accuracy} | | | {rand} | {information} | | | |")
    for result in _named(results, FULL_RUNS):
        lines.append(_main_row(f"{result['text']}, seed {result['seed']}", [result]))
    seeds = list(_named(results, (DEFAULT,)))
    if len(seeds) > 1:
        lines.append(_main_row(f"**{seeds[0]['text']}, mean of {len(seeds)} seeds**", seeds))
    return lines


def ablation_table(results: Sequence[Result]) -> list[str]:
    """Return the Markdown table of the runs that undo one choice."""
    short = [result for result in results if result["group"] == SHORT]
    reference = next((result for result in short if result["name"] == REFERENCE), None)
    lines = ["| undone | last epoch | change | best epoch | lowest joint epoch |", "| --- | --- | --- | --- | --- |"]
    for result in short:
        accuracy = result["final"]["accuracy"]
        change = "" if reference in (None, result) else f"{accuracy - reference['final']['accuracy']:+.3f}"
        joint = [epoch["accuracy"] for epoch in result["epochs"] if epoch["joint"]] or [accuracy]
        best = max(epoch["accuracy"] for epoch in result["epochs"])
        lines.append(f"| {result['text']} | {accuracy:.3f} | {change} | {best:.3f} | {min(joint):.3f} |")
    return [*lines, "", FIGURE] if len(short) > 1 else lines


def figures(results: Sequence[Result], baselines: Sequence[BaselineResult]) -> Iterable[tuple[str, Figure]]:
    """Yield the name and the drawing of each figure for which there are results."""
    seeds = list(_named(results, (DEFAULT,)))
    if seeds:
        best_cuts = next((item.accuracy for item in baselines if item.reads_labels), None)
        yield "epochs", epochs_figure(list(_named(results, FULL_RUNS)), best_cuts)
        yield "confusion", confusion_figure(seeds)
    short = [result for result in results if result["group"] == SHORT]
    if len(short) > 1:
        yield "ablations", ablation_figure(short)


@styled
def epochs_figure(results: Sequence[Result], best_cuts: float | None) -> Figure:
    """Draw the test accuracy of each epoch; hollow before clusters are part of the training."""
    figure, (axes,) = new_figure()
    colours = dict(zip(FULL_RUNS, (COLOURS[0], MUTED, INK, COLOURS[1], COLOURS[2]), strict=True))
    named: set[str] = set()
    for result in results:
        name, colour = result["name"], colours[result["name"]]
        epochs = [epoch["epoch"] for epoch in result["epochs"]]
        values = [epoch["accuracy"] for epoch in result["epochs"]]
        axes.plot(epochs, values, color=colour, linewidth=1.2, label=None if name in named else result["text"])
        joint = [epoch for epoch in result["epochs"] if epoch["joint"]]
        axes.plot([e["epoch"] for e in joint], [e["accuracy"] for e in joint], "o", color=colour, markersize=3.5)
        named.add(name)
    if best_cuts is not None:
        axes.axhline(
            best_cuts, color=INK, linewidth=1, linestyle=(0, (2, 2)), label="best cuts on the mass, with labels"
        )
    axes.set(xlabel="epoch", ylabel="test accuracy", ylim=(None, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=GRID)
    axes.legend(loc="lower right")
    return figure


def confusion_figure(seeds: Sequence[Result]) -> Figure:
    """Draw the confusion matrix of the seed whose accuracy is the median."""
    middle = sorted(seeds, key=lambda result: result["final"]["accuracy"])[len(seeds) // 2]["final"]
    labels = _labels(middle)
    return confusion_matrix(labels, make_groups(len(labels.permutation), labels.classes, labels.permutation))


@styled
def ablation_figure(short: Sequence[Result]) -> Figure:
    """Draw the accuracy after the last epoch of each run that undoes one choice."""
    figure, (axes,) = new_figure()
    figure.set_size_inches(6.4, 0.9 + 0.3 * len(short))
    values = [result["final"]["accuracy"] for result in short]
    colours = [COLOURS[0] if result["name"] == REFERENCE else MUTED for result in short]
    axes.barh(np.arange(len(short)), values, color=colours, height=0.7)
    for row, value in enumerate(values):
        axes.text(value + 0.003, row, percent(value), va="center", fontsize=9, color=INK)
    axes.set_yticks(np.arange(len(short)), [result["text"] for result in short], fontsize=9)
    axes.set(ylim=(len(short) - 0.4, -0.6), xlim=(max(min(values) - 0.05, 0), max(values) + 0.05))
    axes.axvline(values[0], color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.tick_params(axis="y", which="both", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("test accuracy, last epoch")
    return figure


def selected(result: Result) -> Result | None:
    """Return the joint epoch that a look at the validation loss alone would choose; None without joint epochs."""
    joint = [epoch for epoch in result["epochs"] if epoch["joint"] and epoch["curve"]["val_focal"] is not None]
    return min(joint, key=lambda epoch: epoch["curve"]["val_focal"]) if joint else None


def _labels(final: Result) -> LabelMetrics:
    return describe_labels(np.asarray(final["contingency"]), final["classes"])


def _main_row(name: str, results: Sequence[Result]) -> str:
    finals = [result["final"] for result in results]
    accuracies = [final["accuracy"] for final in finals]
    spread = f" ± {statistics.stdev(accuracies):.3f}" if len(results) > 1 else ""
    best = statistics.mean(max(epoch["accuracy"] for epoch in result["epochs"]) for result in results)
    chosen = [epoch["accuracy"] for epoch in map(selected, results) if epoch is not None]
    rand, information = (
        statistics.mean(final[score] for final in finals)
        for score in ("adjusted_rand_index", "normalized_mutual_information")
    )
    shares = np.mean([_shares(_labels(final)) for final in finals], axis=0)
    cells = [f"{statistics.mean(accuracies):.3f}{spread}", f"{best:.3f}"]
    cells += [_number(statistics.mean(chosen) if chosen else None), f"{rand:.3f}", f"{information:.3f}"]
    return f"| {name} | {' | '.join((*cells, *(f'{share:.3f}' for share in shares)))} |"


def _shares(labels: LabelMetrics) -> tuple[float, float, float]:
    """Return the shares of W jets found as Z, of Z jets found as W, and of top jets found as such."""
    table = np.asarray(labels.confusion, float)
    table /= table.sum(axis=1, keepdims=True)
    w, z, top = (labels.classes.index(name) for name in ("W", "Z", "t"))
    return table[w, z], table[z, w], table[top, top]


def _named(results: Sequence[Result], names: Sequence[str]) -> Iterable[Result]:
    return (result for name in names for result in results if result["name"] == name)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _rounded(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value

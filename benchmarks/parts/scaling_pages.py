"""The scaling study as tables, a figure and one file of raw results; everything is made from the results alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from parts.pages import fill, table
from sparton import storage
from sparton.report.style import COLOURS, GRID, INK, new_figure, styled, to_svg

PAGE, RESULTS, FIGURE, SCRIPT = "scaling.md", "scaling/results.json", "images/scaling_model.svg", "scaling.py"
BAR = 0.90
SHOWN_WORKERS = (2, 8, 32, 128, 1024)
DRAWN = {
    "loopback": "UCluster, direct, loopback",
    "horovod": "UCluster, Horovod, loopback",
    "ethernet": "UCluster, direct, 25 Gbit/s",
    "nvlink": "UCluster on GPUs, NVLink",
    "resnet_nvlink": "ResNet-50, NVLink",
    "resnet_infiniband": "ResNet-50, 100 Gbit/s",
}
"""Scenarios in the figure."""

Result = dict[str, Any]


def read(docs: Path) -> Result:
    """Return the results that are kept, by part of the study."""
    path = docs / RESULTS
    return dict(storage.read_json(str(path))) if path.exists() else {}


def write(docs: Path, results: Result) -> None:
    """Keep the results, and write tables and figure where the page has their markers."""
    for path in (docs / RESULTS, docs / FIGURE):
        path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_json(str(docs / RESULTS), results)
    if "model" in results:
        storage.write_text(str(docs / FIGURE), to_svg(model_figure(results["model"])))
    page = docs / PAGE
    if not page.exists():
        return
    text = page.read_text(encoding="utf-8")
    for name, lines in sections(results).items():
        text = fill(text, name, SCRIPT, lines)
    page.write_text(text, encoding="utf-8")


def sections(results: Result) -> dict[str, list[str]]:
    """Return the Markdown lines of each part of the page for which there are results."""
    makers: dict[str, tuple[str, Callable[[Result], list[str]]]] = {
        "efficiency": ("efficiency", efficiency_lines),
        "exchange": ("efficiency", exchange_lines),
        "calibration": ("calibration", calibration_lines),
        "model": ("model", model_lines),
        "large-batch": ("large_batch", large_batch_lines),
    }
    return {name: make(results[part]) for name, (part, make) in makers.items() if part in results}


def efficiency_lines(found: Result) -> list[str]:
    """Return the table of rates and efficiencies, and where it was measured."""
    headings = [
        "batches from",
        "sums",
        "gradients",
        "one worker",
        "two by themselves",
        "together",
        "e₂ (least to most)",
        "bar",
    ]
    headings += ["two by themselves over twice one", "input", "compute", "exchange"]
    rows = []
    for line in found["lines"]:
        low, high = line["efficiency_range"]
        rates = [f"{line[name]:,.0f}" for name in ("alone", "both", "together")]
        shares = [f"{line['shares'][name]:.1%}" for name in ("input", "compute", "exchange")]
        reached = "met" if line["efficiency"] >= BAR else "missed"
        efficiency = f"**{line['efficiency']:.3f}** ({low:.3f} to {high:.3f})", f"≥ {BAR:.2f}: {reached}"
        rows.append(
            [
                line["source"],
                line["way"],
                line["precision"],
                *rates,
                *efficiency,
                f"{line['apart_efficiency']:.3f}",
                *shares,
            ]
        )
    machine = found["machine"]
    variables = "".join(f", `{name}={value}`" for name, value in machine["environment"].items())
    measured = (
        f"{machine['cores']} cores, {machine['processor']}, one core copies memory at "
        f"{machine['copied_bytes_per_second'] / 1e9:.1f} GB/s; load before the start {machine['load']:.2f}; "
        f"{found['rounds']} rounds of {found['steps']} steps of {found['batch_size']} jets for each worker; "
        f"rates in jets/s of all workers{variables}."
    )
    return [*table(headings, rows), "", measured]


def exchange_lines(found: Result) -> list[str]:
    """Return the table of what a step exchanges."""
    headings = ["gradients", "collectives a step", "largest", "all others together", "bytes of gradients"]
    rows = []
    for precision, exchange in found["exchange"].items():
        sizes = exchange["collectives"]
        counts = [f"{len(sizes)}", f"{max(sizes):,} B", f"{sum(sizes) - max(sizes):,} B"]
        rows.append([precision, *counts, f"{exchange['gradient_bytes']:,} B"])
    return table(headings, rows)


def calibration_lines(found: Result) -> list[str]:
    """Return the table of sums over two ranks, and the lines through them."""
    variants = [name for name, each in found.items() if isinstance(each, dict)]
    sizes = sorted({size for name in variants for size in found[name]["sizes"]})
    milliseconds = [
        {size: f"{1e3 * seconds:.3f}" for size, seconds in zip(each["sizes"], each["seconds"], strict=True)}
        for each in (found[name] for name in variants)
    ]
    rows = [[_size(size), *(column.get(size, "") for column in milliseconds)] for size in sizes]
    fits = [
        f"{name}: {1e3 * fit['intercept_s']:.3f} ms + bytes / {1e-9 / fit['seconds_per_byte']:.2f} GB/s, "
        f"within {fit['worst']:.0%} of every size"
        for name, fit in ((name, found[name]["fit"]) for name in variants)
    ]
    hop = f"An empty message over the loopback interface takes {1e6 * found['hop_s']:.1f} µs."
    return [*table(["size", *(f"{name}, ms" for name in variants)], rows), "", f"{'; '.join(fits)}. {hop}"]


def model_lines(found: Result) -> list[str]:
    """Return the table of predictions, the check against what was measured, and the published point."""
    columns = [found["workers"].index(workers) for workers in SHOWN_WORKERS]
    rows = []
    for scenario in found["scenarios"].values():
        for algorithm, values in scenario["efficiency"].items():
            shown = [f"{values[column]:.3f}" for column in columns]
            rows.append([scenario["name"], algorithm, *shown, scenario["measured"]])
    published = found["published"]
    workers = published["workers"]
    said = ", ".join(
        f"{scenario['at_published']['ring']:.1%} ({scenario['name'].partition('over ')[2]})"
        for name, scenario in found["scenarios"].items()
        if name.startswith("resnet")
    )
    headings = ["", "sum", *(f"N = {count:,}" for count in SHOWN_WORKERS), "measured here"]
    return [
        *table(headings, rows),
        "",
        f"At N = 2 over loopback the model says {found['check']['model']:.3f}, the measurement "
        f"{found['check']['measured']:.3f}.",
        "",
        f"Published (Lu et al. 2020): {published['efficiency']:.1%} at {workers} GPUs. "
        f"For ResNet-50 on so many the model says {said}. "
        "Without any overlap, latency and overhead the published efficiency needs at least "
        f"{published['bytes_per_second_needed'] / 1e9:.1f} GB/s of each GPU.",
        "",
        f"![Predicted efficiency]({FIGURE})",
    ]


def large_batch_lines(found: Result) -> list[str]:
    """Return the table of trainings with large batches."""
    headings = ["workers", "batch", "learning rate", "warm-up", "steps", "validation loss", "test accuracy"]
    headings += ["best epoch"]
    rows = [
        [
            str(run["workers"]),
            f"{run['batch']:,}",
            "× N" if run["scaled"] else "of one worker",
            run["warmup"] or "none",
            f"{run['steps']:,}",
            f"{run['val_loss']:.4f}",
            f"{run['accuracy']:.3f}",
            f"{run['best_accuracy']:.3f}",
        ]
        for run in found["runs"]
    ]
    text = (
        f"{found['jets']:,} jets, {found['pretrain_epochs']} + {found['joint_epochs']} epochs, "
        f"the first of which warms up; seed {found['seed']}; {found['seconds'] / 60:.0f} minutes of training in all."
    )
    return [*table(headings, rows), "", text]


@styled
def model_figure(found: Result) -> Figure:
    """Draw efficiency against workers: rings as lines, trees dashed, and the published point."""
    figure, (axes,) = new_figure()
    figure.set_size_inches(6.4, 4.6)
    for colour, (key, name) in zip(COLOURS, DRAWN.items(), strict=False):
        for algorithm, style in (("ring", "-"), ("tree", (0, (3, 2)))):
            values = found["scenarios"][key]["efficiency"][algorithm]
            label = name if algorithm == "ring" else None
            axes.plot(found["workers"], values, color=colour, linestyle=style, label=label)
    point = found["published"]
    axes.plot(
        point["workers"], point["efficiency"], "*", color=INK, markersize=10, label="published, ResNet-50 on V100"
    )
    check = found["check"]
    axes.plot(2, check["measured"], "o", color=COLOURS[0], markersize=5, label="measured, loopback")
    axes.set_xscale("log", base=2)
    shown = found["workers"][::2]
    axes.set_xticks(shown, [f"{count:,}" for count in shown])
    axes.set(xlabel="workers", ylabel="efficiency (dashed: tree)", ylim=(0, 1.05))
    axes.grid(axis="y", color=GRID)
    axes.legend(loc="lower left")
    return figure


def _size(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"

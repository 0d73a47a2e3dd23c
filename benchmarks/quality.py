"""The quality study: how well clusters that no label has shaped agree with W, Z and top, and what each choice gives.

It makes the data by the pipeline (generate, prepare), trains the default recipe with several seeds, the same network
with labels (the ceiling), the published network and the default one with one choice undone at a time, and writes tables
and figures into ``docs``. What is done is not done again: the command can be killed anywhere and repeated.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

from parts.recipes import PEAK_TARGETS, PEAKS, runs, settings, targets
from parts.study import RESULT, TEST, LabelledJets, Result, Run, home, run, target_agreement, use_threads
from parts.study_pages import write_pages
from sparton import storage
from sparton.data.settings import TRAIN
from sparton.pipeline import generate, prepare
from sparton.report.baselines import mass_baselines

ROOT = Path(__file__).resolve().parents[1]

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Do what was asked for and is not done yet, and write what there is."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    use_threads(options.threads)
    recipe = settings(options.workspace, options.config)
    epochs = (options.epochs, options.published_epochs, options.proportional_epochs)
    every = runs(recipe, options.seeds, *(tuple(pair) for pair in epochs))
    chosen = [replace(item, train_jets=options.train_jets) for item in _chosen(every, options.only)]
    if options.list:
        print("\n".join(f"{item.name:24}{item.group:8}seed {item.training.seed}  {item.text}" for item in chosen))
        return 0
    folder = Path(recipe.folder("study"))
    sets = {name: made.folder(name) for name, made in targets(recipe).items()}
    generate(recipe)
    for name, made in targets(recipe).items():
        if name == PEAKS or any(item.target == name for item in chosen):
            prepare(made, output=sets[name])
    test = LabelledJets.read(sets[PEAKS], TEST)
    results: list[Result] = []
    for item in chosen:
        if options.collect and not (home(item, sets[item.target], folder) / RESULT).exists():
            continue
        result = run(item, sets[item.target], folder, test)
        results.append(result)
        print(_line(result), flush=True)
    if options.train_jets is not None:
        return 0  # a short look, which the pages are not about
    classes = len(test.classes)
    baselines = [*mass_baselines(test.mass, recipe.model.n_clusters, options.seeds[0], test.label, classes)]
    for name, text in PEAK_TARGETS.items():
        if storage.exists(sets[name]):
            baselines.append(target_agreement(text, LabelledJets.read(sets[name], TEST, with_features=False)))
    train_jets = len(LabelledJets.read(sets[PEAKS], TRAIN, with_features=False).label)
    data = {TRAIN: train_jets, TEST: len(test.label), "seed": recipe.generate.seed}
    write_pages(Path(options.docs), results, baselines, data)
    return 0


def _line(result: Result) -> str:
    figures = (
        f"accuracy {result['final']['accuracy']:.4f}",
        f"{result['exchange_bytes'] / 1e3:,.0f} kB of gradients a step",
        f"{result['skipped']:.2%} of steps skipped",
    )
    return f"{result['name']:24}seed {result['seed']}  {'  '.join(figures)}"


def _chosen(items: list[Run], names: list[str] | None) -> list[Run]:
    unknown = set(names or ()).difference(item.name for item in items)
    if unknown:
        raise SystemExit(f"--only: no run {', '.join(sorted(unknown))}; --list shows them")
    return [item for item in items if names is None or item.name in names]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", help="folder of jets, sets and runs; the default recipe's own otherwise")
    parser.add_argument("--config", help="another recipe than conf/ucluster_quality.yaml")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="runs of these names alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="seeds of the default recipe")
    parser.add_argument(
        "--epochs", nargs=2, type=int, default=(5, 1), metavar=("PRE", "JOINT"), help="epochs of the ablations"
    )
    parser.add_argument(
        "--published-epochs", nargs=2, type=int, default=(6, 8), metavar=("PRE", "JOINT"),
        help="epochs of the published network",
    )  # fmt: skip
    parser.add_argument(
        "--proportional-epochs", nargs=2, type=int, default=(12, 12), metavar=("PRE", "JOINT"),
        help="epochs of the published network with schedules in proportion to the jets",
    )  # fmt: skip
    parser.add_argument(
        "--train-jets", type=int, metavar="N", help="train on so many jets only, and print what comes out without pages"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of TensorFlow's operations")
    parser.add_argument("--docs", default=str(ROOT / "docs"), help="where tables and figures go")
    parser.add_argument("--collect", action="store_true", help="train nothing, write what is done")
    parser.add_argument("--list", action="store_true", help="show the runs and leave")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

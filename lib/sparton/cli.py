"""The command ``sparton``: one sub-command a stage, the whole pipeline, and a look at what is in a folder."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sparton import __version__
from sparton.errors import RulesError, SpartonError, UsageError, WorkerError

if TYPE_CHECKING:
    from sparton.pipeline.settings import PipelineSettings
    from sparton.pipeline.stage import StageResult

EPILOG = """\
A stage reads a folder and publishes a folder; the same settings and input twice: the second run is skipped.
Where --input and --output are not given, the stages find each other in the configuration's workspace.

exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 rules do not hold, 130 Ctrl-C, 143 SIGTERM

example:
  sparton run --config conf/jets_demo.yaml
  sparton generate --config conf/jets_demo.yaml --set generate.seed=11 --output runs/seed11/jets
  sparton info runs/jets_demo/jets --verify
"""

STAGES = {
    "generate": "simulate jets with Pythia 8 on the executors -> jets table",
    "ingest": "files of a public or own format (HDF5, ROOT, Parquet) -> jets table",
    "prepare": "jets table (or any table) -> training set: features, splits, shuffled shards of equal size, manifest",
    "validate": "any table -> which rules of the configuration hold: ranges, nulls, uniqueness, balance, drift",
    "train": "training set -> model bundle: UCluster trained by Horovod workers",
    "cluster": "table set, or Parquet files in memory -> bundle of clusters: k-means or possibilistic c-means",
    "stream-cluster": "Parquet files as they arrive in a folder -> bundle of clusters that follow them",
    "import-checkpoint": "TensorFlow 1 checkpoint of the published network -> model bundle",
    "export": "model bundle -> TensorFlow SavedModel, for serving without Sparton",
    "assign": "set, jets table or Parquet files + bundle -> cluster, distances and score of every jet or row",
    "evaluate": "assignments + set -> metrics.json and report.html",
}

RUN = (
    "generate -> prepare -> train -> assign -> evaluate, or with kind: table prepare -> cluster -> assign -> evaluate; "
    "each is skipped where it is up to date"
)

STAGE_ARGUMENTS = (
    "input",
    "checkpoint",
    "model",
    "table",
    "state",
    "output",
    "append",
    "kind",
    "reference",
    "write_reference",
)
"""Options that are arguments of the stage's function."""

STORAGE_CLIENTS = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests"})
"""Packages whose errors say that remote storage refused or cannot be reached."""

INTERRUPTED, TERMINATED = 130, 143  # 128 and the signal's number, as shells count
"""Exit status after Ctrl-C, as shells have it."""

COLLECTED_OBJECTS = 10_000
"""New objects after which Python looks for garbage; it does after 700, some hundred times while libraries load."""

Runner = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args(arguments)
    _set_up_logging(options.verbose)
    _collect_seldom()
    from sparton.distributed import interrupts  # after --help, which needs no NumPy

    runner: Runner = options.runner
    terminated = threading.Event()
    try:
        with interrupts.sigterm_as_ctrl_c(terminated):
            runner(options)
    except SpartonError as error:
        print(f"sparton {options.command}: {error}", file=sys.stderr)
        if isinstance(error, WorkerError):
            print(f"{_way_on(options)}; where Spark starts the workers, --retries N does so by itself", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"sparton {options.command}: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in STORAGE_CLIENTS:
            raise
        print(f"sparton {options.command}: storage: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"sparton {options.command}: interrupted. {_way_on(options)}", file=sys.stderr)
        return TERMINATED if terminated.is_set() else INTERRUPTED
    return 0


def _way_on(options: argparse.Namespace) -> str:
    """Return what an interrupted command leaves and what the same one does next."""
    ways = {
        "run": "begins with the stage that was interrupted, training with its last checkpoint",
        "train": "goes on from the last checkpoint, if there is one",
        "cluster": "goes on from the last checkpoint, if there is one",
        "stream-cluster": "goes on after the last batch that ended",
        "ingest": "goes on with the files that the table does not hold yet" if getattr(options, "watch", None) else "",
    }
    return f"What was published before stays; the same command {ways.get(options.command) or 'begins anew'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparton",
        allow_abbrev=False,
        description="Cluster LHC jets and other large tables without labels, on Spark and Horovod.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sparton {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    whole = commands.add_parser(
        "run", help="all stages in order (of jets, or of a table), then a closing table", description=_sentence("run")
    )
    _add_common(whole)
    whole.set_defaults(runner=_run_all)
    for stage, summary in STAGES.items():
        command = commands.add_parser(stage, help=summary, description=_sentence(stage), allow_abbrev=False)
        _add_common(command, trains=stage != "stream-cluster")
        _add_folders(command, stage)
        command.set_defaults(runner=_validate if stage == "validate" else _run_one)
    info = commands.add_parser(
        "info",
        help="what is in a table, set, bundle or report: rows, schema, provenance, checksums",
        description="Describe a published folder. Sizes are compared, with --verify footers and checksums too.",
    )
    info.add_argument("folder", help="a jets table, training set, bundle, assignments or report folder")
    info.add_argument(
        "--verify", action="store_true", help="read every file, compare its footer and checksum (exit 1 if one is bad)"
    )
    info.add_argument("--json", action="store_true", help="print the description as JSON")
    info.add_argument("-v", "--verbose", action="store_true", help="show debug messages")
    info.set_defaults(runner=_info)
    return parser


def _sentence(stage: str) -> str:
    text = STAGES.get(stage, RUN)
    return text[0].upper() + text[1:] + "."


def _add_common(command: argparse.ArgumentParser, trains: bool = True) -> None:
    command.add_argument(
        "--config", metavar="FILE", help="YAML file with the settings (examples in conf/); defaults otherwise"
    )
    command.add_argument(
        "--set",
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="override one setting, e.g. train.batch_size=128 (repeatable)",
    )
    command.add_argument("--workspace", metavar="DIR", help="folder for outputs, run folders and checkpoints")
    command.add_argument(
        "--master", metavar="URL", help="Spark master, e.g. local[4] or spark://host:7077 (spark.master)"
    )
    if trains:
        command.add_argument("--workers", metavar="N", type=int, help="training processes (launch.workers)")
        command.add_argument(
            "--retries",
            metavar="N",
            type=int,
            help="new starts of a training, from its last checkpoint, after a worker was lost (launch.retries)",
        )
    command.add_argument("--force", action="store_true", help="run even where the output is up to date")
    command.add_argument("-v", "--verbose", action="store_true", help="show debug messages")


def _add_folders(command: argparse.ArgumentParser, stage: str) -> None:
    from_workspace = "default: from the workspace"
    if stage == "ingest":
        _add_ingest(command)
    elif stage == "import-checkpoint":
        command.add_argument(
            "--checkpoint",
            metavar="PREFIX",
            required=True,
            help="what the checkpoint's files begin with: .../cluster.ckpt",
        )
    elif stage == "stream-cluster":
        _add_stream(command)
    elif stage not in ("generate", "export"):
        command.add_argument("--input", metavar="DIR", help=f"input folder ({from_workspace})")
    if stage == "prepare":
        _add_prepare(command)
    if stage == "validate":
        _add_validate(command)
    if stage == "train":
        command.add_argument(
            "--from-bundle", metavar="DIR", help="start from the weights of this bundle (train.start_from)"
        )
    if stage in ("assign", "evaluate", "export"):
        command.add_argument("--model", metavar="DIR", help=f"model bundle ({from_workspace})")
    if stage == "evaluate":
        command.add_argument(
            "--table",
            metavar="DIR",
            help=f"set (or Parquet files) with what is profiled, and labels ({from_workspace})",
        )
    command.add_argument("--output", metavar="DIR", help=f"output folder ({from_workspace})")


def _add_ingest(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", metavar="PATH", nargs="+", help="files, folders or patterns, local or URLs")
    source.add_argument("--watch", metavar="FOLDER", help="files as they arrive in a folder, each exactly once")
    command.add_argument(
        "--trigger",
        metavar="WHEN",
        help="with --watch: available-now (take what is there, then end) or seconds between looks (watch.trigger)",
    )
    command.add_argument("--format", metavar="FORMAT", help="hls4ml, lhco, toptagging, ... (ingest.format)")
    command.add_argument(
        "--max-rejected",
        metavar="FRACTION",
        type=float,
        help="publish nothing where more jets or files than this are rejected (ingest.max_rejected)",
    )
    command.add_argument("--append", action="store_true", help="add files that the output does not hold yet")


def _add_stream(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input", metavar="FOLDER", help="folder that Parquet files arrive in (default: table, in the workspace)"
    )
    command.add_argument(
        "--model", metavar="DIR", help="bundle whose clusters go on; default: begin with the first rows"
    )
    command.add_argument(
        "--state", metavar="DIR", help="states, Spark's checkpoint and metrics (default: stream, in the workspace)"
    )
    command.add_argument(
        "--trigger",
        metavar="WHEN",
        help="available-now (take what is there, then end) or seconds between looks (stream.trigger)",
    )
    command.add_argument(
        "--max-rejected",
        metavar="FRACTION",
        type=float,
        help="stop before a micro-batch of which more rows than this are broken (table.max_rejected)",
    )


def _add_prepare(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kind",
        choices=("jets", "table"),
        help="what the input is: a jets table (section prepare) or any table of numbers (section table); "
        "default: the configuration's kind",
    )
    command.add_argument(
        "--max-rejected",
        metavar="FRACTION",
        type=float,
        help="publish nothing where more rows than this are broken or repeated (max_rejected)",
    )
    command.add_argument("--append", action="store_true", help="add the files that the set does not hold yet")


def _add_validate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reference", metavar="DIR", help="compare distributions with this reference")
    command.add_argument(
        "--write-reference", metavar="DIR", help="make a reference of the input there, if the rules hold"
    )


def _settings(options: argparse.Namespace) -> PipelineSettings:
    from sparton.config import load_config
    from sparton.pipeline.settings import PipelineSettings

    given = {
        "workspace": ("--workspace", options.workspace),
        "spark.master": ("--master", options.master),
        "launch.workers": ("--workers", getattr(options, "workers", None)),
        "launch.retries": ("--retries", getattr(options, "retries", None)),
        f"{'stream' if options.command == 'stream-cluster' else 'watch'}.trigger": (
            "--trigger",
            getattr(options, "trigger", None),
        ),
        "ingest.format": ("--format", getattr(options, "format", None)),
        "train.start_from": ("--from-bundle", getattr(options, "from_bundle", None)),
        f"{_section(options)}.max_rejected": ("--max-rejected", getattr(options, "max_rejected", None)),
    }
    typed = {key: (option, value) for key, (option, value) in given.items() if value is not None}
    return load_config(PipelineSettings, options.config, options.overrides, typed)


def _section(options: argparse.Namespace) -> str:
    """Return the section of the configuration that a command's own options belong to."""
    if options.command == "stream-cluster":
        return "table"
    if options.command != "prepare":
        return str(options.command)
    from sparton.config import load_config
    from sparton.pipeline.settings import PipelineSettings

    kind = options.kind or load_config(PipelineSettings, options.config, options.overrides).kind
    return "table" if kind == "table" else "prepare"


def _run_one(options: argparse.Namespace) -> None:
    from sparton import pipeline
    from sparton.pipeline.progress import closing_table

    stage: Callable[..., StageResult] = getattr(pipeline, options.command.replace("-", "_"))
    folders = {key: getattr(options, key) for key in STAGE_ARGUMENTS if getattr(options, key, None)}
    if options.command == "ingest" and options.trigger and not options.watch:
        raise UsageError("--trigger says when to look with --watch; leave it out, or name a folder with --watch")
    if options.command == "stream-cluster":
        if options.force:
            raise UsageError("stream-cluster counts each row once; to begin anew remove the states (--state)")
        result = stage(_settings(options), **folders)
    elif getattr(options, "watch", None):
        result = _watch(options)
    else:
        result = stage(_settings(options), force=options.force, **folders)
    closing_table(f"{result.stage}: {'up to date' if result.skipped else 'done'}", result.table())


def _watch(options: argparse.Namespace) -> StageResult:
    from sparton.pipeline import watch

    if options.append or options.force:
        raise UsageError("--watch always adds to the table and never redoes it; leave out --append and --force")
    return watch(_settings(options), options.watch, output=options.output)


def _validate(options: argparse.Namespace) -> None:
    from sparton.pipeline.validation import show_failures

    try:
        _run_one(options)
    except RulesError as error:
        show_failures(error.folder)
        raise


def _run_all(options: argparse.Namespace) -> None:
    from sparton.pipeline.progress import closing_table
    from sparton.pipeline.workflow import closing_rows, run

    results = run(_settings(options), force=options.force)
    closing_table("sparton run: done", closing_rows(results))


def _info(options: argparse.Namespace) -> None:
    from sparton.pipeline.inspection import info, show

    show(info(options.folder, verify=options.verify), as_json=options.json)


def _collect_seldom() -> None:
    """Spare a command the search for garbage among the objects of its libraries, which takes a second of each run."""
    gc.set_threshold(COLLECTED_OBJECTS)
    atexit.register(gc.freeze)  # what is left goes with the process


def _set_up_logging(verbose: bool) -> None:
    """Send the package's messages to standard error: with times in logs, plain on a terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    handler = logging.StreamHandler()
    pattern = "%(message)s" if sys.stderr.isatty() else "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(pattern, datefmt="%H:%M:%S"))
    logging.getLogger().addFilter(_is_news)
    package = logging.getLogger("sparton")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.DEBUG if verbose else logging.INFO)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out Py4J's report of a Ctrl-C with its traceback: the command's last line says it."""
    return not str(record.msg).startswith("KeyboardInterrupt while sending command")

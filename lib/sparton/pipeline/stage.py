"""What all stages share: skip what is up to date, keep a run folder, publish atomically, leave a record.

Every published folder holds ``_stage.json``, the :class:`StageRecord`: which stage made it, from which settings and
inputs, with the size and checksum of each file. The record's identity decides whether a second run has work to do.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparton import __version__, publication, storage
from sparton.config import Config, fingerprint
from sparton.data.executors import executor_errors
from sparton.data.manifest import read_set
from sparton.data.quarantine import FOLDER as QUARANTINE
from sparton.distributed import interrupts
from sparton.distributed.world import described
from sparton.errors import DataError, UsageError
from sparton.pipeline.record import (
    CHECKSUM_THREADS,
    RECORD,
    FileEntry,
    StageRecord,
    bad_files,
    content_fingerprint,
    read_record,
)
from sparton.pipeline.run_folder import run_folder_of

if TYPE_CHECKING:
    from sparton.pipeline.settings import PipelineSettings

TOGETHER = ("train", "cluster")
"""The stages that several processes may run together."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """What a stage made, or found up to date.

    Attributes
    ----------
    stage
        Name of the stage.
    output
        The published folder.
    summary
        Figures for the closing table, by name.
    skipped
        True where the output was up to date and nothing ran.
    seconds
        Wall time of this call.
    run_folder
        Folder with the resolved settings, the log and the summary of the run; None where it was skipped.
    """

    stage: str
    output: str
    summary: dict[str, Any]
    skipped: bool
    seconds: float
    run_folder: str | None = None

    def table(self) -> dict[str, Any]:
        """Return the rows of the closing table: the summary, the time and where things are."""
        ending = {
            "seconds of this run": "up to date, nothing done" if self.skipped else round(self.seconds, 1),
            "output": self.output,
        }
        return self.summary | ending | ({"run folder": self.run_folder} if self.run_folder else {})


@dataclass(frozen=True)
class StageCall:
    """One stage with everything that decides its output.

    Attributes
    ----------
    stage
        Name of the stage.
    settings
        The sections that the stage reads, by name; they enter the fingerprint.
    inputs
        Input folders by role.
    output
        Folder to publish.
    configuration
        The whole configuration, for the run folder; its workspace is where that goes.
    force
        Run even where the output is up to date.
    extend
        The staging folder starts with what is published; the stage adds to it.
    """

    stage: str
    settings: Mapping[str, Config]
    inputs: Mapping[str, str]
    output: str
    configuration: PipelineSettings
    force: bool = False
    extend: bool = False
    _fingerprints: dict[str, str] = field(default_factory=dict, compare=False)

    def input_fingerprints(self) -> dict[str, str]:
        """Return the content fingerprint of each input, computed once."""
        if not self._fingerprints:
            self._fingerprints.update({role: content_fingerprint(path) for role, path in self.inputs.items()})
        return dict(self._fingerprints)

    def check(self) -> None:
        """Check inputs and output before anything else is done with them.

        Raises
        ------
        UsageError
            If an input is missing, or something that this stage did not make stands at the output.
        """
        _check_inputs(self)
        _previous(self)

    def fingerprint(self) -> str:
        """Return what makes two calls equal: stage, version, settings and the content of the inputs."""
        sections = {key: section.model_dump(mode="json") for key, section in self.settings.items()}
        return fingerprint([self.stage, __version__, sections, self.input_fingerprints()])


def run_stage(call: StageCall, body: Callable[[str], dict[str, Any]]) -> StageResult:
    """Run ``body(staging folder) -> summary`` and publish the folder, unless the output is up to date.

    Raises
    ------
    UsageError
        If an input is missing, or something that this stage did not make stands at the output.
    DataError
        If a file of an input is missing or has another size than its stage recorded.
    """
    started = time.perf_counter()
    check_alone(call.stage)
    _check_inputs(call)
    previous = _previous(call)
    if previous is not None and not call.force and not call.extend and _up_to_date(call, previous):
        logger.info("%s: up to date, reusing %s", call.stage, call.output)
        return StageResult(call.stage, call.output, previous.summary, True, time.perf_counter() - started)
    published = publication.extend if call.extend else publication.publish
    with (
        interrupts.terminating(),
        run_folder_of(call.stage, call.configuration) as run_folder,
        published(call.output) as staging,
    ):
        logger.info("%s: started, output %s", call.stage, call.output)
        with _kept_quarantine(call, staging, run_folder), executor_errors(call.stage):
            summary = body(staging)
        write_record(call, staging, summary, previous)
        storage.write_json(storage.join(run_folder, "summary.json"), summary)
        logger.info("%s: done in %.1f s", call.stage, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    return StageResult(call.stage, call.output, summary, False, seconds, run_folder)


def write_record(call: StageCall, folder: str, summary: dict[str, Any], previous: StageRecord | None = None) -> None:
    """Write the record of a folder that is about to be published; the rest of it is there."""
    record = _record(call, previous, folder, summary)
    storage.write_json(storage.join(folder, RECORD), record.model_dump(mode="json"))


def check_alone(stage: str) -> None:
    """Check that no other process of a launcher runs the stage, too.

    Raises
    ------
    UsageError
        If the stage is not one that several processes run together.
    """
    world = described()
    if world is not None and stage not in TOGETHER:
        raise UsageError(
            f"{world.size} processes were started, which would all run {stage!r}; "
            f"start {' or '.join(map(repr, TOGETHER))} alone under horovodrun or MPI"
        )


def _check_inputs(call: StageCall) -> None:
    for role, path in call.inputs.items():
        publication.require_whole(path)
        if not storage.is_folder(path):
            if storage.exists(path):
                raise UsageError(f"{path}: a file, expected a folder for the {role}; name the folder that holds it")
            raise UsageError(
                f"no folder at {path} for the {role}; run the stage that makes it first, "
                "or name another one (see --help)"
            )
        record = read_record(path)
        if record is not None and (problems := bad_files(path, record.files, checksums=False)):
            more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
            raise DataError(f"{problems[0]}{more}; restore the file, or run sparton {record.stage} --force")


def _previous(call: StageCall) -> StageRecord | None:
    publication.recover(call.output)
    if not storage.exists(call.output):
        return None
    record = read_record(call.output)
    if record is None or record.stage != call.stage:
        maker = f"the stage {record.stage!r}" if record else "something else"
        raise UsageError(
            f"{call.output}: made by {maker}, not overwritten by {call.stage!r}; choose another --output or remove it"
        )
    return record


def _up_to_date(call: StageCall, previous: StageRecord) -> bool:
    if previous.identity != call.fingerprint():
        return False
    problems = bad_files(call.output, previous.files, checksums=False)
    for problem in problems:
        logger.warning("%s: %s; the stage runs again", call.stage, problem)
    return not problems


def _record(call: StageCall, previous: StageRecord | None, staging: str, summary: dict[str, Any]) -> StageRecord:
    known = _known_sums(staging)

    def entry(path: str) -> FileEntry:
        full = storage.join(staging, path)
        return FileEntry(path=path, bytes=storage.size(full), sha256=known.get(path) or storage.sha256(full))

    # Hadoop's local file system leaves hidden .crc files, which say nothing that the checksums do not.
    paths = [path for path in storage.list_files(staging) if not storage.name(path).startswith(".") and path != RECORD]
    with ThreadPoolExecutor(CHECKSUM_THREADS) as pool:
        files = list(pool.map(entry, paths))
    return StageRecord(
        stage=call.stage,
        version=__version__,
        identity=_identity(call, previous),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        settings={key: section.model_dump(mode="json") for key, section in call.settings.items()},
        inputs=dict(call.inputs),
        input_fingerprints=call.input_fingerprints(),
        summary=summary,
        files=files,
    )


def _identity(call: StageCall, previous: StageRecord | None) -> str:
    """Return what identifies an output; of an extended one, what it was before counts too."""
    return fingerprint([previous.identity, call.fingerprint()]) if previous and call.extend else call.fingerprint()


def _known_sums(staging: str) -> dict[str, str]:
    """Return the checksums that a set's manifest has of its shards, which were read back when they were written."""
    if not storage.exists(storage.join(staging, storage.MANIFEST)):
        return {}
    return {shard.path: shard.sha256 for shards in read_set(staging).splits.values() for shard in shards}


@contextlib.contextmanager
def _kept_quarantine(call: StageCall, staging: str, run_folder: str) -> Iterator[None]:
    """Copy the quarantine of a stage that fails into the run folder, so that the user sees what was rejected."""
    try:
        yield
    except DataError as error:
        found = storage.join(staging, QUARANTINE)
        before = storage.join(call.output, QUARANTINE)
        old = storage.list_files(before) if call.extend and storage.is_folder(before) else []
        if not storage.is_folder(found) or storage.list_files(found) == old:
            raise
        target = storage.join(run_folder, QUARANTINE)
        storage.copy_folder(found, target)
        raise DataError(f"{error}. What was rejected is listed in its quarantine; see sparton info {target}") from error

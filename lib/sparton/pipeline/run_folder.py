"""The folder that each run of a stage leaves: the whole configuration, the log and the summary."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from sparton import storage

if TYPE_CHECKING:
    from sparton.pipeline.settings import PipelineSettings


@contextlib.contextmanager
def run_folder_of(stage: str, configuration: PipelineSettings) -> Iterator[str]:
    """Make the run folder and copy the log of the run into it, whatever the outcome."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")
    folder = storage.join(configuration.workspace, "runs", f"{stamp}-{stage}")
    storage.make_dirs(folder)
    storage.write_text(storage.join(folder, "config.yaml"), configuration.to_yaml())
    package = logging.getLogger("sparton")
    stream = storage.open_file(storage.join(folder, "log.txt"), "w")
    handler = _RunLog(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("sparton")
    package.addHandler(handler)
    level = package.level
    package.setLevel(min(package.getEffectiveLevel(), logging.INFO))  # from Python nobody may have set it
    try:
        yield folder
    except BaseException as error:
        with contextlib.suppress(OSError):
            stream.write(f"failed: {type(error).__name__}: {error}\n")
        raise
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        try:
            stream.close()
        except OSError as error:
            package.warning("%s: the log of the run is not complete (%s)", folder, error)


class _RunLog(logging.StreamHandler[IO[str]]):
    """A log that cannot be written (a full disk) neither ends the run nor hides why it fails."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name that logging calls
        """Go on: standard error has the same messages, and closing the file tells what happened to it."""

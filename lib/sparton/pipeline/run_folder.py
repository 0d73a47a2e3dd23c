"""The folder that each run of a stage leaves: the whole configuration, the log and the summary."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

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
    with storage.open_file(storage.join(folder, "log.txt"), "w") as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        package.addHandler(handler)
        level = package.level
        package.setLevel(min(package.getEffectiveLevel(), logging.INFO))  # from Python nobody may have set it
        try:
            yield folder
        except BaseException as error:
            stream.write(f"failed: {type(error).__name__}: {error}\n")
            raise
        finally:
            package.removeHandler(handler)
            package.setLevel(level)

"""Where a stage that trains keeps its checkpoints: beside its output, for whoever runs the same training again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from sparton import lease, storage
from sparton.config import Config
from sparton.pipeline.stage import StageCall

IDENTITY_CHARACTERS = 16

WORKERS = "workers"
"""Section of a call that decides its output and not its checkpoints: another number of workers may go on with them."""


class Workers(Config):
    """The number of workers, which with the batch of each decides the global batch."""

    count: int


def checkpoint_folder(call: StageCall) -> str:
    """Return the folder for checkpoints of this very combination of settings and data; inputs must exist."""
    sections = {name: section for name, section in call.settings.items() if name != WORKERS}
    identity = dataclasses.replace(call, settings=sections).fingerprint()[:IDENTITY_CHARACTERS]
    return call.configuration.folder(f"checkpoints/{identity}")


@contextlib.contextmanager
def kept(folder: str, force: bool) -> Iterator[None]:
    """Hold a folder of checkpoints while the block trains, and remove it when that ends well; ``force`` empties it.

    Raises
    ------
    DataError
        If another run is at the same training.
    """
    parent = storage.parent(folder)
    storage.make_dirs(parent)
    lock = storage.join(parent, f".{storage.name(folder)}.lock")
    with lease.held(*storage.filesystem_of(lock), folder):
        if force:
            storage.remove(folder)
        yield
        storage.remove(folder)

"""Where a stage that trains keeps its checkpoints: beside its output, for whoever runs the same training again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from sparton import lease, storage
from sparton.config import Config
from sparton.errors import DataError
from sparton.pipeline.stage import StageCall

IDENTITY_CHARACTERS = 16

WORKERS = "workers"
"""Section of a call that decides its output and not its checkpoints: another number of workers may go on with them."""


class Workers(Config):
    """The number of workers, which with the batch of each decides the global batch."""

    count: int


def checkpoint_folder(call: StageCall, lasting: Mapping[str, Config]) -> str:
    """Return the folder for checkpoints of this very combination of settings and data; inputs must exist.

    ``lasting`` are sections of which less decides than of the output, since other workers may go on with a training.
    """
    sections = {name: lasting.get(name, section) for name, section in call.settings.items() if name != WORKERS}
    identity = dataclasses.replace(call, settings=sections).fingerprint()[:IDENTITY_CHARACTERS]
    return call.configuration.folder(f"checkpoints/{identity}")


@contextlib.contextmanager
def kept(folder: str, force: bool) -> Iterator[None]:
    """Hold a folder of checkpoints while the block trains; ``force`` empties it before.

    They stay: until the bundle is published they are all that there is of the training. See :func:`discard`.

    Raises
    ------
    DataError
        If another run is at the same training.
    """
    storage.make_dirs(storage.parent(folder))
    with _held(folder):
        if force:
            storage.remove(folder)
        yield


def discard(folder: str) -> None:
    """Remove a folder of checkpoints whose bundle has been published, unless another run is at the same training."""
    if folder and storage.exists(folder):
        with contextlib.suppress(DataError), _held(folder):
            storage.remove(folder)


def _held(folder: str) -> contextlib.AbstractContextManager[object]:
    lock = storage.join(storage.parent(folder), f".{storage.name(folder)}.lock")
    return lease.held(*storage.filesystem_of(lock), folder)

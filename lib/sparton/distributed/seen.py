"""Whether workers see the folders that the driver has made: what a training writes must reach whoever publishes it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from sparton import storage
from sparton.distributed.world import Connection
from sparton.errors import TrainingError


def where_seen(connection: Connection, folders: Sequence[str], train: Callable[..., Any], *args: Any) -> Any:
    """Run ``train(connection, *args)`` if rank 0, which writes, sees what it is to write to; for :func:`launch`.

    Parameters
    ----------
    connection
        This rank's place in the world.
    folders
        They exist where the launch was called; those on object stores, which know no empty ones, are not looked at.
    train, args
        The training and what it is called with.

    Raises
    ------
    TrainingError
        If one is not there: on a disk of its own host rank 0 would train to the end and leave a bundle that nobody
        finds.
    """
    if connection.world.is_root:
        for folder in folders:
            if storage.is_local(folder) and not storage.is_folder(folder):
                raise TrainingError(
                    f"{folder}: host {socket.gethostname()}, which rank 0 runs on, does not see this folder of the "
                    "driver; driver and workers must share the storage of --workspace and --output"
                )
    return train(connection, *args)

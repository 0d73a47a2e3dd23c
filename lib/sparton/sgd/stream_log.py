"""What a stream tells of each micro-batch: JSON lines, one a batch, in files of some batches each.

A file is written anew as a whole with each line, so none is torn, and storage that cannot append will do. A batch that
is repeated replaces its line and all later ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sparton import storage

FOLDER = "metrics"

FILE_BATCHES = 64
"""Batches whose lines are in one file."""


def write(folder: str, line: Mapping[str, Any]) -> None:
    """Add the line of a batch, whose number is ``line["batch"]``, to the lines of those before it."""
    batch = int(line["batch"])
    path = storage.join(folder, FOLDER, _name(batch))
    before = storage.read_text(path).splitlines() if storage.exists(path) else []
    kept = [text for text in before if int(json.loads(text)["batch"]) < batch]
    storage.write_text(path, "".join(f"{text}\n" for text in (*kept, json.dumps(line))))


def settle(folder: str, line: Mapping[str, Any]) -> None:
    """Let the lines end with that of the last state, which is empty where there has been none."""
    metrics = storage.join(folder, FOLDER)
    last = _name(int(line["batch"])) if line else ""
    for name in storage.list_files(metrics):
        if name > last:
            storage.remove(storage.join(metrics, name))
    if line:
        write(folder, line)


def read(folder: str) -> list[dict[str, Any]]:
    """Return all lines, by rising batch."""
    metrics = storage.join(folder, FOLDER)
    texts = [storage.read_text(storage.join(metrics, name)) for name in storage.list_files(metrics)]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def _name(batch: int) -> str:
    return f"{batch - batch % FILE_BATCHES:09d}.jsonl"

"""Checkpoints that survive a kill at any moment: written aside, checksummed, renamed into place, the last few kept.

Layout: ``folder/step-000000123/`` with ``state.npz`` (plain arrays, no pickle), ``metadata.json`` and ``SHA256SUMS``.
Only rank 0 writes.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sparton import publication, storage
from sparton.errors import DataError

FORMAT = 1
STATE, METADATA, SUMS = "state.npz", "metadata.json", "SHA256SUMS"
FOLDER_NAME = re.compile(r"step-(\d{9,})")
STAGING_NAME = re.compile(r"step-\d{9,}\.staging-.*|\.step-\d{9,}\.retired")  # what a killed publication leaves behind
ARRAY_NAME = "array-{:05d}"
# NumPy's own format loses the names of these types, so their bytes are stored as unsigned integers.
EXTENSION_TYPES = {
    name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
}
CARRIERS = {1: np.uint8, 2: np.uint16}

logger = logging.getLogger(__name__)


def save(folder: str, state: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any], keep: int = 2) -> str:
    """Write a checkpoint and remove those that it makes superfluous.

    Checkpoints of later steps belong to a run that was given up (one of them was damaged, say) and are removed too.

    Parameters
    ----------
    folder
        Where the checkpoints of this training lie; a path or URL.
    state
        Arrays of any numeric, boolean or text type and any shape, by name.
    metadata
        JSON-able; ``metadata["step"]`` (an integer, 0 or more) names the checkpoint.
    keep
        How many checkpoints to keep, this one included.

    Returns
    -------
    str
        The checkpoint's own folder.

    Raises
    ------
    ValueError
        If the step or ``keep`` is out of range, or an array holds Python objects.
    """
    step = metadata.get("step")
    if not isinstance(step, int) or step < 0 or keep < 1:
        raise ValueError(f"expected metadata['step'] >= 0 and keep >= 1. Received: step={step!r}, keep={keep!r}")
    entries, arrays = _pack(state)
    target = _path(folder, step)
    for previous in steps(folder)[-1:]:  # a writer that was killed may have left the lock of its last one
        publication.release(_path(folder, previous))
    with publication.publish(target) as staging:
        with storage.open_file(storage.join(staging, STATE), "wb") as stream:
            np.savez(stream, **arrays)
        content = {"format": FORMAT, "arrays": entries, "metadata": dict(metadata)}
        storage.write_text(storage.join(staging, METADATA), json.dumps(content, indent=1) + "\n")
        sums = [f"{storage.sha256(storage.join(staging, file))}  {file}\n" for file in (STATE, METADATA)]
        storage.write_text(storage.join(staging, SUMS), "".join(sums))
    _prune(folder, step, keep)
    return target


def steps(folder: str) -> list[int]:
    """Return the steps of the checkpoints in ``folder``, rising; whether they are sound is not looked at."""
    matches = (FOLDER_NAME.fullmatch(name) for name in storage.list_folders(folder))
    return sorted(int(match.group(1)) for match in matches if match)


def latest(folder: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """Return the newest sound checkpoint's state and metadata; None where there is none.

    A torn or damaged checkpoint is named in a warning and the one before it is used.
    """
    for step in reversed(steps(folder)):
        try:
            return load(_path(folder, step))
        except (DataError, OSError) as error:
            logger.warning("checkpoint skipped: %s", error)
    return None


def load(checkpoint: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the state and metadata of one checkpoint.

    Parameters
    ----------
    checkpoint
        The folder that :func:`save` returned.

    Raises
    ------
    DataError
        If a file is missing, does not match its checksum or is of another format.
    """
    _verify(checkpoint)
    content = storage.read_json(storage.join(checkpoint, METADATA))
    if content.get("format") != FORMAT:
        raise DataError(f"{checkpoint}: found checkpoint format {content.get('format')!r}, expected {FORMAT}")
    try:
        with (
            storage.open_file(storage.join(checkpoint, STATE), "rb") as stream,
            np.load(stream, allow_pickle=False) as archive,
        ):
            return _unpack(content["arrays"], archive), content["metadata"]
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{storage.join(checkpoint, STATE)}: not readable: {error}") from error


def _path(folder: str, step: int) -> str:
    return storage.join(folder, f"step-{step:09d}")


def _pack(state: Mapping[str, NDArray[Any]]) -> tuple[list[dict[str, str]], dict[str, NDArray[Any]]]:
    """Return what the archive holds: names and types in order, and the arrays under names that NumPy accepts."""
    entries, arrays = [], {}
    for index, (name, value) in enumerate(state.items()):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise ValueError(f"checkpoint: array {name!r} holds Python objects, expected plain values")
        entries.append({"name": name, "dtype": array.dtype.name})
        extension = EXTENSION_TYPES.get(array.dtype.name)
        arrays[ARRAY_NAME.format(index)] = array.view(CARRIERS[array.itemsize]) if extension else array
    return entries, arrays


def _unpack(entries: list[dict[str, str]], archive: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    state = {}
    for index, entry in enumerate(entries):
        array = archive[ARRAY_NAME.format(index)]
        extension = EXTENSION_TYPES.get(entry["dtype"])
        state[entry["name"]] = array if extension is None else array.view(extension)
    return state


def _verify(checkpoint: str) -> None:
    sums_path = storage.join(checkpoint, SUMS)
    if not storage.exists(sums_path):
        raise DataError(f"{sums_path}: missing; the checkpoint is torn")
    with storage.open_file(sums_path, "rb") as stream:
        lines = stream.read().decode(errors="replace").splitlines()
    sums = {file: digest for digest, _, file in (line.partition("  ") for line in lines)}
    for file in (STATE, METADATA):
        path = storage.join(checkpoint, file)
        if not storage.exists(path):
            raise DataError(f"{path}: missing; the checkpoint is torn")
        found = storage.sha256(path)
        if found != sums.get(file):
            raise DataError(f"{path}: SHA-256 is {found}, expected {sums.get(file)}; the checkpoint is damaged")


def _prune(folder: str, step: int, keep: int) -> None:
    present = steps(folder)
    later = [other for other in present if other > step]
    if later:
        logger.warning("%s: removing the checkpoints of later steps %s, which this run replaces", folder, later)
    kept = [other for other in present if other <= step][-keep:]
    for other in present:
        if other not in kept:
            storage.remove(_path(folder, other))
    for name in storage.list_folders(folder):
        if STAGING_NAME.fullmatch(name):
            storage.remove(storage.join(folder, name))

"""Errors of the training in the words of a Spark ML stage: parameters in place of settings, no folders of its own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from sparton.errors import SpartonError


@contextlib.contextmanager
def in_words_of(stage: str, parameters: Mapping[str, str], folder: str | None = None) -> Iterator[None]:
    """Let errors speak of what the user of a stage knows.

    Parameters
    ----------
    stage
        Name of the stage.
    parameters
        Name of the parameter that each setting is.
    folder
        Where the stage keeps a copy of the rows and what it makes of them.
    """
    try:
        yield
    except SpartonError as error:
        error.args = (spoken(str(error), stage, parameters, folder), *error.args[1:])
        raise


def spoken(text: str, stage: str, parameters: Mapping[str, str], folder: str | None = None) -> str:
    """Return a message with parameters in place of settings; see :func:`in_words_of`."""
    if folder is not None:
        text = re.sub(rf"{re.escape(folder.rstrip('/'))}(/[\w=.-]+)*", "the DataFrame", text)
    names = "|".join(map(re.escape, sorted(parameters, key=len, reverse=True)))
    # cluster.decay, SGDKMeans: decay: ..., decay=2; a plain word is none.
    patterns = (
        rf"(?P<before>)\b(?:cluster|launch)\.(?P<name>{names})\b",
        rf"(?P<before>\b{re.escape(stage)}: )(?P<name>{names})(?=:)",
        rf"(?P<before>)\b(?P<name>{names})(?==)",
    )
    for pattern in patterns:
        text = re.sub(pattern, lambda found: found["before"] + parameters[found["name"]], text)
    return text

"""The formats by name."""

from __future__ import annotations

from sparton.config import Config
from sparton.data.sources.block import Source
from sparton.data.sources.hls4ml import Hls4ml

SOURCES: dict[str, type[Source]] = {source.name: source for source in (Hls4ml,)}


def make_source(name: str, options: Config) -> Source:
    """Return the reader of a format with these options."""
    return SOURCES[name](options)  # type: ignore[call-arg]  # every reader is a dataclass of its options

"""The formats by name."""

from __future__ import annotations

from collections.abc import Sequence

from sparton import storage
from sparton.config import Config
from sparton.data.schema import JETS_ARROW
from sparton.data.sources.block import Source
from sparton.data.sources.flat import Flat, FlatOptions
from sparton.data.sources.hls4ml import Hls4ml, Hls4mlOptions
from sparton.data.sources.jetclass import JetClass, JetClassOptions
from sparton.data.sources.jets import JetsOptions, JetsParquet
from sparton.data.sources.lhco import Lhco, LhcoOptions
from sparton.data.sources.pfnano import PfNano, PfNanoOptions
from sparton.data.sources.toptagging import TopTagging, TopTaggingOptions
from sparton.errors import UsageError

SOURCES: dict[str, type[Source]] = {
    source.name: source for source in (Hls4ml, Lhco, TopTagging, JetClass, PfNano, Flat, JetsParquet)
}
OPTIONS: dict[str, type[Config]] = {
    "hls4ml": Hls4mlOptions,
    "lhco": LhcoOptions,
    "toptagging": TopTaggingOptions,
    "jetclass": JetClassOptions,
    "pfnano": PfNanoOptions,
    "flat": FlatOptions,
    "parquet": JetsOptions,
}


def make_source(name: str, options: Config) -> Source:
    """Return the reader of a format with these options.

    Raises
    ------
    UsageError
        If a further column has the name of another column.
    """
    source = SOURCES[name](options)  # type: ignore[call-arg]  # every reader is a dataclass of its options
    names = [*JETS_ARROW.names, *source.extra_columns]
    doubled = sorted({column for column in names if names.count(column) > 1})
    if doubled:
        raise UsageError(f"{name}.jet_columns: {', '.join(doubled)} is a column of every jets table; leave it out")
    return source


def source_paths(inputs: Sequence[str], source: Source | type[Source]) -> list[str]:
    """Return the files that paths, folders and patterns stand for, each once, sorted.

    Raises
    ------
    UsageError
        If one of them stands for no file.
    """
    paths: set[str] = set()
    for given in inputs:
        found = storage.expand(given)
        if storage.is_folder(given):
            found = [path for path in found if path.lower().endswith(source.suffixes)]
        if not found:
            raise UsageError(
                f"{given}: no file found (below a folder, files ending in {', '.join(source.suffixes)} are read)"
            )
        paths.update(found)
    return sorted(paths)

"""The formats by name."""

from __future__ import annotations

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

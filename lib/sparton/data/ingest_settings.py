"""What is ingested, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sparton.config import Config
from sparton.data.quarantine import DEFAULT_MAX_REJECTED
from sparton.data.sources.flat import FlatOptions
from sparton.data.sources.hls4ml import Hls4mlOptions
from sparton.data.sources.jetclass import JetClassOptions
from sparton.data.sources.jets import JetsOptions
from sparton.data.sources.lhco import LhcoOptions
from sparton.data.sources.pfnano import PfNanoOptions
from sparton.data.sources.toptagging import TopTaggingOptions

FormatName = Literal["hls4ml", "lhco", "toptagging", "jetclass", "pfnano", "flat", "parquet"]


class IngestSettings(Config):
    """How files of jets become a jets table.

    Attributes
    ----------
    format
        Format of the files; its options stand in the section of the same name.
    max_rejected
        Largest fraction of jets, and of files, that may be rejected; beyond it nothing is published.
    labels
        Labels that are known; a jet with another one is rejected. None: any. A jet without label is always accepted.
    salt
        Enters the identifiers of jets: another one gives other identifiers to the same files.
    task_bytes
        Input that a task reads at most; files are split and put together to that end.
    file_bytes
        Size at which a task begins another output file.
    compression
        Codec of the table's files.
    hls4ml, lhco, toptagging, jetclass, pfnano, flat, parquet
        Options of the format of this name.
    """

    format: FormatName = "hls4ml"
    max_rejected: float = Field(default=DEFAULT_MAX_REJECTED, ge=0, le=1)
    labels: tuple[str, ...] | None = None
    salt: int = Field(default=0, ge=0)
    task_bytes: int = Field(default=1 << 30, ge=1)
    file_bytes: int = Field(default=128 << 20, ge=1)
    compression: Literal["snappy", "zstd", "lz4", "none"] = "snappy"
    hls4ml: Hls4mlOptions = Hls4mlOptions()
    lhco: LhcoOptions = LhcoOptions()
    toptagging: TopTaggingOptions = TopTaggingOptions()
    jetclass: JetClassOptions = JetClassOptions()
    pfnano: PfNanoOptions = PfNanoOptions()
    flat: FlatOptions = FlatOptions()
    parquet: JetsOptions = JetsOptions()

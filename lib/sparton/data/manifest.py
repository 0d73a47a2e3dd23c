"""The manifest of a set: what its shards hold, how they were made and how to tell whether they are intact."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from sparton import storage
from sparton.config import Config, validate
from sparton.data.mass_peaks import MassPeaks
from sparton.data.schema import TABLE_ARROW, TRAINING_ARROW
from sparton.data.statistics import Moments
from sparton.errors import ConfigError, DataError

KIND: Final = "training-set"
TABLE_KIND: Final = "table-set"
SCHEMA_VERSION: Final = 2
VERIFY_THREADS = 16  # checks wait for the storage, not for the processor


class Shard(Config):
    """One file of a split: path relative to the set's folder, rows, size in bytes and SHA-256 (hex)."""

    path: str
    rows: int
    bytes: int
    sha256: str


class Counts(Config):
    """What became of the input's rows.

    Attributes
    ----------
    read, kept
        Rows in the input, and rows in the shards.
    rejected
        Broken and repeated rows by reason; they are in the quarantine.
    excluded
        Sound rows outside the selection, by criterion.
    altered
        What was changed in sound, selected rows, doubles included. Of jets: ``truncated_jets`` (with more
        constituents than the tensor has slots), ``truncated_constituents`` (how many were left out),
        ``dropped_constituents`` (without transverse momentum), ``reordered_jets`` (constituents did not come by
        falling pT), ``wrapped_phi`` (phi was outside [-pi, pi)).
    """

    read: int
    kept: int
    rejected: dict[str, int] = Field(default_factory=dict)
    excluded: dict[str, int] = Field(default_factory=dict)
    altered: dict[str, int] = Field(default_factory=dict)

    def plus(self, other: Counts) -> Counts:
        """Return the counts of both inputs together."""
        named = {
            name: dict(Counter(getattr(self, name)) + Counter(getattr(other, name)))
            for name in ("rejected", "excluded", "altered")
        }
        return Counts(read=self.read + other.read, kept=self.kept + other.kept, **named)


class SourceFile(Config):
    """One file that a set was made from, whatever its name: SHA-256 (hex) of its content, size in bytes and rows."""

    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class BadFile:
    """A shard that is not what the manifest says: ``reason`` is missing, size or checksum."""

    path: str
    reason: Literal["missing", "size", "checksum"]
    detail: str


class SetManifest(Config):
    """Description of a set, stored beside its shards as ``_manifest.json``; what all kinds of sets have in common.

    Attributes
    ----------
    kind, schema_version
        What the folder is, and the version of its layout.
    feature_names
        Columns of the feature tensor.
    feature_mean, feature_std
        Statistics of each feature over the train split; the deviation is never 0.
    feature_count, feature_squares
        Number of values behind them (of a table with weights their sum), and sums of squared deviations from the mean:
        what exact merging needs.
    splits
        Shards of each split, in order.
    rows_per_shard, seed
        Rows of every shard but the last of a split, and the seed of the shuffle.
    settings
        The settings that made the set.
    counts
        What became of the input's rows.
    inputs
        Fingerprints of the inputs by role.
    sources
        The files that the set was made from; empty where it was made from a query.
    extensions
        How often the set has been extended.
    notes
        Remarks for the reader, such as features that do not vary.
    """

    kind: Literal["training-set", "table-set"]
    schema_version: Literal[2] = SCHEMA_VERSION
    feature_names: tuple[str, ...]
    feature_mean: tuple[float, ...]
    feature_std: tuple[float, ...]
    feature_count: float
    feature_squares: tuple[float, ...]
    splits: dict[str, tuple[Shard, ...]]
    rows_per_shard: int
    seed: int
    settings: dict[str, Any]
    counts: Counts
    inputs: dict[str, str] = Field(default_factory=dict)
    sources: tuple[SourceFile, ...] = ()
    extensions: int = 0
    notes: tuple[str, ...] = ()

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row's features."""
        return (len(self.feature_names),)

    @property
    def row_schema(self) -> pa.Schema:
        """Columns of the shards."""
        return {KIND: TRAINING_ARROW, TABLE_KIND: TABLE_ARROW}[self.kind]

    @property
    def id_name(self) -> str:
        """The column that identifies a row."""
        return str(self.row_schema.names[0])

    @property
    def moments(self) -> Moments:
        """The features' moments over the train split."""
        return Moments(self.feature_count, np.array(self.feature_mean), np.array(self.feature_squares))

    def shards(self, split: str) -> tuple[Shard, ...]:
        """Return the shards of a split.

        Raises
        ------
        DataError
            If there is no such split.
        """
        if split not in self.splits:
            raise DataError(f"the training set has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def shard_rows(self, split: str) -> tuple[int, ...]:
        """Return the rows of each shard of a split, as :func:`sparton.data.plan.plan_epoch` takes them."""
        return tuple(shard.rows for shard in self.shards(split))

    def rows(self, split: str) -> int:
        """Return the number of rows of a split."""
        return sum(self.shard_rows(split))

    def write(self, folder: str) -> None:
        """Write the manifest into the set's folder, atomically."""
        storage.write_json(storage.join(folder, storage.MANIFEST), self.model_dump(mode="json"))

    def verify(self, folder: str, checksums: bool = True) -> list[BadFile]:
        """Return the shards that are missing or have another size or checksum; none where the set is intact.

        Without ``checksums`` no file is opened.
        """
        shards = [shard for split in self.splits.values() for shard in split]
        return bad_shards(folder, shards, checksums)


class Manifest(SetManifest):
    """Description of a training set of jets.

    Attributes
    ----------
    n_particles
        Slots of the feature tensor: a row is float32[n_particles, len(feature_names)]. Statistics of the features are
        those of real particles.
    mass_bin_edges
        Edges (GeV) of the target's bins; there are as many classes as edges, the last one is the overflow.
    mass_peaks
        Where the classes are peaks of the mass: these; the edges are where a single mass is between them.
    """

    kind: Literal["training-set"] = KIND
    n_particles: int
    mass_bin_edges: tuple[float, ...]
    mass_peaks: MassPeaks | None = None

    @property
    def n_targets(self) -> int:
        """Classes of the target: the mass bins and the overflow."""
        return len(self.mass_bin_edges)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row's features: slots and features."""
        return (self.n_particles, len(self.feature_names))


class TableManifest(SetManifest):
    """Description of a table set: a row is float32[len(feature_names)]."""

    kind: Literal["table-set"] = TABLE_KIND


def bad_shards(folder: str, shards: list[Shard], checksums: bool) -> list[BadFile]:
    """Return those of the shards that are missing or have another size or, if asked for, another checksum."""
    with ThreadPoolExecutor(VERIFY_THREADS) as pool:
        found = pool.map(lambda shard: _problem(folder, shard, checksums), shards)
        return [problem for problem in found if problem]


def read_manifest(folder: str) -> Manifest:
    """Read the manifest of a training set of jets.

    Raises
    ------
    DataError
        If there is none, or it is damaged, of another kind or of another version.
    """
    manifest = read_set(folder)
    if not isinstance(manifest, Manifest):
        path = storage.join(folder, storage.MANIFEST)
        raise DataError(f"{path}: kind is {manifest.kind!r}, expected {KIND!r}; name a folder made from a jets table")
    return manifest


def is_plain(folder: str) -> bool:
    """Tell whether a folder holds files as they are: no set, which has a manifest."""
    return storage.is_folder(folder) and not storage.exists(storage.join(folder, storage.MANIFEST))


def read_set(folder: str) -> Manifest | TableManifest:
    """Read the manifest of a set of either kind.

    Raises
    ------
    DataError
        If there is none, or it is damaged, of another kind or of another version.
    """
    path = storage.join(folder, storage.MANIFEST)
    if not storage.exists(path):
        raise DataError(f"{path}: no such file; expected a training set, made by 'sparton prepare'")
    values = storage.read_json(path)
    kind = values.get("kind") if isinstance(values, dict) else type(values).__name__
    if kind not in (KIND, TABLE_KIND):
        raise DataError(
            f"{path}: kind is {kind!r}, expected {KIND!r} or {TABLE_KIND!r}; name a folder made by 'sparton prepare'"
        )
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema_version is {version!r}, this release reads {SCHEMA_VERSION}; prepare the set again"
        )
    try:
        return validate(Manifest, values, path) if kind == KIND else validate(TableManifest, values, path)
    except ConfigError as error:
        raise DataError(f"{error}; the manifest is damaged, prepare the set again") from None


def _problem(folder: str, shard: Shard, checksums: bool) -> BadFile | None:
    path = storage.join(folder, shard.path)
    if not storage.exists(path):
        return BadFile(shard.path, "missing", f"{path}: no such file")
    size = storage.size(path)
    if size != shard.bytes:
        return BadFile(shard.path, "size", f"{path}: {size} bytes, the manifest says {shard.bytes}")
    if checksums and storage.sha256(path) != shard.sha256:
        return BadFile(shard.path, "checksum", f"{path}: SHA-256 differs from the manifest's")
    return None

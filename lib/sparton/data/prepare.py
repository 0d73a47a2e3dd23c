"""From a table to a set for training: selected, split, shuffled and cut into exact shards with a manifest.

What all kinds of tables have in common is in :mod:`sparton.data.writing`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparton import storage
from sparton.config import fingerprint
from sparton.data.extension import require_same_settings
from sparton.data.featurize import DEFAULT_EDGES, FeatureSpec
from sparton.data.jets_encoder import JetsEncoder
from sparton.data.manifest import Manifest, SetManifest, SourceFile, read_manifest
from sparton.data.mass_peaks import find_peaks
from sparton.data.mass_quantiles import find_edges, sample_masses
from sparton.data.rows import Rows, Wanted, rows_from
from sparton.data.schema import require_columns
from sparton.data.settings import TRAIN, PrepareSettings
from sparton.data.source_files import Source, StoredTable, checksums, require_unchanged
from sparton.data.writing import Target, write_rows
from sparton.errors import DataError, UsageError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["PrepareSettings", "write_training_set"]

logger = logging.getLogger(__name__)


def write_training_set(
    spark: SparkSession,
    jets: DataFrame | StoredTable,
    settings: PrepareSettings,
    folder: str,
    inputs: Mapping[str, str] | None = None,
    sources: Sequence[Source] = (),
    source_folder: str = "",
    extend: bool = False,
) -> Manifest:
    """Write the training set of a jets table: ``split=<name>/shard-00000.parquet`` and ``_manifest.json``.

    Broken jets and all but one of those with the same ``jet_id`` go to ``_quarantine``.

    Parameters
    ----------
    spark
        The session that ``jets`` belongs to.
    jets
        Jets table; it is read twice (once more where ids repeat, twice more to find mass bins or peaks) and must give
        the same rows each time. The tasks read files themselves, other DataFrames come through Spark.
    settings
        What to keep and how to store it.
    folder
        Empty or missing folder on storage that all machines share.
    inputs
        Fingerprints of the inputs by role, for the manifest.
    sources, source_folder
        The files below a folder that ``jets`` was read from: by them later extensions know what is new, and the
        quarantine the checksum of each row's file.
    extend
        Add the jets to the set in ``folder``, a staging folder of :func:`sparton.publication.extend`. The last shard of
        each split is written anew together with the new jets; full shards are not touched.

    Returns
    -------
    Manifest
        As written.

    Raises
    ------
    UsageError
        If the folder is not empty, or the set to extend was made with other settings.
    DataError
        If a column is missing, nothing passes the selection, too many jets are rejected, a file of ``sources`` was
        replaced meanwhile, or what was written cannot be read back. The quarantine stays in the folder.
    """
    encoder = JetsEncoder(settings)
    require_columns(jets.columns, encoder.columns, encoder.kind)
    rows = rows_from(jets, {name: Wanted(name) for name in encoder.columns})
    folder = storage.absolute(folder)
    previous = read_manifest(folder) if extend else None
    features = _resolved(rows, encoder, previous)
    encoder = JetsEncoder(settings.model_copy(update={"features": features}))
    target = Target(spark, encoder, settings, folder, previous, checksums(source_folder, sources))
    files = [source.file for source in sources]
    common = write_set(target, rows, "prepare", features.feature_names, inputs or {}, files)
    require_unchanged(source_folder, sources)
    edges, peaks = features.mass_bin_edges, features.peaks
    manifest = Manifest(n_particles=features.n_particles, mass_bin_edges=edges, mass_peaks=peaks, **common)
    manifest.write(folder)
    return manifest


def _resolved(rows: Rows, encoder: JetsEncoder, previous: Manifest | None) -> FeatureSpec:
    """Return what a training row holds, with the classes of the target found if their number is given."""
    features = encoder.settings.features
    # Where no jet is kept nothing is found, and nothing is used: the first pass explains why nothing is left.
    if features.mass_bins is not None:
        edges = find_edges(rows, encoder, features.mass_bins) if previous is None else previous.mass_bin_edges
        return features.with_edges(edges or DEFAULT_EDGES)
    if features.mass_peaks is not None:
        if previous is not None and previous.mass_peaks is not None:
            return features.with_peaks(previous.mass_peaks)
        masses = sample_masses(rows, encoder)
        if not len(masses):
            return features.with_edges(DEFAULT_EDGES)
        peaks = find_peaks(masses, features.mass_peaks)
        logger.info("peaks of the mass at %s GeV", ", ".join(f"{centre:.1f}" for centre in peaks.centres))
        return features.with_peaks(peaks)
    return features


def write_set(
    target: Target,
    rows: Rows,
    section: str,
    names: Sequence[str],
    inputs: Mapping[str, str],
    sources: Sequence[SourceFile],
) -> dict[str, Any]:
    """Write the shards of a set, new or extended, and return what manifests of all kinds hold.

    Parameters
    ----------
    target, rows
        Where rows go, and the rows.
    section
        Section of the configuration that the settings are from, for messages.
    names
        Names of the features.
    inputs, sources
        Fingerprints of the inputs by role, and the files that the rows are from.
    """
    settings, previous = target.settings, target.previous
    if previous is None:
        _require_empty(target.folder)
    else:
        require_same_settings(settings, previous, section, target.folder)
    written = write_rows(target, rows)
    _require_all_read(written.counts.read, sources)
    for split, shards in written.splits.items():
        logger.info("%s: %d rows in %d shards", split, sum(shard.rows for shard in shards), len(shards))
    moments = previous.moments.merge(written.moments) if previous else written.moments
    if not moments.count and written.splits.get(TRAIN):
        raise DataError("the weights of all rows in the train split are 0; expected some above (table.weight)")
    if not moments.count:
        raise DataError("no row fell into the train split, so there are no feature statistics; the input is too small")
    std, constant = moments.std()
    return {
        "feature_names": tuple(names),
        "feature_mean": tuple(moments.mean.tolist()),
        "feature_std": tuple(std.tolist()),
        "feature_count": moments.count,
        "feature_squares": tuple(moments.squares.tolist()),
        "splits": written.splits,
        "rows_per_shard": settings.rows_per_shard,
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
        "counts": previous.counts.plus(written.counts) if previous else written.counts,
        "inputs": _chained(previous, inputs),
        "sources": (*(previous.sources if previous else ()), *sources),
        "extensions": previous.extensions + 1 if previous else 0,
        "notes": _notes(names, constant.tolist()),
    }


def _require_all_read(read: int, sources: Sequence[SourceFile]) -> None:
    """Check that all rows of the files were read: a setting of Spark's may let it pass over damaged or missing ones."""
    expected = sum(source.rows for source in sources)
    if sources and read != expected:
        raise DataError(
            f"{read} rows were read of {len(sources)} files that hold {expected}; they changed meanwhile, or Spark "
            "passes over damaged files (spark.sql.files.ignoreCorruptFiles): run it again with sound files"
        )


def _require_empty(folder: str) -> None:
    if storage.exists(folder) and storage.list_files(folder):
        raise UsageError(f"{folder}: not empty; a set is written into an empty or new folder")


def _chained(previous: SetManifest | None, inputs: Mapping[str, str]) -> dict[str, str]:
    """Return fingerprints of inputs; those of an extension stand for what the set held before, too."""
    if previous is None:
        return dict(inputs)
    return previous.inputs | {role: fingerprint([previous.inputs.get(role), text]) for role, text in inputs.items()}


def _notes(names: Sequence[str], constant: Sequence[bool]) -> tuple[str, ...]:
    notes = tuple(
        f"feature {name} does not vary over the train split; its deviation is set to 1"
        for name, is_constant in zip(names, constant, strict=True)
        if is_constant
    )
    for note in notes:
        logger.warning(note)
    return notes

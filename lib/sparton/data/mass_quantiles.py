"""Edges of mass bins that hold equally many jets, and masses of a sample that does not hang on how input is stored.

The sample is the jets with the smallest hashes of ``jet_id`` among those that the set keeps. A light job finds the
largest hash that is in it, so that no other jet's mass has to be computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import functions as F

from sparton.data.encoder import Indices
from sparton.data.executors import executor_errors
from sparton.data.jets_encoder import JetsEncoder
from sparton.data.layout import shuffle_key
from sparton.data.rows import Rows
from sparton.data.target import target_mass
from sparton.errors import DataError

SAMPLE_JETS = 20_000
"""Jets that edges are found from: the population of each of 20 bins is right to 3 %."""

SAMPLE_SEED = 0x53414D504C45  # never changes: the same jets give the same edges

KEY_ARROW = pa.schema([pa.field("key", pa.int64())])
MASS_ARROW = pa.schema([pa.field("key", pa.int64()), pa.field("mass", pa.float32())])


def quantile_edges(masses: NDArray[np.float32], bins: int) -> tuple[float, ...]:
    """Return the lower edges (GeV) of ``bins`` classes of equal population, the first one 0.

    The last class is all masses from the last edge on, as :func:`sparton.physics.features.mass_bins` counts them.

    Raises
    ------
    DataError
        If so many masses are equal that edges coincide.
    """
    inner = np.quantile(np.sort(masses).astype(np.float64), np.arange(1, bins) / bins)
    edges = np.concatenate([[0.0], inner])
    if not np.all(np.diff(edges) > 0):
        raise DataError(
            f"prepare.features.mass_bins: too many of the masses of {len(masses)} jets are equal for {bins} bins of "
            "equal population; use fewer bins, or give mass_bin_edges"
        )
    return tuple(edges.tolist())


def find_edges(jets: Rows, encoder: JetsEncoder, bins: int, sample: int = SAMPLE_JETS) -> tuple[float, ...]:
    """Return the edges of ``bins`` equally filled classes of the target's mass; none where no jet is kept.

    Parameters
    ----------
    jets
        Rows of a jets table; they are read twice.
    encoder
        What jets are kept, and which mass it is about.
    bins
        Number of classes.
    sample
        Jets to find them from; fewer are all taken.

    Raises
    ------
    DataError
        If edges coincide, or FastJet is missing on an executor.
    """
    masses = sample_masses(jets, encoder, sample)
    return quantile_edges(masses, bins) if len(masses) else ()


def sample_masses(jets: Rows, encoder: JetsEncoder, sample: int = SAMPLE_JETS) -> NDArray[np.float32]:
    """Return the target's mass (GeV), float32[n], of ``sample`` of the jets that are kept, or of all if fewer.

    Raises
    ------
    DataError
        If FastJet is missing on an executor.
    """
    with executor_errors("sampling the masses that prepare.features makes the target from"):
        keys = jets.mapped(encoder.columns, partial(_smallest_keys, encoder=encoder, sample=sample), KEY_ARROW)
        last = keys.distinct().orderBy("key").limit(sample).agg(F.max("key").alias("last")).collect()[0]["last"]
        if last is None:
            return np.zeros(0, np.float32)
        found = jets.mapped(encoder.columns, partial(_masses, encoder=encoder, last=last), MASS_ARROW).collect()
    # Of jets with one id the set will hold one; the smallest mass stands for them, in whatever order they come.
    masses = dict(sorted(((row["key"], row["mass"]) for row in found), reverse=True))
    return np.array(list(masses.values()), np.float32)


def _smallest_keys(batches: Iterable[pa.RecordBatch], encoder: JetsEncoder, sample: int) -> Iterator[pa.RecordBatch]:
    keys: Indices = np.zeros(0, np.int64)
    for batch in batches:
        keys = np.unique(np.concatenate([keys, shuffle_key(encoder.sift(batch).ids, SAMPLE_SEED)]))[:sample]
    yield pa.RecordBatch.from_arrays([pa.array(keys)], schema=KEY_ARROW)


def _masses(batches: Iterable[pa.RecordBatch], encoder: JetsEncoder, last: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        sifted = encoder.sift(batch)
        key = shuffle_key(sifted.ids, SAMPLE_SEED)
        chosen = np.flatnonzero(key <= last)
        if chosen.size:
            masses = target_mass(sifted.content.jets.take(chosen), encoder.settings.features.mass)
            yield pa.RecordBatch.from_arrays([pa.array(key[chosen]), pa.array(masses)], schema=MASS_ARROW)

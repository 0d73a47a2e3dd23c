"""Jets on their way into a training set: screened, selected, packed for the exchange, featurised behind it.

Constituents travel as one binary column (float32 px, py, pz, energy per constituent), which is several times smaller
than the padded feature tensor and costs no work per element on the way between Spark and Python.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparton.data.encoder import Indices, Mask, Sifted, all_in_order, ids_of
from sparton.data.featurize import MAX_BINARY_BYTES, decode_features, training_batch
from sparton.data.schema import TRAINING_ARROW
from sparton.data.screening import JET_VALUES, MOMENTA, REASONS, REQUIRED, JetRows, Screened, screen
from sparton.data.settings import PrepareSettings
from sparton.data.statistics import Moments
from sparton.errors import DataError
from sparton.physics.jets import Jets

CRITERIA = ("label", "mass_window")
"""Why a sound jet is not selected, in the order in which it is asked."""

ALTERATIONS = ("truncated_jets", "truncated_constituents", "dropped_constituents", "reordered_jets", "wrapped_phi")

CONSTITUENT_BYTES = len(MOMENTA) * 4
JET_BYTES = len(JET_VALUES) * 4 + 8  # with a short label

PAYLOAD_ARROW = pa.schema(
    [
        pa.field("label", pa.string()),
        *(pa.field(name, pa.float32()) for name in JET_VALUES),
        pa.field("constituents", pa.binary()),
    ]
)


@dataclass(frozen=True)
class JetsEncoder:
    """The :class:`sparton.data.encoder.Encoder` of jets tables."""

    settings: PrepareSettings
    kind: str = "jets table"
    id_name: str = "jet_id"
    source_id: str | None = "jet_id"
    columns: tuple[str, ...] = REQUIRED
    selection: tuple[str, ...] = ("labels", "mass_window")
    category: str | None = "label"
    reasons: tuple[str, ...] = REASONS
    criteria: tuple[str, ...] = CRITERIA
    alterations: tuple[str, ...] = ALTERATIONS

    @property
    def payload(self) -> pa.Schema:
        """Columns that cross the exchange."""
        return PAYLOAD_ARROW

    @property
    def schema(self) -> pa.Schema:
        """Columns of the set."""
        return TRAINING_ARROW

    @property
    def n_features(self) -> int:
        """Features of a constituent."""
        return len(self.settings.features.feature_names)

    def source_ids(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the column jet_id."""
        return ids_of(batch, self.id_name)

    def sift(self, batch: pa.RecordBatch) -> Sifted:
        """Return the sound, selected jets of a batch of the jets table."""
        screened = screen(batch)
        kept, tally = selected(screened.rows, self.settings)
        tally.update(_alterations(screened, kept, self.settings.features.n_particles))
        rows = screened.rows.select(kept)
        return Sifted(rows.jet_id, screened.index[kept], rows, tally, screened.refused)

    def pack(self, content: JetRows, index: Indices) -> list[pa.Array]:
        """Return the payload of the jets at ``index``."""
        rows = content if all_in_order(index, len(content)) else content.take(index)
        values = [pa.array(getattr(rows.jets, name)) for name in JET_VALUES]
        return [rows.label, *values, _pack_constituents(rows.jets)]

    def packed_bytes(self, content: JetRows) -> int:
        """Return the bytes of constituents, jet-level values and label."""
        return int(content.jets.px.size) * CONSTITUENT_BYTES + len(content) * JET_BYTES

    def encode(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the training rows of jets that crossed the exchange."""
        return training_batch(unpack(batch), self.settings.features)

    def moments(self, table: pa.Table) -> Moments:
        """Return the moments of the features over the real particles of training rows."""
        n_particles = self.settings.features.n_particles
        features = decode_features(table.column("features").combine_chunks(), n_particles, self.n_features)
        real = np.arange(n_particles) < table.column("n_particles").to_numpy()[:, None]
        return Moments.of(features[real])


def selected(rows: JetRows, settings: PrepareSettings) -> tuple[Mask, Counter[str]]:
    """Return which jets the settings keep, bool[n], and how many are excluded by each of :data:`CRITERIA`."""
    excluded: Counter[str] = Counter()
    kept = np.ones(len(rows), bool)
    if settings.labels is not None:
        wanted = pc.is_in(rows.label, value_set=pa.array(settings.labels, pa.string()))
        kept = wanted.to_numpy(zero_copy_only=False)
        excluded["label"] = int(np.count_nonzero(~kept))
    if settings.mass_window is not None:
        low, high = settings.mass_window
        inside = (rows.jets.jet_mass > low) & (rows.jets.jet_mass < high)
        excluded["mass_window"] = int(np.count_nonzero(kept & ~inside))
        kept = kept & inside
    return kept, excluded


def unpack(batch: pa.RecordBatch) -> JetRows:
    """Return the jets of a batch that crossed the exchange."""
    packed = batch.column("constituents")
    # Sessions may say that binary values have wide offsets (spark.sql.execution.arrow.useLargeVarTypes).
    width = np.int64 if pa.types.is_large_binary(packed.type) else np.int32
    limits = np.frombuffer(packed.buffers()[1], width)[packed.offset : packed.offset + len(packed) + 1]
    content = np.frombuffer(packed.buffers()[2] or b"", "<f4")[limits[0] // 4 : limits[-1] // 4]
    momenta = content.reshape(-1, len(MOMENTA))
    jets = Jets(
        event_index=np.zeros(len(packed), np.int64),
        pdg_id=np.zeros(len(momenta), np.int32),
        offsets=((limits - limits[0]) // CONSTITUENT_BYTES).astype(np.int64),
        **{name: batch.column(name).to_numpy() for name in JET_VALUES},
        **{name: np.ascontiguousarray(momenta[:, index]) for index, name in enumerate(MOMENTA)},
    )
    return JetRows(batch.column("id").to_numpy(), batch.column("label"), jets)


def _alterations(screened: Screened, kept: Mask, n_particles: int) -> dict[str, int]:
    over = screened.rows.jets.n_constituents[kept].astype(np.int64) - n_particles
    values = (
        np.count_nonzero(over > 0),
        over[over > 0].sum(),
        screened.dropped[kept].sum(),
        np.count_nonzero(screened.reordered[kept]),
        np.count_nonzero(screened.wrapped[kept]),
    )
    return dict(zip(ALTERATIONS, map(int, values), strict=True))


def _pack_constituents(jets: Jets) -> pa.Array:
    momenta = np.stack([getattr(jets, name) for name in MOMENTA], axis=1).astype("<f4", copy=False)
    if momenta.nbytes > MAX_BINARY_BYTES:
        raise DataError(
            f"a batch of {len(jets)} jets holds {momenta.nbytes} bytes of constituents, over 2 GiB; "
            "lower spark.sql.execution.arrow.maxRecordsPerBatch"
        )
    offsets = (jets.offsets * CONSTITUENT_BYTES).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(jets), [None, pa.py_buffer(offsets), pa.py_buffer(momenta)])

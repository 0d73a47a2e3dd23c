"""The HLS4ML LHC jet data set (Zenodo 3601436, 3601443, 3602254, 3602260): HDF5 with 30, 50, 100 or 150 particles.

``jetConstituentList`` [n, P, 16] holds the hardest P constituents, zero on padding; ``jets`` [n, 59] jet-level numbers
and the one-hot label. Columns are found by the names in the file; a file without names has the published order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparton.config import Config
from sparton.data.sources import hdf5
from sparton.data.sources.block import BadFileError, Extent, JetBlock, Source, build_jets, labels_from_codes, no_reasons
from sparton.physics import kinematics

_PARTICLE = "px py pz e erel pt ptrel eta etarel etarot phi phirel phirot deltaR costheta costhetarel pdgid"
_JET = (
    "ptfrac pt eta mass tau1_b1 tau2_b1 tau3_b1 tau1_b2 tau2_b2 tau3_b2 tau32_b1 tau32_b2 zlogz c1_b0 c1_b1 c1_b2 "
    "c2_b1 c2_b2 d2_b1 d2_b2 d2_a1_b1 d2_a1_b2 m2_b1 m2_b2 n2_b1 n2_b2 tau1_b1_mmdt tau2_b1_mmdt tau3_b1_mmdt "
    "tau1_b2_mmdt tau2_b2_mmdt tau3_b2_mmdt tau32_b1_mmdt tau32_b2_mmdt c1_b0_mmdt c1_b1_mmdt c1_b2_mmdt "
    "c2_b1_mmdt c2_b2_mmdt d2_b1_mmdt d2_b2_mmdt d2_a1_b1_mmdt d2_a1_b2_mmdt m2_b1_mmdt m2_b2_mmdt n2_b1_mmdt "
    "n2_b2_mmdt mass_trim mass_mmdt mass_prun mass_sdb2 mass_sdm1 multiplicity g q w z t undef"
)

PARTICLE_COLUMNS = tuple(f"j1_{name}" for name in _PARTICLE.split())
"""Seventeen names for sixteen columns: the last one has none."""

JET_COLUMNS = tuple(f"j_{name}" for name in _JET.split())
LABELS = {"j_g": "g", "j_q": "q", "j_w": "W", "j_z": "Z", "j_t": "t"}
PARTICLES = ("j1_px", "j1_py", "j1_pz", "j1_e", "j1_phi", "j1_phirel")
JET_VALUES = ("j_pt", "j_eta", "j_mass")
WITHOUT_SIGNS = np.uint64(0x7FFFFFFF7FFFFFFF)
"""Leaves out the signs of two float32 in one number: -0 is 0."""


class Hls4mlOptions(Config):
    """Options of the format ``hls4ml``.

    Attributes
    ----------
    constituents, jets
        Names of the two arrays.
    jet_columns
        Further jet-level numbers to keep, by their names without ``j_``, such as ``tau1_b1`` or ``mass_mmdt``.
    """

    constituents: str = Field(default="jetConstituentList", min_length=1)
    jets: str = Field(default="jets", min_length=1)
    jet_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Layout:
    particles: Any
    jets: Any
    momenta: list[int]
    angles: list[int]
    values: list[int]
    labels: list[int]
    extras: list[int]


@dataclass(frozen=True)
class _File:
    """An open file; its names are looked up once, which takes as long as reading some MB."""

    content: Any
    source: Hls4ml

    @cached_property
    def layout(self) -> _Layout:
        return self.source.find(self.content)


@dataclass(frozen=True)
class Hls4ml(Source):
    """Reader of the format ``hls4ml``; a row is a jet."""

    options: Hls4mlOptions
    name: ClassVar[str] = "hls4ml"
    suffixes: ClassVar[tuple[str, ...]] = hdf5.SUFFIXES
    errors: ClassVar[tuple[type[Exception], ...]] = hdf5.ERRORS

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Names of the further columns."""
        return self.options.jet_columns

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[_File]:
        """Open an HDF5 file."""
        with hdf5.open_hdf5(path) as content:
            yield _File(content, self)

    def extent(self, handle: _File) -> Extent:
        """Check names, shapes and types; the rows are the jets."""
        layout = handle.layout
        shape, itemsize = layout.particles.shape, layout.particles.dtype.itemsize
        return Extent(shape[0], hdf5.chunk_rows(layout.particles), shape[1] * shape[2] * itemsize)

    def read(self, handle: _File, start: int, stop: int) -> JetBlock:
        """Return the jets of some rows; jet_phi is the first constituent's phi less its phi relative to the jet."""
        layout = handle.layout
        particles = layout.particles[start:stop]
        table = layout.jets[start:stop]
        momenta, offsets, first = _constituents(particles, layout.momenta)
        phi, relative = (particles[np.arange(first.size), first, column] for column in layout.angles)
        values = dict(
            zip(("jet_pt", "jet_eta", "jet_mass"), (table[:, column] for column in layout.values), strict=True)
        )
        with np.errstate(all="ignore"):
            jets = build_jets(momenta, offsets, values | {"jet_phi": kinematics.phi_to_float32(phi - relative)})
            label, reason = _labels(table[:, layout.labels])
            extras = {
                name: table[:, column].astype(np.float32)
                for name, column in zip(self.extra_columns, layout.extras, strict=True)
            }
        row = np.arange(start, stop)
        return JetBlock(row, np.zeros(row.size, np.int64), jets, label, reason, extras=extras)

    def find(self, handle: Any) -> _Layout:
        """Return the arrays of an open ``h5py.File`` and the places of the columns, checked.

        Raises
        ------
        BadFileError
            If a name is missing, or an array has another shape or type.
        """
        particles = hdf5.dataset(handle, self.options.constituents, 3)
        jets = hdf5.dataset(handle, self.options.jets, 2)
        if len(particles) != len(jets) or particles.shape[1] == 0:
            raise BadFileError(
                "wrong_shape",
                f"{self.options.constituents} {particles.shape} and {self.options.jets} {jets.shape}: "
                "expected as many jets in both, and room for constituents",
            )
        found = hdf5.columns(handle, "particleFeatureNames", PARTICLES, PARTICLE_COLUMNS, particles.shape[2])
        wanted = (*JET_VALUES, *LABELS, *(f"j_{name}" for name in self.extra_columns))
        places = hdf5.columns(handle, "jetFeatureNames", wanted, JET_COLUMNS, jets.shape[1])
        last = len(JET_VALUES) + len(LABELS)
        return _Layout(particles, jets, found[:4], found[4:], places[:3], places[3:last], places[last:])


def _constituents(
    particles: NDArray[Any], places: list[int]
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64], NDArray[np.int64]]:
    """Return px, py, pz, energy [m] of the slots that are not all zero, the jets' limits and first such slots [n].

    A slot is moved as one number of 16 bytes: gathering four columns apart takes twice as long.
    """
    first = places[0]
    adjacent = places == list(range(first, first + 4))
    chosen = particles[:, :, first : first + 4] if adjacent else particles[:, :, places]
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is rejected later
        four = np.ascontiguousarray(chosen, np.float32).reshape(-1, 4)
    bits = four.view(np.uint64)
    real = ((bits[:, 0] | bits[:, 1]) & WITHOUT_SIGNS) != 0
    kept = four.view(np.complex128)[:, 0].take(np.flatnonzero(real)).view(np.float32).reshape(-1, 4)
    by_jet = real.reshape(particles.shape[:2])
    offsets = kinematics.offsets_from_counts(np.count_nonzero(by_jet, axis=1))
    return [np.ascontiguousarray(column) for column in kept.T], offsets, np.argmax(by_jet, axis=1)


def _labels(one_hot: NDArray[Any]) -> tuple[pa.Array, NDArray[np.str_]]:
    """Return labels and reasons: no class set means unlabelled; more than one, or one in part, cannot be."""
    reason = no_reasons(len(one_hot))
    chosen = one_hot > 0.5
    number = np.count_nonzero(chosen, axis=1)
    reason[(number > 1) | ~np.isin(one_hot, (0, 1)).all(axis=1)] = "unknown_label"
    codes = np.where(number == 1, np.argmax(chosen, axis=1), -1)
    return labels_from_codes(codes, list(LABELS.values())), reason

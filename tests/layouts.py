"""Files in exactly the layout of the public data sets, written from jets of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparton.data.sources.hls4ml import JET_COLUMNS, LABELS, PARTICLE_COLUMNS
from sparton.physics import kinematics
from sparton.physics.jets import Jets


def padded(jets: Jets, values: NDArray[Any], width: int) -> NDArray[np.float64]:
    """Return the values of constituents as float64 [n, width], zero beyond them."""
    return kinematics.pad(np.asarray(values, np.float64), jets.offsets, width)


def hls4ml_arrays(jets: Jets, label: NDArray[Any], particles: int = 100) -> dict[str, NDArray[Any]]:
    """Return the arrays of an HLS4ML file."""
    pt = kinematics.transverse_momentum(jets.px, jets.py)
    eta = kinematics.pseudorapidity(jets.px, jets.py, jets.pz)
    phi = kinematics.azimuth(jets.px, jets.py)
    owner = kinematics.owners(jets.offsets)
    jet_energy = kinematics.segment_sum(jets.energy, jets.offsets)
    columns = dict.fromkeys(PARTICLE_COLUMNS[:16], np.zeros(pt.size)) | {
        "j1_px": jets.px,
        "j1_py": jets.py,
        "j1_pz": jets.pz,
        "j1_e": jets.energy,
        "j1_erel": jets.energy / jet_energy[owner],
        "j1_pt": pt,
        "j1_ptrel": pt / jets.jet_pt[owner],
        "j1_eta": eta,
        "j1_etarel": eta - jets.jet_eta[owner],
        "j1_phi": phi,
        "j1_phirel": kinematics.delta_phi(phi, jets.jet_phi[owner]),
    }
    table = np.zeros((len(jets), len(JET_COLUMNS)))
    for name, values in (("j_pt", jets.jet_pt), ("j_eta", jets.jet_eta), ("j_mass", jets.jet_mass)):
        table[:, JET_COLUMNS.index(name)] = values
    table[:, JET_COLUMNS.index("j_multiplicity")] = jets.n_constituents
    for name, short in LABELS.items():
        table[:, JET_COLUMNS.index(name)] = label == short
    return {
        "jetConstituentList": np.stack([padded(jets, columns[name], particles) for name in columns], axis=2),
        "jets": table,
        "particleFeatureNames": np.array([name.encode() for name in PARTICLE_COLUMNS], object),
        "jetFeatureNames": np.array([name.encode() for name in JET_COLUMNS], object),
    }


def write_hls4ml(
    path: Path, jets: Jets, label: NDArray[Any], particles: int = 100, images: int = 4, **storage: Any
) -> None:
    """Write an HLS4ML file; ``storage`` goes to the large arrays (chunks, compression)."""
    with h5py.File(path, "w") as file:
        for name, values in hls4ml_arrays(jets, label, particles).items():
            if values.dtype == object:
                file.create_dataset(name, data=values, dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=values, **storage)
        for name in ("jetImage", "jetImageECAL", "jetImageHCAL"):
            file.create_dataset(name, data=np.zeros((len(jets), images, images)))

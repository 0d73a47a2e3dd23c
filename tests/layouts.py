"""Files in exactly the layout of the public data sets, written from jets of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uproot
from numpy.typing import NDArray

from sparton.data.sources.hls4ml import JET_COLUMNS, LABELS, PARTICLE_COLUMNS
from sparton.data.sources.jetclass import LABELS as JETCLASS_LABELS
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


def pair_events(jets: Jets) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return (pT, eta, phi) of the particles of jets 0 and 1, 2 and 3, ... as events [n, 700, 3], and the numbers.

    Particles come in no order, as in the published files.
    """
    pt = kinematics.transverse_momentum(jets.px, jets.py)
    values = np.stack(
        [pt, kinematics.pseudorapidity(jets.px, jets.py, jets.pz), kinematics.azimuth(jets.px, jets.py)], 1
    )
    event = kinematics.owners(jets.offsets) // 2
    order = np.lexsort((np.random.default_rng(0).random(event.size), event))
    counts = np.bincount(event, minlength=len(jets) // 2)
    return kinematics.pad(values[order], kinematics.offsets_from_counts(counts), 700), counts


def write_lhco(path: Path, events: NDArray[Any], truth: NDArray[Any] | None, **storage: Any) -> None:
    """Write events [n, 700, 3] as a fixed frame of pandas; without truth as a black box."""
    values = events.reshape(len(events), -1)
    if truth is not None:
        values = np.concatenate([values, np.asarray(truth, np.float64)[:, None]], axis=1)
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        group.attrs["pandas_type"] = np.bytes_("frame")
        group.create_dataset("axis0", data=np.arange(values.shape[1]))
        group.create_dataset("axis1", data=np.arange(len(values)))
        group.create_dataset("block0_items", data=np.arange(values.shape[1]))
        group.create_dataset("block0_values", data=values, **storage)


def write_toptagging(path: Path, jets: Jets, is_top: NDArray[Any], **storage: Any) -> None:
    """Write jets as a PyTables table of pandas with 200 particles."""
    particles = [padded(jets, getattr(jets, name), 200) for name in ("energy", "px", "py", "pz")]
    truth = np.zeros((len(jets), 1, 4))
    blocks = np.concatenate([np.stack(particles, axis=2), truth], axis=1).reshape(len(jets), -1)
    kind = np.dtype([("index", "<i8"), ("values_block_0", "<f4", (804,)), ("values_block_1", "<i8", (2,))])
    rows = np.zeros(len(jets), kind)
    rows["index"], rows["values_block_0"] = np.arange(len(jets)), blocks
    rows["values_block_1"][:, 1] = is_top
    with h5py.File(path, "w") as file:
        group = file.create_group("table")
        group.attrs["pandas_type"] = np.bytes_("frame_table")
        group.create_dataset("table", data=rows, **storage)


def jagged(jets: Jets, values: NDArray[Any]) -> Any:
    """Return values of constituents as an awkward array of lists."""
    return awkward.unflatten(np.asarray(values), np.diff(jets.offsets))


def write_jetclass(path: Path, jets: Jets, label: NDArray[Any], **extra: NDArray[Any]) -> None:
    """Write jets as a JetClass tree; ``extra`` are further jet-level branches."""
    kind = np.abs(jets.pdg_id)
    lists = {f"part_{name}": getattr(jets, name) for name in ("px", "py", "pz", "energy")}
    lists |= dict.fromkeys(("part_deta", "part_dphi", "part_d0val", "part_d0err"), np.zeros_like(jets.px))
    lists["part_charge"] = np.where(kind == 211, np.sign(jets.pdg_id), 0).astype(np.float32)
    codes = {"ChargedHadron": 211, "NeutralHadron": 130, "Photon": 22, "Electron": 11, "Muon": 13}
    lists |= {f"part_is{name}": (kind == code).astype(np.int32) for name, code in codes.items()}
    momentum = np.asarray(jets.jet_pt, np.float64) * np.cosh(np.asarray(jets.jet_eta, np.float64))
    scalars = {f"jet_{name}": np.asarray(getattr(jets, f"jet_{name}"), np.float64) for name in ("pt", "eta", "phi")}
    scalars["jet_energy"] = np.hypot(momentum, jets.jet_mass)
    scalars["jet_nparticles"] = jets.n_constituents
    scalars |= {name: (label == short).astype(np.int32) for name, short in JETCLASS_LABELS.items()}
    write_tree(path, "tree", {name: jagged(jets, values) for name, values in lists.items()} | scalars | extra)


def write_pfnano(path: Path, jets: Jets, per_event: int = 2) -> None:
    """Write jets as a PFNano tree with some jets an event; weights of 0.5 on candidates of twice the momentum."""
    n_events = len(jets) // per_event
    jet = kinematics.owners(jets.offsets)
    event = jet // per_event
    counts = np.bincount(event, minlength=n_events)
    first = kinematics.offsets_from_counts(counts)
    local = np.arange(jet.size) - first[event]
    backwards = counts[event] - 1 - local  # candidates in another order than the links
    candidate = first[event] + backwards

    def per_candidate(values: NDArray[Any]) -> Any:
        turned = np.empty_like(np.asarray(values))
        turned[candidate] = values
        return awkward.unflatten(turned, counts)

    columns: dict[str, Any] = {
        "FatJetPFCands_jetIdx": awkward.unflatten((jet % per_event).astype(np.int32), counts),
        "FatJetPFCands_pFCandsIdx": awkward.unflatten(backwards.astype(np.int32), counts),
        "PFCands_pt": per_candidate(2 * kinematics.transverse_momentum(jets.px, jets.py).astype(np.float32)),
        "PFCands_eta": per_candidate(kinematics.pseudorapidity(jets.px, jets.py, jets.pz).astype(np.float32)),
        "PFCands_phi": per_candidate(kinematics.azimuth(jets.px, jets.py).astype(np.float32)),
        "PFCands_mass": per_candidate(np.zeros(jet.size, np.float32)),
        "PFCands_pdgId": per_candidate(jets.pdg_id),
        "PFCands_puppiWeight": per_candidate(np.full(jet.size, 0.5, np.float32)),
    }
    for name in ("pt", "eta", "phi", "mass"):
        columns[f"FatJet_{name}"] = awkward.from_regular(getattr(jets, f"jet_{name}").reshape(n_events, per_event))
    columns["FatJet_msoftdrop"] = columns["FatJet_mass"]
    write_tree(path, "Events", columns)


def write_flat(path: Path, jets: Jets, label: NDArray[Any], row_group: int | None = None) -> None:
    """Write jets as a flat table with constituents' pT, eta, phi and mass."""
    limits = pa.array(jets.offsets.astype(np.int32))
    lists = {
        "constituent_pt": kinematics.transverse_momentum(jets.px, jets.py),
        "constituent_eta": kinematics.pseudorapidity(jets.px, jets.py, jets.pz),
        "constituent_phi": kinematics.azimuth(jets.px, jets.py),
        "constituent_mass": np.zeros(jets.px.size),
    }
    columns: dict[str, Any] = {name: pa.ListArray.from_arrays(limits, pa.array(v)) for name, v in lists.items()}
    columns |= {"JetPT": jets.jet_pt, "flavour": np.where(label == "t", 6, 24), "btag": np.arange(len(jets)) % 2}
    pq.write_table(pa.table(columns), path, row_group_size=row_group or len(jets))


def write_tree(path: Path, name: str, columns: dict[str, Any]) -> None:
    """Write branches, numbers or lists of them for each entry, as a tree."""
    arrays = {key: awkward.Array(values) for key, values in columns.items()}
    with uproot.recreate(path) as file:
        file.mktree(name, {key: awkward.type(values).content for key, values in arrays.items()})
        file[name].extend(arrays)

"""Each format, read from a file in its public layout, gives the jets that were written."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from sparton.data.sources import root
from sparton.data.sources.block import BLOCK_BYTES, JetBlock, measure, read_blocks
from sparton.data.sources.registry import OPTIONS, SOURCES, make_source, source_paths
from sparton.data.sources.table import Origin, Sorted, sort_out
from sparton.errors import UsageError
from sparton.physics import kinematics
from sparton.physics.jets import Jets
from tests import layouts
from tests.synthetic import jets_table, random_jets

JETS = 60
PFNANO = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "pfnano.root"


def blocks(path: Path, name: str, start: int = 0, stop: int | None = None, **options: Any) -> list[JetBlock]:
    source = make_source(name, OPTIONS[name](**options))
    rows = measure(source, str(path)).rows
    return list(read_blocks(source, str(path), start, rows if stop is None else stop))


def read(path: Path, name: str, start: int = 0, stop: int | None = None, **options: Any) -> Sorted:
    (block,) = blocks(path, name, start, stop, **options)
    origin = Origin(str(path), "00" * 32, 7, SOURCES[name].several, name)
    return sort_out(block, origin, None)


def column(batch: pa.RecordBatch, name: str) -> np.ndarray:
    found = batch.column(name)
    return (found.flatten() if pa.types.is_list(found.type) else found).to_numpy(zero_copy_only=False)


def assert_jets(batch: pa.RecordBatch, jets: Jets, rtol: float = 0.0, exact_jets: bool = True) -> None:
    """Check all values of all jets; momenta that went through angles agree to ``rtol``."""
    assert np.array_equal(column(batch, "n_constituents"), jets.n_constituents)
    for name in ("px", "py", "pz", "energy"):
        scale = column(batch, "energy")
        assert np.all(np.abs(column(batch, name) - getattr(jets, name)) <= rtol * scale), name
    for name in ("jet_pt", "jet_eta", "jet_phi", "jet_mass"):
        expected = getattr(jets, name)
        if exact_jets:
            assert np.array_equal(column(batch, name), expected), name
        else:
            assert np.allclose(column(batch, name), expected, rtol=1e-4, atol=1e-4), name


@pytest.fixture(scope="module")
def made() -> tuple[Jets, np.ndarray]:
    return random_jets(JETS, seed=5)


@pytest.mark.parametrize("particles", [30, 50, 100, 150])
@pytest.mark.parametrize("storage", [{}, {"chunks": True, "compression": "gzip"}])
def test_hls4ml(made: tuple[Jets, np.ndarray], particles: int, storage: dict[str, Any], tmp_path: Path) -> None:
    jets, label = made
    layouts.write_hls4ml(tmp_path / "a.h5", jets, label, particles, **storage)
    found = read(tmp_path / "a.h5", "hls4ml", jet_columns=["multiplicity"])
    kept = np.arange(jets.px.size) - jets.offsets[kinematics.owners(jets.offsets)] < particles
    assert np.array_equal(column(found.good, "n_constituents"), np.minimum(jets.n_constituents, particles))
    for name in ("px", "py", "pz", "energy"):
        assert np.array_equal(column(found.good, name), getattr(jets, name)[kept])
    for name in ("jet_pt", "jet_eta", "jet_mass"):
        assert np.array_equal(column(found.good, name), getattr(jets, name))
    assert np.allclose(column(found.good, "jet_phi"), jets.jet_phi, rtol=0, atol=1e-6)
    assert found.good.column("label").to_pylist() == label.tolist()
    assert np.array_equal(column(found.good, "multiplicity"), jets.n_constituents)
    assert (found.rejected.num_rows, dict(found.repairs)) == (0, {})


def test_hls4ml_columns_go_by_name(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    jets, label = made
    arrays = layouts.hls4ml_arrays(jets, label)
    order = np.random.default_rng(1).permutation(59)
    arrays["jets"], arrays["jetFeatureNames"] = arrays["jets"][:, order], arrays["jetFeatureNames"][order]
    turned = np.r_[np.random.default_rng(2).permutation(16), 16]
    arrays["jetConstituentList"] = arrays["jetConstituentList"][:, :, turned[:16]]
    arrays["particleFeatureNames"] = arrays["particleFeatureNames"][turned]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, dtype=h5py.string_dtype() if values.dtype == object else None)
    layouts.write_hls4ml(tmp_path / "b.h5", jets, label)
    assert read(tmp_path / "a.h5", "hls4ml").good.equals(read(tmp_path / "b.h5", "hls4ml").good)


def test_hls4ml_without_names_has_the_published_order(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    jets, label = made
    layouts.write_hls4ml(tmp_path / "a.h5", jets, label)
    before = read(tmp_path / "a.h5", "hls4ml").good
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["particleFeatureNames"], file["jetFeatureNames"]
    assert read(tmp_path / "a.h5", "hls4ml").good.equals(before)


def test_hls4ml_takes_phi_of_a_slot_that_is_filled(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    layouts.write_hls4ml(tmp_path / "a.h5", *made)
    before = read(tmp_path / "a.h5", "hls4ml").good
    with h5py.File(tmp_path / "a.h5", "a") as file:
        block = file["jetConstituentList"][:]
        file["jetConstituentList"][:] = np.roll(block, 1, axis=1)  # the last slots are empty
        assert not file["jetConstituentList"][:, 0].any()
    assert read(tmp_path / "a.h5", "hls4ml").good.equals(before)


def test_hls4ml_notices_what_a_slot_with_pz_alone_holds(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    layouts.write_hls4ml(tmp_path / "a.h5", *made)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["jetConstituentList"][2, 99, 2] = np.nan
        file["jetConstituentList"][3, 99, 2] = 1.0
    found = read(tmp_path / "a.h5", "hls4ml")
    assert [(row["row"], row["reason"]) for row in found.rejected.to_pylist()] == [(2, "not_finite")]
    assert found.repairs == {"dropped_constituents": 1}


def test_hls4ml_labels(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    jets, label = made
    layouts.write_hls4ml(tmp_path / "a.h5", jets, label)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["jets"][3, 53:] = 0
        file["jets"][4, 53:55] = 1
        file["jets"][5, 53:] = np.nan
        file["jets"][6, 53:56] = 0.4
    found = read(tmp_path / "a.h5", "hls4ml")
    assert found.good.column("label").to_pylist()[3] is None
    rejected = [(row["row"], row["reason"]) for row in found.rejected.to_pylist()]
    assert rejected == [(row, "unknown_label") for row in (4, 5, 6)]


@pytest.mark.parametrize("storage", [{}, dict(hdf5plugin.Blosc(cname="blosclz", clevel=9)) | {"chunks": (7, 2101)}])
def test_lhco_clusters_events(storage: dict[str, Any], tmp_path: Path) -> None:
    jets = opposite_pairs(40)
    events, _ = layouts.pair_events(jets)
    truth = np.arange(20) % 2
    layouts.write_lhco(tmp_path / "a.h5", events, truth, **storage)
    found = read(tmp_path / "a.h5", "lhco").good
    assert found.num_rows == 40
    event = column(found, "event_id")
    assert np.array_equal(event[::2], event[1::2])
    assert np.unique(event).size == 20
    mass = column(found, "jet_mass").reshape(20, 2)
    assert np.all(mass[:, 0] >= mass[:, 1])
    # Each event holds two jets of radius 1 far from each other: clustering finds them again.
    expected = np.sort(jets.jet_mass.reshape(20, 2), axis=1)[:, ::-1]
    assert np.allclose(mass, expected, rtol=1e-3, atol=0.1)
    assert found.column("label").to_pylist() == np.repeat(np.where(truth, "signal", "background"), 2).tolist()


def test_lhco_all_jets_and_rejected_events(tmp_path: Path) -> None:
    events, _ = layouts.pair_events(opposite_pairs(12))
    events[1, 0, 0] = np.nan
    events[2, 0, 0] = -1.0
    events[3] = 0
    events[4, :, 0][np.abs(events[4, :, 2]) < 1.5] = 0  # one of the two jets
    events[0, 0] = (25.0, 4.5, 0.0)  # a third jet in an empty slot or in place of a particle
    layouts.write_lhco(tmp_path / "a.h5", events, np.zeros(6))
    two = read(tmp_path / "a.h5", "lhco")
    reasons = {row["row"]: row["reason"] for row in two.rejected.to_pylist()}
    assert reasons == {1: "not_finite", 2: "negative_energy", 3: "too_few_jets", 4: "too_few_jets"}
    every = read(tmp_path / "a.h5", "lhco", jets="all")
    assert np.bincount(every.row, minlength=6).tolist() == [3, 0, 0, 0, 1, 2]
    assert np.unique(column(every.good, "jet_id")).size == every.good.num_rows
    heavy = read(tmp_path / "a.h5", "lhco", jets="all", mass_min=20.0).good
    assert column(heavy, "jet_mass").min() >= 20


def test_lhco_black_box_with_key(tmp_path: Path) -> None:
    events, _ = layouts.pair_events(opposite_pairs(8))
    layouts.write_lhco(tmp_path / "box.h5", events, None)
    assert read(tmp_path / "box.h5", "lhco").good.column("label").null_count == 8
    (tmp_path / "box.masterkey").write_text("0.0\n1.0\n1.0\n0.0\n")
    found = read(tmp_path / "box.h5", "lhco").good.column("label").to_pylist()
    assert found[::2] == ["background", "signal", "signal", "background"]
    for truth in ("2", "nan"):
        (tmp_path / "key.txt").write_text(f"1 1 1 {truth}")
        other = read(tmp_path / "box.h5", "lhco", masterkey=str(tmp_path / "key.txt"))
        assert other.good.column("label").to_pylist() == ["signal"] * 6
        assert [row["reason"] for row in other.rejected.to_pylist()] == ["unknown_label"] * 2


@pytest.mark.parametrize("storage", [{}, dict(hdf5plugin.Blosc(clevel=9)) | {"chunks": (16,)}, {"compression": "gzip"}])
def test_toptagging(made: tuple[Jets, np.ndarray], storage: dict[str, Any], tmp_path: Path) -> None:
    jets, label = made
    layouts.write_toptagging(tmp_path / "a.h5", jets, label == "t", **storage)
    found = read(tmp_path / "a.h5", "toptagging").good
    assert_jets(found, jets, exact_jets=False)
    assert found.column("label").to_pylist() == np.where(label == "t", "t", "QCD").tolist()


def test_toptagging_pickled_attributes_are_not_read(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    jets, label = made
    layouts.write_toptagging(tmp_path / "a.h5", jets, label == "t")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        # What a pickle would run: os.mkdir of a folder beside the file.
        file["table"].attrs["values_block_0_kind"] = np.bytes_(f"cos\nmkdir\n(V{tmp_path}/run\ntR.".encode())
    assert read(tmp_path / "a.h5", "toptagging").good.num_rows == JETS
    assert not (tmp_path / "run").exists()


def test_jetclass(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    jets, label = made
    mass = np.linspace(0, 100, JETS)
    layouts.write_jetclass(tmp_path / "a.root", jets, label, jet_sdmass=mass)
    found = read(tmp_path / "a.root", "jetclass", jet_columns=["jet_sdmass"]).good
    assert_jets(found, jets, exact_jets=False)
    assert np.array_equal(column(found, "pdg_id"), jets.pdg_id)
    assert found.column("label").to_pylist() == label.tolist()
    assert np.allclose(column(found, "jet_sdmass"), mass)


def test_jetclass_labels_that_are_no_truth_are_unknown(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    jets, label = made
    truth = (label == "W").astype(np.float32)
    truth[3], truth[4] = np.nan, 0.4
    layouts.write_jetclass(tmp_path / "a.root", jets, np.where(label == "W", "", label), label_Wqq=truth)
    found = read(tmp_path / "a.root", "jetclass")
    assert [(row["row"], row["reason"]) for row in found.rejected.to_pylist()] == [
        (3, "unknown_label"),
        (4, "unknown_label"),
    ]
    assert found.good.column("label").to_pylist() == np.delete(label, [3, 4]).tolist()


def test_pfnano(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    jets, _ = made
    layouts.write_pfnano(tmp_path / "a.root", jets, per_event=3)
    found = read(tmp_path / "a.root", "pfnano", jet_columns=["msoftdrop"]).good
    assert_jets(found, jets, rtol=1e-6)
    assert np.array_equal(column(found, "pdg_id"), jets.pdg_id)
    assert np.array_equal(column(found, "msoftdrop"), jets.jet_mass)
    event, jet = column(found, "event_id"), column(found, "jet_id")
    assert np.array_equal(event, event[::3].repeat(3))
    assert np.array_equal(jet - event, np.tile([0, 1, 2], JETS // 3))
    unweighted = read(tmp_path / "a.root", "pfnano", puppi=False).good
    assert np.allclose(column(unweighted, "energy"), 2 * jets.energy, rtol=1e-5)


def test_pfnano_bad_links_cost_the_jets_that_they_touch(tmp_path: Path) -> None:
    """Eight events of three jets: the jet whose candidate is not there, the events that cannot be matched."""
    jets, _ = random_jets(24, seed=5)
    layouts.write_pfnano(tmp_path / "a.root", jets, per_event=3)
    with uproot.open(tmp_path / "a.root") as file:
        names = [name for name in file["Events"].keys() if not name.startswith("n")]  # noqa: SIM118  # not a dict
        columns = {name: file["Events"][name].array().to_list() for name in names}
    jet, candidate = columns["FatJetPFCands_jetIdx"], columns["FatJetPFCands_pFCandsIdx"]
    candidate[0][jet[0].index(1)] = 10_000  # the second jet of the first event
    candidate[1][jet[1].index(2)] = -1  # the third of the next
    jet[2][0] = 3  # there are three
    candidate[3].pop()
    columns["PFCands_mass"][4].pop()
    columns["FatJet_eta"][5].pop()
    jet[6] = [-1 if index == 0 else index for index in jet[6]]  # no links are no harm to others
    layouts.write_tree(tmp_path / "b.root", "Events", columns)
    found = read(tmp_path / "b.root", "pfnano", jet_columns=["msoftdrop"])
    rejected = [(row["row"], row["jet_id"] % 64, row["reason"]) for row in found.rejected.to_pylist()]
    assert sorted(rejected) == [
        (0, 1, "bad_index"),
        (1, 2, "bad_index"),
        *((2, place, "bad_index") for place in range(3)),
        *((row, place, "unequal_lengths") for row in (3, 4) for place in range(3)),
        (5, 0, "unequal_lengths"),  # how many jets it has is not known
        (6, 0, "no_constituents"),
    ]
    kept = [0, 2, 3, 4, 19, 20, 21, 22, 23]
    assert_jets(found.good, jets.take(np.array(kept)), rtol=1e-6)
    (block,) = blocks(tmp_path / "b.root", "pfnano")
    assert block.rows == 8


@pytest.mark.skipif(not PFNANO.exists(), reason="the CMS sample is not at hand; test_pfnano is its twin")
def test_pfnano_of_cms() -> None:
    found = read(PFNANO, "pfnano").good
    assert found.num_rows == 24
    offsets = np.r_[0, np.cumsum(column(found, "n_constituents"))]
    px, py = (kinematics.segment_sum(column(found, name), offsets) for name in ("px", "py"))
    share = np.hypot(px, py) / column(found, "jet_pt")
    leading = column(found, "jet_id") == column(found, "event_id")
    assert np.all((share[leading] > 0.85) & (share[leading] < 1.0))  # the rest is the energy correction


@pytest.mark.parametrize(
    ("baskets", "row_bytes", "step"),
    [
        ([], 1, 1),
        ([[0, 40, 80, 100], [0, 40, 100]], 8, 40),
        ([[0, 30, 60, 100], [0, 50, 100]], 8, 100),  # a small file goes in one piece
        ([[0, 30, 60, 100], [0, 50, 100]], BLOCK_BYTES // 10, 50),
        ([[0, 30, 60, 100], [0, 100]], BLOCK_BYTES // 10, 100),
        ([[0, 0, 100], [0, 100]], 8, 100),
    ],
)
def test_root_files_are_split_where_their_branches_share_no_limits(
    baskets: list[list[int]], row_bytes: int, step: int
) -> None:
    assert root.step_of(baskets, row_bytes) == step


@pytest.mark.parametrize("row_group", [None, 7])
def test_flat(made: tuple[Jets, np.ndarray], row_group: int | None, tmp_path: Path) -> None:
    jets, label = made
    layouts.write_flat(tmp_path / "a.parquet", jets, label, row_group)
    options = {
        "mass": "constituent_mass",
        "jet_pt": "JetPT",
        "label": "flavour",
        "label_names": {"6": "t"},
        "jet_columns": ["btag"],
    }
    parts = blocks(tmp_path / "a.parquet", "flat", **options)
    batches = [sort_out(part, Origin("a", "00", 7, False, "flat"), None).good for part in parts]
    found = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    assert_jets(found, jets, rtol=1e-6, exact_jets=False)
    assert found.column("label").to_pylist() == np.where(label == "t", "t", "24").tolist()
    assert np.array_equal(column(found, "btag"), np.arange(JETS) % 2)


@pytest.mark.parametrize("names", ["plain", "dotted"])
def test_blocks_of_parquet_are_of_the_size_in_memory(names: str, tmp_path: Path) -> None:
    """Repeated values are stored once in a file, and names may have dots: neither makes a block larger."""
    rows, constituents = 60_000, 30
    limits = pa.array(np.arange(rows + 1, dtype=np.int32) * constituents)
    values = pa.array(np.full(rows * constituents, 0.5, np.float32))
    options = {name: name if names == "plain" else f"Jet.{name}" for name in ("pt", "eta", "phi", "mass")}
    table = pa.table({name: pa.ListArray.from_arrays(limits, values) for name in options.values()})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows)
    found = blocks(tmp_path / "a.parquet", "flat", **options)
    assert sum(len(block) for block in found) == rows
    assert max(len(block) for block in found) * constituents * len(options) * 4 <= 1.1 * BLOCK_BYTES


def test_flat_broken_rows(made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    jets, label = made
    layouts.write_flat(tmp_path / "a.parquet", jets, label)
    table = pq.read_table(tmp_path / "a.parquet")
    lists = {name: table.column(name).to_pylist() for name in ("constituent_pt", "constituent_eta", "constituent_phi")}
    lists["constituent_pt"][0] = None
    lists["constituent_eta"][1].pop()
    lists["constituent_pt"][2][0] = None
    lists["constituent_pt"][3][0] = -5.0
    lists["constituent_pt"][4] = lists["constituent_eta"][4] = lists["constituent_phi"][4] = []
    lists["constituent_phi"][5][0] += 2 * np.pi
    for name, values in lists.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(table, tmp_path / "b.parquet")
    found = read(tmp_path / "b.parquet", "flat")
    assert [row["reason"] for row in found.rejected.to_pylist()] == [
        "null",
        "unequal_lengths",
        "not_finite",
        "negative_energy",
        "no_constituents",
    ]
    assert found.repairs["wrapped_phi"] == 1
    assert_jets(found.good, jets.take(np.arange(5, JETS)), rtol=1e-6, exact_jets=False)


def test_parquet_keeps_ids_label_and_source(tmp_path: Path) -> None:
    table = jets_table(JETS, seed=3, first_id=100)
    pq.write_table(table.append_column("girth", pa.array(np.arange(JETS) / 7)), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", "parquet", jet_columns=["girth"]).good
    assert found.select(table.schema.names).equals(table.combine_chunks().to_batches()[0])
    assert np.array_equal(column(found, "girth"), (np.arange(JETS) / 7).astype(np.float32))


def test_parquet_with_momenta_alone(tmp_path: Path) -> None:
    table = jets_table(JETS, seed=3)
    pq.write_table(table.select(["px", "py", "pz", "energy"]), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", "parquet").good
    for name in ("jet_pt", "jet_eta", "jet_phi", "jet_mass"):
        assert np.allclose(column(found, name), table.column(name).to_numpy(), rtol=1e-4, atol=1e-4)
    assert column(found, "jet_id").min() >= 1 << 62


@pytest.mark.parametrize("name", list(SOURCES))
def test_slices_are_the_whole(name: str, made: tuple[Jets, np.ndarray], tmp_path: Path) -> None:
    path = write_any(name, made, tmp_path)
    whole = read(path, name)
    rows = measure(make_source(name, OPTIONS[name]()), str(path)).rows
    limits = [0, rows // 3, rows // 3 + 1, rows]
    parts = [read(path, name, start, stop) for start, stop in pairwise(limits)]
    assert pa.Table.from_batches([part.good for part in parts]).equals(pa.Table.from_batches([whole.good]))
    assert np.array_equal(np.concatenate([part.row for part in parts]), whole.row)


def test_unknown_extra_column_is_a_bad_file_and_a_doubled_one_bad_usage(
    made: tuple[Jets, np.ndarray], tmp_path: Path
) -> None:
    from sparton.data.sources.block import BadFileError

    path = write_any("hls4ml", made, tmp_path)
    with pytest.raises(BadFileError) as caught:
        blocks(path, "hls4ml", jet_columns=["tau99"])
    assert caught.value.reason == "missing_key"
    with pytest.raises(UsageError, match="jet_pt is a column of every jets table"):
        make_source("hls4ml", OPTIONS["hls4ml"](jet_columns=("jet_pt",)))


def write_any(name: str, made: tuple[Jets, np.ndarray], folder: Path) -> Path:
    """Write a file of a format."""
    jets, label = made
    path = folder / f"any{SOURCES[name].suffixes[0]}"
    writers = {
        "hls4ml": lambda: layouts.write_hls4ml(path, jets, label),
        "lhco": lambda: layouts.write_lhco(path, layouts.pair_events(opposite_pairs(JETS))[0], np.zeros(JETS // 2)),
        "toptagging": lambda: layouts.write_toptagging(path, jets, label == "t"),
        "jetclass": lambda: layouts.write_jetclass(path, jets, label),
        "pfnano": lambda: layouts.write_pfnano(path, jets),
        "flat": lambda: layouts.write_flat(path, jets, label),
        "parquet": lambda: pq.write_table(jets_table(JETS, seed=5), path),
    }
    writers[name]()
    return path


def opposite_pairs(n: int) -> Jets:
    """Return ``n`` jets of which each second one lies at phi = 0 and its neighbour at phi = pi, all at small eta."""
    jets, _ = random_jets(n, seed=8)
    wanted = np.where(np.arange(n) % 2, np.pi, 0.0)
    turn = (wanted - jets.jet_phi)[kinematics.owners(jets.offsets)]
    px = jets.px * np.cos(turn) - jets.py * np.sin(turn)
    py = jets.px * np.sin(turn) + jets.py * np.cos(turn)
    values = (jets.event_index, px.astype(np.float32), py.astype(np.float32), jets.pz, jets.energy, jets.pdg_id)
    return Jets.from_constituents(*values, jets.offsets)


def test_suffixes_are_taken_in_small_and_capital_letters(tmp_path: Path) -> None:
    names = {"hls4ml": "a.H5", "lhco": "b.Hdf5", "jetclass": "c.ROOT", "parquet": "d.PARQUET", "flat": "e.Parq"}
    for name in (*names.values(), "notes.txt"):
        (tmp_path / name).touch()
    for name, file in names.items():
        assert str(tmp_path / file) in source_paths([str(tmp_path)], SOURCES[name])
    assert source_paths([str(tmp_path)], SOURCES["pfnano"]) == [str(tmp_path / "c.ROOT")]


@pytest.mark.parametrize("name", ["flat", "parquet"])
def test_further_columns_must_be_finite(name: str, tmp_path: Path) -> None:
    path = write_any(name, random_jets(5, seed=3), tmp_path)
    tau = pa.array([0.5, np.nan, np.inf, None, 1e300])
    pq.write_table(pq.read_table(path).slice(0, 5).append_column("tau", tau), path)
    found = read(path, name, jet_columns=["tau"])
    assert [tuple(row[key] for key in ("row", "reason", "detail")) for row in found.rejected.to_pylist()] == [
        (1, "not_finite", "tau is not finite"),
        (2, "not_finite", "tau is not finite"),
        (3, "null", "a required value is null"),
        (4, "not_finite", "tau is not finite"),
    ]


def test_rejected_jets_say_what_was_found() -> None:
    jets, _ = random_jets(9, seed=3)
    first = jets.offsets[:-1]
    jets.py[first[1]], jets.jet_eta[2], jets.energy[first[3] + 1] = np.nan, np.inf, -2.5
    jets.jet_pt[6], jets.jet_mass[7] = 0, -0.25
    label = pa.array(["W", "W", "W", "W", "x", None, "W", "W", "W"])
    reason = np.array(["", "", "", "", "", "too_few_jets", "", "", ""], "U24")
    extras = {"tau": np.array([0, 0, np.nan, 0, 0, 0, 0, 0, np.inf], np.float32)}
    block = JetBlock(np.arange(9), np.zeros(9, np.int64), jets, label, reason, extras=extras)
    found = sort_out(block, Origin("a", "00", 7, False, "flat"), ("W",)).rejected.select(["reason", "detail"])
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        ("not_finite", "py is not finite"),
        ("not_finite", "jet_eta is not finite"),
        ("negative_energy", "energy -2.5"),
        ("unknown_label", "label 'x'"),
        ("too_few_jets", "the event has fewer jets than are kept of each"),
        ("no_jet_pt", "jet_pt 0"),
        ("negative_mass", "jet_mass -0.25"),
        ("not_finite", "tau is not finite"),
    ]

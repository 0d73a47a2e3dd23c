"""Screening and featurising: every way a row can be broken, against plain Python loops; the binary column exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparton.config import validate
from sparton.data.featurize import FeatureSpec, decode_features, encode_features, jets_from_batch, training_batch
from sparton.data.mass_quantiles import quantile_edges
from sparton.data.schema import TRAINING_ARROW
from sparton.data.screening import REQUIRED, screen
from sparton.data.target import TargetMass
from sparton.errors import ConfigError, DataError
from sparton.physics.features import mass_bins, ucluster_features
from sparton.physics.grooming import soft_drop_mass
from tests.synthetic import jets_table, random_jets

SPEC = FeatureSpec(n_particles=20)


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    field = pa.field(name, table.schema.field(name).type)
    return table.set_column(index, field, pa.array(values, field.type))


def test_jets_come_back_from_the_table() -> None:
    expected, _ = random_jets(50, seed=3)
    found = jets_from_batch(jets_table(50, seed=3))
    assert found.equals(expected)


@pytest.mark.parametrize("kind", ["sliced batch", "chunked table", "large lists", "lists of doubles"])
def test_every_arrow_layout_gives_the_same_jets(kind: str) -> None:
    table = jets_table(40, seed=1)
    expected = jets_from_batch(table.slice(7, 20))
    if kind == "sliced batch":
        batch: Any = table.combine_chunks().to_batches()[0].slice(7, 20)
    elif kind == "chunked table":
        batch = pa.concat_tables([table.slice(7, 5), table.slice(12, 15)])
    else:
        element = pa.float32() if kind == "large lists" else pa.float64()
        batch = table.slice(7, 20)
        for name in ("px", "py", "pz", "energy"):
            values = batch.column(name).cast(pa.large_list(element) if kind == "large lists" else pa.list_(element))
            batch = batch.set_column(batch.schema.get_field_index(name), name, values)
    assert jets_from_batch(batch).equals(expected)


def broken_table() -> tuple[pa.Table, dict[str, int]]:
    """Twenty jets of which eleven are broken, each in its own way."""
    table = jets_table(20, seed=5)
    columns = {name: table.column(name).to_pylist() for name in REQUIRED}
    columns["jet_mass"][0] = None
    columns["px"][1] = None
    columns["py"][2] = columns["py"][2][:-1]
    columns["energy"][3] = []
    columns["pz"][4][2] = float("nan")
    columns["jet_pt"][5] = float("inf")
    columns["energy"][6][0] = float("-inf")
    columns["px"][7][1] = None
    columns["energy"][8][3] = -1.0
    for name in ("px", "py", "pz", "energy"):
        columns[name][9] = []
    columns["px"][10] = [0.0] * len(columns["px"][10])
    columns["py"][10] = [0.0] * len(columns["py"][10])
    columns["label"][11] = None
    for name, values in columns.items():
        table = with_column(table, name, values)
    return table, {"null": 2, "unequal_lengths": 2, "not_finite": 4, "negative_energy": 1, "no_constituents": 2}


def test_broken_rows_are_rejected_for_their_reason() -> None:
    table, expected = broken_table()
    screened = screen(table)
    assert dict(screened.rejected) == expected
    assert screened.rows.jet_id.tolist() == list(range(11, 20))
    assert screened.rows.label[0].as_py() is None
    assert screened.dropped.size == screened.reordered.size == 9


def test_jets_without_pt_or_with_negative_mass_are_rejected() -> None:
    table = jets_table(6, seed=5)
    pt, mass = (table.column(name).to_pylist() for name in ("jet_pt", "jet_mass"))
    pt[1], pt[2], mass[2], mass[4], mass[5] = 0.0, -1.0, -1.0, -1e-3, 0.0
    table = with_column(with_column(table, "jet_pt", pt), "jet_mass", mass)
    screened = screen(table)
    assert dict(zip(screened.refused.row.tolist(), screened.refused.reason.tolist(), strict=True)) == {
        1: "no_jet_pt",
        2: "no_jet_pt",
        4: "negative_mass",
    }
    assert screened.rows.jet_id.tolist() == [0, 3, 5]
    assert screened.index.tolist() == [0, 3, 5]


def test_a_broken_neighbour_changes_no_sound_jet() -> None:
    table, _ = broken_table()
    sound = jets_table(20, seed=5).slice(11)
    expected = screen(with_column(sound, "label", [None, *sound.column("label").to_pylist()[1:]])).rows
    found = screen(table).rows
    assert found.jets.equals(expected.jets)
    assert found.label.equals(expected.label)


def test_all_rows_broken_gives_no_rows() -> None:
    table = with_column(jets_table(3), "jet_mass", [None] * 3)
    assert len(screen(table).rows) == 0
    assert training_batch(screen(table).rows, SPEC).num_rows == 0
    assert len(screen(table.slice(0, 0)).rows) == 0


def test_padding_is_dropped_and_order_restored() -> None:
    table = jets_table(30, seed=2)
    expected = screen(table).rows
    rng = np.random.default_rng(0)
    columns: dict[str, list[list[float]]] = {name: [] for name in ("px", "py", "pz", "energy")}
    for row in range(30):
        values = {name: [*table.column(name)[row].as_py(), 0.0, 0.0] for name in columns}
        order = rng.permutation(len(values["px"])) if row % 2 else np.arange(len(values["px"]))
        for name, content in values.items():
            columns[name].append([content[index] for index in order])
    mixed = table
    for name, content in columns.items():
        mixed = with_column(mixed, name, content)
    screened = screen(mixed)
    assert screened.dropped.tolist() == [2] * 30
    assert screened.reordered.tolist() == [bool(row % 2) for row in range(30)]
    assert np.array_equal(screened.rows.jets.offsets, expected.jets.offsets)
    for name in ("px", "py", "pz", "energy"):
        assert np.array_equal(getattr(screened.rows.jets, name), getattr(expected.jets, name))


def test_missing_column_is_named() -> None:
    with pytest.raises(DataError, match=r"missing column\(s\) energy; found .*jet_id"):
        screen(jets_table(3).drop_columns(["energy"]))


def test_training_rows_hold_the_features_bit_by_bit() -> None:
    rows = screen(jets_table(25, seed=8, first_id=100)).rows
    batch = training_batch(rows, SPEC)
    features, n_real = ucluster_features(rows.jets, 20)
    assert batch.schema == TRAINING_ARROW
    assert batch.column("jet_id").to_pylist() == list(range(100, 125))
    assert batch.column("n_particles").to_pylist() == n_real.tolist()
    assert batch.column("n_constituents").to_pylist() == np.diff(rows.jets.offsets).tolist()
    assert max(np.diff(rows.jets.offsets)) > max(n_real) == 20
    assert batch.column("label").to_pylist() == rows.label.to_pylist()
    for index in range(25):
        content = batch.column("features")[index].as_py()
        assert content == features[index].astype("<f4").tobytes()
        mass = float(rows.jets.jet_mass[index])
        expected = sum(edge <= mass for edge in np.linspace(0, 200, 20)) - 1
        assert batch.column("target")[index].as_py() == expected


def test_the_target_counts_edges_below_the_soft_drop_mass() -> None:
    rows = screen(jets_table(60, seed=4)).rows
    mass = TargetMass(definition="soft_drop", symmetry_cut=0.4, beta=0.1, radius=0.6)
    spec = FeatureSpec(n_particles=20, mass_bin_edges=(20.0, 60.0, 90.0, 150.0), mass=mass)
    batch = training_batch(rows, spec)
    groomed = soft_drop_mass(rows.jets, symmetry_cut=0.4, beta=0.1, radius=0.6)
    assert batch.column("target").to_pylist() == np.clip(np.digitize(groomed, spec.mass_bin_edges) - 1, 0, 3).tolist()
    assert np.all(groomed <= rows.jets.jet_mass * 1.001)
    assert np.count_nonzero(groomed < rows.jets.jet_mass * 0.99) > 10
    assert np.array_equal(batch.column("jet_mass").to_numpy(), rows.jets.jet_mass)


def test_quantile_edges_fill_classes_equally() -> None:
    masses = np.random.default_rng(0).gamma(4.0, 20.0, 2000).astype(np.float32)
    edges = quantile_edges(masses, 20)
    assert edges[0] == 0.0
    assert np.allclose(edges[1:], [np.percentile(masses.astype(np.float64), 5 * step) for step in range(1, 20)])
    assert np.bincount(mass_bins(masses, edges), minlength=20).tolist() == [100] * 20
    assert quantile_edges(np.random.default_rng(1).permutation(masses), 20) == edges
    # Another sample of the same jets: populations as the binomial distribution has them, within five deviations.
    others = np.random.default_rng(2).gamma(4.0, 20.0, 20_000).astype(np.float32)
    found = np.bincount(mass_bins(others, edges), minlength=20)
    assert np.all(np.abs(found - 1000) < 5 * 1000 * np.sqrt(1 / 100 + 1 / 1000))


def test_equal_masses_make_no_quantiles() -> None:
    masses = np.repeat(np.array([0.0, 50.0, 60.0], np.float32), 10)
    assert len(quantile_edges(masses, 2)) == 2
    with pytest.raises(DataError, match="masses of 30 jets are equal for 9 bins of equal population; use fewer bins"):
        quantile_edges(masses, 9)


def test_the_number_of_bins_stands_in_place_of_edges() -> None:
    spec = validate(FeatureSpec, {"mass_bins": 12, "mass": {"definition": "soft_drop"}}, "test")
    assert spec.mass_bin_edges == ()
    assert validate(FeatureSpec, spec.model_dump(mode="json"), "test") == spec
    resolved = spec.with_edges((0.0, 5.0))
    assert (resolved.mass_bins, resolved.mass_bin_edges, resolved.mass) == (None, (0.0, 5.0), spec.mass)
    assert validate(FeatureSpec, {"mass_bins": None}, "test") == FeatureSpec()


def test_encoding_round_trips_slices() -> None:
    features = np.random.default_rng(0).standard_normal((9, 4, 3)).astype(np.float32)
    column = encode_features(features)
    assert np.array_equal(decode_features(column, 4, 3), features)
    assert np.array_equal(decode_features(column.slice(2, 5), 4, 3), features[2:7])
    assert np.array_equal(decode_features(column.cast(pa.large_binary()), 4, 3), features)
    assert decode_features(column.slice(0, 0), 4, 3).shape == (0, 4, 3)
    with pytest.raises(DataError, match="expected 576"):
        decode_features(column, 8, 2)


def test_twenty_classes_by_default() -> None:
    spec = FeatureSpec()
    assert len(spec.mass_bin_edges) == 20
    assert spec.mass_bin_edges[0] == 0.0
    assert spec.mass_bin_edges[-1] == 200.0
    assert np.allclose(np.diff(spec.mass_bin_edges), 200 / 19)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"mass_bin_edges": [0, 10, 10]}, "at least two rising edges"),
        ({"mass_bin_edges": [5]}, "at least two rising edges"),
        ({"mass_bin_edges": []}, "either mass_bin_edges .at least two. or mass_bins"),
        (
            {"mass_bin_edges": [0, 10], "mass_bins": 5},
            "either mass_bin_edges .at least two. or mass_bins",
        ),
        ({"mass_bins": 1}, "mass_bins: .* greater than or equal to 2"),
        ({"mass": {"definition": "trimmed"}}, "mass.definition: .*'ungroomed' or 'soft_drop'"),
        ({"mass": {"symmetry_cut": 0.5}}, "mass.symmetry_cut: .* less than 0.5"),
        ({"mass": {"z_cut": 0.1}}, "unknown key 'mass.z_cut'"),
        ({"n_particles": 0}, "n_particles"),
        ({"particles": 5}, "n_particles"),
    ],
)
def test_impossible_specs_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        validate(FeatureSpec, values, "test")

"""Rules: distances against closed forms and SciPy, counts against NumPy, outcomes, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparton.data.featurize import encode_features
from sparton.data.validation.drift import EMPTY_BIN, ks, merged_quantiles, psi
from sparton.data.validation.outcome import Outcome, evaluate
from sparton.data.validation.profile import Profile, Request, add_batch, profile_batches
from sparton.data.validation.reference import Reference
from sparton.data.validation.settings import ColumnRules, RulesSettings
from sparton.data.validation.values import values_of
from sparton.errors import ConfigError, DataError, UsageError

COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=12)


def rules(**content: object) -> RulesSettings:
    return RulesSettings.model_validate(content)


def profile(table: pa.Table, settings: RulesSettings, edges: dict[str, tuple[float, ...]] | None = None) -> Profile:
    found = Profile()
    for batch in table.to_batches(max_chunksize=3):
        add_batch(found, batch, Request(settings, edges or {}))
    return found


def failed(table: pa.Table, **content: object) -> dict[tuple[str, str], Outcome]:
    settings = rules(**content)
    outcomes = evaluate(profile(table, settings), settings, None)
    return {(outcome.rule, outcome.column): outcome for outcome in outcomes if not outcome.holds}


@given(st.data())
def test_ks_is_scipys_on_the_binned_values(data: st.DataObject) -> None:
    first = data.draw(COUNTS.filter(sum))
    second = data.draw(st.lists(st.integers(0, 50), min_size=len(first), max_size=len(first)).filter(sum))
    samples = [np.repeat(np.arange(len(first)), counts) for counts in (first, second)]
    assert ks(first, second) == pytest.approx(stats.ks_2samp(*samples, method="asymp").statistic, abs=1e-12)


@given(st.data())
def test_psi_is_the_sum_of_both_divergences(data: st.DataObject) -> None:
    first = data.draw(COUNTS)
    second = data.draw(st.lists(st.integers(0, 50), min_size=len(first), max_size=len(first)))
    p, q = np.array(first) + EMPTY_BIN, np.array(second) + EMPTY_BIN
    assert psi(first, second) == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), rel=1e-9, abs=1e-12)


def test_distances_in_closed_form() -> None:
    many = 10**9  # so many that what is added to empty bins is nothing
    assert psi([many, many], [3 * many, many]) == pytest.approx(0.25 * math.log(3), rel=1e-6)
    assert psi([5, 7, 9], [5, 7, 9]) == 0
    assert ks([1, 1], [3, 1]) == pytest.approx(0.25)
    assert ks([1, 1], [0, 0]) == 1
    assert math.isfinite(psi([10, 0], [0, 10]))


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=5), st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_merged_edges_give_bins_of_about_equal_population(sizes: list[int], bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=size * 10) for size in sizes]
    edges = merged_quantiles([np.sort(part) for part in parts], [part.size for part in parts], bins)
    everything = np.concatenate(parts)
    counts = np.bincount(np.searchsorted(edges, everything, side="right"), minlength=edges.size + 1)
    assert np.all(np.diff(edges) > 0)
    assert np.max(np.abs(counts - everything.size / bins)) <= 2


def test_edges_of_few_distinct_values_are_distinct() -> None:
    assert merged_quantiles([[1.0, 1.0, 1.0, 2.0]], [4], 10).tolist() == [1.0, 2.0]
    assert merged_quantiles([], [], 10).size == 0


def test_ranges_and_finite_values_count_rows() -> None:
    table = pa.table({"x": pa.array([1.0, math.nan, -2.0, None, math.inf, 7.0])})
    found = failed(table, columns={"x": {"min": 0, "max": 5, "finite": True, "max_nulls": 0.1}})
    assert {key[0]: outcome.rows for key, outcome in found.items()} == {"min": 2, "max": 3, "finite": 2, "max_nulls": 1}
    assert found["min", "x"].found == "-2 to 7"
    assert found["min", "x"].expected == ">= 0"
    assert found["max_nulls", "x"].found == "1 of 6"


def test_limits_themselves_are_allowed() -> None:
    table = pa.table({"x": pa.array([0, 5], pa.int16())})
    assert not failed(table, columns={"x": {"min": 0, "max": 5, "finite": True, "max_nulls": 0}})


def test_lists_and_tensors_count_a_row_once() -> None:
    tensors = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    tensors[1, :, 0] = np.nan
    lists = [[1.0, 2.0], [], None, [-1.0, -2.0, None]]
    table = pa.table({"t": encode_features(tensors), "l": pa.array(lists, pa.list_(pa.float32()))})
    found = failed(
        table.slice(0, 4), columns={"t": {"finite": True, "max": 20}, "l": {"min": 0, "finite": True, "max_nulls": 0}}
    )
    expected = {("finite", "t"): 1, ("max", "t"): 2, ("min", "l"): 1, ("max_nulls", "l"): 2}
    assert {key: outcome.rows for key, outcome in found.items()} == expected


def test_slices_of_lists_and_tensors_are_their_own_values() -> None:
    tensors = np.arange(12, dtype=np.float32).reshape(6, 2)
    column = encode_features(tensors).slice(2, 3)
    assert values_of(column, "t").numbers.tolist() == tensors[2:5].reshape(-1).tolist()  # type: ignore[union-attr]
    lists = pa.array([[1], [2, 3], None, [4]]).slice(1, 3)
    found = values_of(lists, "l")
    assert found.numbers is not None
    assert found.numbers.tolist() == [2, 3, 4]
    assert found.rows_with(np.array([True, True, False])) == 1
    assert found.nulls == 1


def test_values_and_balance() -> None:
    table = pa.table({"label": pa.array(["W"] * 6 + ["Z"] * 3 + ["q", None]), "n": pa.array([1] * 10 + [2])})
    found = failed(
        table,
        columns={"label": {"values": ["W", "Z"]}, "n": {"values": ["1", "2"]}},
        balance={"label": {"min_fraction": 0.2}, "n": {"min_fraction": 0.05, "classes": ["1", "3"]}},
    )
    assert found["values", "label"].rows == 1
    assert found["balance", "label"].found == "q: 0.1 of the rows with a value"
    assert found["balance", "n"].found == "3: 0 of the rows with a value"
    assert ("values", "n") not in found


@given(st.lists(st.floats(allow_nan=True, width=32) | st.none(), max_size=40), st.integers(1, 7))
@settings(deadline=None)
def test_a_profile_does_not_depend_on_how_rows_are_batched(column: list[float | None], size: int) -> None:
    wanted = rules(columns={"x": {"min": -1, "max": 1, "finite": True, "max_nulls": 0}})
    request = Request(wanted, {"x": (-1.0, 0.0, 2.0)})
    table = pa.table({"x": pa.array(column, pa.float32())})
    parts = [row for batch in table.to_batches(max_chunksize=size) for row in
             next(iter(profile_batches([batch], request))).to_pylist()]  # fmt: skip
    whole = Profile.from_rows(next(iter(profile_batches(table.to_batches(), request))).to_pylist())
    assert Profile.from_rows(parts) == whole
    finite = np.array([value for value in column if value is not None and math.isfinite(value)])
    bins = np.histogram(finite, [-np.inf, -1, 0, 2, np.inf])[0]
    assert whole.histogram("x", 4) == bins.tolist()


def test_drift_is_found_against_a_reference() -> None:
    wanted = rules(drift={"columns": ["x"], "max_psi": 0.1, "max_ks": 0.1})
    rng = np.random.default_rng(0)
    edges = {"x": tuple(np.quantile(rng.normal(size=1000), np.arange(1, 10) / 10).tolist())}
    same, shifted = (pa.table({"x": rng.normal(mean, size=2000)}) for mean in (0, 1))
    reference = Reference.of("first", profile(same, wanted, edges), edges)
    held = evaluate(profile(same, wanted, edges), wanted, reference)
    assert all(outcome.holds for outcome in held)
    moved = [outcome for outcome in evaluate(profile(shifted, wanted, edges), wanted, reference) if not outcome.holds]
    assert [outcome.rule for outcome in moved] == ["psi", "ks"]
    assert float(moved[1].found) == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=0.05)
    with pytest.raises(UsageError, match="the reference has no column 'y'"):
        evaluate(profile(same, wanted), rules(drift={"columns": ["y"]}), reference)


def test_too_few_rows() -> None:
    assert failed(pa.table({"x": [1]}), min_rows=2, columns={"x": {"min": 0}})["min_rows", ""].found == "1"


def test_impossible_rules_and_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="no rule in it"):
        ColumnRules()
    with pytest.raises(ConfigError, match="min 3 is above max 1"):
        ColumnRules(min=3, max=1)
    with pytest.raises(DataError, match="column t: it is text, expected numbers"):
        failed(pa.table({"t": ["a"]}), columns={"t": {"min": 0}})
    with pytest.raises(DataError, match="rules cannot be about type struct"):
        failed(pa.table({"s": [{"a": 1}]}), columns={"s": {"min": 0}})
    with pytest.raises(DataError, match="not float32 tensors"):
        failed(pa.table({"b": [b"abc"]}), columns={"b": {"finite": True}})
    many = pa.RecordBatch.from_pydict({"x": np.arange(10_001)})
    with pytest.raises(DataError, match="different values are not classes"):
        add_batch(Profile(), many, Request(rules(balance={"x": {"min_fraction": 0.1}})))

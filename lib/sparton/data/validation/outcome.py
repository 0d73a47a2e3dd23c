"""Rules against a profile: which hold, what was found and how many rows are concerned."""

from __future__ import annotations

from collections.abc import Iterator

from sparton.config import Config
from sparton.data.validation.drift import ks, psi
from sparton.data.validation.profile import Profile
from sparton.data.validation.reference import Reference
from sparton.data.validation.settings import BalanceRules, ColumnRules, DriftRules, RulesSettings
from sparton.errors import UsageError


class Outcome(Config):
    """One rule: whether it holds, what was found, what it expects, and how many rows break it."""

    rule: str
    column: str
    holds: bool
    found: str
    expected: str
    rows: int


def evaluate(profile: Profile, rules: RulesSettings, reference: Reference | None) -> list[Outcome]:
    """Return the outcome of every rule, in the order of the settings.

    Raises
    ------
    UsageError
        If the reference lacks a column that is to be compared.
    """
    rows = profile.count("rows")
    expected = f">= {rules.min_rows}"
    enough = rows >= rules.min_rows
    outcomes = [Outcome(rule="min_rows", column="", holds=enough, found=str(rows), expected=expected, rows=rows)]
    for name, column in rules.columns.items():
        outcomes += _column(profile, name, column)
    for name, balance in rules.balance.items():
        outcomes.append(_balance(profile, name, balance))
    if reference is not None:
        for name in rules.drift.columns:
            outcomes += _drift(profile, name, rules.drift, reference)
    return outcomes


def _column(profile: Profile, name: str, rules: ColumnRules) -> Iterator[Outcome]:
    rows = profile.count("rows")
    low, high = profile.ranges.get(name, (float("nan"), float("nan")))
    found = f"{low:.6g} to {high:.6g}" if name in profile.ranges else "no finite value"
    if rules.min is not None:
        yield _counted(profile, "below", name, "min", found, f">= {rules.min:g}")
    if rules.max is not None:
        yield _counted(profile, "above", name, "max", found, f"<= {rules.max:g}")
    if rules.finite:
        bad = profile.count("not_finite", name)
        yield _counted(profile, "not_finite", name, "finite", f"{bad} rows with NaN or infinity", "finite values")
    if rules.values is not None:
        bad = profile.count("unknown", name)
        yield _counted(profile, "unknown", name, "values", f"{bad} rows with others", ", ".join(rules.values))
    if rules.max_nulls is not None:
        nulls = profile.count("null", name)
        holds, expected = nulls <= rules.max_nulls * rows, f"<= {rules.max_nulls:g} of the rows"
        found = f"{nulls} of {rows}"
        yield Outcome(rule="max_nulls", column=name, holds=holds, found=found, expected=expected, rows=nulls)
    if rules.unique:
        bad = profile.count("repeated", name)
        yield _counted(profile, "repeated", name, "unique", f"{bad} repeated rows", "each value once")


def _counted(profile: Profile, measure: str, column: str, rule: str, found: str, expected: str) -> Outcome:
    rows = profile.count(measure, column)
    return Outcome(rule=rule, column=column, holds=rows == 0, found=found, expected=expected, rows=rows)


def _balance(profile: Profile, name: str, rules: BalanceRules) -> Outcome:
    counts = profile.keyed("class", name)
    counts = {key: counts.get(key, 0) for key in rules.classes or sorted(counts)} | counts
    total = sum(counts.values())
    smallest = min(counts, key=lambda key: counts[key]) if counts else ""
    share = counts[smallest] / total if total else 0.0
    return Outcome(
        rule="balance",
        column=name,
        holds=share >= rules.min_fraction,
        found=f"{smallest or 'no class'}: {share:.4g} of the rows with a value",
        expected=f">= {rules.min_fraction:g} for each class",
        rows=counts.get(smallest, 0),
    )


def _drift(profile: Profile, name: str, rules: DriftRules, reference: Reference) -> Iterator[Outcome]:
    if name not in reference.columns:
        known = ", ".join(reference.columns) or "none"
        raise UsageError(f"rules.drift: the reference has no column {name!r} (it has {known}); write it again")
    column = reference.columns[name]
    found = profile.histogram(name, len(column.counts))
    distances = {"psi": (psi(column.counts, found), rules.max_psi), "ks": (ks(column.counts, found), rules.max_ks)}
    for rule, (value, limit) in distances.items():
        yield Outcome(
            rule=rule,
            column=name,
            holds=value <= limit,
            found=f"{value:.4g}",
            expected=f"<= {limit:g}",
            rows=profile.count("rows"),
        )

"""Events of two jets out of a jets table, for tasks that look at whole events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from sparton.data.schema import require_columns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

REQUIRED = ("jet_id", "event_id", "jet_pt", "jet_eta", "jet_phi", "jet_mass", "label")


def events_view(jets: DataFrame) -> DataFrame:
    """Return one row an event with its two heaviest jets; events with one jet are left out.

    Parameters
    ----------
    jets
        Jets table in which the jets of an event share ``event_id``.

    Returns
    -------
    DataFrame
        ``event_id``, ``label`` (of the heavier jet), ``dijet_mass`` (GeV, double), and the structs ``heavy`` and
        ``light`` with all columns of the heavier and the lighter jet. Equal masses are ordered by ``jet_id``.

    Raises
    ------
    DataError
        If a column is missing.
    """
    require_columns(jets.columns, REQUIRED, "jets table")
    jet = F.struct((-F.col("jet_mass")).alias("order"), F.col("jet_id").alias("id"), F.struct("*").alias("jet"))
    grouped = jets.groupBy("event_id").agg(F.sort_array(F.collect_list(jet)).alias("jets"))
    pairs = grouped.where(F.size("jets") >= 2).select(
        "event_id",
        F.col("jets")[0]["jet"].alias("heavy"),
        F.col("jets")[1]["jet"].alias("light"),
    )
    return pairs.select(
        "event_id",
        F.col("heavy.label").alias("label"),
        _pair_mass(F.col("heavy"), F.col("light")).alias("dijet_mass"),
        "heavy",
        "light",
    )


def _pair_mass(first: Column, second: Column) -> Column:
    """Return the invariant mass (GeV) of two jets."""
    px, py, pz, energy = (one + other for one, other in zip(_momentum(first), _momentum(second), strict=True))
    squared = energy * energy - px * px - py * py - pz * pz
    return F.sqrt(F.greatest(squared, F.lit(0.0)))


def _momentum(jet: Column) -> tuple[Column, Column, Column, Column]:
    pt, eta, phi, mass = (jet[f"jet_{name}"].cast("double") for name in ("pt", "eta", "phi", "mass"))
    pz = pt * F.sinh(eta)
    return pt * F.cos(phi), pt * F.sin(phi), pz, F.sqrt(pt * pt + pz * pz + mass * mass)

"""Arrays that callers give: rows and weights, as what the loops over them read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.errors import DataError

Array = NDArray[Any]

SMALL_BYTES = 2
"""Size of the numbers that float32 holds exactly, whatever their kind."""


def as_rows(given: Any) -> Array:
    """Return rows as float32 or float64 [n, d], one after the other in memory; what is so already is not copied.

    float32 and float64 stay what they are. Of other numbers those of at most 16 bits become float32, all else float64,
    as scikit-learn has it.

    Parameters
    ----------
    given
        Numbers [n, d] as an array, in lists or as a DataFrame of pandas.

    Raises
    ------
    DataError
        If it is not that. Whether values are finite is left to :func:`check_finite`.
    """
    found = _numbers(given)
    if found is None:
        raise DataError("rows: found rows of different lengths, expected as many values in each")
    if found.ndim != 2 or not found.shape[1] or found.dtype.kind not in "fiub":
        raise DataError(
            f"rows: found {found.dtype}{list(found.shape)}, expected numbers [n, d] (an array, lists or a DataFrame)"
        )
    return _as_floats(found)


def as_weight(given: Any, rows: int) -> Array:
    """Return the weights of ``rows`` rows, float32 or float64 [n]; 1 where None are given.

    Raises
    ------
    DataError
        If there are more or fewer of them, one is no number, negative or not finite, or all are 0.
    """
    if given is None:
        return np.ones(rows)
    found = _numbers(given)
    if found is None or found.shape != (rows,):
        shape = "ragged" if found is None else str(list(found.shape))
        raise DataError(f"weight: found {shape} values, expected one for each of {rows} rows")
    if found.dtype.kind not in "fiub":
        raise DataError(f"weight: found {found.dtype}, expected numbers from 0")
    weight = _as_floats(found)
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if bad.size:
        raise DataError(f"weight: found {weight[bad[0]]} in row {bad[0]}, expected a finite number from 0")
    if not weight.any():
        raise DataError("weight: all are 0; give some rows a weight above 0")
    return weight


def check_finite(rows: Array) -> None:
    """Check that all values [n, d] are finite.

    Raises
    ------
    DataError
        Naming a column that has others.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.ones(len(rows), rows.dtype) @ rows
    if np.isfinite(total).all():  # so is each value, and a product takes a tenth of the time of looking at each
        return
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=0))
    if bad.size:
        raise DataError(f"rows: column {bad[0]} has values that are not finite; drop or fill these rows")


def _numbers(given: Any) -> Array | None:
    """Return what NumPy makes of values, those that are missing as NaN; None where lists are ragged."""
    if isinstance(given, np.ma.MaskedArray):
        return np.ma.filled(given.astype(np.float64), np.nan) if given.dtype.kind in "fiub" else given.data
    try:
        found = np.asarray(given)
    except ValueError:
        return None
    return _of_pandas(given, found) if found.dtype == object else found


def _of_pandas(given: Any, found: Array) -> Array:
    """Return columns of several types, or of such that may be missing, as float64, where all are numbers."""
    import pandas as pd  # takes a while, and is seldom needed

    if not isinstance(given, pd.DataFrame | pd.Series):
        return found
    types = [given.dtype] if isinstance(given, pd.Series) else list(given.dtypes)
    numeric = all(map(pd.api.types.is_numeric_dtype, types))
    return given.to_numpy(np.float64, na_value=np.nan) if numeric else found


def _as_floats(found: Array) -> Array:
    exact = found.dtype.itemsize <= SMALL_BYTES or (found.dtype.kind == "f" and found.dtype.itemsize == 4)
    with np.errstate(over="ignore"):  # infinity is named where values must be finite
        return np.ascontiguousarray(found, np.float32 if exact else np.float64)

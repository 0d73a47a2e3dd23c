"""What float32 loses of stored rows is said, with the features and the way out."""

from __future__ import annotations

import numpy as np
import pytest

from sparton.data.statistics import Moments
from sparton.sgd import rounding
from sparton.sgd.bundle import TableInputs


def inputs_of(rows: np.ndarray) -> TableInputs:
    moments = Moments.of(rows.astype(np.float32))
    names = tuple(f"c{index}" for index in range(rows.shape[1]))
    return TableInputs(
        feature_names=names,
        feature_mean=tuple(moments.mean.tolist()),
        feature_std=tuple(moments.std()[0].tolist()),
        scaling="standard",
    )


def test_features_that_float32_rounds_are_named_worst_first(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    offsets, spreads = np.array([0.0, 1.7e9, 1e6, 50.0, 1e5]), np.array([1.0, 1e3, 1.0, 1e-3, 1.0])
    rows = offsets + spreads * rng.normal(size=(400, 5))
    rounding.warn_of_stored(inputs_of(rows))
    (record,) = caplog.records
    text = record.getMessage()
    assert "rounds 2 of 5 features by more than 0.01 of their deviation: c1 (mean 1.7e+09" in text
    assert text.index("c1") < text.index("c2 (mean 1e+06")
    assert "take a number near the mean away" in text
    lost = np.abs(rows - rows.astype(np.float32)).max(axis=0) / spreads
    assert (lost > rounding.MOST_ROUNDING).tolist() == [False, True, True, False, False]


def test_centred_features_are_passed_over_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    rounding.warn_of_stored(inputs_of(np.random.default_rng(0).normal(10, 1, (100, 3))))
    assert caplog.records == []

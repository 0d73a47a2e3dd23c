"""Warnings where float32 has too few digits: of stored rows, and of products with centroids."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from sparton.sgd.bundle import TableInputs
from sparton.sgd.starts import neighbours

PRODUCT_ROUNDING = 2e-7
"""Error of a squared distance in float32, as a fraction of the squared distance from the origin."""

VALUE_ROUNDING = 2.0**-24
"""Error of a number stored as float32, as a fraction of it."""

MOST_ROUNDING = 0.01
"""Rounding of a feature, in units of its deviation, that is passed over."""

SHOWN = 3

logger = logging.getLogger(__name__)


def warn_of_stored(inputs: TableInputs) -> None:
    """Say which features lose their digits as float32, in which sets and streams hold rows whatever the precision."""
    mean, std = np.asarray(inputs.feature_mean), np.asarray(inputs.feature_std)
    lost = VALUE_ROUNDING * np.abs(mean) / std
    coarse = np.flatnonzero(lost > MOST_ROUNDING)
    if coarse.size:
        worst = coarse[np.argsort(-lost[coarse], kind="stable")][:SHOWN]
        named = ", ".join(f"{inputs.feature_names[j]} (mean {mean[j]:.6g}, deviation {std[j]:.3g})" for j in worst)
        logger.warning(
            "rows are stored as float32, which rounds %d of %d features by more than %g of their deviation: %s; no "
            "precision of the products brings these digits back: take a number near the mean away from such columns",
            coarse.size,
            len(mean),
            MOST_ROUNDING,
            named,
        )


def warn_of_near(centroids: NDArray[np.float64], precision: str) -> None:
    """Say so where float32 may take the wrong one of near centroids [k, d], since they are far from the origin."""
    if precision != "float32" or len(centroids) < 2:
        return
    norms = np.square(centroids).sum(axis=1)
    rounding, nearest = PRODUCT_ROUNDING * norms, neighbours(centroids, norms, centroids).square[:, 1]
    near = int(np.count_nonzero(rounding > nearest))
    if near:
        logger.warning(
            "%d of %d clusters lie so near another one that float32 cannot tell them apart (squared distances are "
            "rounded by %.2g, they differ by %.2g); set cluster.precision: float64, or scale the features",
            near,
            len(centroids),
            rounding.max(),
            nearest[rounding > nearest].min(),
        )

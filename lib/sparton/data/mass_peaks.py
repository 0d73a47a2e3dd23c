"""Peaks of the mass spectrum as the target's classes: where resonances are, found without labels.

A mixture of Student-t densities with one common width in ln(mass) is fitted to the masses of a sample. Its heavy tails
hold the jets whose mass came out wrong, so that they do not drag the peaks; one width keeps a peak from spreading over
its neighbour. A jet whose groomed masses disagree belongs to the peak that the densities at all of them speak for.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sparton.config import Config
from sparton.errors import DataError

Array = NDArray[np.float64]

FREEDOM = 2.0
"""Degrees of freedom of the Student-t density: tails that fall as 1 / x^3."""

SMALLEST_MASS = 1.0
"""GeV; what is lighter, such as a jet groomed down to one particle, counts as this."""

STARTS, STEPS, GAIN = 10, 300, 1e-7
SEED = 0x5045414B  # never changes: the same jets give the same peaks
SMALLEST_SHARE = 0.01


class MassPeaks(Config):
    """Peaks of a mass spectrum.

    Attributes
    ----------
    centres
        Masses (GeV) of the peaks, rising.
    width
        Scale of the Student-t density in ln(mass), the same for all.
    shares
        Share of the jets in each.
    """

    centres: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=2)
    width: float = Field(gt=0)
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.centres) != len(self.shares) or not all(low < high for low, high in pairwise(self.centres)):
            raise ValueError("expected rising centres and as many shares")
        return self

    def log_densities(self, masses: NDArray[Any]) -> Array:
        """Return ``ln(share_k t(ln m))`` [..., K] of masses (GeV) [...], up to a constant."""
        logs = np.log(np.maximum(np.asarray(masses, np.float64), SMALLEST_MASS))
        return _log_densities(logs, np.log(self.centres), self.width, np.array(self.shares))

    def classify(self, masses: NDArray[Any]) -> NDArray[np.int32]:
        """Return the peak int32[n] of jets by several masses (GeV) each, [n, V].

        It has the largest sum of densities: a mass far from all peaks adds little, so those near one decide.
        """
        return np.asarray(_logsumexp(self.log_densities(masses)).argmax(axis=1), np.int32)

    def edges(self) -> tuple[float, ...]:
        """Return the lower edges (GeV) of the classes for a single mass: 0, and where neighbours are equally likely."""
        inner = [self._crossing(index) for index in range(len(self.centres) - 1)]
        return (0.0, *inner)

    def _crossing(self, index: int) -> float:
        from scipy.optimize import brentq  # slow to load, and every command and task has these settings

        low, high = np.log(self.centres[index : index + 2])

        def lead(log_mass: float) -> float:
            densities = self.log_densities(np.exp(np.array([log_mass])))[0]
            return float(densities[index] - densities[index + 1])

        # Where one peak is so large that the other never wins, the middle separates them.
        middle = (low + high) / 2
        return float(np.exp(brentq(lead, low, high) if lead(low) > 0 > lead(high) else middle))


def find_peaks(masses: NDArray[Any], count: int) -> MassPeaks:
    """Return the ``count`` peaks of masses (GeV) [n], in whatever order they come.

    Expectation-maximisation from several starts, of which the most likely result is taken.

    Raises
    ------
    DataError
        If the masses do not show that many peaks.
    """
    logs = np.log(np.maximum(np.sort(np.asarray(masses, np.float64)), SMALLEST_MASS))
    if len(np.unique(logs)) <= count:
        raise DataError(
            f"prepare.features.mass_peaks: found {len(np.unique(logs))} distinct masses in {len(logs)} jets, expected "
            f"more than {count}; take more jets or fewer peaks"
        )
    random = np.random.default_rng(SEED)
    starts = [(np.arange(count) + 0.5) / count, *np.sort(random.uniform(size=(STARTS - 1, count)), axis=1)]
    fits = [_fit(logs, np.quantile(logs, start)) for start in starts]
    _, centres, width, shares = max(fits, key=lambda fit: fit[0])
    order = np.argsort(centres)
    centres, shares = np.exp(centres[order]), shares[order]
    if shares.min() < SMALLEST_SHARE or not np.all(np.diff(np.log(centres)) > width / 10):
        raise DataError(
            f"prepare.features.mass_peaks: no {count} peaks in the masses of {len(logs)} jets, but "
            f"{', '.join(f'{share:.1%} at {centre:.1f} GeV' for centre, share in zip(centres, shares, strict=True))}; "
            "use fewer peaks, or mass_bins"
        )
    return MassPeaks(centres=tuple(centres.tolist()), width=float(width), shares=tuple(shares.tolist()))


def _fit(logs: Array, centres: Array) -> tuple[float, Array, float, Array]:
    """Return mean log likelihood, centres, width and shares, from given centres (Peel and McLachlan 2000)."""
    width, shares = float(logs.std()) / 10, np.full(len(centres), 1 / len(centres))
    likelihood = -np.inf
    for _ in range(STEPS):
        densities = _log_densities(logs, centres, width, shares)
        total = _logsumexp(densities)
        member = np.exp(densities - total[:, None])
        squares = np.square((logs[:, None] - centres) / width)
        weight = member * (FREEDOM + 1) / (FREEDOM + squares)
        centres = weight.T @ logs / weight.sum(axis=0)
        width = float(np.sqrt((weight * np.square(logs[:, None] - centres)).sum() / len(logs)))
        shares = np.maximum(member.mean(axis=0), np.finfo(float).tiny)
        previous, likelihood = likelihood, float(total.mean())
        if likelihood - previous < GAIN:
            break
    return likelihood, centres, width, shares


def _logsumexp(values: Array) -> Array:
    """Return the logarithm of the sums of exponentials over axis 1."""
    from scipy.special import logsumexp  # slow to load

    return np.asarray(logsumexp(values, axis=1))


def _log_densities(logs: Array, centres: Array, width: float, shares: Array) -> Array:
    squares = np.square((logs[..., None] - centres) / width)
    return np.asarray(np.log(shares) - np.log(width) - (FREEDOM + 1) / 2 * np.log1p(squares / FREEDOM))

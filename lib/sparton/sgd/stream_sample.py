"""Bounded samples of rows that do not depend on the order in which rows come, nor on who holds them.

A row's identity is a hash of its content. Rows of equal content are one, with the number of their copies; of these the
ones with the lowest keys are taken, which are hashes of the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparton.data.hashing import hash64, salt_of
from sparton.data.statistics import Moments
from sparton.sgd.batch import Batch
from sparton.sgd.seeding import priorities

Array = NDArray[Any]

WARM_UP = 5  # what a salt is drawn for


class Sample(NamedTuple):
    """Distinct rows float32 [m, d], the weight of one copy float32 [m], identities and copies int64 [m]."""

    rows: Array
    weight: Array
    ids: NDArray[np.int64]
    copies: NDArray[np.int64]

    @classmethod
    def nothing(cls, width: int) -> Sample:
        """Return a sample without rows."""
        empty = np.zeros(0, np.int64)
        return cls(np.zeros((0, width), np.float32), np.zeros(0, np.float32), empty, empty)

    @classmethod
    def of(cls, batch: Batch) -> Sample:
        """Return the distinct rows of a batch; those of weight 0 are left out."""
        sound = np.flatnonzero(batch.weight > 0)
        ids, first, copies = np.unique(batch.ids[sound], return_index=True, return_counts=True)
        chosen = sound[first]
        return cls(batch.rows[chosen], batch.weight[chosen], ids, copies.astype(np.int64))

    @classmethod
    def together(cls, parts: Sequence[Sample]) -> Sample:
        """Return the distinct rows of several samples, at least one, in the order of their identities."""
        rows, weight, ids, copies = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        ids, first, place = np.unique(ids, return_index=True, return_inverse=True)
        total = np.zeros(ids.size, np.int64)
        np.add.at(total, place, copies)
        return cls(rows[first], weight[first], ids, total)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Weights of the rows with all their copies, float64 [m]."""
        return self.weight.astype(np.float64) * self.copies

    def lowest(self, count: int, keys: Keys) -> Sample:
        """Return the ``count`` rows of the lowest keys, these rising."""
        order = np.argsort(keys(self), kind="stable")[:count]
        return Sample(*(column[order] for column in self))

    def moments(self) -> Moments:
        """Return the moments of the rows with all their copies and weights."""
        return Moments.of(self.rows, self.shares)


Keys = Callable[[Sample], Array]


def evenly(seed: int) -> Keys:
    """Return keys that give each distinct row the same chance."""
    salt = salt_of(WARM_UP, seed)
    return lambda sample: hash64(sample.ids, salt)


def by_weight(seed: int, step: int) -> Keys:
    """Return the keys by which starved centroids are put onto rows, see :func:`sparton.sgd.seeding.candidates`."""
    return lambda sample: priorities(sample.ids, sample.shares, seed, step)

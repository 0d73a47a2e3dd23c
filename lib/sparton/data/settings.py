"""How a training set is made: selection, tensor, splits, shards."""

from __future__ import annotations

import math
import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sparton.config import Config
from sparton.data.featurize import FEATURE_DTYPE, MAX_BINARY_BYTES, FeatureSpec
from sparton.data.quarantine import DEFAULT_MAX_REJECTED

TRAIN, VALIDATION = "train", "val"
"""The split that gradients and feature statistics are taken from, and the one that is watched while training."""

SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")
FRACTION_TOLERANCE = 1e-9


class SetSettings(Config):
    """How a set is made from any kind of table.

    Attributes
    ----------
    rows_per_shard
        Rows of every file but the last of a split.
    splits
        Fractions by name; they sum to 1 and one of them is ``train``. A row's split hangs on its id alone.
    seed
        Seed of the global shuffle.
    compression
        Codec of the files; snappy is read about three times as fast as zstd and is 10 % larger.
    max_rejected
        Largest fraction of broken and repeated rows; beyond it nothing is published.
    """

    rows_per_shard: int = Field(default=8192, ge=1)
    splits: dict[str, float] = Field(default_factory=lambda: {TRAIN: 0.7, VALIDATION: 0.1, "test": 0.2})
    seed: int = 0
    compression: Literal["snappy", "zstd", "lz4", "none"] = "snappy"
    max_rejected: float = Field(default=DEFAULT_MAX_REJECTED, ge=0, le=1)

    @property
    def row_bytes(self) -> int | None:
        """Size of one row's features in bytes; None where it shows in the table only."""
        return None

    @field_validator("splits")
    @classmethod
    def _fractions(cls, splits: dict[str, float]) -> dict[str, float]:
        for name, fraction in splits.items():
            if not SPLIT_NAME.fullmatch(name):
                raise ValueError(f"split name {name!r} is not made of lower-case letters, digits and underscores")
            if not 0 <= fraction <= 1:
                raise ValueError(f"the fraction of split {name!r} is {fraction}, expected 0 to 1")
        if not math.isclose(sum(splits.values()), 1.0, abs_tol=FRACTION_TOLERANCE):
            raise ValueError(f"the fractions sum to {sum(splits.values())}, expected 1")
        if splits.get(TRAIN, 0.0) == 0:
            raise ValueError(f"one of the splits must be {TRAIN!r}, with a fraction above 0")
        return splits

    @model_validator(mode="after")
    def _shard_fits(self) -> Self:
        if self.row_bytes is not None and self.rows_per_shard * self.row_bytes > MAX_BINARY_BYTES:
            raise ValueError(
                f"rows_per_shard {self.rows_per_shard} makes tensors of {self.row_bytes} bytes exceed 2 GiB "
                f"in a shard; use at most {MAX_BINARY_BYTES // self.row_bytes}"
            )
        return self


class TableSettings(SetSettings):
    """How a table set is made from any table of numbers.

    Attributes
    ----------
    columns
        Columns that make up the features, in this order; None takes all numeric ones but those named below, in the
        order of the table.
    array, length
        Instead: one column that holds all features of a row as an array, and how many there are.
    id
        Integer column that is unique; None makes unique ids from the content of the row's file and its number there.
    target
        Numeric column to learn from, which may be null; None leaves targets null.
    weight
        Numeric column of weights from 0; None gives each row weight 1.
    rows_per_shard
        Rows of every file but the last of a split.
    splits
        Fractions by name; they sum to 1 and one of them is ``train``. A row's split hangs on its id alone.
    seed
        Seed of the global shuffle.
    compression
        Codec of the files; snappy is read about three times as fast as zstd and is 10 % larger.
    max_rejected
        Largest fraction of broken and repeated rows; beyond it nothing is published.
    """

    columns: tuple[str, ...] | None = None
    array: str | None = None
    length: int | None = Field(default=None, ge=1)
    id: str | None = None
    target: str | None = None
    weight: str | None = None
    rows_per_shard: int = Field(default=65536, ge=1)

    @property
    def row_bytes(self) -> int | None:
        """Size of one row's features in bytes; None where all numeric columns are taken."""
        width = self.length if self.array else len(self.columns) if self.columns else None
        return None if width is None else width * FEATURE_DTYPE.itemsize

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.columns is not None and not self.columns:
            raise ValueError("columns is an empty list; leave it out (null) to take all numeric columns")
        if self.columns is not None and self.array is not None:
            raise ValueError("columns and array are given; name the features in one way")
        if (self.array is None) != (self.length is None):
            raise ValueError("array and length belong together: the column, and how many values each row has in it")
        used = [*(self.columns or ()), *filter(None, (self.array, self.id, self.target, self.weight))]
        twice = sorted({name for name in used if used.count(name) > 1})
        if twice:
            raise ValueError(f"column {', '.join(twice)} is named twice")
        return self


class PrepareSettings(SetSettings):
    """How a training set is made from a jets table.

    Attributes
    ----------
    labels
        Labels to keep; None keeps all jets, unlabelled ones too.
    mass_window
        Open interval of the jet mass (GeV) to keep; None keeps all.
    features
        Shape of the feature tensor and bins of the target.
    rows_per_shard
        Rows of every file but the last of a split.
    splits
        Fractions by name; they sum to 1 and one of them is ``train``. A jet's split hangs on its ``jet_id`` alone.
    seed
        Seed of the global shuffle.
    compression
        Codec of the files; snappy is read about three times as fast as zstd and is 10 % larger.
    max_rejected
        Largest fraction of broken and repeated jets; beyond it nothing is published.
    """

    labels: tuple[str, ...] | None = None
    mass_window: tuple[float, float] | None = (10.0, 200.0)
    features: FeatureSpec = FeatureSpec()

    @property
    def row_bytes(self) -> int | None:
        """Size of one jet's tensor in bytes."""
        return self.features.row_bytes

    @field_validator("mass_window")
    @classmethod
    def _ordered(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window is not None and not window[0] < window[1]:
            raise ValueError("expected a lower and a larger upper mass in GeV")
        return window

    @field_validator("labels")
    @classmethod
    def _named(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and not labels:
            raise ValueError("an empty list keeps nothing; leave labels out (null) to keep all jets")
        return labels

"""The rules block of the configuration."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from sparton.config import Config


class ColumnRules(Config):
    """What must hold of one column; of lists and tensors, of every element.

    Attributes
    ----------
    min, max
        Smallest and largest value allowed, both included. Values that are not finite are outside of every range.
    finite
        Neither NaN nor infinite.
    max_nulls
        Largest fraction of rows that may have no value, or a list with an element missing; None allows any.
    values
        The only values allowed, as text (numbers as Python writes them).
    unique
        No value twice; rows without a value do not count.
    """

    min: float | None = None
    max: float | None = None
    finite: bool = False
    max_nulls: float | None = Field(default=None, ge=0, le=1)
    values: tuple[str, ...] | None = None
    unique: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self == type(self).model_construct():
            raise ValueError("no rule in it; give min, max, finite, max_nulls, values or unique")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class BalanceRules(Config):
    """How even the classes of a column must be; rows without a value do not count.

    Attributes
    ----------
    min_fraction
        Smallest fraction of the rows with a value that each class must have.
    classes
        Classes that must be there; None: those that are found.
    """

    min_fraction: float = Field(gt=0, le=1)
    classes: tuple[str, ...] | None = None


class DriftRules(Config):
    """How far distributions may be from those of a reference.

    Attributes
    ----------
    columns
        Columns that are compared; of lists and tensors, all elements together.
    bins
        Bins of equal population that a reference is made with.
    max_psi
        Largest population stability index; 0.1 is a small shift, 0.25 a large one.
    max_ks
        Largest Kolmogorov-Smirnov distance, over the edges of the bins.
    """

    columns: tuple[str, ...] = ()
    bins: int = Field(default=20, ge=2, le=1000)
    max_psi: float = Field(default=0.2, gt=0)
    max_ks: float = Field(default=0.1, gt=0, le=1)


class RulesSettings(Config):
    """The rules that a table must keep.

    Attributes
    ----------
    min_rows
        Rows that the table must have.
    columns
        Rules by column: any of ``min``, ``max``, ``finite``, ``max_nulls``, ``values``, ``unique``.
    balance
        By column: ``min_fraction`` and ``classes``.
    drift
        Comparison with a reference.
    """

    min_rows: int = Field(default=1, ge=0)
    columns: dict[str, ColumnRules] = Field(default_factory=dict)
    balance: dict[str, BalanceRules] = Field(default_factory=dict)
    drift: DriftRules = DriftRules()

    @field_validator("columns", "balance")
    @classmethod
    def _named(cls, rules: dict[str, Config]) -> dict[str, Config]:
        if any(not name.strip() for name in rules):
            raise ValueError("a column without a name")
        return rules

    @property
    def profiled(self) -> tuple[str, ...]:
        """The columns that rules speak of, each once."""
        return tuple(dict.fromkeys((*self.columns, *self.balance, *self.drift.columns)))

    @property
    def unique(self) -> tuple[str, ...]:
        """The columns whose values must be unique."""
        return tuple(name for name, rules in self.columns.items() if rules.unique)

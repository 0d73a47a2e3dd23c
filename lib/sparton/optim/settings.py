"""How training moves, as far as it does not depend on what is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sparton.config import Config

ExchangePrecision = Literal["float32", "float16"]
"""What gradients are between ranks. Horovod cannot sum bfloat16."""

Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LossScaleSettings(Config):
    """The factor on the loss that keeps gradients in float16 from vanishing; it follows what they allow.

    Powers of two change nothing but exponents.

    Attributes
    ----------
    initial
        Factor of the first step.
    interval
        Steps without overflow after which the factor grows.
    growth
        What it is multiplied by then.
    backoff
        What it is multiplied by when a gradient overflows; that step is skipped.
    minimum, maximum
        Limits of the factor.
    patience
        Steps in a row that may overflow at the minimum; one more ends the training.
    """

    initial: Scale = 2.0**15
    interval: int = Field(default=2000, ge=1)
    growth: float = Field(default=2.0, gt=1, allow_inf_nan=False)
    backoff: float = Field(default=0.5, gt=0, lt=1)
    minimum: Scale = 2.0**-10
    maximum: Scale = 2.0**24
    patience: int = Field(default=10, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> LossScaleSettings:
        if not self.minimum <= self.initial <= self.maximum:
            raise ValueError("expected minimum <= initial <= maximum")
        return self

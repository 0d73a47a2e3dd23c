"""Sparton: label-free clustering of LHC jets and other large tables on Spark, trained with Horovod."""

from __future__ import annotations

__version__ = "0.1.0"

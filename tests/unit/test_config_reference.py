"""The configuration page says what the classes say."""

from __future__ import annotations

from pathlib import Path

import config_reference
from sparton.config import load_config
from sparton.pipeline import PipelineSettings

ROOT = Path(__file__).resolve().parents[2]


def test_committed_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == config_reference.render(), (
        "run python tools/config_reference.py"
    )


def test_every_key_is_explained() -> None:
    for line in config_reference.render().splitlines():
        if line.startswith("| `"):
            assert not line.endswith("|  |"), line


def test_committed_configurations_are_valid() -> None:
    for path in (ROOT / "conf").glob("*.yaml"):
        load_config(PipelineSettings, path)

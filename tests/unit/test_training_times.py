"""What tables and reports say of a training's time is the same, from memory and from a bundle."""

from __future__ import annotations

from sparton.distributed.times import Times, WorkerTimes
from sparton.pipeline.progress import format_value
from sparton.pipeline.times import recorded_figures, time_figures


def test_what_a_bundle_records_reads_as_the_closing_table() -> None:
    figures = WorkerTimes(((3, Times(1.0, 6.0, 2.0, 1.0)),)).figures()
    shown = {name: format_value(value) for name, value in time_figures(figures).items()}
    assert recorded_figures({"workers": 3, "focal": 0.1} | figures) == {"workers": "3"} | shown
    assert shown["time split"] == "input 10.0%, compute 60.0%, exchange 20.0%, other 10.0%"
    assert shown["training time of all workers (s)"].startswith("30")


def test_bundles_without_times_show_none() -> None:
    assert recorded_figures({"focal": 0.1}) == {}

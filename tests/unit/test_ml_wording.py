"""Errors in the words of a Spark ML stage: its parameters, and none of its folders."""

from __future__ import annotations

import pytest

from sparton.errors import DataError, TrainingError
from sparton.ml.wording import in_words_of, spoken

PARAMETERS = {
    "n_clusters": "k",
    "start_rows": "initRows",
    "precision": "precision",
    "step": "stepRule",
    "workers": "numWorkers",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("found 3, expected n_clusters=4; lower cluster.n_clusters", "found 3, expected k=4; lower k"),
        ("set cluster.precision: float64, or raise cluster.start_rows", "set precision: float64, or raise initRows"),
        ("Stage: step: unknown; Stage: n_clusters: low", "Stage: stepRule: unknown; Stage: k: low"),
        ("lower launch.workers in step 4 of 7", "lower numWorkers in step 4 of 7"),
        ("/tmp/x-1/set/split=train/shard-0.parquet: torn", "the DataFrame: torn"),
        ("/tmp/x-1: no feature varies", "the DataFrame: no feature varies"),
    ],
)
def test_settings_and_folders_are_translated(text: str, expected: str) -> None:
    assert spoken(text, "Stage", PARAMETERS, "/tmp/x-1") == expected


def test_errors_stay_what_they_are() -> None:
    with pytest.raises(TrainingError, match=r"^lower k$"), in_words_of("Stage", PARAMETERS):
        raise TrainingError("lower cluster.n_clusters")
    with pytest.raises(DataError, match=r"^the DataFrame: torn$"), in_words_of("Stage", PARAMETERS, "/a/b"):
        raise DataError("/a/b/rows: torn")
    with pytest.raises(OSError, match="n_clusters=3"), in_words_of("Stage", PARAMETERS):
        raise OSError("n_clusters=3")

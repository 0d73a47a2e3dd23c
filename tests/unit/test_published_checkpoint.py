"""Checkpoints of the published code become bundles that predict what its network does, or are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.parts.published_oracle import Arrays, Oracle, Shape, random_weights
from sparton import pipeline, storage
from sparton.cli import main
from sparton.config import load_config
from sparton.pipeline import PipelineSettings
from sparton.ucluster import bundle, predict
from sparton.ucluster.published_checkpoint import PUBLISHED_INPUTS, read_checkpoint

PUBLISHED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "ucluster_wztop" / "cluster.ckpt"
NARROW = Shape(attention=(4, 6), first=(5, 7), second=(8, 9), embedding=2, head=(6, 5), clusters=4)
SIZES = [
    "model.attention=[4, 6]",
    "model.first_block=[5, 7]",
    "model.second_block=[8, 9]",
    "model.head=[6, 5]",
    "model.embedding=2",
    "model.n_clusters=4",
]


def write_checkpoint(folder: Path, arrays: Arrays) -> str:
    """Write tensors as TensorFlow 1 does; return what the files begin with."""
    folder.mkdir(exist_ok=True)
    prefix = str(folder / "cluster.ckpt")
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names],
    )
    return prefix


@pytest.fixture
def arrays() -> Arrays:
    """The tensors of a narrow network, with a step counter and what is left of an optimiser beside them."""
    weights = random_weights(NARROW, seed=4)
    return weights | {"Variable": np.array(1234, np.int32), "mu/Adam": weights["mu"], "beta1_power": np.float32(0.9)}


def import_it(prefix: str, workspace: Path, *more: str) -> int:
    sizes = [argument for size in SIZES for argument in ("--set", size)]
    arguments = ["--checkpoint", prefix, "--output", str(workspace / "bundle"), "--workspace", str(workspace)]
    return main(["import-checkpoint", *arguments, *sizes, *more])


def clouds(jets: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(jets, 100, 8)).astype(np.float32)
    features[np.arange(100)[None, :] >= rng.integers(1, 101, jets)[:, None]] = 0
    return features


def test_bundle_predicts_what_the_checkpoint_says(arrays: Arrays, tmp_path: Path) -> None:
    assert import_it(write_checkpoint(tmp_path / "logs", arrays), tmp_path) == 0
    loaded = bundle.load(str(tmp_path / "bundle"))
    features = clouds(9)
    embedding, distance, _ = predict.assign(loaded, features, np.full(9, 100, np.int32))
    weights = {name: value for name, value in arrays.items() if name in random_weights(NARROW)}
    expected = np.asarray(Oracle.of(weights, NARROW)(features)[0])
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    brute = np.linalg.norm(expected[:, None] - arrays["mu"][None], axis=-1)
    np.testing.assert_allclose(distance, brute, atol=1e-5)
    assert loaded.description.inputs == PUBLISHED_INPUTS
    assert loaded.description.training == {"checkpoint": "cluster.ckpt", "steps": 1234}
    np.testing.assert_array_equal(loaded.centroids, arrays["mu"])


def test_info_knows_where_the_weights_are_from(
    arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_it(write_checkpoint(tmp_path / "logs", arrays), tmp_path)
    found = pipeline.info(str(tmp_path / "bundle"), verify=True)
    assert found.problems == []
    assert found.kind == "model bundle"
    assert found.details["network"] == "published"
    assert found.details["trained on"] == "elsewhere: cluster.ckpt after 1,234 steps"


def test_the_same_checkpoint_is_not_imported_twice(
    arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = write_checkpoint(tmp_path / "logs", arrays)
    for more, expected in (((), "done"), ((), "up to date"), (("--force",), "done")):
        assert import_it(prefix, tmp_path, *more) == 0
        assert f"import-checkpoint: {expected}" in capsys.readouterr().out
    write_checkpoint(tmp_path / "logs", arrays | {"mu": arrays["mu"] + 1})
    assert import_it(prefix, tmp_path) == 0
    assert "import-checkpoint: done" in capsys.readouterr().out


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


AVERAGE = "agg/bn/agg/bn/moments/Squeeze_1/ExponentialMovingAverage"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("mu"), "the tensor mu is missing among 95, expected [4, 2]; "),
        (without(AVERAGE), f"the tensor {AVERAGE} is missing among 95, expected [2]; "),
        (
            lambda arrays: (
                arrays | {"fc3/weights": np.zeros((5, 7), np.float32), "fc3/biases": np.zeros(7, np.float32)}
            ),
            "the tensor fc3/weights is [5, 7], expected [5, 20] (and 1 more tensors); ",
        ),
        (
            lambda arrays: arrays | {"gapnet01/weights": arrays["gapnet01/weights"][0, 0]},
            "the tensor gapnet01/weights is [12, 5], expected [1, 1, 12, 5]; ",
        ),
        (
            lambda arrays: arrays | {"agg/bn/beta": np.array([0, np.nan], np.float32)},
            "the tensor agg/bn/beta holds values that are not finite, expected numbers; ",
        ),
    ],
)
def test_checkpoint_of_another_network_is_one_line(
    arrays: Arrays,
    change: Callable[[Arrays], Arrays],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefix = write_checkpoint(tmp_path / "logs", change(arrays))
    assert import_it(prefix, tmp_path) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sparton import-checkpoint: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"sparton import-checkpoint: {prefix}: {message}")
    assert not (tmp_path / "bundle").exists()


def test_damaged_and_missing_files_are_named(
    arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = write_checkpoint(tmp_path / "logs", arrays)
    assert read_checkpoint(f"{prefix}.index").keys() == arrays.keys()
    assert import_it(prefix[:-1], tmp_path) == 2
    assert f"{prefix[:-1]}.index: no such file" in capsys.readouterr().err
    data = Path(f"{prefix}.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    assert import_it(prefix, tmp_path) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{prefix}: not readable as a TensorFlow checkpoint" in error
    data.unlink()
    assert import_it(prefix, tmp_path) == 1
    assert "not readable as a TensorFlow checkpoint" in capsys.readouterr().err.splitlines()[-1]
    Path(f"{prefix}.index").write_bytes(b"nothing of the kind")
    assert import_it(prefix, tmp_path) == 1
    assert "not readable as a TensorFlow checkpoint" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "bundle").exists()


def test_what_another_stage_made_is_not_overwritten(
    arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write_text(str(tmp_path / "bundle" / "notes.txt"), "mine")
    assert import_it(write_checkpoint(tmp_path / "logs", arrays), tmp_path) == 2
    assert "not overwritten by 'import-checkpoint'" in capsys.readouterr().err
    assert storage.read_text(str(tmp_path / "bundle" / "notes.txt")) == "mine"


def test_published_checkpoint(tmp_path: Path) -> None:
    if not PUBLISHED.with_suffix(".ckpt.index").exists():
        pytest.skip(f"{PUBLISHED} is not there")
    settings = load_config(PipelineSettings, None, [f"workspace={tmp_path}"])
    result = pipeline.import_checkpoint(settings, checkpoint=str(PUBLISHED))
    assert result.summary == {"tensors": 93, "trainable values": 186_210, "clusters": 3, "steps of training": 118_200}
    loaded = bundle.load(str(tmp_path / "model"))
    logged = [[0.153, 0.264, 0.031], [0.150, 0.292, 0.021], [0.135, 0.454, 0.009]]
    found = loaded.centroids[np.argsort(loaded.centroids[:, 1])]
    np.testing.assert_allclose(found, logged, atol=5e-3)

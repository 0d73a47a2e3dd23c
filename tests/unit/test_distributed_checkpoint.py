from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparton import lease, storage
from sparton.distributed import checkpoint
from sparton.distributed.collectives import LocalCollectives
from sparton.distributed.resumption import Checkpoints
from sparton.distributed.world import Connection, World
from sparton.errors import DataError, TrainingError

NUMPY_TYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="="),
    hnp.floating_dtypes(endianness="="),
    hnp.unicode_string_dtypes(),
)
SHAPES = hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4)
ARRAYS = hnp.arrays(NUMPY_TYPES, SHAPES)
EXTENSION_ARRAYS = st.builds(
    lambda array, name: array.astype(checkpoint.EXTENSION_TYPES[name]),
    hnp.arrays(np.float32, SHAPES, elements=st.floats(-4, 4, width=32)),
    st.sampled_from(sorted(checkpoint.EXTENSION_TYPES)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(st.text(max_size=8), ARRAYS | EXTENSION_ARRAYS, max_size=4))
def test_what_is_saved_comes_back_bit_by_bit(tmp_path: Path, state: dict[str, np.ndarray]) -> None:
    folder = str(tmp_path / "run")
    storage.remove(folder)
    checkpoint.save(folder, state, {"step": 1})
    loaded = checkpoint.latest(folder)
    assert loaded is not None
    assert list(loaded[0]) == list(state)
    for name, array in state.items():
        found = loaded[0][name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("name", ["file", "a/b:0", "a.npy", ""])
def test_names_that_are_awkward_for_archives(tmp_path: Path, name: str) -> None:
    checkpoint.save(str(tmp_path), {name: np.arange(3), "a": np.zeros(2)}, {"step": 0})
    state, _ = checkpoint.load(str(tmp_path / "step-000000000"))
    np.testing.assert_array_equal(state[name], np.arange(3))


def test_metadata_and_half_precision(tmp_path: Path) -> None:
    metadata = {"step": 12, "epoch": 3, "loss": float("inf"), "world": {"size": 2}, "path": "Zürich"}
    state = {
        "w": np.array([1.5, -2.0], ml_dtypes.bfloat16),
        "h": np.array(0.1, np.float16),
        "f": np.ones((2, 2), order="F"),
    }
    path = checkpoint.save(str(tmp_path), state, metadata)
    assert path == str(tmp_path / "step-000000012")
    loaded = checkpoint.latest(str(tmp_path))
    assert loaded is not None
    assert loaded[1] == metadata
    assert loaded[0]["w"].dtype == ml_dtypes.bfloat16
    assert loaded[0]["h"].dtype == np.float16


def test_the_sums_are_those_of_the_tool(tmp_path: Path) -> None:
    folder = Path(checkpoint.save(str(tmp_path), {"w": np.ones(3)}, {"step": 5}))
    lines = [line.split("  ") for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert [name for _, name in lines] == ["state.npz", "metadata.json"]
    for digest, name in lines:
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(str(tmp_path)) is None
    assert checkpoint.latest(str(tmp_path / "missing")) is None
    assert checkpoint.steps(str(tmp_path / "missing")) == []


def save_steps(folder: Path, *steps: int, keep: int = 9) -> None:
    for step in steps:
        checkpoint.save(str(folder), {"w": np.full(100, step)}, {"step": step}, keep=keep)


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 3, 10, keep=2)
    assert checkpoint.steps(str(tmp_path)) == [3, 10]
    save_steps(tmp_path, 11, keep=1)
    assert checkpoint.steps(str(tmp_path)) == [11]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_steps(tmp_path, 4)
    checkpoint.save(str(tmp_path), {"w": np.zeros(2)}, {"step": 4})
    state, _ = checkpoint.load(str(tmp_path / "step-000000004"))
    np.testing.assert_array_equal(state["w"], np.zeros(2))


def damage_flip(folder: Path) -> None:
    content = bytearray((folder / "state.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "state.npz").write_bytes(content)


def damage_truncate(folder: Path) -> None:
    (folder / "state.npz").write_bytes((folder / "state.npz").read_bytes()[:-10])


def damage_metadata(folder: Path) -> None:
    path = folder / "metadata.json"
    path.write_text(path.read_text().replace('"step": 2', '"step": 9'))


def damage_missing_state(folder: Path) -> None:
    (folder / "state.npz").unlink()


def damage_missing_sums(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()


def damage_garbled_sums(folder: Path) -> None:
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe\x00garbage")


DAMAGES = [
    damage_flip,
    damage_truncate,
    damage_metadata,
    damage_missing_state,
    damage_missing_sums,
    damage_garbled_sums,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_the_previous_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    save_steps(tmp_path, 1, 2)
    damage(tmp_path / "step-000000002")
    with caplog.at_level(logging.WARNING):
        loaded = checkpoint.latest(str(tmp_path))
    assert loaded is not None
    assert loaded[1]["step"] == 1
    assert "step-000000002" in caplog.text
    with pytest.raises(DataError, match="step-000000002"):
        checkpoint.load(str(tmp_path / "step-000000002"))


def test_a_damaged_later_one_does_not_displace_a_sound_one(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 9)
    damage_flip(tmp_path / "step-000000009")
    save_steps(tmp_path, 5, keep=1)
    loaded = checkpoint.latest(str(tmp_path))
    assert loaded is not None
    assert loaded[1]["step"] == 5
    assert checkpoint.steps(str(tmp_path)) == [5]


def test_pickles_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'x' holds Python objects"):
        checkpoint.save(str(tmp_path), {"x": np.array([object()])}, {"step": 1})
    assert checkpoint.steps(str(tmp_path)) == []
    folder = Path(checkpoint.save(str(tmp_path), {"x": np.ones(1)}, {"step": 1}))
    with (folder / "state.npz").open("wb") as stream:
        np.savez(stream, **{"array-00000": np.array([{"a": 1}], object)})
    sums = "".join(f"{storage.sha256(str(folder / n))}  {n}\n" for n in ("state.npz", "metadata.json"))
    (folder / "SHA256SUMS").write_text(sums)
    with pytest.raises(DataError, match="not readable"):
        checkpoint.load(str(folder))


@pytest.mark.parametrize(("metadata", "keep"), [({}, 2), ({"step": -1}, 2), ({"step": "3"}, 2), ({"step": 3}, 0)])
def test_impossible_steps_are_refused(tmp_path: Path, metadata: dict[str, object], keep: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        checkpoint.save(str(tmp_path), {}, metadata, keep)


def test_remote_file_systems() -> None:
    folder = "memory://checkpoints/run"
    for step in (1, 2, 3):
        checkpoint.save(folder, {"w": np.full(3, step)}, {"step": step})
    assert checkpoint.steps(folder) == [2, 3]
    loaded = checkpoint.latest(folder)
    assert loaded is not None
    np.testing.assert_array_equal(loaded[0]["w"], np.full(3, 3))


WRITER = """
import sys
import numpy as np
from sparton.distributed import checkpoint
found = checkpoint.latest(sys.argv[1])
step = found[1]["step"] if found else 0
while True:
    step += 1
    checkpoint.save(sys.argv[1], {"w": np.full(50_000, step)}, {"step": step})
    print(step, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_sound_checkpoint(tmp_path: Path) -> None:
    pause = random.Random(5)
    last = 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(pause.uniform(0, 0.1))
            os.kill(writer.pid, signal.SIGKILL)
            printed = [int(line) for line in writer.stdout.read().split()]
        loaded = checkpoint.latest(str(tmp_path))
        assert loaded is not None
        step = loaded[1]["step"]
        assert step > last
        assert step >= max(printed, default=0)
        np.testing.assert_array_equal(loaded[0]["w"], np.full(50_000, step))
        last = step
    save_steps(tmp_path, last + 1)
    # A file that was killed before it said whose it is counts as its writer's for some minutes.
    left = [path for path in tmp_path.iterdir() if not checkpoint.FOLDER_NAME.fullmatch(path.name)]
    assert [path for path in left if path.is_dir() or path.stat().st_size > 0] == []


def test_what_a_killed_writer_left_of_another_step_is_removed(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    (tmp_path / "step-000000007.staging-ab").mkdir()
    (tmp_path / ".step-000000007.retired").mkdir()
    save_steps(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001", "step-000000002"]


@pytest.mark.parametrize("name", [".step-000000001.lock", ".step-000000001.lock.ab12", ".step-000000002.lock.ab12"])
def test_lock_that_a_killed_writer_left_is_removed(tmp_path: Path, name: str) -> None:
    """Also what it wrote aside for one, or put aside to give one back."""
    save_steps(tmp_path, 1)
    lock = tmp_path / name
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    owner = dataclasses.replace(lease.Owner.mine(), pid=dead.pid, token="dead")
    lock.write_text(json.dumps(dataclasses.asdict(owner)))
    save_steps(tmp_path, 2)
    assert not lock.exists()
    assert checkpoint.steps(str(tmp_path)) == [1, 2]


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    """The error names it, and the last good checkpoint, which stays."""
    checkpoints = Checkpoints(Connection.local(), str(tmp_path), "identity")
    bad = {"a": np.arange(3), "kernel": np.array([1.0, np.nan]), "slot": np.array(np.inf, ml_dtypes.bfloat16)}
    with pytest.raises(TrainingError, match=r"kernel is not finite after step 3 \(2 of 3 .*there is no checkpoint yet"):
        checkpoints.save(3, bad, {})
    checkpoints.save(4, {"a": np.arange(3), "name": np.array("text")}, {})
    with pytest.raises(TrainingError, match=r"slot is not finite .*the last good checkpoint is that of step 4"):
        checkpoints.save(5, {"slot": bad["slot"]}, {})
    assert checkpoint.steps(str(tmp_path)) == [4]


def test_a_checkpoint_is_due_after_its_time_on_rank_0_alone(tmp_path: Path) -> None:
    root, other = (
        Checkpoints(Connection(World(rank, 2), LocalCollectives()), str(tmp_path), "x", seconds=0.0) for rank in (0, 1)
    )
    assert root.due
    assert not other.due
    assert not dataclasses.replace(root, seconds=60.0).due

"""Batches through Petastorm: each row once and as written, in the plan's order, from any step on; damage is named."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton import storage
from sparton.data import shard_reader
from sparton.data.batches import batches, data_errors
from sparton.data.blocks import batch_columns
from sparton.data.featurize import decode_features, encode_features
from sparton.data.manifest import Counts, Manifest, Shard
from sparton.data.plan import EpochPlan, plan_epoch
from sparton.data.schema import TRAINING_ARROW
from sparton.data.shards import shard_path, write_file
from sparton.errors import DataError, UsageError

PARTICLES, FEATURES = 6, 3
ROWS = (40, 40, 40, 40, 17)


def training_table(first: int, rows: int, particles: int = PARTICLES, features: int = FEATURES) -> pa.Table:
    """Return rows whose every value tells which row it belongs to."""
    ids = np.arange(first, first + rows)
    tensors = (ids[:, None, None] + np.arange(particles * features).reshape(particles, features) / 64).astype("<f4")
    columns = [
        pa.array(ids * 7 + 3),
        encode_features(tensors),
        pa.array((ids % particles + 1).astype(np.int16)),
        pa.array((ids % 9).astype(np.int32)),
        pa.array((ids % 20).astype(np.int32)),
        pa.array((ids / 4).astype(np.float32)),
        pa.array(["W"] * rows),
    ]
    return pa.table(columns, schema=TRAINING_ARROW)


def write_set(folder: str, rows: tuple[int, ...], particles: int = PARTICLES, features: int = FEATURES) -> Manifest:
    shards = []
    storage.make_dirs(storage.join(folder, "split=train"))
    for index, count in enumerate(rows):
        path = shard_path("train", index)
        table = training_table(sum(rows[:index]), count, particles, features)
        size, digest = write_file(storage.join(folder, path), table, "snappy")
        shards.append(Shard(path=path, rows=count, bytes=size, sha256=digest))
    return Manifest(
        feature_names=tuple(f"f{index}" for index in range(features)),
        feature_mean=(0.0,) * features,
        feature_std=(1.0,) * features,
        feature_count=sum(rows),
        feature_squares=(float(sum(rows)),) * features,
        n_particles=particles,
        mass_bin_edges=(0.0, 1.0),
        splits={"train": tuple(shards), "val": ()},
        rows_per_shard=max(rows),
        seed=0,
        settings={},
        counts=Counts(read=sum(rows), kept=sum(rows)),
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    folder = str(tmp_path_factory.mktemp("set"))
    return folder, write_set(folder, ROWS)


def plan_of(manifest: Manifest, world: int = 1, batch: int = 16, epoch: int = 0, shuffle: bool = True) -> EpochPlan:
    return plan_epoch(manifest.shard_rows("train"), world, batch, 5, epoch, shuffle)


def read(stored: tuple[str, Manifest], plan: EpochPlan, rank: int = 0, **options: Any) -> list[dict[str, np.ndarray]]:
    with data_errors():
        return [
            {name: value.numpy() for name, value in batch.items()}
            for batch in batches(stored[0], stored[1], "train", plan, rank, **options)
        ]


def expected_ids(stored: tuple[str, Manifest], plan: EpochPlan, rank: int, step: int) -> np.ndarray:
    shards, rows = plan.rows(rank, step)
    return (np.concatenate([[0], np.cumsum(ROWS)])[shards] + rows) * 7 + 3


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 16), st.integers(1, 70), st.integers(0, 3), st.booleans())
def test_every_row_arrives_once_in_plan_order_as_written(
    stored: tuple[str, Manifest], world: int, batch: int, epoch: int, shuffle: bool
) -> None:
    plan = plan_of(stored[1], world, batch, epoch, shuffle)
    seen: list[int] = []
    for rank in range(world):
        found = read(stored, plan, rank)
        assert len(found) == plan.steps
        for step, content in enumerate(found):
            real = content["weight"] == 1
            ids = content["jet_id"][real]
            assert np.array_equal(ids, expected_ids(stored, plan, rank, step))
            row = (ids - 3) // 7
            tensors = row[:, None, None] + np.arange(PARTICLES * FEATURES).reshape(PARTICLES, FEATURES) / 64
            assert np.array_equal(content["features"][real], tensors.astype(np.float32))
            assert np.array_equal(content["n_particles"][real], row % PARTICLES + 1)
            assert np.array_equal(content["n_constituents"][real], row % 9)
            assert np.array_equal(content["target"][real], row % 20)
            assert np.array_equal(content["jet_mass"][real], (row / 4).astype(np.float32))
            seen += ids.tolist()
    assert sorted(seen) == [row * 7 + 3 for row in range(sum(ROWS))]


def test_padding_is_at_the_end_zero_and_weightless(stored: tuple[str, Manifest]) -> None:
    plan = plan_of(stored[1], world=2, batch=16)
    for rank in range(2):
        weight = np.concatenate([content["weight"] for content in read(stored, plan, rank)])
        assert weight.tolist() == [1.0] * plan.row_count(rank) + [0.0] * (weight.size - plan.row_count(rank))
        last = read(stored, plan, rank)[-1]
        padding = last["weight"] == 0
        assert padding.any()
        assert np.all(last["jet_id"][padding] == -1)
        for name in ("features", "n_particles", "n_constituents", "target", "jet_mass"):
            assert np.all(last[name][padding] == 0)


@pytest.mark.parametrize(("lanes", "world", "share"), [(4, 2, 3), (6, 1, 5), (3, 3, 16)])
def test_a_rank_reads_its_lanes_side_by_side(stored: tuple[str, Manifest], lanes: int, world: int, share: int) -> None:
    """Its batches are those of as many ranks as it has lanes, one after the other, padding included."""
    manifest, own = stored[1], lanes // world
    each = plan_of(manifest, lanes, share, epoch=1)
    plan = plan_epoch(manifest.shard_rows("train"), world, share * own, 5, 1, lanes=lanes)
    for rank in range(world):
        expected = zip(*(read(stored, each, lane) for lane in plan.lanes_of(rank)), strict=True)
        together = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in expected]
        for start in (0, 2):
            found = read(stored, plan, rank, start_step=start)
            assert len(found) == plan.steps - start
            for one, other in zip(found, together[start:], strict=True):
                assert one.keys() == other.keys()
                assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_rank_without_rows_gets_padding_only(tmp_path: Path) -> None:
    few = (str(tmp_path), write_set(str(tmp_path), (2,)))
    plan = plan_of(few[1], world=4, batch=3)
    found = [read(few, plan, rank) for rank in range(4)]
    assert [len(steps) for steps in found] == [1] * 4
    assert [float(steps[0]["weight"].sum()) for steps in found] == [0.0, 1.0, 0.0, 1.0]


def test_shapes_are_static_and_steps_are_known(stored: tuple[str, Manifest]) -> None:
    plan = plan_of(stored[1], batch=16)
    dataset = batches(stored[0], stored[1], "train", plan, 0, start_step=3)
    assert dataset.element_spec == {
        "features": tf.TensorSpec((16, PARTICLES, FEATURES), tf.float32),
        "n_particles": tf.TensorSpec((16,), tf.int32),
        "n_constituents": tf.TensorSpec((16,), tf.int32),
        "target": tf.TensorSpec((16,), tf.int32),
        "jet_id": tf.TensorSpec((16,), tf.int64),
        "jet_mass": tf.TensorSpec((16,), tf.float32),
        "weight": tf.TensorSpec((16,), tf.float32),
    }
    assert int(dataset.cardinality()) == plan.steps - 3


def test_any_start_gives_exactly_what_remains(stored: tuple[str, Manifest]) -> None:
    plan = plan_of(stored[1], world=2, batch=8, epoch=2)
    whole = read(stored, plan, 1)
    for start in range(plan.steps + 1):
        rest = read(stored, plan, 1, start_step=start)
        assert len(rest) == plan.steps - start
        for found, expected in zip(rest, whole[start:], strict=True):
            assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_start_does_not_touch_earlier_shards(tmp_path: Path) -> None:
    mine = (str(tmp_path), write_set(str(tmp_path), ROWS))
    plan = plan_of(mine[1], batch=8, shuffle=False)
    (tmp_path / shard_path("train", 0)).unlink()
    found = read(mine, plan, start_step=5)
    assert found[0]["jet_id"].tolist() == [(40 + row) * 7 + 3 for row in range(8)]
    with pytest.raises(DataError, match=r"shard-00000.parquet: no such file; restore"):
        read(mine, plan, start_step=4)


def test_columns_are_those_asked_for(stored: tuple[str, Manifest]) -> None:
    plan = plan_of(stored[1])
    full = read(stored, plan)
    found = read(stored, plan, columns=("features", "jet_id"))
    assert set(found[0]) == {"features", "jet_id", "weight"}
    assert all(np.array_equal(one["features"], two["features"]) for one, two in zip(found, full, strict=True))
    only_weight = read(stored, plan, columns=())
    assert sum(float(batch["weight"].sum()) for batch in only_weight) == sum(ROWS)


def test_an_empty_split_gives_no_batch(stored: tuple[str, Manifest]) -> None:
    plan = plan_epoch((), 2, 4, 0, 0)
    assert list(batches(stored[0], stored[1], "val", plan, 0)) == []


def test_order_is_the_same_each_time_and_over_many_readers(
    stored: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(stored[1], batch=10)
    expected = [content["jet_id"].tolist() for content in read(stored, plan)]
    monkeypatch.setattr(shard_reader, "READER_SHARDS", 2)
    for _ in range(5):
        assert [content["jet_id"].tolist() for content in read(stored, plan)] == expected


def test_a_reader_that_ends_early_loses_nothing(stored: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut every reader off after two shards, as a race in Petastorm's pool can."""
    opened = []

    class Cut:
        def __init__(self, reader: Any) -> None:
            self.reader = reader

        def __enter__(self) -> Iterator[Any]:
            entered = self.reader.__enter__()
            return (next(entered) for _ in range(2))

        def __exit__(self, *failure: Any) -> None:
            self.reader.__exit__(*failure)

    original = shard_reader._open_reader

    def cut(folder: str, shards: Any, columns: Any) -> Any:
        opened.append(len(shards))
        return Cut(original(folder, shards, columns)) if len(shards) > 2 else original(folder, shards, columns)

    plan = plan_of(stored[1], batch=10)
    expected = [content["jet_id"].tolist() for content in read(stored, plan)]
    monkeypatch.setattr(shard_reader, "_open_reader", cut)
    assert [content["jet_id"].tolist() for content in read(stored, plan)] == expected
    assert opened == [3, 2, 1]  # the second reader has two of the five


def test_missing_and_cut_shards_are_named_before_anything_is_read(tmp_path: Path) -> None:
    mine = (str(tmp_path), write_set(str(tmp_path), ROWS))
    plan = plan_of(mine[1])
    path = tmp_path / shard_path("train", 2)
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(DataError, match=rf"shard-00002.parquet: {len(content) - 5} bytes, the manifest says"):
        batches(mine[0], mine[1], "train", plan, 0)
    path.unlink()
    (tmp_path / shard_path("train", 4)).unlink()
    with pytest.raises(DataError, match=r"no such file \(and 1 more shards\); restore the file or prepare"):
        batches(mine[0], mine[1], "train", plan, 0)


@pytest.mark.parametrize("damage", ["footer", "data", "rows", "tensors"])
def test_damaged_content_is_named_while_reading(tmp_path: Path, damage: str) -> None:
    manifest = write_set(str(tmp_path), ROWS)
    path = tmp_path / shard_path("train", 3)
    content = bytearray(path.read_bytes())
    if damage == "footer":
        content[-20:] = b"x" * 20
    elif damage == "data":
        content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    else:
        table = training_table(0, 39 if damage == "rows" else 40, PARTICLES, FEATURES + (damage == "tensors"))
        pq.write_table(table, path)
        content = bytearray(path.read_bytes())
    path.write_bytes(content)
    shards = list(manifest.shards("train"))
    shards[3] = shards[3].model_copy(update={"bytes": len(content)})
    changed = manifest.model_copy(update={"splits": {"train": tuple(shards)}})
    reasons = {"rows": "39 rows, the manifest says 40", "tensors": "column features: 3840 bytes in 40 rows"}
    with pytest.raises(DataError, match=rf"^\S+shard-00003.parquet: {reasons.get(damage, 'cannot be read')}"):
        read((str(tmp_path), changed), plan_of(changed, batch=200))


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError), data_errors():
        raise tf.errors.InvalidArgumentError(None, None, "another")


def test_impossible_requests_are_refused(stored: tuple[str, Manifest]) -> None:
    plan = plan_of(stored[1])
    with pytest.raises(UsageError, match="no column pt in batches; there are jet_id, features"):
        batches(*stored, "train", plan, 0, columns=("pt",))
    with pytest.raises(UsageError, match="start_step is 99, expected 0 to"):
        batches(*stored, "train", plan, 0, start_step=99)
    with pytest.raises(UsageError, match="rank 1 is not in the plan's world"):
        batches(*stored, "train", plan, 1)
    with pytest.raises(UsageError, match="made for other shards"):
        batches(*stored, "train", plan_epoch([40, 40], 1, 4, 0, 0), 0)
    with pytest.raises(DataError, match="no split 'other'"):
        batches(*stored, "other", plan, 0)


def test_readers_do_not_say_that_a_set_was_not_made_by_petastorm(
    stored: tuple[str, Manifest], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        read(stored, plan_of(stored[1]))
        logging.getLogger("petastorm.etl.dataset_metadata").info("another message")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("petastorm.etl")]
    assert not any("Unischema" in message for message in said)
    assert said[-1] == "another message"
    assert len(said) > 1  # nothing else of Petastorm's is kept back


def test_odd_folder_names_and_remote_storage_are_read(tmp_path: Path) -> None:
    for folder in (str(tmp_path / "we?ird #1 %20 ü"), "memory://sets/one"):
        storage.make_dirs(folder)
        mine = (folder, write_set(folder, (9, 9, 4)))
        found = read(mine, plan_of(mine[1], batch=5))
        ids = np.concatenate([content["jet_id"][content["weight"] == 1] for content in found])
        assert sorted(ids.tolist()) == [row * 7 + 3 for row in range(22)]
    storage.remove("memory://sets")


def test_leaving_early_ends_the_readers_threads(stored: tuple[str, Manifest]) -> None:
    before = set(threading.enumerate())
    dataset = iter(batches(*stored, "train", plan_of(stored[1], batch=2), 0))
    next(dataset)
    del dataset
    left = [thread for thread in set(threading.enumerate()) - before if "WorkerThread" in type(thread).__name__]
    for thread in left:
        thread.join(timeout=30)
    assert not [thread for thread in left if thread.is_alive()]


def test_training_loop_reads_in_a_tf_function(stored: tuple[str, Manifest]) -> None:
    plan = plan_of(stored[1], batch=16)

    @tf.function
    def total(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.reduce_sum(batch["weight"] * tf.cast(batch["n_particles"], tf.float32))

    found = sum(float(total(batch)) for batch in batches(*stored, "train", plan, 0))
    assert found == sum(row % PARTICLES + 1 for row in range(sum(ROWS)))


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Ten times the shards, about the same peak: 6 MB of tensors a shard, 60 MB against 600 MB in all."""
    manifest = write_set(str(tmp_path), (2048,) * 10, particles=96, features=8)
    (tmp_path / "_manifest.json").write_text(manifest.model_dump_json())
    program = """
import sys
from sparton.data.batches import batches
from sparton.data.manifest import Manifest
from sparton.data.plan import plan_epoch
folder = sys.argv[1]
stored = Manifest.model_validate_json(open(folder + "/_manifest.json").read())
for repeats in (1, 10):
    manifest = stored.model_copy(update={"splits": {"train": stored.splits["train"] * repeats}})
    plan = plan_epoch(manifest.shard_rows("train"), 1, 256, 0, 0)
    rows = sum(float(batch["weight"].numpy().sum()) for batch in batches(folder, manifest, "train", plan, 0))
    assert rows == 20480 * repeats
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    one, ten = map(int, done.stdout.split())
    assert ten < 1.1 * one


def test_stored_tensors_are_what_petastorm_gave(stored: tuple[str, Manifest]) -> None:
    """The same shard through pyarrow alone."""
    table = pq.ParquetFile(f"{stored[0]}/{shard_path('train', 1)}").read()
    plan = plan_of(stored[1], batch=40, shuffle=False)
    found = read(stored, plan)[1]
    assert np.array_equal(found["features"], decode_features(table["features"].combine_chunks(), PARTICLES, FEATURES))
    assert set(found) == set(batch_columns(TRAINING_ARROW, (PARTICLES, FEATURES)))

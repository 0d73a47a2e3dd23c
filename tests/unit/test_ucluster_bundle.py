"""Bundles: what was saved is loaded, what was damaged is named, and nothing in them is executed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparton import checksums, storage
from sparton.errors import DataError
from sparton.ucluster import bundle, predict
from tests.clouds import SMALL, SMALL_PUBLISHED, SMALL_WITH_MULTIPLICITY, clouds, inputs, network, write_bundle

CENTROIDS = ((-1.0, 0.0), (0.5, 1.0), (1.0, -1.0))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    model = network(seed=11)
    model.centroids.assign(CENTROIDS)
    description = bundle.Description(
        format=bundle.FORMAT,
        model=SMALL,
        inputs=inputs(),
        centroids=CENTROIDS,
        training={"seed": 11},
        versions={"sparton": "0"},
    )
    bundle.save(str(tmp_path / "bundle"), model, description, {"epoch": 1}, "epoch\n1\n")
    return str(tmp_path / "bundle")


def test_loaded_network_predicts_what_the_saved_one_did(folder: str) -> None:
    features, counts = clouds([3, 12, 7, 1])
    loaded = bundle.load(folder)
    embedding, distance, cluster = predict.assign(loaded, features, counts)
    expected = np.asarray(network(seed=11)(features, counts).embedding)
    np.testing.assert_allclose(embedding, expected, rtol=1e-6, atol=1e-6)
    brute = np.linalg.norm(expected[:, None] - np.array(CENTROIDS)[None], axis=-1)
    np.testing.assert_allclose(distance, brute, rtol=1e-5)
    np.testing.assert_array_equal(cluster, brute.argmin(axis=1))
    assert loaded.feature_names == inputs().feature_names
    assert loaded.feature_spec.n_particles == inputs().n_particles
    assert loaded.feature_spec.mass.definition == "ungroomed"  # to assign never grooms
    np.testing.assert_array_equal(loaded.centroids, np.array(CENTROIDS, np.float32))


def test_published_network_comes_back_from_its_bundle(tmp_path: Path) -> None:
    model = network(settings=SMALL_PUBLISHED, seed=11)
    description = bundle.Description(
        format=bundle.FORMAT, model=SMALL_PUBLISHED, inputs=inputs(), centroids=CENTROIDS, training={}, versions={}
    )
    bundle.save(str(tmp_path), model, description, {}, "epoch\n")
    loaded = bundle.load(str(tmp_path))
    assert loaded.description == description
    for one, other in zip(model.variables, loaded.model.variables, strict=True):
        assert one.path == other.path
        np.testing.assert_array_equal(one, other)


def test_multiplicity_is_part_of_the_bundle_and_a_bundle_from_before_it_is_one_without(
    tmp_path: Path, folder: str
) -> None:
    model = write_bundle(str(tmp_path / "with"), SMALL_WITH_MULTIPLICITY)
    loaded = bundle.load(str(tmp_path / "with"))
    assert loaded.description.model.multiplicity
    features, counts = clouds([3, 12, 7, 1])
    expected = np.asarray(model(features, counts).embedding)
    np.testing.assert_allclose(predict.assign(loaded, features, counts)[0], expected, rtol=1e-6, atol=1e-6)

    path = storage.join(folder, bundle.DESCRIPTION)
    values = storage.read_json(path)
    del values["model"]["multiplicity"]
    before = predict.assign(bundle.load(folder), features, counts)
    storage.write_json(path, values)
    resum(folder)
    for one, other in zip(before, predict.assign(bundle.load(folder), features, counts), strict=True):
        np.testing.assert_array_equal(one, other)


def test_prediction_does_not_depend_on_the_batches(folder: str) -> None:
    features, counts = clouds([3, 12, 7, 1, 5, 5, 9])
    loaded = bundle.load(folder)
    whole = predict.assign(loaded, features, counts, batch_size=100)
    parts = predict.assign(loaded, features, counts, batch_size=2)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_prediction_of_nothing(folder: str) -> None:
    embedding, distance, cluster = predict.assign(bundle.load(folder), *clouds([])[:2])
    assert (embedding.shape, distance.shape, cluster.shape) == ((0, 2), (0, 3), (0,))


def test_files_are_those_of_the_contract(folder: str) -> None:
    assert storage.list_files(folder) == sorted(bundle.FILES)


@pytest.mark.parametrize("name", bundle.CHECKED)
def test_changed_file_is_named(folder: str, name: str) -> None:
    path = Path(folder) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=f"{name}: SHA-256"):
        bundle.load(folder)


@pytest.mark.parametrize("name", bundle.FILES)
def test_missing_file_is_named(folder: str, name: str) -> None:
    (Path(folder) / name).unlink()
    with pytest.raises(DataError, match=f"{name}: no such file"):
        bundle.load(folder)


def resum(folder: str) -> None:
    checksums.write(folder, bundle.CHECKED)


def test_other_format_is_refused(folder: str) -> None:
    path = storage.join(folder, bundle.DESCRIPTION)
    storage.write_json(path, storage.read_json(path) | {"format": 99})
    resum(folder)
    with pytest.raises(DataError, match="bundle format 99, this release reads 1"):
        bundle.load(folder)


def test_weights_of_another_network_are_refused(folder: str) -> None:
    path = storage.join(folder, bundle.DESCRIPTION)
    values = storage.read_json(path)
    values["model"]["second_block"] = [9]
    storage.write_json(path, values)
    resum(folder)
    with pytest.raises(DataError, match="weights do not fit"):
        bundle.load(folder)


def test_description_with_an_unknown_key_is_refused(folder: str) -> None:
    path = storage.join(folder, bundle.DESCRIPTION)
    storage.write_json(path, storage.read_json(path) | {"code": "import os"})
    resum(folder)
    with pytest.raises(DataError, match="unknown key 'code'"):
        bundle.load(folder)

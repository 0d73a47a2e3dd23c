"""What TensorFlow computes is what the compiled kernels and NumPy compute; which of them is taken, and why not."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparton.distributed import devices
from sparton.errors import ConfigError, TrainingError
from sparton.sgd import backend
from sparton.sgd.backend import Backend, Processor
from sparton.sgd.clusters import Clusters, PossibilisticClusters
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.online import Online
from sparton.sgd.settings import ClusterSettings, KMeansSettings, PossibilisticSettings
from sparton.sgd.stream_settings import StreamSettings
from sparton.sgd.train import fit
from tests.unit.test_sgd_compute import problem, squares
from tests.unit.test_sgd_kmeans import blobs

Array = NDArray[Any]

PRECISIONS = [("float32", 1e-5), ("float64", 1e-12)]


@pytest.fixture(scope="module")
def tensors() -> Backend:
    """TensorFlow on the CPU, in chunks of a few rows."""
    from sparton.sgd.tensors import Tensors

    return Tensors("/CPU:0", chunk_bytes=8 * 7 * 300)


def close(found: Array, expected: Array, tolerance: float) -> bool:
    """Tell whether arrays agree in units of the largest value."""
    return bool(np.abs(np.asarray(found) - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=1e-300))


@pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("n", "d", "k"), [(0, 3, 2), (1, 1, 1), (700, 3, 2), (2500, 5, 7), (999, 7, 130)])
def test_sums_over_clusters_are_those_of_brute_force(
    tensors: Backend, n: int, d: int, k: int, precision: str, tolerance: float
) -> None:
    rows, weight, coordinates, centroids = problem(n, d, k, 1, precision)
    away = squares(rows, coordinates, centroids)
    label = tensors.nearest(rows, coordinates, centroids, precision)
    assert label.dtype == np.int32
    assert np.all(away[np.arange(n), label] <= away.min(axis=1, initial=np.inf) + tolerance)
    residuals, counts, inertia = tensors.cluster_sums(rows, weight, coordinates, centroids, precision)
    difference = coordinates.points(rows) - centroids[label]
    shares = np.zeros((k, n))
    shares[label, np.arange(n)] = weight
    assert close(residuals, shares @ difference, 1e-12)
    assert counts.tolist() == shares.sum(axis=1).tolist()
    assert inertia == pytest.approx(float((weight * np.square(difference).sum(axis=1)).sum()), rel=1e-12)
    assert close(tensors.distances(rows, coordinates, centroids), np.sqrt(away), 1e-6)


@pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS)
def test_typicalities_are_those_of_brute_force(tensors: Backend, precision: str, tolerance: float) -> None:
    rows, weight, coordinates, centroids = problem(900, 4, 9, 3, precision)
    widths = np.linspace(0.5, 4, 9)
    scaled = squares(rows, coordinates, centroids) / widths
    typical = np.exp(-scaled) * weight[:, None]
    residuals, masses = tensors.typicality_sums(rows, weight, coordinates, centroids, widths, precision)
    expected = typical.T @ coordinates.points(rows) - typical.sum(axis=0)[:, None] * centroids
    assert close(residuals, expected, tolerance)
    assert close(masses, typical.sum(axis=0), tolerance)
    label = tensors.most_typical(rows, coordinates, centroids, widths, precision)
    assert np.all(scaled[np.arange(900), label] <= scaled.min(axis=1) + 10 * tolerance)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 300), d=st.integers(1, 6), k=st.integers(1, 30), seed=st.integers(0, 10_000))
def test_tensors_and_kernels_agree(tensors: Backend, n: int, d: int, k: int, seed: int) -> None:
    rows, weight, coordinates, centroids = problem(n, d, k, seed, "float64")
    widths, kernels = np.linspace(0.3, 3, k), Processor()
    places = coordinates, centroids
    assert np.array_equal(tensors.nearest(rows, *places, "float64"), kernels.nearest(rows, *places, "float64"))
    assert np.array_equal(
        tensors.most_typical(rows, *places, widths, "float64"), kernels.most_typical(rows, *places, widths, "float64")
    )

    def sums(computing: Backend) -> tuple[Any, ...]:
        typical = computing.typicality_sums(rows, weight, *places, widths, "float64")
        return (*computing.cluster_sums(rows, weight, *places, "float64"), *typical)

    for one, other in zip(sums(tensors), sums(kernels), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_the_first_of_equal_centroids_is_taken(tensors: Backend) -> None:
    coordinates, row = Coordinates.of([0.0, 0.0]), np.array([[1.0, 0.1]], np.float32)
    centroids = np.array([[9.0, 9.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [9.0, 9.0], [1.0, 0.0]])
    assert tensors.nearest(row, coordinates, centroids, "float32").tolist() == [1]
    assert tensors.most_typical(row, coordinates, centroids, np.ones(6), "float32").tolist() == [1]


def test_nothing_cancels_far_from_zero(tensors: Backend) -> None:
    """Sums of differences of 1e-3 between points that are 1e4 from the origin keep nine digits."""
    rng = np.random.default_rng(0)
    coordinates, centroids = Coordinates.of([0.0, 0.0]), np.array([[1e4, 1e4], [-1e4, 0.0]])
    rows = centroids[rng.integers(0, 2, 500)] + rng.normal(0, 1e-3, (500, 2))
    given = rows, np.ones(500), coordinates, centroids, "float32"
    found, expected = tensors.cluster_sums(*given), Processor().cluster_sums(*given)
    assert close(found[0], expected[0], 1e-9)
    assert found[2] == pytest.approx(expected[2], rel=1e-9)


def test_norms_beyond_the_precision_are_named(tensors: Backend) -> None:
    coordinates, centroids, rows = Coordinates.of([0.0]), np.array([[1e25], [0.0]]), np.full((3, 1), 1e25)
    calls = {
        "squared distances of the centroids": lambda: tensors.nearest(rows, coordinates, centroids, "float32"),
        "products of rows and centroids": lambda: tensors.typicality_sums(
            rows, np.ones(3), coordinates, centroids, np.ones(2), "float32"
        ),
    }
    for what, call in calls.items():
        with pytest.raises(TrainingError, match=f"{what} exceed float32; .*cluster.precision: float64"):
            call()
    with pytest.raises(TrainingError, match="products of rows and centroids exceed float32"):
        tensors.most_typical(rows, coordinates, centroids, np.ones(2), "float32")
    assert tensors.nearest(rows, coordinates, centroids, "float64").tolist() == [0, 0, 0]


def test_matrix_products_are_not_those_of_tensor_float_32() -> None:
    import tensorflow as tf

    from sparton.sgd.tensors import full_precision

    enabled = tf.config.experimental.tensor_float_32_execution_enabled
    before = enabled()
    with full_precision():
        assert not enabled()
    assert enabled() is before


@pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(
    "chosen",
    [
        KMeansSettings(n_clusters=4, epochs=3, batch_size=64, decay=0.95),
        PossibilisticSettings(n_clusters=6, epochs=3, batch_size=64, decay=0.95),
    ],
)
def test_a_training_finds_the_same_clusters(
    tensors: Backend, monkeypatch: pytest.MonkeyPatch, chosen: ClusterSettings, precision: str, tolerance: float
) -> None:
    rows = blobs(600, 3, 4, seed=4)[0].astype(precision)
    chosen = chosen.model_copy(update={"precision": precision})
    expected = fit(rows, chosen)
    monkeypatch.setattr("sparton.sgd.train.chosen", lambda device, work: tensors)
    found = fit(rows, chosen)
    assert close(found.clusters.centroids, expected.clusters.centroids, tolerance)
    assert found.objective == pytest.approx(expected.objective, rel=tolerance)
    label, distance = found.clusters.assign(rows, tensors)
    assert np.array_equal(label, expected.clusters.assign(rows)[0])
    every = found.clusters.distances(rows, tensors)
    assert close(every[np.arange(600), label], distance, 1e-5)


def test_cpu_and_small_steps_need_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_gpu", lambda: pytest.fail("looked for a GPU"))
    assert backend.chosen("cpu", 1e12) == Processor()
    assert backend.chosen("auto", 1e6) == Processor()
    assert backend.of_task("cpu") == Processor(threads=1)
    assert backend.of_task("auto") == Processor(threads=1)


def test_auto_takes_a_gpu_for_large_steps_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparton.sgd.tensors import Tensors

    for there, expected in ((False, Processor()), (True, Tensors())):
        monkeypatch.setattr(devices, "has_gpu", lambda there=there: there)
        assert backend.chosen("auto", 1e9) == expected
    assert backend.chosen("gpu", 1) == Tensors()
    assert pickle.loads(pickle.dumps(Tensors())) == Tensors()


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    told = r"cluster.device is gpu, but TensorFlow .* sees none here: .* set cluster.device: auto, or cpu"
    for call in (lambda: backend.chosen("gpu", 1), lambda: backend.of_task("gpu")):
        with pytest.raises(TrainingError, match=told):
            call()
    rows = blobs(100, 2, 2)[0]
    with pytest.raises(TrainingError, match="sees none here"):
        fit(rows, KMeansSettings(n_clusters=2, device="gpu"))
    with pytest.raises(ConfigError, match=r"cluster\.device is gpu: rows of a stream"):
        Online(KMeansSettings(device="gpu"), StreamSettings())


@pytest.mark.parametrize(
    ("hidden", "files", "may_have"),
    [(None, (), False), ("", ("/dev/null",), False), ("-1", ("/dev/null",), False), (None, ("/dev/null",), True)],
)
def test_where_no_gpu_can_be_none_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, hidden: str | None, files: tuple[str, ...], may_have: bool
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(devices, "GPU_FILES", files)
    assert devices._may_have_gpu() is may_have


def test_tensorflow_is_not_imported_without_a_gpu() -> None:
    code = (
        "import sys, numpy as np\n"
        "from sparton.sgd.settings import KMeansSettings\n"
        "from sparton.sgd.train import fit\n"
        "rows = np.random.default_rng(0).normal(size=(64, 50))\n"
        "fit(rows, KMeansSettings(n_clusters=50, batch_size=50_000, epochs=1))\n"
        "print('tensorflow' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


def test_a_device_decides_nothing() -> None:
    one = KMeansSettings(device="cpu")
    assert one.deciding() == one.model_copy(update={"device": "auto"}).deciding()


def test_clusters_pass_rows_on_to_the_backend(tensors: Backend) -> None:
    rows, _, coordinates, centroids = problem(50, 3, 4, 1, "float64")
    plain = Clusters(coordinates, centroids, "float64")
    soft = PossibilisticClusters(coordinates, centroids, "float64", widths=np.array([9.0, 1, 1, 0.1]), noise_below=0.1)
    for clusters in (plain, soft, replace(plain, precision="float32")):
        for one, other in zip(clusters.assign(rows, tensors), clusters.assign(rows), strict=True):
            assert np.array_equal(one, other)

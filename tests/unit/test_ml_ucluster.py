from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from sparton.errors import DataError
from sparton.ml.ucluster import _counts, decode

SHAPE = (3, 2)
ROWS = np.arange(24, dtype="<f4").reshape(4, *SHAPE)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_tensors_are_read_where_they_lie(kind: pa.DataType) -> None:
    column = pa.array([row.tobytes() for row in ROWS], kind)
    found = decode(column.slice(1, 2), SHAPE, "features")
    np.testing.assert_array_equal(found, ROWS[1:3])
    assert not found.flags.owndata
    assert decode(column.slice(0, 0), SHAPE, "features").shape == (0, *SHAPE)


def test_a_tensor_of_another_size_or_none_is_named() -> None:
    whole = ROWS[0].tobytes()
    # As many bytes as three right ones have.
    with pytest.raises(DataError, match=r"column x: found a tensor of 20 bytes, expected 24 bytes \(3 particles x 2"):
        decode(pa.array([whole, whole[:-4], whole + whole[:4]], pa.binary()), SHAPE, "x")
    with pytest.raises(DataError, match="column x: found null"):
        decode(pa.array([whole, None], pa.binary()), SHAPE, "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [([1, None], "found null"), ([0, -5], "found -5, expected 0 to 3"), ([4], "found 4, expected 0 to 3")],
)
def test_numbers_of_particles_that_cannot_be_are_named(values: list[int | None], message: str) -> None:
    with pytest.raises(DataError, match=f"column n: {message}"):
        _counts(pa.array(values, pa.int32()), 3, "n")
    assert _counts(pa.array([0, 3], pa.int64()), 3, "n").tolist() == [0, 3]

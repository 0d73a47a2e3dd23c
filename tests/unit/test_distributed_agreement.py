from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparton.distributed import Connection, agreement
from sparton.distributed.simulate import simulate
from sparton.errors import TrainingError


def variables(connection: Connection) -> dict[str, object]:
    return {
        "kernel": tf.Variable(tf.ones([3, 2])),
        "bias": keras.Variable(np.zeros(2, "float32")),
        "nan": np.array([np.nan]),
        "step": tf.constant(7, tf.int64),
    }


def test_equal_variables_agree() -> None:
    simulate(3, lambda connection: agreement.check(connection, variables(connection)))


def test_a_single_rank_exchanges_nothing() -> None:
    agreement.check(Connection.local(), {"x": object()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel", np.nextafter(np.ones((3, 2), "float32"), np.float32(2))),  # one unit in the last place
        ("kernel", np.ones((2, 3), "float32")),
        ("kernel", np.ones((3, 2), "float64")),
        ("bias", np.array([0.0, -0.0], "float32")),
        ("step", np.int64(8)),
    ],
)
def test_the_first_differing_variable_and_its_ranks_are_named(name: str, value: object) -> None:
    def run(connection: Connection) -> None:
        own = variables(connection)
        if connection.world.rank in (1, 3):
            own[name] = value
        agreement.check(connection, own)

    with pytest.raises(TrainingError, match=rf"variable '{name}' on ranks \[1, 3\] differs .*1 of 4"):
        simulate(4, run)


def test_a_missing_variable_is_a_difference() -> None:
    def run(connection: Connection) -> None:
        own = variables(connection)
        if connection.world.rank == 1:
            del own["step"]
        agreement.check(connection, own)

    with pytest.raises(TrainingError, match=r"on ranks \[1\] differs"):
        simulate(2, run)


def test_variables_of_one_name_are_told_apart() -> None:
    def run(connection: Connection) -> None:
        own = [tf.Variable(1.0, name="w"), tf.Variable(float(connection.world.rank), name="w")]
        agreement.check(connection, own)

    with pytest.raises(TrainingError, match=r"'w:0 \(number 1\)' on ranks \[1\]"):
        simulate(2, run)


def test_keras_variables_are_named_by_path() -> None:
    def run(connection: Connection) -> None:
        layer = keras.layers.Dense(1, kernel_initializer="ones", name="head")
        layer.build([None, 2])
        if connection.world.rank == 1:
            layer.bias.assign([5.0])
        agreement.check(connection, layer.variables)

    with pytest.raises(TrainingError, match=r"'head/bias' on ranks \[1\]"):
        simulate(2, run)


def test_what_ranks_were_given_is_compared_before_they_train() -> None:
    def run(connection: Connection) -> None:
        rank = connection.world.rank
        agreement.check_given(connection, {f"the set at /host-{rank}": "a", "the settings": "b" if rank < 2 else "c"})

    with pytest.raises(TrainingError, match=r"the settings of ranks \[2\] differs from that of rank 0; all processes"):
        simulate(3, run)
    agreement.check_given(Connection.local(), {"the settings": "b"})

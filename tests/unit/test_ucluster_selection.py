"""The epoch of the least loss on jets that training has not seen is the one that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from sparton.errors import TrainingError
from sparton.ucluster.curve import CurveRow
from sparton.ucluster.networks import Network
from sparton.ucluster.selection import Selection
from sparton.ucluster.settings import TrainSettings
from tests.clouds import network

LEAST = TrainSettings(select="least_loss", pretrain_epochs=1, joint_epochs=4)
ROW = CurveRow(
    epoch=1,
    phase="pretrain",
    step=1,
    train_focal=1.0,
    train_clustering=None,
    val_focal=None,
    val_clustering=None,
    alpha=None,
    learning_rate=1e-3,
    smallest_cluster=None,
    distance_ratio=None,
    changed=None,
    jets_per_second=1.0,
    seconds=1.0,
    loss_scale=None,
    skipped=None,
)


def mark(model: Network, epoch: int) -> None:
    for variable in model.variables:
        variable.assign(np.full(variable.shape, epoch, np.float32))


def offer(selection: Selection, model: Network, losses: Sequence[float | None], first: int = 1) -> None:
    """End some epochs, after each of which all variables are its number; the first epoch of all is pre-training."""
    for epoch, loss in enumerate(losses, first):
        mark(model, epoch)
        selection.offer(replace(ROW, epoch=epoch, phase="pretrain" if epoch == 1 else "joint", val_focal=loss))


def held(model: Network) -> set[float]:
    return {float(value) for variable in model.variables for value in np.ravel(variable)}


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.0, 0.5, 0.3, 0.4, 0.6], 3),  # pre-training, whose centroids are not placed, is no candidate
        ([0.0, 0.5, 0.3, 0.3, 0.3], 3),
        ([0.0, 0.5, 0.4, 0.3, 0.2], 5),
        ([None, None, 0.4, None, 0.5], 3),
    ],
)
def test_the_earliest_of_the_best_joint_epochs_is_kept(losses: list[float | None], expected: int) -> None:
    model = network()
    selection = Selection(LEAST, model)
    offer(selection, model, losses)
    assert held(model) == {5.0}
    selection.apply()
    assert selection.epoch == expected
    assert held(model) == {float(expected)}


def test_without_joint_epochs_pre_training_is_selected_from() -> None:
    model = network()
    selection = Selection(TrainSettings(select="least_loss", pretrain_epochs=2, joint_epochs=0), model)
    for epoch, loss in ((1, 0.1), (2, 0.2)):
        mark(model, epoch)
        selection.offer(replace(ROW, epoch=epoch, val_focal=loss))
    selection.apply()
    assert held(model) == {1.0}


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_selection_goes_on_from_what_a_checkpoint_holds(cut: int) -> None:
    losses = [0.0, 0.5, 0.3, 0.4, 0.6]
    first = network()
    before = Selection(LEAST, first)
    offer(before, first, losses[:cut])
    second = network(seed=8)
    after = Selection(LEAST, second)
    after.restore({"other": np.zeros(1), **before.state()}, before.notes())
    offer(after, second, losses[cut:], cut + 1)
    after.apply()
    assert (after.epoch, held(second)) == (3, {3.0})


def test_by_default_the_last_epoch_stays_and_nothing_is_held_beside_it() -> None:
    model = network()
    selection = Selection(TrainSettings(pretrain_epochs=1, joint_epochs=4), model)
    offer(selection, model, [0.0, 0.5, 0.3, 0.4, 0.6])
    selection.apply()
    assert (selection.epoch, selection.state(), held(model)) == (None, {}, {5.0})


def test_nothing_to_choose_from_is_said() -> None:
    model = network()
    selection = Selection(LEAST, model)
    offer(selection, model, [0.1, None, None])
    with pytest.raises(TrainingError, match="no epoch had a finite validation loss"):
        selection.apply()

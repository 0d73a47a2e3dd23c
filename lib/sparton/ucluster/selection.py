"""Which epoch's network is kept: the last one, or the one of the least loss on jets that training has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.errors import TrainingError
from sparton.ucluster.curve import CurveRow
from sparton.ucluster.epochs import JOINT
from sparton.ucluster.networks import Network
from sparton.ucluster.settings import TrainSettings

PREFIX = "kept/"
"""What the names of the kept variables begin with in a checkpoint."""

Arrays = dict[str, NDArray[Any]]


class Selection:
    """The best epoch so far and its network, the same on all ranks: what it goes by is a sum over all of them.

    The criterion is the mean loss of the target on the validation split (``val_focal``). It knows no label, and can be
    compared between epochs: the clustering loss falls by itself while alpha rises, and falls where an embedding
    shrinks, so the least of it is no sign of good clusters. Where there are joint epochs, only these are candidates:
    centroids of the others are not placed. Of equal losses the earlier epoch is kept.

    Parameters
    ----------
    settings
        Say whether there is anything to select.
    model
        The network that is trained.

    Attributes
    ----------
    epoch
        The best epoch, counted from 1; None before the first candidate, and where nothing is selected.
    """

    def __init__(self, settings: TrainSettings, model: Network) -> None:
        self.epoch: int | None = None
        self._active = settings.select == "least_loss"
        self._joint = settings.joint_epochs > 0
        self._model = model
        self._loss: float | None = None
        self._kept: Arrays = {}
        if self._active:
            self._kept = self._current()

    def offer(self, row: CurveRow) -> None:
        """Keep the network as it is if the epoch that has just ended is the best one so far."""
        candidate = self._active and (row.phase == JOINT) == self._joint
        if not candidate or row.val_focal is None:
            return
        if self._loss is None or row.val_focal < self._loss:
            self.epoch, self._loss, self._kept = row.epoch, row.val_focal, self._current()

    def apply(self) -> None:
        """Give the network the variables of the best epoch; without selection leave it as it is.

        Raises
        ------
        TrainingError
            If no epoch had a finite loss on the validation split.
        """
        if not self._active:
            return
        if self.epoch is None:
            raise TrainingError(
                "no epoch had a finite validation loss, so train.select: least_loss has nothing to choose; look for "
                "broken jets in the val split, or take select: last"
            )
        for variable, value in zip(self._model.variables, self._kept.values(), strict=True):
            variable.assign(value)

    def state(self) -> Arrays:
        """Return the kept variables by name, for a checkpoint; none where nothing is selected."""
        return dict(self._kept)

    def notes(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside them, as plain values."""
        return {"epoch": self.epoch, "loss": self._loss}

    def restore(self, state: Mapping[str, NDArray[Any]], notes: Mapping[str, Any]) -> None:
        """Take what :meth:`state` and :meth:`notes` gave; the state may hold other arrays too."""
        self.epoch, self._loss = notes["epoch"], notes["loss"]
        self._kept = {name: state[name] for name in self._kept}

    def _current(self) -> Arrays:
        variables = enumerate(self._model.variables)
        return {f"{PREFIX}{index:04d}:{variable.path}": np.array(variable) for index, variable in variables}

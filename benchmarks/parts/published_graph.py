"""The published network's embeddings, computed by the published code itself in a process of its own.

    python published_graph.py CODE CHECKPOINT FEATURES.npy EMBEDDING.npy

CODE is a clone of the authors' repository (github ViniciusMikuni/UCluster), whose modules ``gapnet_classify`` and
``tf_util`` are imported and run. They were written for TensorFlow 1: they are given its interface in TensorFlow 2, and
the two functions of ``contrib`` that they call. Every variable of their graph must be in the checkpoint, or nothing is
computed.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tensorflow_2
from numpy.typing import NDArray

BATCH = 128
MODELS, UTILITIES = "models", "utils"
FILES = (f"{MODELS}/gapnet_classify.py", f"{MODELS}/gat_layers.py", f"{UTILITIES}/tf_util.py")
BINS = 20


def main(code: str, checkpoint: str, features: str, target: str) -> None:
    """Write the embeddings float32 [n, 3] of features float32 [n, P, 8]."""
    np.save(target, embeddings(Path(code), checkpoint, np.load(features)))


def embeddings(code: Path, checkpoint: str, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the graph makes of features in inference mode, a fixed number of jets at a time."""
    v1 = tensorflow_2.compat.v1
    v1.disable_v2_behavior()
    network = _published_module(code, v1)
    points = v1.placeholder(v1.float32, (BATCH, *features.shape[1:]))
    is_training = v1.placeholder(v1.bool, ())
    _, embedding = network.get_model(points, is_training=is_training, num_class=BINS)
    found = []
    with v1.Session() as session:
        _restore(session, v1, checkpoint)
        for start in range(0, len(features), BATCH):
            part = features[start : start + BATCH]
            full = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)])
            values = session.run(embedding, {points: full, is_training: False})
            found.append(values.reshape(BATCH, -1)[: len(part)])
    return np.concatenate(found)


def _restore(session: Any, v1: Any, checkpoint: str) -> None:
    reader = tensorflow_2.train.load_checkpoint(checkpoint)
    shapes = reader.get_variable_to_shape_map()
    variables = v1.global_variables()
    wrong = [variable.op.name for variable in variables if shapes.get(variable.op.name) != variable.shape.as_list()]
    if wrong or not variables:
        raise SystemExit(f"{checkpoint}: found no {', '.join(wrong)} of the shape of the published graph's variables")
    for variable in variables:
        variable.load(reader.get_tensor(variable.op.name), session)


def _published_module(code: Path, v1: Any) -> ModuleType:
    """Import the network's module, for which ``tensorflow`` is version 1."""
    missing = [name for name in FILES if not (code / name).is_file()]
    if missing:
        raise SystemExit(f"{code}: found no {', '.join(missing)}, expected a clone of the authors' repository")
    layers = SimpleNamespace(xavier_initializer=v1.glorot_uniform_initializer, bias_add=_bias_add(v1))
    interface = _Interface(v1, SimpleNamespace(layers=layers))
    sys.path[:0] = [str(code / MODELS), str(code / UTILITIES)]
    sys.modules["tensorflow"] = interface
    try:
        return importlib.import_module("gapnet_classify")
    finally:
        sys.modules["tensorflow"] = tensorflow_2


class _Interface(ModuleType):
    """TensorFlow 1's names, with ``contrib``."""

    def __init__(self, v1: Any, contrib: Any) -> None:
        super().__init__("tensorflow")
        self._v1 = v1
        self.contrib = contrib

    def __getattr__(self, name: str) -> Any:
        return getattr(self._v1, name)


def _bias_add(v1: Any) -> Any:
    """Return what adds a bias to each channel, a variable of the name that ``contrib`` gave it."""

    def bias_add(rows: Any) -> Any:
        with v1.variable_scope(None, default_name="BiasAdd"):
            biases = v1.get_variable("biases", [rows.shape[-1]], initializer=v1.zeros_initializer())
        return v1.nn.bias_add(rows, biases)

    return bias_add


if __name__ == "__main__":
    main(*sys.argv[1:])

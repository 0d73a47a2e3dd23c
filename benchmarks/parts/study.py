"""One training of the quality study, with an evaluation after each epoch that the training never sees.

A run is a folder: ``epoch-NNN.json`` for each epoch, checkpoints while it trains, ``result.json`` when it is done. A
run that was killed goes on from its last checkpoint; one that is done is not run again.
"""

from __future__ import annotations

import json
import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from numpy.typing import NDArray

from sparton import storage
from sparton.config import fingerprint
from sparton.data.batches import batches
from sparton.data.featurize import decode_features
from sparton.data.manifest import Manifest, read_manifest
from sparton.data.plan import EpochPlan
from sparton.data.settings import TRAIN, VALIDATION
from sparton.distributed.world import Connection
from sparton.report.baselines import BaselineResult
from sparton.report.metrics import LabelMetrics, contingency, describe_labels, encode_labels, order_classes
from sparton.ucluster.curve import CurveRow
from sparton.ucluster.epochs import JOINT
from sparton.ucluster.losses import squared_distances
from sparton.ucluster.networks import Network, create
from sparton.ucluster.precision import POLICIES
from sparton.ucluster.settings import InputSpec, ModelSettings, TrainSettings
from sparton.ucluster.train import COLUMNS, Trainer

RESULT, RESULTS = "result.json", "epoch-*.json"
TEST = "test"
BATCH = 1024
IDENTITY_CHARACTERS = 10

logger = logging.getLogger(__name__)

Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What is trained.

    Attributes
    ----------
    name
        Of the run, unique but for the seed.
    text
        What it shows, for the table.
    group
        Runs of a group have the same number of epochs and can be compared.
    target
        Name of the training set.
    model, training
        Settings; ``training.seed`` is the run's.
    trainer
        Trains it.
    network
        Network in place of the library's; None takes what the settings say.
    train_jets
        How many jets to train on, rounded up to shards; None takes all.
    halving_epochs
        After how many epochs the ``halving`` schedules take their next step, in place of a number of jets.
    """

    name: str
    text: str
    group: str
    target: str
    model: ModelSettings
    training: TrainSettings
    trainer: type[StudyTrainer]
    network: type[Any] | None = None
    train_jets: int | None = None
    halving_epochs: float | None = None

    def identity(self, manifest: Manifest) -> str:
        """Return what tells runs apart, of settings and data; settings that come with a later version do not count."""
        what: list[Any] = [self.name]
        what += [settings.model_dump(mode="json", exclude_defaults=True) for settings in (self.model, self.training)]
        further = {"train_jets": self.train_jets, "halving_epochs": self.halving_epochs}
        what += [{name: value} for name, value in further.items() if value is not None]
        return fingerprint([*what, manifest.model_dump(mode="json")])[:IDENTITY_CHARACTERS]

    def part(self, manifest: Manifest) -> Manifest:
        """Return a manifest with no more shards of the train split than the run trains on; the first are a sample."""
        if self.train_jets is None:
            return manifest
        shards = manifest.shards(TRAIN)
        needed = int(np.searchsorted(np.cumsum([shard.rows for shard in shards]), self.train_jets)) + 1
        return manifest.model_copy(update={"splits": {**manifest.splits, TRAIN: shards[:needed]}})

    def settings(self, manifest: Manifest) -> TrainSettings:
        """Return how the run trains on a set."""
        if self.halving_epochs is None:
            return self.training
        samples = round(self.halving_epochs * self.part(manifest).rows(TRAIN))
        return self.training.model_copy(update={"halving_samples": samples})


@dataclass(frozen=True)
class LabelledJets:
    """Jets of a split, with the names of their classes.

    Features float32 [n, P, F], particles int32 [n], class indexes int64 [n], masses (GeV) float32 [n], ids int64 [n],
    and targets of pre-training int64 [n].
    """

    features: NDArray[np.float32]
    n_particles: NDArray[np.int32]
    label: NDArray[np.int64]
    mass: NDArray[np.float32]
    jet_id: NDArray[np.int64]
    target: NDArray[np.int64]
    classes: tuple[str, ...]

    @classmethod
    def read(cls, folder: str, split: str, with_features: bool = True) -> LabelledJets:
        """Read a split of a training set, without its features on demand."""
        manifest = read_manifest(folder)
        names = ["jet_id", "label", "jet_mass", "n_particles", "target", *(["features"] if with_features else [])]
        paths = [storage.join(folder, shard.path) for shard in manifest.shards(split)]
        table = pa.concat_tables([pq.ParquetFile(path).read(columns=names) for path in paths])
        labels = table.column("label").to_pylist()
        classes = order_classes(name for name in labels if name)
        shape = manifest.feature_shape
        features = (
            np.concatenate([decode_features(part, *shape) for part in table.column("features").chunks])
            if with_features
            else np.zeros((0, *shape), np.float32)
        )
        return cls(
            features,
            table.column("n_particles").to_numpy().astype(np.int32),
            encode_labels(labels, classes),
            table.column("jet_mass").to_numpy(),
            table.column("jet_id").to_numpy(),
            table.column("target").to_numpy().astype(np.int64),
            classes,
        )


def target_agreement(name: str, jets: LabelledJets) -> BaselineResult:
    """Return how well the target of pre-training itself, as a clustering, agrees with the labels."""
    found = describe_labels(contingency(jets.target, jets.label, n_classes=len(jets.classes)), jets.classes)
    scores = (found.accuracy, found.adjusted_rand_index, found.normalized_mutual_information)
    return BaselineResult(name, False, (), found.rows, *scores)


def home(item: Run, set_folder: str, folder: Path) -> Path:
    """Return the folder of a run, which other settings or data would not share."""
    return folder / f"{item.name}-seed{item.training.seed}-{item.identity(read_manifest(set_folder))}"


def run(item: Run, set_folder: str, folder: Path, test: LabelledJets) -> Result:
    """Train if it is not done yet, and return the result."""
    own = home(item, set_folder, folder)
    done = own / RESULT
    if done.exists():
        return _read(done)
    own.mkdir(parents=True, exist_ok=True)
    trainer = item.trainer(item, set_folder, own, test)
    summary = trainer.run(str(own / "model"))
    epochs = [_read(path) for path in sorted(own.glob(RESULTS))]
    curve = {row.epoch: row.to_json() for row in trainer.rows}
    epochs = [epoch | {"curve": curve[epoch["epoch"]]} for epoch in epochs]
    result = {
        "name": item.name,
        "text": item.text,
        "group": item.group,
        "seed": item.training.seed,
        "jets": {TRAIN: trainer.manifest.rows(TRAIN), TEST: len(test.label)},
        "pretrain_epochs": item.training.pretrain_epochs,
        "joint_epochs": item.training.joint_epochs,
        "epochs": epochs,
        "final": trainer.describe(trainer.final_clusters()),
        "seconds": sum(row.seconds for row in trainer.rows),
        "exchange_bytes": summary.exchange_bytes,
        "skipped": (summary.skipped or 0) / summary.steps,
        "code": code_version(),
        "weights": int(sum(np.prod(variable.shape) for variable in trainer.model.trainable_variables)),
    }
    storage.remove(str(own / "checkpoints"))
    storage.write_json(str(done), result)
    return _read(done)


def code_version() -> str | None:
    """Return the commit that this code is, marked where files differ from it; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def use_threads(count: int) -> None:
    """Set TensorFlow's threads of this process, if it has not begun to use them."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        logger.info("TensorFlow runs already; its threads stay as they are")


def _read(path: Path) -> Result:
    return dict(json.loads(path.read_text(encoding="utf-8")))


class StudyTrainer(Trainer):
    """A training in one process that looks at the test split after each epoch.

    Parameters
    ----------
    item
        What is trained.
    set_folder, folder
        The training set, and where the run's files go.
    test
        Jets to evaluate on.
    """

    def __init__(self, item: Run, set_folder: str, folder: Path, test: LabelledJets) -> None:
        self.item = item
        self.test = test
        self.folder = folder
        settings = item.settings(read_manifest(set_folder))
        super().__init__(Connection.local(), set_folder, str(folder / "checkpoints"), item.model, settings)
        shape = (None, *self.test.features.shape[1:])
        self._embed = tf.function(
            lambda features, counts: self.model(features, counts),
            input_signature=[tf.TensorSpec(shape, tf.float32), tf.TensorSpec((None,), tf.int32)],
        )

    def network(self, model: ModelSettings) -> Network:
        """Return the network of the run, which is to train on its part of the jets."""
        self.manifest = self.item.part(self.manifest)
        if self.item.network is None:
            return super().network(model)
        policy = POLICIES[self.settings.precision]
        return self._built(self.item.network(model, self.inputs(), self.settings.seed, dtype=policy))

    def inputs(self) -> InputSpec:
        """Return what the run's own network reads."""
        return InputSpec.of(self.manifest)

    @staticmethod
    def _built(network: Any) -> Any:
        network.build()
        return network

    def epoch_ended(self, row: CurveRow) -> None:
        """Write what labels say, before the checkpoint: where that is there, so is the record."""
        joint = row.phase == JOINT
        record = {"epoch": row.epoch, "joint": joint, **self.scores(self.clusters(placed=joint))}
        storage.write_json(str(self.folder / f"epoch-{row.epoch:03d}.json"), record)
        logger.info("%s: test accuracy %.4f", self.item.name, record["accuracy"])

    def clusters(self, placed: bool) -> NDArray[np.int64]:
        """Return the cluster of each test jet; while no centroids are placed, by those that training would place."""
        embedding, logits = self.predictions()
        centroids = self.model.centroids.numpy()
        if not placed:
            centroids = self._found_centroids(embedding, logits).astype(np.float32)
        return np.asarray(squared_distances(embedding, centroids)).argmin(axis=1)

    def final_clusters(self) -> NDArray[np.int64]:
        """Return the cluster of each test jet in the end."""
        return self.clusters(placed=True)

    def predictions(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return embeddings [n, D] and logits [n, classes] of the test jets, in inference mode."""
        features, counts = self.test.features, self.test.n_particles
        found = [
            self._embed(features[start : start + BATCH], counts[start : start + BATCH])
            for start in range(0, len(features), BATCH)
        ]
        return np.concatenate([part.embedding for part in found]), np.concatenate([part.logits for part in found])

    def describe(self, clusters: NDArray[np.int64]) -> Result:
        """Return all that labels say of clusters."""
        found = self._metrics(clusters)
        return {
            "accuracy": found.accuracy,
            "adjusted_rand_index": found.adjusted_rand_index,
            "normalized_mutual_information": found.normalized_mutual_information,
            "classes": found.classes,
            "class_recall": found.class_recall,
            "permutation": found.permutation,
            "contingency": found.contingency,
        }

    def scores(self, clusters: NDArray[np.int64]) -> Result:
        """Return the accuracy of clusters."""
        return {"accuracy": self._metrics(clusters).accuracy}

    def _metrics(self, clusters: NDArray[np.int64]) -> LabelMetrics:
        classes = self.test.classes
        table = contingency(clusters, self.test.label, self.model.settings.n_clusters, len(classes))
        return describe_labels(table, classes)


class Supervised(StudyTrainer):
    """The ceiling: the network's classifier learns the labels, and its choices are what is evaluated."""

    def __init__(self, item: Run, set_folder: str, folder: Path, test: LabelledJets) -> None:
        train = LabelledJets.read(set_folder, TRAIN, with_features=False)
        self._labels = train.label.astype(np.int32)[np.argsort(train.jet_id)]
        self._ids = np.sort(train.jet_id)
        super().__init__(item, set_folder, folder, test)

    def network(self, model: ModelSettings) -> Network:
        """Return the network with as many logits as there are classes."""
        # The validation split has mass bins for targets, which this network knows nothing of.
        manifest = self.item.part(self.manifest)
        splits = {name: shards for name, shards in manifest.splits.items() if name != VALIDATION}
        self.manifest = manifest.model_copy(update={"splits": splits})
        edges = tuple(float(index) for index in range(len(self.test.classes)))
        inputs = InputSpec.of(self.manifest).model_copy(update={"mass_bin_edges": edges})
        return create(model, inputs, self.settings.seed, self.settings.precision)

    def batches(self, plan: EpochPlan) -> tf.data.Dataset:
        """Return the batches with the class in place of the mass bin; padding has class 0 and weight 0."""
        start = self.progress.position.step
        data = batches(self.set_folder, self.manifest, TRAIN, plan, 0, start, (*COLUMNS, "jet_id"))
        ids, labels = tf.constant(self._ids), tf.constant(self._labels)

        def labelled(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            place = tf.minimum(tf.searchsorted(ids, batch["jet_id"]), len(self._ids) - 1)
            return batch | {"target": tf.gather(labels, place)}

        return data.map(labelled)

    def clusters(self, placed: bool) -> NDArray[np.int64]:
        """Return the class that the classifier chooses for each test jet."""
        return self.predictions()[1].argmax(axis=1)


class CentroidsEachEpoch(StudyTrainer):
    """Centroids are sought anew before each joint epoch."""

    def _epoch(self) -> None:
        position = self.progress.position
        if position.epoch > self.settings.pretrain_epochs and position.at_start:
            self._place_centroids()
        super()._epoch()

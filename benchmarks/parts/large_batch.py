"""UCluster trained with the batches of many workers, by one process: what linear scaling and warm-up do to quality.

N workers with B jets each make the steps of one with N B (docs/distributed.md, Exactness), so one process shows what
they would reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts.recipes import PEAKS
from parts.study import TEST, LabelledJets, Result, Run, StudyTrainer, run, use_threads
from sparton.data.manifest import read_manifest
from sparton.data.plan import EpochPlan
from sparton.data.settings import TRAIN
from sparton.optim.schedules import WarmupShape
from sparton.pipeline import PipelineSettings, generate, prepare
from sparton.ucluster.schedule import schedule_at
from sparton.ucluster.settings import TrainSettings
from sparton.ucluster.step import Schedule

GROUP = "large_batch"
ONE_WORKER_BATCH = 128
WORKERS = (1, 8, 32)
WARMUPS: tuple[WarmupShape | None, ...] = (None, "linear", "cosine")
WARMUP_EPOCHS = 1


@dataclass(frozen=True)
class LargeBatchRun(Run):
    """A training of so many workers; ``training`` is that of the one process that makes the steps of all."""

    workers: int = 1

    @property
    def worker_settings(self) -> TrainSettings:
        """Return the settings of each of the workers."""
        return self.training.model_copy(update={"batch_size": self.training.batch_size // self.workers})


class LargeBatchTrainer(StudyTrainer):
    """Reads the batches of all workers as one, and follows the schedule that they would."""

    item: LargeBatchRun

    def schedule(self, plan: EpochPlan, step: int) -> Schedule:
        """Return what the workers' schedule is in this step."""
        epoch, steps = self.progress.position.epoch, self._epoch_steps
        position, skipped = steps - plan.steps + step, self.progress.skipped_steps()
        return schedule_at(self.item.worker_settings, self.item.workers, epoch, position, steps, skipped)


def runs(recipe: PipelineSettings, target: str, jets: int, epochs: tuple[int, int], seed: int) -> list[LargeBatchRun]:
    """Return the runs, those of one worker first.

    Parameters
    ----------
    recipe
        The default recipe; its learning rates belong to its batch, and are scaled to that of one worker here.
    target
        Folder name of the training set.
    jets
        Jets of its train split, which give the steps of an epoch.
    epochs
        Of pre-training, the first of which is the warm-up, and of the joint phase.
    seed
        Of all runs.
    """
    share = ONE_WORKER_BATCH / recipe.train.batch_size
    plain = recipe.train.model_copy(
        update={
            "batch_size": ONE_WORKER_BATCH,
            "learning_rate": share * recipe.train.learning_rate,
            "joint_learning_rate": share * recipe.train.joint_learning_rate,
            "pretrain_epochs": epochs[0],
            "joint_epochs": epochs[1],
            "warmup_from": "one_worker",
            "warmup_steps": 0,
            "seed": seed,
        }
    )
    found = []
    for workers in WORKERS:
        steps = -(-jets // (workers * ONE_WORKER_BATCH))
        for scaled in (False, True) if workers > 1 else (False,):
            for shape in WARMUPS if scaled else (None,):
                changes: dict[str, Any] = {"linear_scaling": scaled, "batch_size": workers * ONE_WORKER_BATCH}
                if shape is not None:
                    changes |= {"warmup": shape, "warmup_steps": WARMUP_EPOCHS * steps}
                found.append(_run(recipe, target, plain.model_copy(update=changes), workers, scaled, shape))
    return found


def _run(
    recipe: PipelineSettings,
    target: str,
    training: TrainSettings,
    workers: int,
    scaled: bool,
    shape: WarmupShape | None,
) -> LargeBatchRun:
    rate = "rate x N" if scaled else "rate of one worker"
    return LargeBatchRun(
        f"workers{workers}{'-scaled' if scaled else ''}{f'-{shape}' if shape else ''}",
        f"N = {workers}, {rate}, {f'{shape} warm-up' if shape else 'no warm-up'}",
        GROUP,
        target,
        recipe.model,
        training,
        LargeBatchTrainer,
        workers=workers,
    )


def study(recipe: PipelineSettings, epochs: tuple[int, int], seed: int, threads: int) -> Result:
    """Make the data of the quality study where they are missing, run all runs, and return what came out."""
    use_threads(threads)
    folder, target = Path(recipe.folder("study")), recipe.folder(PEAKS)
    generate(recipe)
    prepare(recipe, output=target)
    jets = read_manifest(target).rows(TRAIN)
    test = LabelledJets.read(target, TEST)
    results = []
    for item in runs(recipe, PEAKS, jets, epochs, seed):
        results.append(row(item, run(item, target, folder, test)))
        print(f"{item.text:50} loss {results[-1]['val_loss']:.4f}  accuracy {results[-1]['accuracy']:.4f}", flush=True)
    return {
        "jets": jets,
        "pretrain_epochs": epochs[0],
        "joint_epochs": epochs[1],
        "seed": seed,
        "seconds": sum(result["seconds"] for result in results),
        "runs": results,
    }


def row(item: LargeBatchRun, result: Result) -> Result:
    """Return what is told of a run."""
    last = result["epochs"][-1]["curve"]
    accuracies = [epoch["accuracy"] for epoch in result["epochs"]]
    return {
        "workers": item.workers,
        "batch": item.training.batch_size,
        "scaled": item.training.linear_scaling,
        "warmup": item.training.warmup if item.training.warmup_steps else None,
        "steps": last["step"],
        "val_loss": last["val_focal"],
        "accuracy": result["final"]["accuracy"],
        "best_accuracy": max(accuracies),
        "accuracies": [round(accuracy, 5) for accuracy in accuracies],
        "seconds": round(result["seconds"], 1),
    }

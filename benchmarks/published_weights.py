"""The published weights on generated jets: how many they put with their class, and whether we compute the same.

    python benchmarks/published_weights.py --checkpoint UCluster/logs/wztop_100p_test/cluster.ckpt --code UCluster

where ``UCluster`` is a clone of the authors' repository (github ViniciusMikuni/UCluster). Jets are generated and
prepared, the checkpoint is imported, and jets are assigned, by the pipeline's own stages. With ``--code`` the published
code itself, a TensorFlow 1 graph, computes the embeddings of the same jets, and both are compared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

import numpy as np
from numpy.typing import NDArray

from parts import published_graph
from parts.recipes import PUBLISHED
from parts.study import LabelledJets
from sparton.config import load_config
from sparton.data.settings import TRAIN
from sparton.pipeline import PipelineSettings, generate, import_checkpoint, prepare
from sparton.report.baselines import mass_baselines
from sparton.report.metrics import contingency, describe_labels
from sparton.ucluster import bundle, predict
from sparton.ucluster.losses import squared_distances

Floats = NDArray[np.float32]

LIMITS = (1e-6, 1e-5, 1e-4)


def main(arguments: list[str] | None = None) -> int:
    """Do what is not done yet in the workspace, and print what comes out."""
    options = _options(arguments)
    overrides = [
        f"workspace={options.workspace}",
        f"generate.jets_per_process={options.jets_per_process}",
        f"prepare.splits={{{TRAIN}: 1.0}}",
    ]
    settings = load_config(PipelineSettings, PUBLISHED, overrides)
    generate(settings)
    prepare(settings)
    import_checkpoint(settings, checkpoint=options.checkpoint)
    jets = LabelledJets.read(settings.folder("set"), TRAIN)
    loaded = bundle.load(settings.folder("model"))
    embedding, _, cluster = predict.assign(loaded, jets.features, jets.n_particles)
    labels = describe_labels(
        contingency(cluster.astype(np.int64), jets.label, settings.model.n_clusters, len(jets.classes)), jets.classes
    )
    print(f"{len(jets.label):,} jets: {labels.accuracy:.4f} of them in the cluster of their class")
    for item in mass_baselines(
        jets.mass, settings.model.n_clusters, settings.generate.seed, jets.label, len(jets.classes)
    ):
        print(f"{item.name}: {item.accuracy:.4f}{' (chosen with labels)' if item.reads_labels else ''}")
    if options.code is not None:
        published = published_embeddings(options.code, options.checkpoint, jets.features)
        print("\n".join(compare(embedding, published, loaded.centroids)))
    return 0


def published_embeddings(code: str, checkpoint: str, features: Floats) -> Floats:
    """Return the embeddings [n, 3] that the published code computes, in a process where TensorFlow 1 is emulated."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = f"{folder}/features.npy", f"{folder}/embedding.npy"
        np.save(given, features)
        program = [sys.executable, published_graph.__file__, code, checkpoint, given, found]
        subprocess.run(program, check=True)
        return np.asarray(np.load(found), np.float32)


def compare(own: Floats, published: Floats, centroids: Floats) -> list[str]:
    """Return lines that say how far embeddings [n, D] are from the published ones, and how many clusters differ."""
    away = np.abs(own - published).max(axis=1)
    other = sum(_nearest(own, centroids) != _nearest(published, centroids))
    within = [f"{np.count_nonzero(away <= limit):,} within {limit:.0e}" for limit in LIMITS]
    largest = ", ".join(f"{value:.1e}" for value in np.sort(away)[::-1][:3])
    return [
        f"against the published code: of {len(away):,} embeddings {', '.join(within)}; largest differences {largest}",
        f"jets in another cluster: {other}",
    ]


def _nearest(embedding: Floats, centroids: Floats) -> NDArray[np.int64]:
    return np.asarray(squared_distances(embedding, centroids)).argmin(axis=1)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="what the checkpoint's files begin with")
    parser.add_argument("--code", help="clone of the authors' repository, to compare with")
    parser.add_argument("--workspace", default="runs/published_weights", help="folder of jets, set and bundle")
    parser.add_argument("--jets-per-process", type=int, default=1500, help="jets of each kind, before the mass window")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

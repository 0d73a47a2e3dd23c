"""What the quality study trains: the default recipe, its ceiling, the published network, ablations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from parts.study import CentroidsEachEpoch, Run, StudyTrainer, Supervised
from parts.variants import (
    DeepSets,
    LearntScale,
    NoSelfAttention,
    PaddingAsParticles,
    PaddingInStatistics,
    PlainInputs,
    SelfAsNeighbour,
)
from sparton.config import load_config
from sparton.data.featurize import DEFAULT_EDGES, FeatureSpec
from sparton.data.target import TargetMass
from sparton.pipeline import PipelineSettings
from sparton.ucluster.settings import PUBLISHED_SIZES, TrainSettings

CONF = Path(__file__).resolve().parents[2] / "conf"
RECIPE, PUBLISHED = CONF / "ucluster_quality.yaml", CONF / "ucluster_published.yaml"

FULL, SHORT = "full", "short"
"""Groups of runs that can be compared: of the whole schedule, and of the one for ablations."""

DEFAULT, REFERENCE, CEILING, PUBLISHED_RUN = "default", "reference", "supervised", "published"
WIDE_CEILING, PROPORTIONAL_RUN = "supervised_wide", "published_proportional"
PEAKS, SOFT_DROP, UNGROOMED, QUANTILES, FIXED_BINS = (
    f"set_{name}" for name in ("peaks", "soft_drop", "ungroomed", "quantiles", "published")
)
"""Folders of the training sets: of the default recipe, and with other targets."""

PUBLISHED_JETS = 302_664
"""Jets that the published network was trained on; its schedules are counted in jets."""

ALPHA_STEP = 5.0
"""By which the published inverse temperature rises from one joint epoch to the next."""

PEAK_TARGETS = {
    UNGROOMED: "Target: peaks of the ungroomed mass",
    SOFT_DROP: "Target: peaks of one soft-drop mass",
    PEAKS: "Target: peaks, four masses",
}
"""Targets that are clusters by themselves, and what the table calls them."""


def settings(workspace: str | None, config: str | None = None) -> PipelineSettings:
    """Return the default recipe, or that of another file, in a workspace of its own where one is given."""
    found = load_config(PipelineSettings, RECIPE if config is None else config)
    return found if workspace is None else found.model_copy(update={"workspace": workspace})


def targets(recipe: PipelineSettings) -> dict[str, PipelineSettings]:
    """Return the settings that make each training set, by the name of its folder; all hold the same jets."""
    features = recipe.prepare.features
    alone = features.model_copy(update={"further_masses": ()})
    ungroomed = alone.model_copy(update={"mass": TargetMass()})
    bins = FeatureSpec.model_validate({"n_particles": features.n_particles, "mass_bins": 20, "mass": features.mass})
    fixed = FeatureSpec(n_particles=features.n_particles, mass_bin_edges=DEFAULT_EDGES)

    def with_features(spec: FeatureSpec) -> PipelineSettings:
        return recipe.model_copy(update={"prepare": recipe.prepare.model_copy(update={"features": spec})})

    others = {SOFT_DROP: alone, UNGROOMED: ungroomed, QUANTILES: bins, FIXED_BINS: fixed}
    return {PEAKS: recipe} | {name: with_features(spec) for name, spec in others.items()}


def runs(
    recipe: PipelineSettings,
    seeds: list[int],
    short: tuple[int, int],
    published: tuple[int, int],
    proportional: tuple[int, int],
) -> list[Run]:
    """Return all runs, most important first.

    Parameters
    ----------
    recipe
        The default recipe.
    seeds
        Seeds of the default recipe; all other runs have the first one.
    short, published, proportional
        Epochs of pre-training and of the joint phase of the ablations, of the published network, and of that with
        schedules in proportion to the jets.
    """
    training = recipe.train.model_copy(update={"seed": seeds[0]})
    epochs = training.pretrain_epochs + training.joint_epochs
    found = [
        _run(recipe, DEFAULT, "the default recipe", training=training.model_copy(update={"seed": seed}))
        for seed in seeds
    ]
    supervised = training.model_copy(update={"pretrain_epochs": epochs, "joint_epochs": 0})
    wide = recipe.model.model_copy(update={"embedding": recipe.model.jet_block[-1]})
    found += [
        _run(recipe, CEILING, "the same network trained with labels", training=supervised, trainer=Supervised),
        _run(
            recipe,
            WIDE_CEILING,
            f"with labels and an embedding of {wide.embedding} dimensions",
            training=supervised,
            trainer=Supervised,
            model=wide,
        ),
        _published(recipe, training, published),
        _in_proportion(_published(recipe, training, proportional)),
    ]
    return [*found, *_ablations(recipe, training, short)]


def _run(recipe: PipelineSettings, name: str, text: str, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "group": FULL,
        "target": PEAKS,
        "model": recipe.model,
        "training": recipe.train,
        "trainer": StudyTrainer,
    }
    return Run(name, text, **(values | changes))


def _published(recipe: PipelineSettings, training: TrainSettings, epochs: tuple[int, int]) -> Run:
    conf = load_config(PipelineSettings, PUBLISHED)
    published = conf.train.model_copy(
        update={"pretrain_epochs": epochs[0], "joint_epochs": epochs[1], "seed": training.seed}
    )
    return _run(
        recipe,
        PUBLISHED_RUN,
        "the published network, losses and target",
        target=FIXED_BINS,
        model=conf.model,
        training=published,
    )


def _in_proportion(run: Run) -> Run:
    """Return the published run with what it counts in jets or in its 179 joint epochs as it was for each epoch."""
    steps = max(run.training.joint_epochs - 1, 0)
    training = run.training.model_copy(update={"alpha_end": run.training.alpha_start + ALPHA_STEP * steps})
    epochs = run.training.halving_samples / PUBLISHED_JETS
    text = f"{run.text}, schedules by epoch"
    return replace(run, name=PROPORTIONAL_RUN, text=text, training=training, halving_epochs=epochs)


def _ablations(recipe: PipelineSettings, training: TrainSettings, epochs: tuple[int, int]) -> list[Run]:
    """Return the reference of the short schedule, and the runs that differ from it in one choice each."""
    short = training.model_copy(update={"pretrain_epochs": epochs[0], "joint_epochs": epochs[1]})
    model = recipe.model

    def one(name: str, text: str, **changes: Any) -> Run:
        return _run(recipe, name, text, **({"group": SHORT, "training": short} | changes))

    def training_with(**values: Any) -> TrainSettings:
        return short.model_copy(update=values)

    def sized(**values: Any) -> Any:
        return model.model_copy(update=values)

    return [
        one(REFERENCE, "nothing undone"),
        one("soft_drop", "peaks of one soft-drop mass alone", target=SOFT_DROP),
        one("ungroomed", "peaks of the ungroomed mass alone", target=UNGROOMED),
        one(
            "quantiles",
            "20 bins of the soft-drop mass, k-means",
            target=QUANTILES,
            training=training_with(centroids="kmeans", agreement=0.0),
        ),
        one("kmeans", "centroids by k-means", training=training_with(centroids="kmeans", agreement=0.0)),
        one("published_widths", "layers as wide as published, 10 neighbours", model=sized(**_wide())),
        one("no_jet_block", "no layer on the jet", model=sized(jet_block=())),
        one("padding", "padding counts as particles", network=PaddingAsParticles),
        one("padding_statistics", "batch normalisation over padding too", network=PaddingInStatistics),
        one("no_graph", "no neighbours: a deep set", network=DeepSets),
        one("mean_pooling", "mean over particles, not sum", model=sized(pooling="mean")),
        one("plain_inputs", "inputs not standardised", network=PlainInputs),
        one("no_self_attention", "no self-attention", network=NoSelfAttention),
        one("self_neighbour", "a particle is its own neighbour", network=SelfAsNeighbour),
        one("learnt_scale", "embedding with a learnt scale", network=LearntScale),
        one("embedding_3", "three embedding dimensions", model=sized(embedding=3)),
        one("focal", "focal loss, γ = 4", training=training_with(focal_gamma=4.0, focal_scale=10.0)),
        one("no_agreement", "no agreement with the target", training=training_with(agreement=0.0)),
        one("balance", "clusters pushed to equal sizes", training=training_with(beta=0.1, balance=1.0)),
        one("published_beta", "β = 10 as published", training=training_with(beta=10.0, agreement=0.0)),
        one("centroids_each_epoch", "centroids sought anew each epoch", trainer=CentroidsEachEpoch),
        one("centroids_one_shard", "centroids from one shard", training=training_with(centroid_rows=1)),
        one("bfloat16", "products in bfloat16", training=training_with(precision="bfloat16")),
        one("float16", "products in float16", training=training_with(precision="float16")),
        one("half_exchange", "gradients exchanged in float16", training=training_with(exchange_precision="float16")),
        one(
            "float16_both",
            "products and exchange in float16",
            training=training_with(precision="float16", exchange_precision="float16"),
        ),
    ]


def _wide() -> dict[str, Any]:
    """Return the published sizes of what both networks have."""
    return {name: size for name, size in PUBLISHED_SIZES.items() if name not in ("embedding", "jet_block")}

"""Figures: what they show, that they leave no state behind, and that their SVG stands alone."""

from __future__ import annotations

import re

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from sparton.errors import DataError
from sparton.report import curve as curves
from sparton.report import figures, histograms, style
from sparton.report.baselines import BaselineResult
from sparton.report.metrics import describe_labels

LABELS = describe_labels([[2, 90, 5], [80, 4, 6], [10, 6, 97]], ("W", "Z", "t"))
GROUPS = style.make_groups(3, LABELS.classes, LABELS.permutation)
BASELINES = (
    BaselineResult("K-means on mass", False, (64.0, 131.0), 900, 0.62, 0.4, 0.4),
    BaselineResult("Best mass cuts (oracle)", True, (86.0, 120.0), 900, 0.7, 0.5, 0.5),
)
CURVE = """epoch,phase,train_loss,val_loss,val_clustering,alpha,learning_rate,epoch_seconds,remark
0,pretrain,0.5,0.6,,,0.001,3,x
1,pretrain,0.3,0.4,,,0.001,3,x
2,joint,0.9,1.0,0.05,5,0.0005,3,x
3,joint,0.7,0.8,0.03,10,0.0005,3,x
"""


@pytest.fixture
def jets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 600)
    mass = np.array([80.0, 91.0, 172.0])[label] + rng.normal(0, 6, 600)
    return mass, np.array([1, 0, 2])[label], label


def texts(figure: Figure) -> str:
    return "\n".join(item.get_text() for item in figure.findobj(matplotlib.text.Text))


def column_names(figure: Figure) -> list[str]:
    return [tick.get_text() for tick in figure.axes[0].get_xticklabels()]


def steps(axes: Axes) -> list[StepPatch]:
    return [patch for patch in axes.patches if isinstance(patch, StepPatch)]


def test_clusters_have_the_colour_of_their_class_and_are_listed_in_class_order() -> None:
    assert [group.colour for group in GROUPS.clusters] == [GROUPS.classes[match].colour for match in LABELS.permutation]
    assert [GROUPS.clusters[index].name for index in GROUPS.order] == [
        "cluster 1 (W)",
        "cluster 0 (Z)",
        "cluster 2 (t)",
    ]


def test_unmatched_clusters_have_colours_of_their_own() -> None:
    groups = style.make_groups(5, ("W", "Z", "t"), (-1, 2, 0, 1, -1))
    assert len({group.colour for group in groups.clusters}) == 5
    assert groups.order == [2, 3, 1, 0, 4]
    assert [group.name for group in style.make_groups(2).clusters] == ["cluster 0", "cluster 1"]
    assert len(style.make_groups(40, ("a", "b")).clusters) == 40


def test_known_classes_keep_their_colour_whatever_the_others() -> None:
    alone, among = style.make_groups(1, ("t",)), style.make_groups(1, ("g", "new", "t"))
    assert alone.classes[0].colour == among.classes[2].colour
    assert len({group.colour for group in among.classes}) == 3


def test_mass_histograms_fill_clusters_and_outline_classes(jets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    mass, cluster, label = jets
    figure = histograms.mass_by_cluster(mass, cluster, GROUPS, label, BASELINES)
    strip, axes = figure.axes
    drawn = steps(axes)
    outlines = [patch for patch in drawn if not patch.get_fill()]
    assert (len(drawn), len(outlines)) == (6, 3)
    for index, patch in enumerate(outlines):
        inside = mass[label == index]
        edges = patch.get_data().edges
        np.testing.assert_array_equal(patch.get_data().values, np.histogram(inside, edges)[0])
        assert to_hex(patch.get_edgecolor()) == GROUPS.classes[index].colour
    assert {line.get_xdata()[0] for line in axes.lines} >= {86.0, 120.0}
    assert "oracle, reads labels" in texts(figure)
    assert "jet mass [GeV]" in texts(figure)
    assert strip.get_xlim() == axes.get_xlim()


def test_mass_histograms_without_labels_or_baselines(jets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    mass, cluster, _ = jets
    figure = histograms.mass_by_cluster(mass, cluster, style.make_groups(3))
    assert len(figure.axes) == 1
    assert len(steps(figure.axes[0])) == 6
    assert "true" not in texts(figure)


def test_bins_grow_finer_with_the_sample_and_cover_nearly_all() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for rows in (100, 1000, 100_000):
        values = rng.uniform(0, 200, rows)
        edges = histograms._bin_edges(values)
        widths.append(edges[1] - edges[0])
        assert ((values >= edges[0]) & (values < edges[-1])).mean() > 0.95
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == 2.0


def test_multiplicity_bins_are_centred_on_whole_numbers() -> None:
    counts = np.random.default_rng(0).poisson(40, 5000)
    edges = histograms.multiplicity_by_cluster(counts, np.zeros(5000), style.make_groups(1)).axes[0].get_xlim()
    assert edges[0] % 1 == 0.5
    assert histograms.multiplicity_by_cluster([7, 7], [0, 0], style.make_groups(1)).axes


def test_one_dimensional_embedding_is_a_histogram_with_centroids_on_its_axis(
    jets: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    _, cluster, label = jets
    embedding = np.array([-1.2, 0.1, 1.1])[cluster] + np.random.default_rng(5).normal(0, 0.1, len(cluster))
    axes = histograms.embedding_by_cluster(embedding, [-1.2, 0.1, 1.1], cluster, GROUPS, label).axes[0]
    filled = [patch for patch in steps(axes) if patch.get_fill()]
    assert sum(patch.get_data().values.sum() for patch in filled) >= 0.99 * len(cluster)
    crosses = [line for line in axes.lines if line.get_marker() == "X"]
    assert [float(line.get_xdata()[0]) for line in crosses] == [-1.2, 0.1, 1.1]
    assert [to_hex(line.get_color()) for line in crosses] == [group.colour for group in GROUPS.clusters]


@pytest.mark.parametrize("dimensions", [2, 8])
def test_projection_keeps_the_leading_variance_and_moves_centroids_along(dimensions: int) -> None:
    rng = np.random.default_rng(dimensions)
    points = rng.normal(0, np.arange(1, dimensions + 1), (500, dimensions)) + 7.0
    projection = figures.project(points, points[:4])
    np.testing.assert_allclose(projection.centroids, projection.points[:4])
    np.testing.assert_allclose(projection.points.mean(axis=0), 0.0, atol=1e-9)
    values = np.sort(np.linalg.eigvalsh(np.cov(points.T, bias=True)))[::-1]
    np.testing.assert_allclose(projection.points.var(axis=0)[:dimensions], values[:2])
    np.testing.assert_allclose(projection.explained[:dimensions], values[:2] / values.sum())


def test_scatter_colours_points_by_group_and_leaves_unlabelled_grey() -> None:
    points = np.random.default_rng(0).normal(size=(4, 2))
    projection = figures.Projection(points, points[:3], (0.9, 0.1))
    figure = figures.embedding_scatter(projection, [0, 2, -1, 1], GROUPS.classes, GROUPS, "four jets")
    colours = [to_hex(colour) for colour in figure.axes[0].collections[0].get_facecolor()]
    w, z, t = (group.colour for group in GROUPS.classes)
    assert colours == [w, t, style.MUTED, z]
    assert "90 % of variance" in texts(figure)
    assert len(figure.axes[0].lines) == 3


def test_confusion_shows_row_fractions_and_counts() -> None:
    figure = figures.confusion_matrix(LABELS, GROUPS)
    shown = texts(figure)
    assert "87.0 %" in shown  # 80 of 92 W jets
    assert "97" in shown
    cells = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert cells[0].get_facecolor()[3] == pytest.approx(80 / 92)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["W", "Z", "t"]
    assert column_names(figure) == ["cluster 1\n(W)", "cluster 0\n(Z)", "cluster 2\n(t)"]


def test_confusion_of_more_or_fewer_clusters_than_classes() -> None:
    wide = describe_labels(np.eye(7, 2, dtype=int) * 5 + 1, ("W", "Z"))
    names = column_names(figures.confusion_matrix(wide, style.make_groups(7, wide.classes, wide.permutation)))
    assert names[:2] == ["cluster 0\n(W)", "cluster 1\n(Z)"]
    assert names[2:] == [f"cluster {index}\nunmatched" for index in range(2, 7)]
    narrow = describe_labels([[5, 1, 1]], ("W", "Z", "t"))
    names = column_names(figures.confusion_matrix(narrow, style.make_groups(1, narrow.classes, narrow.permutation)))
    assert names == ["cluster 0\n(W)", "no cluster\n(Z)", "no cluster\n(t)"]


def test_confusion_of_very_many_clusters_shows_shades_only() -> None:
    many = describe_labels(np.full((30, 2), 7), ("W", "Z"))
    figure = figures.confusion_matrix(many, style.make_groups(30, many.classes, many.permutation))
    assert len(figure.axes[0].patches) == 60
    assert "%" not in texts(figure)


def test_accuracy_bars_hatch_only_what_reads_labels() -> None:
    figure = figures.accuracy_bars("UCluster", LABELS, (*BASELINES, BaselineResult("unjudged", False, (), 900)))
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [bar.get_width() for bar in bars] == [LABELS.accuracy, 0.62, 0.7]
    assert [bar.get_hatch() for bar in bars] == [None, None, "///"]
    assert "Best mass cuts (oracle), reads labels" in texts(figure)


def test_curve_is_split_at_the_phase_and_tolerates_gaps_and_text() -> None:
    curve = curves.parse_curve(CURVE)
    assert curve.boundaries() == [1.5]
    assert curves.loss_columns(curve) == ["train_loss", "val_loss", "val_clustering"]
    assert curves.monitor_columns(curve) == ["alpha", "learning_rate"]
    figure = curves.draw_losses(curve)
    line = figure.axes[0].lines[0]
    assert np.isnan(line.get_ydata()[2])
    np.testing.assert_array_equal(np.delete(line.get_ydata(), 2), [0.5, 0.3, 0.9, 0.7])
    assert [axes.get_ylabel() for axes in figure.axes] == ["total loss", "clustering loss"]
    assert "pre-training" in texts(figure)
    assert "validation" in texts(figure)
    assert [axes.get_title(loc="left") for axes in curves.draw_monitors(curve).axes][1] == "learning rate"


@pytest.mark.parametrize("text", ["epoch,train_loss\n0,1.5\n", "train_loss\n", "epoch,phase,val_loss\n0,joint,-1\n"])
def test_curves_of_one_epoch_or_none_are_drawn(text: str) -> None:
    curve = curves.parse_curve(text)
    for figure in (curves.draw_losses(curve), curves.draw_monitors(curve)):
        assert style.to_svg(figure)


def test_schedules_are_drawn_before_other_monitors() -> None:
    header = "epoch,a,b,c,d,alpha,learning_rate,jets_per_second"
    curve = curves.parse_curve(header + "\n" + ",".join("1" * 8) + "\n")
    assert curves.monitor_columns(curve) == ["alpha", "learning_rate", "jets_per_second", "a"]


def test_bad_curve_is_named() -> None:
    with pytest.raises(DataError, match="no header"):
        curves.parse_curve("")
    with pytest.raises(DataError, match="line 3: found 1 fields, expected 2"):
        curves.parse_curve("epoch,loss\n0,1\n1\n")


def test_no_state_is_left_behind(jets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    style.to_svg(histograms.mass_by_cluster(jets[0], jets[1], GROUPS, jets[2], BASELINES))
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


def test_svg_stands_alone_and_follows_the_colour_scheme() -> None:
    text = style.to_svg(figures.confusion_matrix(LABELS, GROUPS))
    assert text.startswith("<svg")
    assert "prefers-color-scheme:dark" in text
    assert text.count(style.INK) == 1  # its definition
    assert "var(--ink)" in text
    assert "<text" not in text  # glyphs are paths, so no font is needed
    targets = re.findall(r"(?:href|src)=\"([^\"]*)\"|url\(([^)]*)\)", text)
    assert all(target.startswith(("#", "data:")) for pair in targets for target in pair if target)
    assert text == style.to_svg(figures.confusion_matrix(LABELS, GROUPS))

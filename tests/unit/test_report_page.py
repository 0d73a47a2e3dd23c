"""The page: complete, self-contained, escaped; the gallery with and without labels."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sparton.errors import DataError
from sparton.report import page
from sparton.report.baselines import mass_baselines
from sparton.report.content import EvaluationMetrics, Provenance, ReportContent
from sparton.report.curve import parse_curve
from sparton.report.gallery import JetSample, gallery
from sparton.report.metrics import contingency, describe_labels
from sparton.report.profiles import cluster_profiles, describe_clusters, group_moments

CURVE = "epoch,phase,train_loss,val_loss,alpha\n0,pretrain,1,1,\n1,joint,0.5,0.6,5\n2,joint,0.4,0.5,10\n"
EVIL = "<script>alert('x & y')</script>"


class Reader(HTMLParser):
    """Collects elements, attributes and text; complains about elements that are not closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def evaluation(labelled: bool) -> tuple[JetSample, EvaluationMetrics]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 900)
    cluster = np.where(rng.random(900) < 0.8, label, (label + 1) % 3)
    mass = np.array([80.0, 91.0, 172.0])[label] + rng.normal(0, 7, 900)
    counts = rng.poisson(40, 900)
    centroids = np.eye(3, 4)
    embedding = centroids[cluster] + rng.normal(0, 0.2, (900, 4))
    distance = ((embedding[:, None] - centroids) ** 2).sum(axis=2)
    moments = {"jet_mass": group_moments(cluster, mass, 3), "n_constituents": group_moments(cluster, counts, 3)}
    labels = describe_labels(contingency(cluster, label, 3, 3), ("W", "Z", "t")) if labelled else None
    metrics = EvaluationMetrics(
        split="test",
        rows=900,
        n_clusters=3,
        clusters=describe_clusters(np.bincount(cluster), distance, embedding, cluster, seed=0),
        profiles=cluster_profiles(moments, labels),
        baselines=mass_baselines(mass, 3, seed=0, label=label if labelled else None, n_classes=3),
        labels=labels,
    )
    return JetSample(mass, counts, cluster, embedding, centroids, label if labelled else None), metrics


def content(labelled: bool = True) -> ReportContent:
    jets, metrics = evaluation(labelled)
    provenance = Provenance(
        training={"time split": f"compute 90.0% {EVIL}"},
        created="2026-11-22 19:40 UTC",
        seed=7,
        versions={"sparton": "0.1.0", EVIL: EVIL},
        inputs={"jets": "ab" * 32},
        settings={f"Model {EVIL}": f"name: {EVIL}\nprice: $$title ${{headline}}\n", "Set": "seed: 3\n"},
    )
    return ReportContent(f"Jets {EVIL}", metrics, gallery(jets, metrics, parse_curve(CURVE)), provenance)


@pytest.fixture(scope="module")
def labelled() -> ReportContent:
    return content()


@pytest.fixture(scope="module")
def html(labelled: ReportContent) -> str:
    return page.render(labelled)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_page_is_self_contained(labelled: ReportContent, html: str) -> None:
    reader = read(html)
    addresses = [value for name, value in reader.attributes if name in {"src", "href", "srcset", "action", "data"}]
    assert len(addresses) == len(labelled.figures) == 8
    assert all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(reader.tags)
    assert "@import" not in html
    assert "url(" not in html


def test_page_escapes_every_given_string(html: str) -> None:
    assert "<script" not in html
    assert read(html).text.count(EVIL) == 7  # title twice, a version, its name, a time, settings, their name
    assert "$$title ${headline}" in read(html).text


def test_page_says_the_result(labelled: ReportContent, html: str) -> None:
    labels = labelled.metrics.labels
    assert labels is not None
    text = read(html).text.replace(page._THIN, " ")
    rival = max(item.accuracy or 0 for item in labelled.metrics.baselines if not item.reads_labels)
    relation = "more" if labels.accuracy > rival else "less"
    assert f"puts {100 * labels.accuracy:.1f} % of 900 jets" in text
    assert f"{100 * abs(labels.accuracy - rival):.1f} points {relation} than the best of the label-free" in text
    assert f"{labels.adjusted_rand_index:.3f}" in text
    assert "Best mass cuts (oracle)reads labels" in text
    assert "ab" * 32 in text


def test_page_says_what_the_method_was_told_and_how_many_jets_judged_the_baselines(labelled: ReportContent) -> None:
    assert "about equal size" not in read(page.render(labelled)).text
    assert "random sample" not in read(page.render(labelled)).text.split("Clusters")[0]
    baselines = tuple(replace(item, rows=500) for item in labelled.metrics.baselines)
    metrics = replace(labelled.metrics, even_sizes=True, baselines=baselines)
    text = read(page.render(replace(labelled, metrics=metrics))).text
    assert "about equal size (train.balance)" in text
    assert "on a random sample of 500 jets" in text


def test_page_without_labels_shows_only_what_needs_none() -> None:
    report = content(labelled=False)
    text = read(page.render(report)).text
    names = [figure.name for figure in report.figures]
    assert names == ["mass", "multiplicity", "embedding-clusters", "losses", "monitors"]
    for word in ("accuracy", "oracle", "ARI", "true class", "purity"):
        assert word not in text
    assert "silhouette" in text
    assert "split 900 jets without labels into 3 clusters" in text.replace(page._THIN, " ")


@pytest.mark.parametrize("labelled", [False, True])
def test_one_dimensional_embedding_has_one_figure(labelled: bool) -> None:
    jets, metrics = evaluation(labelled)
    flat = replace(jets, embedding=jets.embedding[:, :1], centroids=jets.centroids[:, :1])
    drawn = [figure for figure in gallery(flat, metrics) if figure.name.startswith("embedding")]
    assert [figure.name for figure in drawn] == ["embedding"]
    assert ("true classes" in drawn[0].caption) is labelled


def test_empty_cluster_and_unmatched_cluster_are_shown_as_dashes() -> None:
    jets, metrics = evaluation(labelled=True)
    labels = describe_labels(contingency(jets.cluster, jets.label, 4, 3), ("W", "Z", "t"))  # type: ignore[arg-type]
    moments = {"jet_mass": group_moments(jets.cluster, jets.jet_mass, 4)}
    metrics = replace(metrics, n_clusters=4, labels=labels, profiles=cluster_profiles(moments, labels))
    sample = replace(jets, centroids=np.eye(4))
    confusion = [figure for figure in gallery(sample, metrics) if figure.name == "confusion"]
    text = read(page.render(ReportContent("x", metrics, tuple(confusion), Provenance("now", 0)))).text
    assert "30" + "0.0" + page._THIN + "%" + page._DASH * 4 in text


def test_metrics_are_json() -> None:
    _, metrics = evaluation(labelled=True)
    spoilt = replace(metrics, clusters=replace(metrics.clusters, silhouette=float("nan")))
    values = json.loads(json.dumps(spoilt.to_json(), allow_nan=False))
    assert values["labels"]["accuracy"] == metrics.labels.accuracy  # type: ignore[union-attr]
    assert values["clusters"]["silhouette"] is None
    assert values["profiles"][0]["columns"]["jet_mass"]["median"] > 0
    assert values["baselines"][3]["reads_labels"] is True


def test_write_report_into_a_folder_or_a_file(tmp_path: Path) -> None:
    _, metrics = evaluation(labelled=True)
    small = ReportContent("x", metrics, (), Provenance("now", 0))
    assert page.write_report(str(tmp_path), small) == str(tmp_path / "report.html")
    other = str(tmp_path / "other.html")
    assert page.write_report(other, small) == other
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == Path(other).read_text(encoding="utf-8")


def test_gallery_says_when_a_sample_is_drawn() -> None:
    jets, metrics = evaluation(labelled=True)
    captions = {figure.name: figure.caption for figure in gallery(jets, replace(metrics, rows=10_000))}
    assert "A random sample of 900 jets is shown." in captions["mass"]
    assert "losses" not in captions
    assert "random sample" not in {item.name: item.caption for item in gallery(jets, metrics)}["mass"]


def test_bad_sample_is_named() -> None:
    jets, _ = evaluation(labelled=True)
    with pytest.raises(DataError, match="found 3 rows of jet_mass, expected 900"):
        replace(jets, jet_mass=jets.jet_mass[:3])
    with pytest.raises(DataError, match=r"shapes \(900, 4\) and \(3, 2\)"):
        replace(jets, centroids=np.zeros((3, 2)))

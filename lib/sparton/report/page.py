"""The report as one HTML file that needs nothing else: no script, no font, no link, every image inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

from sparton import storage
from sparton.report.content import EvaluationMetrics, Provenance, ReportContent, ReportFigure
from sparton.report.profiles import AMBIGUOUS_RATIO, ClusterProfile
from sparton.report.style import data_uri, make_groups

#: Thin non-breaking space: between a number and its unit, and between thousands.
_THIN = "\u202f"
_DASH = "–"
_COLUMN_TITLES = {"jet_mass": "mass [GeV]", "jet_pt": "pT [GeV]", "n_constituents": "constituents"}


def write_report(path: str, content: ReportContent) -> str:
    """Write ``report.html`` into a folder, or to ``path`` itself if that ends with ``.html``; return the file's path.

    The file appears whole or not at all.
    """
    target = path if path.endswith(".html") else storage.join(path, "report.html")
    storage.write_text(target, render(content))
    return target


def render(content: ReportContent) -> str:
    """Return the page as HTML text; every given string is escaped."""
    template = resources.files("sparton.report").joinpath("report.html").read_text(encoding="utf-8")
    metrics = content.metrics
    return Template(template).substitute(
        title=escape(content.title),
        kicker=escape(f"Sparton · evaluation · {metrics.split} split"),
        headline=_headline(metrics),
        created=escape(content.provenance.created),
        cards="".join(_card(*card) for card in _cards(metrics)),
        comparison=_comparison(metrics),
        profiles=_profiles(metrics),
        figures="".join(_figure(item) for item in content.figures),
        provenance=_provenance(content.provenance),
    )


def _headline(metrics: EvaluationMetrics) -> str:
    """Say the result in one or two sentences."""
    rows, labels, unit = _count(metrics.rows - (metrics.noise or 0)), metrics.labels, escape(metrics.unit)
    if labels is None:
        shares = [profile.fraction for profile in metrics.profiles]
        sizes = f"{_percent(min(shares))} to {_percent(max(shares))} of them"
        clusters = f"{metrics.n_clusters} clusters of {sizes} each"
        return f"{escape(metrics.method)} split {rows} {unit} without labels into {clusters}.{_noise(metrics)}"
    text = (
        f"{escape(metrics.method)} puts <strong>{_percent(labels.accuracy)}</strong> of {_count(labels.rows)} {unit} "
        "into the cluster of their class, without having seen a label."
    )
    rivals = [item for item in metrics.baselines if item.accuracy is not None and not item.reads_labels]
    if rivals:
        best = max(rivals, key=lambda item: item.accuracy or 0.0)
        gain = 100 * (labels.accuracy - (best.accuracy or 0.0))
        relation = f"{abs(gain):.1f} points {'more' if gain >= 0 else 'less'} than"
        rival = f"({escape(best.name)}, {_percent(best.accuracy)})"
        text += f" That is {relation} the best of the label-free partitions of the jet mass below {rival}."
    oracle = next((item for item in metrics.baselines if item.reads_labels and item.accuracy is not None), None)
    if oracle is not None:
        text += f" The best mass cuts that labels can buy reach {_percent(oracle.accuracy)}."
    if metrics.even_sizes:
        text += " It was trained to make clusters of about equal size (<code>train.balance</code>)."
    return text + _noise(metrics)


def _noise(metrics: EvaluationMetrics) -> str:
    """Say how many rows belong to no cluster, where the method tells."""
    if metrics.noise is None:
        return ""
    share = _percent(metrics.noise / metrics.rows)
    return f" {_count(metrics.noise)} {escape(metrics.unit)} ({share}) are noise, and in none of the figures below."


def _cards(metrics: EvaluationMetrics) -> list[tuple[str, str, str]]:
    """Return (value, name, explanation) of the key figures."""
    free, labels = metrics.clusters, metrics.labels
    sampled = f"on a sample of {_count(free.silhouette_rows)} {metrics.unit}"
    silhouette = (_number(free.silhouette), "silhouette", sampled)
    sizes = f"1 is equal sizes; the smallest has {_percent(free.smallest_fraction)}"
    balance = (_number(free.balance), "balance", sizes)
    share = (
        _percent(free.ambiguous_fraction),
        "ambiguous",
        f"nearest over second nearest distance above {AMBIGUOUS_RATIO:g}",
    )
    if labels is None:
        rows = metrics.rows - (metrics.noise or 0)
        return [(_count(rows), metrics.unit, f"in {metrics.n_clusters} clusters"), silhouette, balance, share]
    return [
        (_percent(labels.accuracy), "accuracy", "one assignment over the whole split"),
        (_number(labels.adjusted_rand_index), "adjusted Rand index", "0 is chance, 1 is perfect"),
        (_number(labels.normalized_mutual_information), "mutual information", "normalised, 1 is perfect"),
        (_percent(labels.purity), "purity", f"{metrics.unit} of their cluster's main class"),
        silhouette,
        balance,
        share,
    ]


def _card(value: str, name: str, note: str) -> str:
    return f"<div class='card'><dt>{escape(name)}</dt><dd>{value}</dd><dd class='note'>{escape(note)}</dd></div>"


def _comparison(metrics: EvaluationMetrics) -> str:
    """Return the table of the method and the baselines."""
    labels = metrics.labels
    if labels is None:
        rows = [[escape(item.name), _cuts(item.cuts)] for item in metrics.baselines]
        return _section("Cuts of the mass alone", _table(["baseline", "cuts [GeV]"], rows)) if rows else ""
    if not metrics.baselines:
        return ""
    own = (labels.accuracy, labels.adjusted_rand_index, labels.normalized_mutual_information)
    rows = [[f"<strong>{escape(metrics.method)}</strong>", *_scores(*own), _DASH]]
    for item in metrics.baselines:
        scores = _scores(item.accuracy, item.adjusted_rand_index, item.normalized_mutual_information)
        flag = "<br><span class='flag'>reads labels</span>" if item.reads_labels else ""
        rows.append([escape(item.name) + flag, *scores, _cuts(item.cuts)])
    header = ["method", "accuracy", "ARI", "NMI", "cuts [GeV]"]
    judged = max((item.rows for item in metrics.baselines), default=labels.rows)
    sampled = f"<p>The baselines: on a random sample of {_count(judged)} jets.</p>" if judged < labels.rows else ""
    return _section("Beside the mass alone", _table(header, rows) + sampled)


def _profiles(metrics: EvaluationMetrics) -> str:
    """Return the table of the clusters."""
    labels = metrics.labels
    groups = make_groups(metrics.n_clusters, labels.classes if labels else (), labels.permutation if labels else ())
    columns = list(metrics.shown or metrics.profiles[0].columns) if metrics.profiles else []
    header = ["cluster", metrics.unit, "share"]
    header += ["class", "of that class"] if labels else []
    for name in columns:
        title = _COLUMN_TITLES.get(name, name)
        header += [f"median {title}", f"mean ± std {title}"]
    rows = []
    for profile in (metrics.profiles[index] for index in groups.order):
        colour = groups.clusters[profile.cluster].colour
        swatch = f"<span class='swatch' style='background:{colour}'></span>{profile.cluster}"
        rows.append([swatch, *_profile_cells(profile, columns, labelled=labels is not None)])
    return _section("Clusters", _table(header, rows))


def _profile_cells(profile: ClusterProfile, columns: Sequence[str], labelled: bool) -> list[str]:
    cells = [_count(profile.size), _percent(profile.fraction)]
    if labelled:
        cells += [escape(profile.matched_class or _DASH), _percent(profile.matched_fraction)]
    for name in columns:
        statistics = profile.columns[name]
        spread = _DASH
        if statistics.mean is not None and statistics.std is not None:
            spread = f"{_value(name, statistics.mean)} ± {_value(name, statistics.std)}"
        cells += [_DASH if statistics.median is None else _value(name, statistics.median), spread]
    return cells


def _value(column: str, value: float) -> str:
    """Return a jet's column, whose unit is known, with one digit after the point, any other with four in all."""
    return f"{value:.1f}" if column in _COLUMN_TITLES else f"{value:.4g}"


def _figure(item: ReportFigure) -> str:
    image = f"<img src='{data_uri(item.figure)}' alt='{escape(item.title)}'>"
    caption = f"<figcaption>{escape(item.caption)}</figcaption>"
    return f"<figure id='{escape(item.name)}'><h3>{escape(item.title)}</h3>{image}{caption}</figure>"


def _provenance(provenance: Provenance) -> str:
    entries = [("created", provenance.created), ("seed", str(provenance.seed)), *provenance.versions.items()]
    tables = _table(["what", "value"], [[escape(name), escape(value)] for name, value in entries], kind="plain")
    if provenance.training:
        rows = [[escape(name), escape(value)] for name, value in provenance.training.items()]
        tables += _table(["training", "value"], rows, kind="plain")
    if provenance.inputs:
        inputs = [[escape(name), f"<code>{escape(value)}</code>"] for name, value in provenance.inputs.items()]
        tables += _table(["input", "fingerprint (SHA-256)"], inputs, kind="plain")
    for title, text in provenance.settings.items():
        tables += f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
    return _section("Provenance", tables)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> str:
    """Return a table; ``rows`` hold HTML, ``header`` holds text."""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table class='{kind}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='scroll'>{table}</div>"


def _scores(accuracy: float | None, rand: float | None, information: float | None) -> list[str]:
    return [_percent(accuracy), _number(rand), _number(information)]


def _cuts(cuts: Sequence[float]) -> str:
    return ", ".join(f"{cut:.1f}" for cut in cuts) or _DASH


def _percent(share: float | None) -> str:
    return _DASH if share is None else f"{100 * share:.1f}{_THIN}%"


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3f}"


def _count(number: int) -> str:
    return f"{number:,}".replace(",", _THIN)

"""What a benchmark writes into a page of the guide: the text between two markers that name it."""

from __future__ import annotations

from collections.abc import Sequence

BEGIN, END = "<!-- {} begin: made by benchmarks/{} -->", "<!-- {} end -->"


def fill(text: str, name: str, script: str, lines: Sequence[str]) -> str:
    """Return a page's text with new lines between the markers of this name; unchanged where it has none."""
    begin, end = BEGIN.format(name, script), END.format(name)
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    return f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}" if found and closed else text


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    cells = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(row)} |" for row in cells]

"""Write docs/configuration.md from the settings classes: every key with its type, default and docstring."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "configuration.md"
SECTION = re.compile(r"^(Attributes|Parameters)\n-+\n", re.MULTILINE)

HEAD = """\
# Configuration

One YAML file configures all stages (`conf/jets_demo.yaml` is an example); `--set section.key=value` overrides a key.
What is left out keeps its default; an unknown key is an error that names its nearest match. This page is made by
`python tools/config_reference.py` from the classes that read the file.
"""


def main() -> None:
    """Write the page."""
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{TARGET.relative_to(ROOT)} written\n")


def render() -> str:
    """Return the page as Markdown."""
    from sparton.pipeline.settings import PipelineSettings

    documented, defaults = _keys(PipelineSettings), PipelineSettings()
    parts = [HEAD]
    for name, field in PipelineSettings.model_fields.items():
        if not _is_section(field.annotation):
            parts.append(f"`{name}` (default `{getattr(defaults, name)}`): {documented[name]}\n")
    for name, field in PipelineSettings.model_fields.items():
        if _is_section(field.annotation):
            parts.extend(_section(name, field.annotation))
    return "\n".join(parts)


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    """Yield the heading and table of a section, then those of the sections in it."""
    documented = _keys(model)
    yield f"## `{name}`\n\n{_summary(model)}\n\n| key | default | meaning |\n| --- | --- | --- |"
    inner = []
    defaults = model().model_dump(mode="json")
    for key, field in model.model_fields.items():
        if _is_section(field.annotation):
            inner.append((f"{name}.{key}", field.annotation))
            yield f"| `{key}` | section | {documented[key]} |"
        else:
            yield f"| `{key}` | `{_short(defaults[key])}` | {documented[key]} |"
    yield ""
    for path, part in inner:
        yield from _section(path, part)


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > 8 and all(isinstance(item, float) for item in value):
        return f"{len(value)} values from {value[0]:g} to {value[-1]:g}"
    return "null" if value is None else str(value)


def _summary(model: type[BaseModel]) -> str:
    return " ".join(_text(model).split("\n\n")[0].split())


def _text(model: type[BaseModel]) -> str:
    return inspect.getdoc(model) or ""


def _keys(model: type[BaseModel]) -> dict[str, str]:
    """Return the description of each documented attribute; one text may stand for several names."""
    text = _text(model)
    found = SECTION.search(text)
    if found is None:
        return dict.fromkeys(model.model_fields, _summary(model))
    described: dict[str, str] = {}
    names: list[str] = []
    for line in text[found.end() :].splitlines():
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.split(",")]
            described |= dict.fromkeys(names, "")
        else:
            described |= {name: f"{described[name]} {line.strip()}".strip() for name in names}
    return {name: re.sub(r":\w+:`~?([^`]*)`", r"`\1`", value).replace("``", "`") for name, value in described.items()}


if __name__ == "__main__":
    main()

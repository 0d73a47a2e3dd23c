"""Write docs/configuration.md from the settings classes: every key with its type, default and docstring."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

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
        if not _models(field.annotation):
            parts.append(f"`{name}` (default `{getattr(defaults, name)}`): {documented[name]}\n")
    for name, field in PipelineSettings.model_fields.items():
        models = _models(field.annotation)
        for model in models:
            parts.extend(_section(name, model, several=len(models) > 1))
    return "\n".join(parts)


def _section(name: str, model: type[BaseModel], several: bool = False) -> Iterator[str]:
    """Yield the heading and table of a section, then those of the sections in it.

    Where a section may be of several models, the first key tells them apart and stands in the heading.
    """
    documented = _keys(model)
    key, field = next(iter(model.model_fields.items()))
    kind = f" with `{key}: {field.default}`" if several else ""
    yield f"## `{name}`{kind}\n\n{_summary(model)}\n\n| key | default | meaning |\n| --- | --- | --- |"
    inner = []
    defaults = model().model_dump(mode="json")
    for key, field in model.model_fields.items():
        if models := _models(field.annotation):
            inner += [(f"{name}.{key}", part) for part in models]
            yield f"| `{key}` | section | {documented[key]} |"
        else:
            yield f"| `{key}` | `{_short(defaults[key])}` | {documented[key]} |"
    yield ""
    for path, part in inner:
        yield from _section(path, part)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a section may be of; none if the annotation is of no section."""
    if get_origin(annotation) in (Union, UnionType):
        tagged = [get_args(part)[0] for part in get_args(annotation) if get_origin(part) is Annotated]
        return [model for part in tagged for model in _models(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > 8 and all(isinstance(item, float) for item in value):
        return f"{len(value)} values from {value[0]:g} to {value[-1]:g}"
    return "null" if value is None else str(value)


def _summary(model: type[BaseModel]) -> str:
    return " ".join(_text(model).split("\n\n")[0].split())


def _text(model: type[BaseModel]) -> str:
    return inspect.getdoc(model) or ""


def _keys(model: type[BaseModel]) -> dict[str, str]:
    """Return the description of each attribute, from the docstrings of the model and of what it is derived from."""
    described: dict[str, str] = {}
    for ancestor in reversed(model.__mro__):
        if issubclass(ancestor, BaseModel) and ancestor.__module__.startswith("sparton"):
            described |= _own_keys(ancestor)
    return described


def _own_keys(model: type[BaseModel]) -> dict[str, str]:
    """Return the description of each attribute in a docstring; one text may stand for several names."""
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

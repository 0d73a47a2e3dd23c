"""Typed, validated configuration: YAML files and ``a.b=c`` overrides into frozen pydantic models.

Every section of a configuration is a subclass of :class:`Config`, defined beside the code that it configures. An
unknown key is an error that names its nearest match; nothing is ignored silently.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Tag, ValidationError

from sparton.errors import ConfigError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _OneLineErrors(ModelMetaclass):
    """Lets a section that is made in Python say what is wrong as one that is read from a file does."""

    if not TYPE_CHECKING:  # which would no longer look at the arguments

        def __call__(cls, *args: Any, **values: Any) -> Any:  # noqa: N805
            try:
                return super().__call__(*args, **values)
            except ValidationError as error:
                raise ConfigError(_told(cls, error, cls.__name__, {})) from None


class Config(BaseModel, metaclass=_OneLineErrors):
    """A frozen section of the configuration that accepts no unknown key.

    Raises
    ------
    ConfigError
        If a key is unknown or a value invalid.
    """

    # Names made of digits are numbers in YAML: workspace=20241122.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, coerce_numbers_to_str=True)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the canonical JSON form, equal for equal settings."""
        return fingerprint(self.model_dump(mode="json"))

    def without(self, *names: str) -> Self:
        """Return a copy in which the settings of these names have their defaults."""
        return self.model_copy(update={name: type(self).model_fields[name].get_default() for name in names})

    def to_yaml(self) -> str:
        """Return the settings as YAML text that :func:`load_config` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


PLAINLY = {
    "tuple_type": "expected a list, such as [a, b]",
    "dict_type": "expected a section with keys",
    "model_type": "expected a section with keys",
    "union_tag_not_found": "expected a section with keys",
    "too_short": "expected at least {min_length} entries",
    "string_type": "expected a text",
    "literal_error": "expected {expected}",
}
"""What pydantic's kinds of problems mean to who writes YAML."""

SECRET = "secret"
"""Kind of the problem with a value that must not be shown."""

ConfigT = TypeVar("ConfigT", bound=Config)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 (hex) of ``value``'s canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_config(
    cls: type[ConfigT],
    path: str | Path | None,
    overrides: Iterable[str] = (),
    options: Mapping[str, tuple[str, Any]] | None = None,
) -> ConfigT:
    """Read a YAML file, apply ``section.key=value`` overrides and validate.

    Parameters
    ----------
    cls
        The model of the whole file.
    path
        The YAML file; None starts from the defaults alone.
    overrides
        Assignments such as ``train.batch_size=256``; the value is parsed as YAML.
    options
        Further assignments by key, which come last: how the user calls each, as ``--workers``, and its value.

    Raises
    ------
    ConfigError
        If the file is missing, is not a YAML mapping, holds an unknown key or an invalid value.
    """
    values = {} if path is None else _read_yaml(Path(path))
    assigned = {_assign(values, assignment): f"--set {assignment}" for assignment in overrides}
    for key, (option, value) in (options or {}).items():
        assigned[_assign(values, f"{key}={value}")] = f"{option} {value}"
    origin = "the defaults" if path is None else str(path)
    return validate(cls, values, origin, assigned)


def validate(
    cls: type[ConfigT], values: Mapping[str, Any], origin: str, assigned: Mapping[str, str] | None = None
) -> ConfigT:
    """Build ``cls`` from plain values; every problem is named in one :class:`ConfigError`.

    ``origin`` says where the values come from, ``assigned`` what the user typed to put others over them, by key.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_told(cls, error, origin, assigned or {})) from None


def _told(cls: type[BaseModel], error: ValidationError, origin: str, assigned: Mapping[str, str]) -> str:
    """Return every problem that pydantic found, in one line."""
    problems = [_plain(cls, problem) for problem in error.errors()]
    return "; ".join(f"{_origin(problem, origin, assigned)}: {_explain(problem)}" for problem in problems)


def _plain(cls: type[BaseModel], problem: Any) -> dict[str, Any]:
    """Return a problem of pydantic's as if sections of several kinds were of one.

    Of such a section pydantic names the kind in the place of a key. What is none of its kinds becomes a problem with
    the key that says the kind.
    """
    written, section = _followed(cls, problem["loc"])
    if problem["type"] == "extra_forbidden":
        return {**problem, "loc": written, "hint": _hint(cls, problem["loc"])}
    if problem["type"] != "union_tag_invalid":
        return {**problem, "loc": written}
    tag, kinds = problem["ctx"]["tag"], _kinds(section)
    key = next(name for name, field in next(iter(kinds.values())).model_fields.items() if field.default in kinds)
    expected = {"expected": " or ".join(f"'{kind}'" for kind in kinds)}
    return {"type": "literal_error", "loc": (*written, key), "input": tag, "ctx": expected, "msg": ""}


def _origin(problem: Any, origin: str, assigned: Mapping[str, str]) -> str:
    """Return the override that a problem stems from, else where the other values come from."""
    key = ".".join(str(part) for part in problem["loc"])
    unknown = problem["type"] == "extra_forbidden"  # then a section may be, whose keys alone were typed
    for name, typed in assigned.items():
        if f"{key}.".startswith(f"{name}.") or (unknown and name.startswith(f"{key}.")):
            return typed.partition("=")[0] if problem["type"] == SECRET else typed
    # What does not go together may be of several keys of a section, of which some were typed.
    below = [typed.partition("=")[0] for name, typed in assigned.items() if key and name.startswith(f"{key}.")]
    return f"{origin} with {', '.join(below)}" if below else origin


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        found = "a folder, expected a YAML file" if path.is_dir() else "no such configuration file"
        raise ConfigError(f"{path}: {found}; see conf/ for examples")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not readable as YAML: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    return values


def _assign(values: dict[str, Any], assignment: str) -> str:
    """Put an override into the values and return its key."""
    key, separator, text = assignment.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {assignment}: expected section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {assignment}: the value is not readable as YAML") from None
    *parents, leaf = key.strip().split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {assignment}: {parent!r} is a value, not a section")
        node = child
    node[leaf] = value
    return key.strip()


def _explain(problem: Any) -> str:
    location = tuple(str(part) for part in problem["loc"])
    dotted = ".".join(location) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {dotted!r}; {problem['hint']}"
    expected = PLAINLY.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    described = f"{dotted}: {expected.format(**problem.get('ctx', {}))}"
    if problem["type"] == SECRET or "Received: " in described:
        return described
    message = f"{described}. Received: {_as_yaml(problem['input'])}"
    if problem["type"] != "literal_error":
        return message
    near = nearest(str(problem["input"]), re.findall("'([^']*)'", problem["ctx"]["expected"]))
    return f"{message}; {near}" if near else message


def nearest(found: str, known: Iterable[str]) -> str:
    """Return the question whether the user meant the known name that is most like the one found; empty without any."""
    near = difflib.get_close_matches(found, list(known), n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else ""


def _as_yaml(value: Any) -> str:
    """Return a value as it would stand in the file."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _hint(cls: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """Return what may help with an unknown key: a kind of the section that has it, its nearest match, or all keys."""
    *above, key = location
    section = _followed(cls, above)[1]
    known = list(section.model_fields) if _is_model(section) else []
    for kind, model in _kinds(_followed(cls, above[:-1])[1]).items():
        if key in model.model_fields:
            return f"it is one of {kind!r}, not of {above[-1]!r}"
    return nearest(str(key), known) or f"known keys: {', '.join(known)}"


def _followed(cls: type[BaseModel], location: Iterable[str | int]) -> tuple[tuple[str, ...], Any]:
    """Follow a location down from a model; return it without kinds of sections, and what is there, None if nothing."""
    found: Any = cls
    written = []
    for part in location:
        name, kinds = str(part), _kinds(found)
        if kinds:
            found = kinds.get(name)
            continue
        written.append(name)
        if get_origin(found) is dict:
            found = get_args(found)[1]
        else:
            fields = found.model_fields if _is_model(found) else {}
            found = fields[name].annotation if name in fields else None
    return tuple(written), found


def _kinds(found: Any) -> dict[str, type[BaseModel]]:
    """Return the models that a section may be of, by what it says its kind is; none if it is not such a section."""
    parts = [get_args(part) for part in get_args(found) if get_origin(part) is Annotated]
    return {note.tag: model for model, *notes in parts for note in notes if isinstance(note, Tag)}


def _is_model(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)

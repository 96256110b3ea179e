"""Read configurations as frozen dataclasses from TOML, refuse unknown keys, and write them back.

Goes in: a mapping (parsed TOML) and a dataclass. Comes out: the dataclass, checked key by key and
type by type. Both programs use it, so it lives in the leaf package.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import json
import math
import os
import re
import tomllib
import types
import typing
from typing import TYPE_CHECKING, Any, TypeVar

from schemas import buckets
from schemas.errors import ConfigError
from schemas.regular_files import NotAFileError, open_regular

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
# Of any number of things: more is a slip of the finger, and too much for 64-bit numbers of bytes.
HIGHEST = 1e12
VARIABLE = re.compile(r"\$\{(\w+)\}")


def key(default: T, meaning: str) -> T:
    """Declare a setting of a configuration dataclass: its default, and its meaning for the docs."""
    setting: T = dataclasses.field(default=default, metadata={"meaning": meaning})
    return setting


def load_toml(path: str) -> dict[str, Any]:
    """Read a TOML file, here or in a bucket.

    Raises:
        ConfigError: no such file, or not TOML; names the file and line.
        BucketError: a bucket cannot be read.
    """
    try:
        if buckets.is_bucket(path):
            values = tomllib.loads(buckets.read(path).decode())
        else:
            with open_regular(path) as file:
                values = tomllib.load(file)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file; check the path") from error
    except NotAFileError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: no configuration file that can be read ({error.strerror}); check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}; correct the file") from error

    _refuse_dates(values, path)
    return values


def _refuse_dates(value: object, where: str) -> None:
    """Refuse what TOML has and no setting takes: dates and times.

    Raises:
        ConfigError: names the key.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_dates(item, f"{where}: {name}")
    elif isinstance(value, list):
        for item in value:
            _refuse_dates(item, where)
    elif isinstance(value, datetime.date | datetime.time):
        raise ConfigError(f"{where}: no setting is a date or a time; write it in quotes for a text")


def with_overrides(raw: dict[str, Any], overrides: typing.Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=value` settings; a value is TOML, or a plain string where it is not.

    Raises:
        ConfigError: an override without `=` or an empty key.
    """
    # A deep copy: the caller's values stay as they are.
    merged: dict[str, Any] = json.loads(json.dumps(raw))

    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {override!r}: give KEY=VALUE, for example --set link.top_k=5")

        *parents, name = key.strip().split(".")
        section = merged
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ConfigError(
                    f"--set {override!r}: {parent!r} is a value, not a section; "
                    "give SECTION.KEY=VALUE"
                )
        section[name] = _toml_value(text)
        _refuse_dates(section[name], f"--set {override!r}")
    return merged


def _toml_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def build(cls: type[T], raw: typing.Mapping[str, Any], where: str) -> T:
    """Make a dataclass from a mapping; nested dataclasses are sections.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing key or a value of the
            wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

    values = {}
    for key, value in raw.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")
        values[key] = _convert(hints[key], value, f"{where}: {key}")

    # A section checks its own values when it is made, and does not know where they stand.
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert(hint: Any, value: object, where: str) -> Any:  # noqa: ANN401 - a type hint, and its value
    """Turn a value as TOML has it into what a field's type hint asks for."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: must be a section of settings, but is {value!r}")
        return build(typing.cast(type, hint), value, where)

    origin = typing.get_origin(hint)
    if origin is tuple:
        element = typing.get_args(hint)[0]
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(element, item, where) for item in items)
    if origin in (typing.Union, types.UnionType):
        # The only unions here are optional values.
        inner = next(argument for argument in typing.get_args(hint) if argument is not type(None))
        return None if value is None else _convert(inner, value, where)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(str, choices))}")
        return value
    return _scalar(hint, value, where)


def _scalar(hint: type, value: object, where: str) -> object:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, str):
        return expand_variables(value, where)
    if type(value) is not hint:
        raise ConfigError(f"{where}: must be of type {hint.__name__}, but is {value!r}")
    return value


def expand_variables(text: str, where: str) -> str:
    """Replace `${NAME}` by the environment's value.

    Raises:
        ConfigError: the variable is not set.
    """

    def value_of(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(
                f"{where}: environment variable {name} is not set; set it, or write the path out"
            )
        return os.environ[name]

    return VARIABLE.sub(value_of, text)


def at_least(config: object, **lowest: float) -> None:
    """Refuse values that are too small, or not a number.

    Raises:
        ConfigError: names the key, its value and the lowest that will do.
    """
    for name, limit in lowest.items():
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value >= limit):
            raise ConfigError(f"{name} is {value!r}, but must be {limit:g} or more")
        if value is not None and value > HIGHEST:
            raise ConfigError(f"{name} is {value!r}, but must be {HIGHEST:g} or less")


def no_empty_path(config: object, *names: str) -> None:
    """Refuse lists of paths that hold an empty one, such as an unset variable of the shell leaves.

    Raises:
        ConfigError: names the key.
    """
    for name in names:
        if "" in getattr(config, name):
            raise ConfigError(
                f"{name} holds an empty path; give files, folders or globs, or leave it out"
            )


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Return a dataclass as plain values that JSON can hold; keys without a value are left out."""
    raw = dataclasses.asdict(config)
    return typing.cast(dict[str, Any], _plain(raw))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def to_toml(config: DataclassInstance) -> str:
    """Return a dataclass as TOML text, each key with its meaning: its values first, then its
    sections.
    """
    return "\n".join(_toml_lines(config, ())) + "\n"


def is_written_here(text: str) -> bool:
    """Say whether TOML text is what `to_toml` writes, of any version: each key has its meaning.

    So settings that a person wrote are known from a copy that may be written over.
    """
    lines = [line for line in text.splitlines() if line and not line.startswith("[")]
    return bool(lines) and all("  # " in line for line in lines)


def _toml_lines(config: DataclassInstance, path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(path)}]"] if path else []
    sections = []

    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            sections.append((item.name, value))
        elif value is not None:
            # JSON strings, numbers, booleans and arrays are TOML too.
            meaning = f"  # {item.metadata['meaning']}" if item.metadata else ""
            lines.append(f"{item.name} = {json.dumps(_plain(value))}{meaning}")

    # In TOML a section ends only where the next one begins, so the values come first.
    for name, section in sections:
        lines += ["", *_toml_lines(section, (*path, name))]
    return lines

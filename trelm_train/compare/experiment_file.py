"""Read the values of an experiment file: TOML, perhaps on top of another file, with changes by name.

A file may say `extends = "../lama.toml"`: it then has the values of that file but for its own. The
entries of a list are known by their names there: `[arms.talk]` changes the arm `talk`, `[[arms]]`
adds one. `--set arms.talk.rates=[1e-3]` changes one in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from schemas.settings import expand_variables, load_toml, with_overrides

# Sections that are lists of entries with a name.
LISTS = ("probes", "texts", "paraphrases", "tasks", "arms")
EXTENDS = "extends"
# Files on top of one another; far more than anybody needs.
MOST_FILES = 20

Values = dict[str, Any]


def read_experiment_file(path: Path, sets: Iterable[str] = ()) -> Values:
    """Return the values of an experiment file, with `--set` applied to it.

    Raises:
        ConfigError: a file is unreadable or extends itself, or a change names what is not there.
    """
    values = _read(path, ())
    for section in LISTS:
        values[section] = _by_name(values.get(section, []), f"{path}: {section}")
    sets = list(sets)
    for item in sets:
        _check_set(item, values)
    changed = with_overrides(values, sets)
    for section in LISTS:
        changed[section] = list(changed[section].values())
    return changed


def _check_set(item: str, values: Values) -> None:
    """Refuse a setting that would change a list, or an entry, as a whole.

    Raises:
        ConfigError: says how one key of an entry is changed.
    """
    section, *names = item.partition("=")[0].strip().split(".")
    if section not in LISTS:
        return
    if names and names[0] not in values[section]:
        raise _unknown("--set", section, names[0], values[section])
    if len(names) != 2:
        raise ConfigError(
            f"--set {item}: an entry is changed by its name, one key at a time; give "
            f"{section}.NAME.KEY=VALUE"
        )


def _read(path: Path, above: Sequence[Path]) -> Values:
    """Return the values of a file and of those that it extends.

    Raises:
        ConfigError: as for `read_experiment_file`.
    """
    own = load_toml(str(path))
    where = str(path)
    extended = own.pop(EXTENDS, None)
    if extended is None:
        return own
    if not isinstance(extended, str):
        raise ConfigError(f"{where}: {EXTENDS} = {extended!r} must be the path of a file, as text")
    base = path.parent / expand_variables(extended, f"{where}: {EXTENDS}")
    try:
        known = {one.resolve() for one in (*above, path)}
        if base.resolve() in known or len(known) >= MOST_FILES:
            raise ConfigError(f"{EXTENDS} leads back to itself, or too far; remove it")
        values = _read(base, (*above, path))
    # A name with a zero byte, or links that lead in a circle.
    except (ConfigError, ValueError, OSError, RuntimeError) as error:
        raise ConfigError(f"{where}: {EXTENDS} = {extended!r}: {error}") from error
    for section, changes in own.items():
        if section in LISTS:
            values[section] = _changed(values.get(section, []), changes, where, section)
        elif isinstance(changes, dict) and isinstance(values.get(section), dict):
            values[section] = {**values[section], **changes}
        else:
            values[section] = changes
    return values


def _changed(entries: Any, changes: Any, where: str, section: str) -> list[Values]:  # noqa: ANN401 - as TOML has it
    """Return the entries of a list with those of another file added, or changed by their names.

    Raises:
        ConfigError: a change of an entry that is not there.
    """
    named = _by_name(entries, f"{where}: {section}")
    if isinstance(changes, list):
        return [*named.values(), *changes]
    if not isinstance(changes, dict):
        raise ConfigError(f"{where}: {section} must be [[{section}]] or [{section}.NAME]")
    for name, of_entry in changes.items():
        if name not in named or not isinstance(of_entry, dict):
            raise _unknown(where, section, name, named)
        named[name] = {**named[name], **of_entry}
    return list(named.values())


def _by_name(entries: Any, where: str) -> dict[str, Values]:  # noqa: ANN401 - as TOML has it
    """Return the entries of a list by their names.

    Raises:
        ConfigError: it is no list of entries, or two have one name.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        name = where.rpartition(" ")[2]
        raise ConfigError(f"{where} must be written as [[{name}]]")
    named: dict[str, Values] = {}
    for entry in entries:
        name = str(entry.get("name", ""))
        if name in named:
            raise ConfigError(f"{where}: name {name!r} is there twice; give another one")
        named[name] = entry
    return named


def _unknown(where: str, section: str, name: str, named: Mapping[str, object]) -> ConfigError:
    known = ", ".join(named) or "none"
    return ConfigError(f"{where}: {section}.{name} is no entry of {section}; there are {known}")

"""Find the files of facts and patterns that ask in several ways (ParaRel), and read the patterns."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigError
from trelm_train.evaluate.lama_files import PID_FILE, read_jsonl


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files P….jsonl of a folder by relation, in the order of their numbers.

    Raises:
        ConfigError: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: no such folder; give the one with a file P….jsonl per relation"
        )
    paths = [path for path in folder.glob("P*.jsonl") if PID_FILE.fullmatch(path.name)]
    if not paths:
        raise ConfigError(f"{folder}: no file P….jsonl in it; give the folder that has them")
    return {path.stem: path for path in sorted(paths, key=lambda path: int(path.stem[1:]))}


def relation_files(facts: Path, patterns: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files of facts and of patterns of each relation that has both.

    Raises:
        ConfigError: a folder or its files are missing, or no relation has both.
    """
    of_facts, of_patterns = files_of(facts), files_of(patterns)
    if not of_facts.keys() & of_patterns.keys():
        raise ConfigError(
            f"{patterns}: no patterns for any relation of {facts}; both folders "
            "name their files after the relation, such as P36.jsonl"
        )
    return {
        name: (path, of_patterns[name]) for name, path in of_facts.items() if name in of_patterns
    }


def read_patterns(path: Path) -> tuple[str, ...]:
    """Read the patterns of a relation, in the order of the file; one that stands twice counts once.

    Raises:
        ConfigError: the file is unreadable or empty, or a row has no pattern, or one that lacks [X]
            or has not exactly one [Y].
    """
    patterns: list[str] = []
    for number, row in enumerate(read_jsonl(path), 1):
        pattern = row.get("pattern")
        problem = ""
        if not isinstance(pattern, str):
            problem = "no text under 'pattern'"
        elif "[X]" not in pattern:
            problem = "no [X], the place of the subject"
        elif pattern.count("[Y]") != 1:
            problem = f"[Y], the place of the object, {pattern.count('[Y]')} times instead of once"
        if problem:
            raise ConfigError(
                f'{path}: row {number} has {problem}; write {{"pattern": "[X] is in [Y]."}}'
            )
        patterns.append(str(pattern))
    if not patterns:
        raise ConfigError(f"{path}: no pattern in it; write one row per pattern")
    return tuple(dict.fromkeys(patterns))

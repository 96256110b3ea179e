"""Find and read the files of a LAMA folder (Petroni et al. 2019), as they were published.

Goes in: a folder, and perhaps a file of relations. Comes out: a probe file per relation, with its
template, and the names of what is missing. These layouts are known:

- `TREx/PID.jsonl`, whose templates are in `relations.jsonl`;
- `Google_RE/NAME_test.jsonl` of three names, whose templates are built in;
- `Squad/test.jsonl`, `ConceptNet/test.jsonl`: no template, each row has its sentence;
- one of these folders alone, or the folder that holds them.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.bounded_lines import bounded_lines
from schemas.errors import ConfigError
from schemas.regular_files import open_regular

# What some editors write before the first character of a text in UTF-8.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CORPORA = ("TREx", "Google_RE", "ConceptNet", "Squad")
GOOGLE_RE = {
    "place_of_birth": "[X] was born in [Y] .",
    "date_of_birth": "[X] (born [Y]).",
    "place_of_death": "[X] died in [Y] .",
}
RELATIONS_NAME, SENTENCES_NAME = "relations.jsonl", "test.jsonl"
# Rows of the relations' file, by relation.
Templates = dict[str, dict[str, Any]]
PID_FILE = re.compile(r"P[0-9]+\.jsonl", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeFile:
    """Hold one file of rows."""

    relation: str
    path: Path
    # None: every row has its own sentence.
    template: str | None
    # 1-1, N-1 or N-M; empty where it is not known.
    type: str
    # The folder that it lies in.
    corpus: str


@dataclass(slots=True)
class ProbeFiles:
    """Hold the files of a folder, and the names of what is not there."""

    files: list[ProbeFile] = field(default_factory=list)
    missing_relations: list[str] = field(default_factory=list)
    missing_corpora: list[str] = field(default_factory=list)
    # Files P….jsonl that no row of the relations' file names.
    without_template: list[str] = field(default_factory=list)
    # The file of templates; None where none was needed.
    relations: Path | None = None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSON-lines file; a byte-order mark at its start is no part of a row.

    Raises:
        ConfigError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    return [_row(line, f"{path}:{number}") for number, line in read_lines(path)]


def read_lines(path: Path) -> list[tuple[int, bytes]]:
    """Read the lines of a file that are not blank, with their numbers, without a byte-order mark.

    Raises:
        ConfigError: the file cannot be read, or a line is far too long.
    """
    try:
        with open_regular(path) as file:
            lines = [
                (number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line)
                for number, line in bounded_lines(file, str(path))
            ]
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read it ({error.strerror}); check the path and its permissions"
        ) from error
    return [(number, line) for number, line in lines if line.strip()]


def has_mark(path: Path) -> bool:
    """Say whether a file starts with the byte-order mark of UTF-8.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            return file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read it ({error.strerror}); check the path and its permissions"
        ) from error


def _row(line: bytes, position: str) -> dict[str, Any]:
    """Return the row of one line; `position` is file and line, for errors.

    Raises:
        ConfigError: it is no JSON object.
    """
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{position}: not UTF-8 text ({error.reason} at byte {error.start} of the line); "
            "is it compressed?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{position}: not JSON ({error}); write one JSON object per line"
        ) from error
    if not isinstance(row, dict):
        raise ConfigError(f"{position}: not a JSON object; write one JSON object per line")
    return row


def find_files(probes: Path, relations: Path | None, name: str = "") -> ProbeFiles:
    """Find the probe files of a folder, in the order of the relations' file.

    Args:
        probes: the folder.
        relations: the file of templates; None takes `relations.jsonl` of the folder, or of the one
            above it, as LAMA has it, where a file needs a template.
        name: what the folder is called, where its own name says nothing.

    Raises:
        ConfigError: a file is unreadable, templates are needed and not there, or there is no probe
            file at all.
    """
    if not probes.is_dir():
        raise ConfigError(f"{probes}: no such folder; give a folder of LAMA")
    folders = {corpus: probes / corpus for corpus in CORPORA if (probes / corpus).is_dir()}
    found = ProbeFiles(relations=relations)
    if folders:
        found.missing_corpora = [corpus for corpus in CORPORA if corpus not in folders]
    # Files that lie beside such folders are not passed over.
    if not folders or _pid_files(probes):
        folders[name or in_full(probes).name] = probes

    # Where nothing needs a template, its relations would only be named as missing.
    if relations is None and any(_pid_files(folder) for folder in folders.values()):
        found.relations = _relations_beside(probes)
    templates = _templates_of(found.relations)
    _add_templated(found, folders, templates)
    _add_google_re(found, folders, templates)
    _add_sentences(found, folders)
    _name_files_without_template(found, folders, templates)
    if not found.files:
        where = f"any relation of {found.relations}" if found.relations else "Google-RE's relations"
        raise ConfigError(
            f"{probes}: no file P….jsonl for {where}, and no test.jsonl; give a folder of LAMA"
        )
    return found


def in_full(folder: Path) -> Path:
    """Return a folder's path without "." and "..", so that its name and the one above it are known."""
    # Links stay: one may be called Squad where what it leads to is not.
    return Path(os.path.abspath(folder))  # noqa: PTH100 - `absolute` keeps ".."


def _relations_beside(probes: Path) -> Path | None:
    for folder in (probes, in_full(probes).parent):
        if (folder / RELATIONS_NAME).is_file():
            return folder / RELATIONS_NAME
    return None


def _templates_of(relations: Path | None) -> Templates:
    """Return the rows of the relations' file by relation; of two rows the last counts.

    Raises:
        ConfigError: it is unreadable, or a row has no template.
    """
    templates: Templates = {}
    for row in read_jsonl(relations) if relations is not None else ():
        if not {"relation", "template"} <= row.keys():
            raise ConfigError(f"{relations}: a row without 'relation' or 'template': {row}")
        templates[str(row["relation"])] = row
    return templates


def _add_templated(found: ProbeFiles, folders: dict[str, Path], templates: Templates) -> None:
    """Add the files of the relations that have a template in the relations' file."""
    for relation, row in templates.items():
        endings = ("", "_test") if relation in GOOGLE_RE else ("",)
        place = _first(folders, [f"{relation}{ending}.jsonl" for ending in endings])
        if place is None:
            found.missing_relations.append(relation)
            continue
        kind = str(row.get("type") or "")
        found.files.append(_file(relation, place, str(row["template"]), kind))


def _add_google_re(found: ProbeFiles, folders: dict[str, Path], templates: Templates) -> None:
    """Add the files of Google-RE whose templates are built in."""
    places = {
        relation: _first(folders, [f"{relation}_test.jsonl"])
        for relation in GOOGLE_RE
        if relation not in templates
    }
    is_there = any(places.values()) or "Google_RE" in folders
    for relation, place in places.items():
        if place is not None:
            found.files.append(_file(relation, place, GOOGLE_RE[relation], ""))
        elif is_there:
            found.missing_relations.append(relation)


def _add_sentences(found: ProbeFiles, folders: dict[str, Path]) -> None:
    """Add the files whose rows have sentences of their own: the relation bears the folder's name."""
    for corpus, folder in folders.items():
        path = folder / SENTENCES_NAME
        if path.is_file():
            found.files.append(_file(corpus, (corpus, path), None, ""))
        elif corpus in ("ConceptNet", "Squad"):
            found.missing_relations.append(corpus)


def _name_files_without_template(
    found: ProbeFiles, folders: dict[str, Path], templates: Templates
) -> None:
    """Name the files P….jsonl that would be passed over.

    Raises:
        ConfigError: there are such files, and no file of relations at all.
    """
    paths = [path for folder in folders.values() for path in _pid_files(folder)]
    found.without_template = [path.stem for path in paths if path.stem not in templates]
    if paths and found.relations is None:
        raise ConfigError(
            f"{paths[0].parent}: {paths[0].name} needs a template, and there is no relations.jsonl; "
            "give --relations"
        )


def _file(relation: str, place: tuple[str, Path], template: str | None, kind: str) -> ProbeFile:
    corpus, path = place
    return ProbeFile(relation=relation, path=path, template=template, type=kind, corpus=corpus)


def _pid_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("P*.jsonl") if PID_FILE.fullmatch(path.name))


def _first(folders: dict[str, Path], names: list[str]) -> tuple[str, Path] | None:
    """Return the first folder, by the name of its corpus, that has one of some files."""
    places = ((corpus, folder / name) for corpus, folder in folders.items() for name in names)
    return next(((corpus, path) for corpus, path in places if path.is_file()), None)

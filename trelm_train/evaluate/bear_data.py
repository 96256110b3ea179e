"""Read a BEAR probe (Wiland et al. 2024): relations with templates, answers and instances.

A folder goes in: `metadata_relations.json` with the templates and the answer space of each
relation, and `PID.jsonl` with a row per instance. Relations come out. What is wrong in a file is an
error that names it: a score of a part of the probe would be taken for that of the whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from schemas.listing import a_few
from schemas.regular_files import open_regular
from trelm_train.evaluate.lama_files import read_jsonl
from trelm_train.evaluate.lama_rows import qid_of

METADATA = "metadata_relations.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """Hold one fact: its subject, and the number of the right answer."""

    sub_label: str
    answer: int
    # As numbers, Q42 as 42; None where the row names none.
    sub_qid: int | None = None
    obj_qid: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BearRelation:
    """Hold a relation. No two answers read the same."""

    name: str
    templates: tuple[str, ...]
    answers: tuple[str, ...]
    instances: tuple[Instance, ...]

    @property
    def num_statements(self) -> int:
        """Return the number of sentences that have to be scored."""
        return len(self.templates) * len(self.answers) * len(self.instances)


@dataclass(frozen=True, kw_only=True, slots=True)
class BearProbe:
    """Hold the relations of a folder, and which names stand on one side only."""

    relations: tuple[BearRelation, ...]
    # In the metadata, without a file.
    missing: tuple[str, ...]
    # Files that the metadata does not name.
    unnamed: tuple[str, ...]


def read_bear(folder: Path, limit: int = 0) -> BearProbe:
    """Read a probe, with at most `limit` instances per relation (0: all).

    Raises:
        ConfigError: a file is unreadable or wrong, or no relation has a file.
    """
    metadata = _metadata(folder / METADATA)
    paths = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    relations = []
    for name, values in metadata.items():
        if name in paths:
            relations.append(_relation(name, values, folder, limit))
    if not relations:
        raise ConfigError(
            f"{folder}: no file PID.jsonl for any relation of {METADATA}; give the folder that holds "
            "both"
        )
    return BearProbe(
        relations=tuple(relations),
        missing=tuple(name for name in metadata if name not in paths),
        unnamed=tuple(name for name in paths if name not in metadata),
    )


def _metadata(path: Path) -> dict[str, Any]:
    """Read the templates and answers of all relations.

    Raises:
        ConfigError: the file cannot be read, or is not an object of objects.
    """
    try:
        with open_regular(path) as file:
            metadata = json.loads(file.read())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read it ({error.strerror}); a BEAR probe has its templates and answers "
            "there"
        ) from error
    # UnicodeDecodeError is a ValueError.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error}); copy the probe again") from error
    if not isinstance(metadata, dict) or not all(
        isinstance(values, dict) for values in metadata.values()
    ):
        raise ConfigError(
            f'{path}: not an object of relations; wanted {{"P30": {{"templates": […], '
            '"answer_space_labels": […]}}'
        )
    return metadata


def _relation(name: str, values: dict[str, Any], folder: Path, limit: int) -> BearRelation:
    """Read one relation.

    Raises:
        ConfigError: templates, answers or instances are not what they must be.
    """
    position = f"{folder / METADATA}: {name}"
    templates = _texts(values, "templates", position)
    labels = _texts(values, "answer_space_labels", position)
    for template in templates:
        for place in ("[X]", "[Y]"):
            if place not in template:
                raise ConfigError(f"{position}: no {place} in the template {template!r}; add it")
    ids = values.get("answer_space_ids")
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(labels)):
        raise ConfigError(
            f"{position}: answer_space_ids and answer_space_labels differ in length; copy the probe "
            "again"
        )

    # Two items of one name are one answer: no sentence can tell them apart.
    answers = tuple(dict.fromkeys(labels))
    path = folder / f"{name}.jsonl"
    instances: list[Instance] = []
    for number, row in enumerate(read_jsonl(path), 1):
        if limit and len(instances) >= limit:
            break
        label_number = _answer_number(row, labels, ids, f"{path}: row {number}")
        instances.append(
            Instance(
                sub_label=str(row["sub_label"]),
                answer=answers.index(labels[label_number]),
                sub_qid=qid_of(row.get("sub_id")),
                obj_qid=qid_of(row.get("obj_id")),
            )
        )
    if not instances:
        raise ConfigError(f"{path}: no instance in it; copy the probe again")
    return BearRelation(name=name, templates=templates, answers=answers, instances=tuple(instances))


def _texts(values: dict[str, Any], key: str, position: str) -> tuple[str, ...]:
    """Return a list of texts of a relation.

    Raises:
        ConfigError: it is missing, empty, or holds something else.
    """
    texts = values.get(key)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{position}: {key!r} is no list of texts; copy the probe again")
    return tuple(texts)


def _answer_number(
    row: dict[str, Any], labels: tuple[str, ...], ids: list[Any] | None, position: str
) -> int:
    """Return the number of a row's right answer among the labels.

    Raises:
        ConfigError: the row has no subject, its `answer_idx` is no number of an answer, or the
            answer there is not its object, by the id, or by the label where the answers have none.
    """
    if not isinstance(row.get("sub_label"), str):
        raise ConfigError(f"{position}: no text under 'sub_label'; copy the probe again")
    number = row.get("answer_idx")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(labels):
        raise ConfigError(
            f"{position}: answer_idx is {number!r}; wanted a number from 0 to {len(labels) - 1}, the "
            f"place in the answer space {a_few(labels, shown=3)}"
        )
    # The id decides where there is one: a label may be written in another way.
    key, there = ("obj_label", labels[number]) if ids is None else ("obj_id", ids[number])
    if row.get(key) not in (None, there):
        raise ConfigError(
            f"{position}: answer_idx {number} is {there!r}, but {key} is {row[key]!r}; copy the probe "
            "again"
        )
    return number

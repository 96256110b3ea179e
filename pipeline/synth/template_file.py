"""Read templates from a file.

Goes in: JSONL, `{"relation": "P19", "template": "The life of [X] began in [Y]."}`, with the optional
fields `label`, `type` (1-1, N-1 or N-M) and `held` (true: never in the corpus, only in probes). The
relation `distractor` marks sentences that name both and state no fact.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from pipeline.engine import files
from pipeline.synth.settings import property_number
from pipeline.synth.templates import SLOTS, Relation, Templates
from schemas.errors import ConfigError

OWN = Path(__file__).with_name("templates.jsonl")
DISTRACTOR = "distractor"
# A mark inside a template would end a sentence there.
SENTENCE_END = re.compile(r"[.!?…。\n\r\t]")


def load_templates(path: str, relations: tuple[str, ...]) -> Templates:
    """Return the templates of a file, or our own where the path is empty.

    Args:
        path: JSONL, as above.
        relations: the relations that are used, as P19; none stands for all.

    Raises:
        ConfigError: a row is no template, a relation has too few, or a requested one has none.
    """
    where = path or str(OWN)
    rows = _read(where)
    distractors = tuple(row["template"] for row in rows if row["relation"] == DISTRACTOR)
    if not distractors:
        own = _read(str(OWN))
        distractors = tuple(row["template"] for row in own if row["relation"] == DISTRACTOR)

    rows_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["relation"] != DISTRACTOR:
            rows_of[row["relation"]].append(row)
    missing = [relation for relation in relations if relation not in rows_of]
    if missing:
        raise ConfigError(
            f"{where}: no template for {', '.join(missing)}; it has {', '.join(rows_of)}: "
            "choose among these, or add templates"
        )

    made = [_relation(name, rows_of[name], where) for name in relations or rows_of]
    templates = Templates(
        relations={relation.predicate: relation for relation in made}, distractors=distractors
    )
    _check_held(templates, where)
    return templates


def _relation(name: str, rows: list[dict[str, Any]], where: str) -> Relation:
    """Put the templates of a relation together; without one held out, the last is."""
    texts = list(dict.fromkeys(row["template"] for row in rows))
    held = [
        text for text in texts if any(row.get("held") for row in rows if row["template"] == text)
    ]
    held = held or texts[-1:]
    known = tuple(text for text in texts if text not in held)
    if not known:
        raise ConfigError(
            f"{where}: {name} has {len(known)} template(s) for the corpus beside {len(held)} held "
            "out; give each relation at least one of both"
        )

    return Relation(
        predicate=property_number(name),
        label=next((str(row["label"]) for row in rows if row.get("label")), name),
        kind=next((str(row["type"]) for row in rows if row.get("type")), ""),
        known=known,
        held=tuple(held),
    )


def _check_held(templates: Templates, where: str) -> None:
    """Refuse a held-out template that another relation uses in the corpus."""
    in_corpus = {text for relation in templates.relations.values() for text in relation.known}
    in_corpus |= set(templates.distractors)
    for relation in templates.relations.values():
        for text in relation.held:
            if text in in_corpus:
                raise ConfigError(
                    f"{where}: the held-out template {text!r} is also one of the corpus; "
                    "change one of the two"
                )


def _read(path: str) -> list[dict[str, Any]]:
    """Return the checked rows of a file.

    Raises:
        ConfigError: names file and line.
    """
    rows = []
    with files.open_read(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                rows.append(_checked(line, f"{path}:{number}"))
    return rows


def _checked(line: bytes, position: str) -> dict[str, Any]:
    advice = 'write {"relation": "P19", "template": "The life of [X] began in [Y]."}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{position}: not JSON ({error}); {advice}") from error
    if not isinstance(row, dict) or not all(
        isinstance(row.get(name), str) for name in ("relation", "template")
    ):
        raise ConfigError(f"{position}: not a relation and a template; {advice}")

    text = row["template"]
    if sorted(SLOTS.findall(text)) != ["X", "Y"]:
        raise ConfigError(f"{position}: {text!r} must have [X] and [Y] once each; {advice}")
    if SENTENCE_END.search(text[:-1]) or text != text.strip():
        raise ConfigError(
            f"{position}: {text!r} must be one sentence on one line, with a full stop only at its end"
        )
    if row["relation"] != DISTRACTOR:
        property_number(row["relation"])
    return row

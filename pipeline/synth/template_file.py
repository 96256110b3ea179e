"""Sort the templates of a file for a synthetic corpus.

Goes in: JSONL, `{"relation": "P19", "template": "The life of [X] began in [Y]."}`, with the optional
fields `label`, `type` (1-1, N-1 or N-M) and `held` (true: never in the corpus, only in probes). The
relation `distractor` marks sentences that name both and state no fact.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pipeline.synth.templates import Relation, Templates
from pipeline.templates.property_ids import property_number
from pipeline.templates.template_file import (
    DISTRACTOR,
    OWN,
    known_and_held,
    read_templates,
)
from schemas.errors import ConfigError


def load_templates(path: str, relations: tuple[str, ...]) -> Templates:
    """Return the templates of a file, or our own where the path is empty.

    Args:
        path: JSONL, as above.
        relations: the relations that are used, as P19; none stands for all.

    Raises:
        ConfigError: a row is no template, a relation has too few, or a requested one has none.
    """
    source = path or str(OWN)
    rows = read_templates(source)
    # They fit every relation, so a file of templates needs none of its own.
    distractors = _distractors(rows) or _distractors(read_templates(str(OWN)))

    rows_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["relation"] != DISTRACTOR:
            rows_of[row["relation"]].append(row)

    missing = [relation for relation in relations if relation not in rows_of]
    if missing:
        raise ConfigError(
            f"{source}: no template for {', '.join(missing)}; it has {', '.join(rows_of)}: "
            "choose among these, or add templates"
        )

    complete = [_relation(name, rows_of[name], source) for name in relations or rows_of]
    templates = Templates(
        relations={relation.predicate: relation for relation in complete}, distractors=distractors
    )
    _check_held(templates, source)
    return templates


def _distractors(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(row["template"] for row in rows if row["relation"] == DISTRACTOR)


def _relation(name: str, rows: list[dict[str, Any]], source: str) -> Relation:
    """Put the templates of a relation together."""
    known_texts, held_texts = known_and_held(rows)
    if not known_texts or not held_texts:
        raise ConfigError(
            f"{source}: {name} has {len(known_texts)} templates for the corpus beside "
            f"{len(held_texts)} held out; give each relation at least one of both"
        )

    return Relation(
        predicate=property_number(name),
        label=next((str(row["label"]) for row in rows if row.get("label")), name),
        kind=next((str(row["type"]) for row in rows if row.get("type")), ""),
        known=tuple(known_texts),
        held=tuple(held_texts),
    )


def _check_held(templates: Templates, source: str) -> None:
    """Refuse a held-out template that another relation uses in the corpus."""
    in_corpus = {text for relation in templates.relations.values() for text in relation.known}
    in_corpus |= set(templates.distractors)

    for relation in templates.relations.values():
        for text in relation.held:
            if text in in_corpus:
                raise ConfigError(
                    f"{source}: the held-out template {text!r} is also one of the corpus; "
                    "change one of the two"
                )

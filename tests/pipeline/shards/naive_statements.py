"""The facts that become statements the plain way: one triple after the other."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from schemas import ENTITIES, ENTITY_FREQUENCY
from tests.pipeline.cases import rows_of

Fact = tuple[int, int, int]


def labels_of(run: Path) -> dict[int, str]:
    """Labels of the items that are no pages about pages."""
    is_meta = ENTITIES.column_names.index("is_meta")
    return {row[0]: row[1] for row in rows_of(run, "entities") if row[1] and not row[is_meta]}


def relations_of(run: Path) -> dict[int, str]:
    return {row[0]: row[1] for row in rows_of(run, "properties") if row[1]}


def mentions_of(run: Path) -> dict[int, int]:
    return {row[0]: row[1] for row in rows_of(run, "entity_frequency")}


def usable_triples(run: Path) -> set[Fact]:
    """Triples whose ends and relation have labels, merged items followed."""
    labels, relations = labels_of(run), relations_of(run)
    merged = {int(source[1:]): int(target[1:]) for source, target in rows_of(run, "redirects")}
    triples = {(row[0], row[1], merged.get(row[2], row[2])) for row in rows_of(run, "triples")}
    return {
        (subject, relation, other)
        for subject, relation, other in triples
        if subject in labels and other in labels and relation in relations and subject != other
    }


def wanted_facts(run: Path, rare: set[int], per_entity: int) -> list[Fact]:
    """Unstated facts of rare subjects, in the order in which they are written."""
    labels, mentions = labels_of(run), mentions_of(run)
    stated = {row[:3] for row in rows_of(run, "fact_support") if row[3] > 0}
    objects: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for subject, relation, other in sorted(usable_triples(run)):
        is_stated = (subject, relation, other) in stated
        if subject in rare and not is_stated and labels[subject].lower() != labels[other].lower():
            objects[subject][relation].append(other)

    facts = []
    for subject in sorted(objects, key=lambda qid: (mentions[qid], qid)):
        ranked = sorted(
            (place, relation, other)
            for relation, others in objects[subject].items()
            for place, other in enumerate(others)
        )
        facts += [(subject, relation, other) for _, relation, other in ranked[:per_entity]]
    return facts


def rare_of(run: Path, entities: str, r_freq: float) -> set[int]:
    """Subjects that the setting names, with a label."""
    labels = labels_of(run)
    number, band = (ENTITY_FREQUENCY.column_names.index(name) for name in ("num_mentions", "band"))
    return {
        row[0]
        for row in rows_of(run, "entity_frequency")
        if row[0] in labels
        and (row[band] == "tail" if entities == "tail" else row[number] < r_freq)
    }

"""Make the probes of a corpus, in the format of LAMA.

Goes in: facts with their classes. Comes out: the content of files, by path:
`probes/PART/CLASS/TEMPLATE/relations.jsonl` and `…/P19.jsonl`. TEMPLATE is `known` (one that the
corpus uses), `held` or `held-2` (templates that it never uses).
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pipeline.synth.classes import NO_CLASS, KnownFact
from pipeline.synth.facts import Pool
from pipeline.synth.templates import Relation, Templates

KNOWN, HELD = "known", "held"
# Words that answers are ranked over: the option --common-vocab.
ANSWERS = "probes/answers.txt"


def probe_templates(relation: Relation) -> dict[str, str]:
    """Return the templates that probes ask with, by the name of their folder."""
    templates = {KNOWN: relation.known[0]}
    for number, template in enumerate(relation.held, 1):
        templates[HELD if number == 1 else f"{HELD}-{number}"] = template
    return templates


def probe_files(
    facts: Sequence[KnownFact], pool: Pool, templates: Templates
) -> Iterator[tuple[str, str]]:
    """Yield path and content of every file of the probes."""
    rows: dict[tuple[str, str], dict[int, list[KnownFact]]] = defaultdict(lambda: defaultdict(list))
    for entry in facts:
        # A probe without a class would say nothing clear.
        if entry.kind != NO_CLASS:
            rows[entry.part, entry.kind][entry.fact.predicate].append(entry)

    for (probe_part, kind), facts_of in sorted(rows.items()):
        folders: dict[str, list[dict[str, str]]] = defaultdict(list)
        for predicate, members in sorted(facts_of.items()):
            relation = templates.relations[predicate]
            # The same questions in every template, so that templates alone differ.
            content = _lines([_row(entry, pool) for entry in members])
            for name, template in probe_templates(relation).items():
                folder = f"probes/{probe_part}/{kind}/{name}"
                folders[folder].append(_relation_row(relation, template))
                yield f"{folder}/P{predicate}.jsonl", content
        for folder, relation_rows in folders.items():
            yield f"{folder}/relations.jsonl", _lines(relation_rows)

    # One list for all classes and parts: a rank means the same in each.
    answers = {pool.labels[entry.fact.object] for entry in facts}
    yield ANSWERS, "".join(f"{answer}\n" for answer in sorted(answers))


def _relation_row(relation: Relation, template: str) -> dict[str, str]:
    return {
        "relation": f"P{relation.predicate}",
        "template": template,
        "label": relation.label,
        "type": relation.kind,
    }


def _row(entry: KnownFact, pool: Pool) -> dict[str, str]:
    subject, predicate, object_ = entry.fact
    # An id that follows from the fact: the same one in every corpus.
    name = f"trelm/synth/Q{subject}/P{predicate}/Q{object_}"
    return {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        "sub_label": pool.labels[subject],
        "obj_label": pool.labels[object_],
        "sub_uri": f"Q{subject}",
        "obj_uri": f"Q{object_}",
    }


def _lines(rows: Sequence[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

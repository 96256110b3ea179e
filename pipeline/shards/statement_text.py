"""Write a fact of the knowledge base as a statement. Pure.

Goes in: ids and labels of a fact, and templates by relation. Comes out: its id in `examples`, and
a sentence with the code points of both names. A relation without a template is written by its
label: "Ada Lovelace, place of birth: London."
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.arrays.hashing import hash64
from pipeline.templates.filling import Written, fill
from schemas.ids import item_id
from schemas.shards import STATEMENT_PREFIX

# Of each relation, by its PID: templates with [X] and [Y].
StatementTemplates = Mapping[int, Sequence[str]]


@dataclass(frozen=True, slots=True)
class FactNames:
    """Hold a fact: its ids, and the labels of its ends and of its relation."""

    subject: int
    predicate: int
    object: int
    subject_label: str
    relation_label: str
    object_label: str

    @property
    def statement_id(self) -> str:
        """Return what stands for a document's id in the statement's row."""
        return f"{STATEMENT_PREFIX}{item_id(self.subject)}:P{self.predicate}:{item_id(self.object)}"


def written(fact: FactNames, templates: StatementTemplates, seed: int) -> Written:
    """Return the statement of a fact; the fact and the seed choose among several templates."""
    texts = templates.get(fact.predicate, ())
    if texts:
        number = hash64(f"template:{seed}:{fact.statement_id}") % len(texts)
        return fill(texts[number], fact.subject_label, fact.object_label)

    # Not by a template: a label may itself have [X] or [Y] in it.
    before_object = f"{fact.subject_label}, {fact.relation_label}: "
    end = len(before_object) + len(fact.object_label)
    return Written(
        text=f"{before_object}{fact.object_label}.",
        subject=(0, len(fact.subject_label)),
        object=(len(before_object), end),
    )

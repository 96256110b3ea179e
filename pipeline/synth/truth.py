"""Say the truth about a corpus: tables of its sentences, links, facts and entities, and totals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.synth.classes import CLASSES, NO_CLASS, PARTS, KnownFact
from pipeline.synth.facts import Pool
from pipeline.synth.general import GeneralText
from pipeline.synth.layout import SynthDocument
from pipeline.synth.templates import Templates
from schemas.table import Column, Table

TRUE_SENTENCES = Table(
    name="synth_sentences",
    version=1,
    row="sentence that names entities",
    key=("doc_id", "start"),
    columns=(
        Column(name="doc_id", type=pa.string(), meaning="document"),
        Column(name="start", type=pa.uint32(), meaning="first code point in the document's text"),
        Column(name="end", type=pa.uint32(), meaning="one past the last code point"),
        Column(name="template", type=pa.string(), meaning="template it was made from"),
        Column(name="subject", type=pa.uint32(), meaning="QID of the subject"),
        Column(
            name="predicate",
            type=pa.uint32(),
            meaning="PID of the fact",
            null_means="a distractor, which states no fact",
        ),
        Column(
            name="object",
            type=pa.uint32(),
            meaning="QID of the fact's true tail",
            null_means="a distractor",
        ),
        Column(
            name="other",
            type=pa.uint32(),
            meaning="QID of the item named beside the subject: the tail, true or wrong",
        ),
        Column(name="is_corrupted", type=pa.bool_(), meaning="true where the tail is wrong"),
    ),
)
TRUE_LINKS = Table(
    name="synth_links",
    version=1,
    row="link",
    key=("doc_id", "start", "end"),
    columns=(
        Column(name="doc_id", type=pa.string(), meaning="document"),
        Column(name="start", type=pa.uint32(), meaning="first code point in the document's text"),
        Column(name="end", type=pa.uint32(), meaning="one past the last code point"),
        Column(name="qid", type=pa.uint32(), meaning="item that the name means"),
        Column(name="linked_qid", type=pa.uint32(), meaning="item that the link leads to"),
        Column(name="is_corrupted", type=pa.bool_(), meaning="true where the two differ"),
    ),
)
TRUE_FACTS = Table(
    name="synth_facts",
    version=1,
    row="fact of a mentioned subject, or of one that is probed and mentioned nowhere",
    key=("subject", "predicate", "object"),
    columns=(
        Column(name="subject", type=pa.uint32(), meaning="QID"),
        Column(name="predicate", type=pa.uint32(), meaning="PID"),
        Column(name="object", type=pa.uint32(), meaning="QID"),
        Column(name="num_stated", type=pa.uint32(), meaning="sentences that state it"),
        Column(
            name="num_misstated",
            type=pa.uint32(),
            meaning="sentences that state a wrong tail in its place",
        ),
        Column(name="num_mentions", type=pa.uint32(), meaning="mentions of the subject"),
        Column(
            name="class",
            type=pa.string(),
            meaning=f"class of its probes: {', '.join(CLASSES)}; empty if none fits",
        ),
        Column(name="part", type=pa.string(), meaning=f"part of its probes: {', '.join(PARTS)}"),
    ),
)
TRUE_ENTITIES = Table(
    name="synth_entities",
    version=1,
    row="item that the corpus names",
    key=("qid",),
    columns=(
        Column(name="qid", type=pa.uint32(), meaning="QID"),
        Column(name="label", type=pa.string(), meaning="name in the corpus"),
        Column(name="num_mentions", type=pa.uint32(), meaning="mentions of it in the text"),
        Column(
            name="num_subject_mentions",
            type=pa.uint32(),
            meaning="those as the subject of a sentence: they follow Zipf's law",
        ),
        Column(name="num_links", type=pa.uint32(), meaning="links that lead to it"),
    ),
)


def sentence_table(documents: Sequence[SynthDocument]) -> pa.Table:
    """Return the rows of TRUE_SENTENCES."""
    rows: list[tuple[object, ...]] = []
    for document in documents:
        for start, sentence in document.placed():
            predicate, object_ = sentence.fact[1:] if sentence.fact else (None, None)
            span = (document.doc_id, start, start + len(sentence.text), sentence.template)
            stated = (sentence.subject, predicate, object_, sentence.other, sentence.is_corrupted)
            rows.append((*span, *stated))
    return TRUE_SENTENCES.from_rows(rows)


def link_table(documents: Sequence[SynthDocument]) -> pa.Table:
    """Return the rows of TRUE_LINKS."""
    rows: list[tuple[object, ...]] = [
        (document.doc_id, start, end, true, linked, true != linked)
        for document in documents
        for start, end, true, linked in document.mentions()
    ]
    return TRUE_LINKS.from_rows(rows)


def fact_table(facts: Sequence[KnownFact]) -> pa.Table:
    """Return the rows of TRUE_FACTS."""
    rows: list[tuple[object, ...]] = [
        (
            *entry.fact,
            entry.num_stated,
            entry.num_misstated,
            entry.num_mentions,
            entry.kind,
            entry.part,
        )
        for entry in facts
    ]
    return TRUE_FACTS.from_rows(rows)


def entity_table(documents: Sequence[SynthDocument], pool: Pool) -> pa.Table:
    """Return the rows of TRUE_ENTITIES, by QID."""
    mentions: Counter[int] = Counter()
    links: Counter[int] = Counter()
    subjects: Counter[int] = Counter()
    for document in documents:
        # By sentence: an item is also mentioned as the object of others.
        subjects.update(sentence.subject for sentence in document.sentences)
        for _, _, true, linked in document.mentions():
            mentions[true] += 1
            links[linked] += 1
    rows: list[tuple[object, ...]] = [
        (qid, pool.labels[qid], mentions[qid], subjects[qid], links[qid])
        for qid in sorted(mentions)
    ]
    return TRUE_ENTITIES.from_rows(rows)


def totals(
    documents: Sequence[SynthDocument], facts: Sequence[KnownFact], general: GeneralText
) -> dict[str, Any]:
    """Return the figures of the whole corpus."""
    sentences = [sentence for document in documents for sentence in document.sentences]
    links = [pair for document in documents for _, _, *pair in document.mentions()]
    num_words = sum(len(sentence.text.split()) for sentence in sentences)
    probes = Counter((entry.part, entry.kind) for entry in facts if entry.kind != NO_CLASS)
    return {
        "documents": len(documents),
        "sentences": len(sentences),
        "sentences_with_fact": sum(sentence.fact is not None for sentence in sentences),
        "distractors": sum(sentence.fact is None for sentence in sentences),
        "corrupted_facts": sum(sentence.is_corrupted for sentence in sentences),
        "links": len(links),
        "corrupted_links": sum(true != linked for true, linked in links),
        "subjects": len({sentence.subject for sentence in sentences}),
        "entities": len({true for true, _ in links}),
        "facts_stated": sum(entry.num_stated > 0 for entry in facts),
        "words": num_words + general.num_words,
        "general_words": general.num_words,
        "general_paragraphs": len(general.paragraphs),
        "general_paragraphs_naming_a_subject": general.num_naming,
        "probes": {
            part: {kind: probes[part, kind] for kind in CLASSES if probes[part, kind]}
            for part in PARTS
        },
    }


def relation_figures(facts: Sequence[KnownFact]) -> dict[str, Any]:
    """Return figures of the stated facts of each relation.

    `best_guess` is the P@1 of a model that always answers with the relation's most frequent object.
    """
    objects: dict[int, Counter[int]] = defaultdict(Counter)
    for entry in facts:
        # By fact, not by sentence: a probe asks each fact once.
        if entry.num_stated:
            objects[entry.fact.predicate][entry.fact.object] += 1
    return {
        f"P{predicate}": {
            "facts_stated": counts.total(),
            "objects": len(counts),
            "best_guess": round(max(counts.values()) / counts.total(), 4),
        }
        for predicate, counts in sorted(objects.items())
    }


def used_templates(templates: Templates) -> dict[str, Any]:
    """Return the templates of the corpus and of its probes."""
    relations = {
        f"P{relation.predicate}": {"known": relation.known, "held": relation.held}
        for relation in templates.relations.values()
    }
    return {"relations": relations, "distractors": templates.distractors}

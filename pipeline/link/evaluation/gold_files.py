"""Link the texts of gold files with a run's index, in memory, in every way that is scored.

Goes in: an index, gold files. Comes out: links of mentions that the linker found, links at the gold
spans, and what a baseline looks up at both. A text is annotated once for all of these, since the
recogniser takes most of the time. Costs what `link` costs; memory follows the largest gold file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.config import LinkConfig
from pipeline.link.candidates import MATCHES, exact_candidates
from pipeline.link.document_mentions import DocumentMentions
from pipeline.link.evaluation.scores import Prediction, SpanKey
from pipeline.link.gold import GoldDocument
from pipeline.link.linker import Links
from pipeline.link.mentions import recognised_spans
from pipeline.link.spans import Span
from pipeline.link.stage import (
    LinkResources,
    annotate,
    batches,
    link_mentions,
    spans_of,
)

# More than `link.top_k`, so that candidate recall counts all that the linker has looked at.
SCORED_CANDIDATES = 64


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """Hold what became of the texts of one gold file."""

    documents: Mapping[str, GoldDocument]
    # Links of mentions that the linker found.
    end_to_end: dict[SpanKey, Prediction] = field(default_factory=dict)
    # Links at the gold spans.
    at_gold: dict[SpanKey, Prediction] = field(default_factory=dict)
    # Items that bear the name, at the recogniser's spans and at the gold spans.
    recognised_names: dict[SpanKey, tuple[int, ...]] = field(default_factory=dict)
    gold_names: dict[SpanKey, tuple[int, ...]] = field(default_factory=dict)


def link_file(
    resources: LinkResources, documents: Mapping[str, GoldDocument], config: LinkConfig
) -> LinkedFile:
    """Link the texts of one gold file in all ways.

    Args:
        resources: opened with `config`; no gold spans and no anchors.
        documents: of the gold file, by id.
        config: of the stage.
    """
    linked = LinkedFile(documents)
    free, given = (replace(resources, gold=gold) for gold in (None, dict(documents)))
    config = replace(config, top_k=SCORED_CANDIDATES)
    texts = [(document.doc_id, document.text) for document in documents.values()]
    for batch in batches(texts):
        annotated = annotate(resources, batch)
        found, at_gold = (
            [replace(one, spans=spans_of(ways, one, config)) for one in annotated]
            for ways in (free, given)
        )
        recognised = [
            replace(
                one, spans=list(recognised_spans(one.text, one.annotated.named, resources.names))
            )
            for one in annotated
        ]

        # Word numbers hold until the next batch is annotated.
        linked.end_to_end.update(predictions(found, link_mentions(free, found, config)))
        linked.at_gold.update(predictions(at_gold, link_mentions(given, at_gold, config)))
        linked.recognised_names.update(named_items(recognised, resources))
        linked.gold_names.update(named_items(at_gold, resources))
    return linked


def predictions(documents: Sequence[DocumentMentions], links: Links) -> dict[SpanKey, Prediction]:
    """Return the links of a batch by span, with all their candidates."""
    best = links.candidates
    qids, scores = best.qids.tolist(), links.probability.tolist()
    matches = [MATCHES[match] for match in best.matches.tolist()]
    offsets = links.offsets.tolist()

    by_span = {}
    for number, (key, span, surface) in enumerate(_keyed_spans(documents)):
        low, high = offsets[number], offsets[number + 1]
        by_span[key] = Prediction(
            int(links.qids[number]) or None,
            tuple(qids[low:high]),
            confidence=float(links.confidence[number]),
            scores=tuple(scores[low:high]),
            detector=span.detector,
            ner_type=span.ner_type,
            match=matches[low] if low < high else "",
            surface=surface,
        )
    return by_span


def named_items(
    documents: Sequence[DocumentMentions], resources: LinkResources
) -> dict[SpanKey, tuple[int, ...]]:
    """Return the items of the KB that bear the exact name of each mention; no pages about pages."""
    store = resources.entities
    by_span = {}
    for key, _, surface in _keyed_spans(documents):
        qids = np.array(list(exact_candidates(surface, resources.index)), np.uint32)
        rows = store.rows(qids)
        qids, rows = qids[rows >= 0], rows[rows >= 0]
        by_span[key] = tuple(qids[~store.is_meta(rows)].tolist())
    return by_span


def most_pointed_to(
    named: Mapping[SpanKey, tuple[int, ...]], in_degree: Mapping[int, int]
) -> dict[SpanKey, Prediction]:
    """Return the baseline's links: of the items with the name, the one most triples point to.

    Of equals the lowest QID.
    """
    links = {}
    for key, qids in named.items():
        ordered = tuple(sorted(qids, key=lambda qid: (-in_degree.get(qid, 0), qid)))
        links[key] = Prediction(
            ordered[0] if ordered else None, ordered, confidence=float(bool(ordered))
        )
    return links


def _keyed_spans(
    documents: Sequence[DocumentMentions],
) -> Iterable[tuple[SpanKey, Span, str]]:
    """Yield the mentions of a batch in the order of its links: key, span, text."""
    for document in documents:
        for span in document.spans:
            surface = document.text[span.start : span.end]
            yield (document.doc_id, span.start, span.end), span, surface

"""Stage `link`: documents to sentences and links. Map-only: a unit is a range of documents.

Mentions are found by the recogniser and by dictionary probes, or given by a gold file; each is linked or NIL, with its best
candidates and every partial score.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.annotate import Annotated, Annotator, check_model, model_version
from pipeline.config import LinkConfig
from pipeline.core.candidates import is_known
from pipeline.core.linking import Linker, LinkSettings
from pipeline.core.mentions import Span, detect
from pipeline.gold import GoldDocument, load_gold
from pipeline.storage import files
from pipeline.storage.alias_index import AliasIndex
from pipeline.storage.arrays import local_folder
from pipeline.storage.entity_store import EntityStore, text_terms
from pipeline.storage.stage import StagePlan
from pipeline.storage.tables import RunPaths, read_rows, sized_units
from pipeline.storage.units import Unit, UnitWriter
from schemas import DOCUMENTS, LINKS, SENTENCES
from schemas.settings import to_dict

BATCH_DOCUMENTS = 32


@dataclass(slots=True)
class _Resources:
    """What a worker opens once."""

    annotator: Annotator
    index: AliasIndex
    linker: Linker
    gold: dict[str, GoldDocument] | None


@dataclass(kw_only=True)
class LinkWorker:
    """Annotates and links one unit of documents."""

    config: LinkConfig
    aliases: str  # folder of the alias index
    entities: str  # folder of the entity store
    _open: list[_Resources] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """Models and maps stay in their process."""
        return {"config": self.config, "aliases": self.aliases, "entities": self.entities, "_open": []}

    def setup(self) -> None:
        """Load the spaCy pipeline, map index and store."""
        if self._open:
            return
        config = self.config
        weights = config.weights
        settings = LinkSettings(
            bias=weights.bias,
            weights=(weights.prior, weights.string, weights.context, weights.type),
            top_k=config.top_k,
            min_confidence=config.min_confidence,
            fuzzy=config.fuzzy,
            fuzzy_cutoff=config.fuzzy_cutoff,
        )
        index = AliasIndex(local_folder(self.aliases))
        store = EntityStore(local_folder(self.entities))
        gold = load_gold(config.gold_spans) if config.gold_spans else None
        linker = Linker(index, store, settings, text_terms)
        self._open.append(_Resources(Annotator(config.spacy_model), index, linker, gold))

    def process(self, unit: Unit, out: UnitWriter) -> None:
        """One range of documents."""
        for rows in read_rows(unit.path, DOCUMENTS, unit.start, unit.end):
            documents = list(zip(rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True))
            for first in range(0, len(documents), BATCH_DOCUMENTS):
                batch = documents[first : first + BATCH_DOCUMENTS]
                self._batch(batch, out)
                out.advance(len(batch))

    def _batch(self, documents: Sequence[tuple[str, str]], out: UnitWriter) -> None:
        out.count("rows_in", len(documents))
        kept = [document for document in documents if self._is_usable(document, out)]
        annotated = self._open[0].annotator.annotate([text for _, text in kept])
        sentences: list[tuple[object, ...]] = []
        links: list[tuple[object, ...]] = []
        for (doc_id, text), notes in zip(kept, annotated, strict=True):
            sentences += [(doc_id, start, end) for start, end in notes.sentences]
            links += self._links(doc_id, text, notes)
        out.count("rows_out", len(kept))
        out.count("mentions", len(links))
        out.count("linked", sum(row[7] is not None for row in links))
        out.write(SENTENCES, SENTENCES.from_rows(sentences))
        out.write(LINKS, LINKS.from_rows(links))

    def _is_usable(self, document: tuple[str, str], out: UnitWriter) -> bool:
        gold = self._open[0].gold
        if gold is None:
            return True
        doc_id, text = document
        if doc_id not in gold:
            out.count("skipped_without_gold_spans")
            return False
        if gold[doc_id].text != text:
            out.reject(doc_id, "the gold file has another text for this document", gold[doc_id].text)
            return False
        return True

    def _links(self, doc_id: str, text: str, notes: Annotated) -> list[tuple[object, ...]]:
        resources = self._open[0]
        if resources.gold is None:
            spans = detect(
                text, notes.tokens, notes.named, lambda name: is_known(name, resources.index), self.config.max_ngram
            )
        else:
            spans = _gold_spans(resources.gold[doc_id], notes)
        starts = [start for start, _ in notes.sentences]
        rows = []
        for span in spans:
            place = bisect_right(starts, span.start) - 1
            sentence_start = starts[place] if place >= 0 else 0
            rows.append(self._row(doc_id, text, span, sentence_start))
        return rows

    def _row(self, doc_id: str, text: str, span: Span, sentence_start: int) -> tuple[object, ...]:
        surface = text[span.start : span.end]
        reach = self.config.context_chars
        context = text[max(span.start - reach, 0) : span.end + reach]
        # A fuzzy match needs better grounds than a capital letter: the recogniser's or the annotator's word.
        link = self._open[0].linker.link(surface, span.ner_type, context, allow_fuzzy=span.detector != "dictionary")
        return (
            doc_id, span.start, span.end, sentence_start, surface, span.detector, span.ner_type, link.qid,
            link.confidence, link.candidates,
        )  # fmt: skip


def _gold_spans(gold: GoldDocument, notes: Annotated) -> list[Span]:
    labels = {(entity.start, entity.end): entity.label for entity in notes.named}
    ranges = sorted({(mention.start, mention.end) for mention in gold.mentions})
    return [Span(start, end, "gold", labels.get((start, end)), known=True) for start, end in ranges]


def plan(config: LinkConfig, paths: RunPaths) -> StagePlan:
    """Units of documents; checks the spaCy pipeline before any work."""
    documents, index = paths.require("documents"), paths.require("index")
    check_model(config.spacy_model)
    inputs = {"documents": documents.fingerprint, "index": index.fingerprint}
    inputs["spacy_model"] = model_version(config.spacy_model)
    if config.gold_spans:
        inputs["gold_spans"] = files.stamp(config.gold_spans)
    return StagePlan(
        name="link",
        tables=(SENTENCES, LINKS),
        units=sized_units(paths.files("documents", DOCUMENTS), int(config.unit_mb * 1e6), DOCUMENTS),
        worker=LinkWorker(
            config=config,
            aliases=paths.artefact("index", "aliases"),
            entities=paths.artefact("index", "entities"),
        ),
        inputs=inputs,
        config=to_dict(config),
    )

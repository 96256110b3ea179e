"""Link the mentions of documents to items: stage `link`, documents to sentences and links.

Map-only: a unit is a range of documents. Mentions are found by the recogniser, by dictionary probes
and by the corpus's own links, or a gold file gives them. The mentions of a batch of documents are
linked together; each is an item or NIL, with its best candidates and what speaks for them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from pipeline.config import LinkConfig
from pipeline.documents.anchors import AnchorReader
from pipeline.encoder.tokenizer import check_model as check_model_files
from pipeline.encoder.tokenizer import model_stamp
from pipeline.engine import files
from pipeline.engine.opened_once import OpenedOnce
from pipeline.engine.stage import Phase, StagePlan
from pipeline.engine.tables import RunPaths, read_rows, sized_row_ranges
from pipeline.engine.tasks import RowRange, Unit
from pipeline.engine.units import UnitWriter
from pipeline.index.alias_index import AliasIndex
from pipeline.index.entity_store import EntityStore
from pipeline.index.extended_index import IndexFolders, open_index
from pipeline.link import features
from pipeline.link.candidates import MATCHES, Reach
from pipeline.link.disambiguation import Model
from pipeline.link.gold import GoldDocument, load_gold
from pipeline.link.known_names import IndexNames
from pipeline.link.linker import Linker, Links, Mention
from pipeline.link.mentions import anchor_spans, detect
from pipeline.link.probes import Document
from pipeline.link.reranker import CandidateReranker, Context, RerankerSettings
from pipeline.link.short_forms import longer_names
from pipeline.link.spacy_annotator import Annotated, Annotator, check_model, model_version
from pipeline.link.spans import Span
from pipeline.link.vector_cache import VectorCache
from pipeline.link.weights import load_weights, weights_stamp
from schemas import DOCUMENTS, LINKS, SENTENCES
from schemas.errors import ConfigError
from schemas.link import CANDIDATE, PARTS
from schemas.settings import to_dict

BATCH_DOCUMENTS = 128
BATCH_CHARACTERS = 200_000
PART_DECIMALS = 4
# Each side of a mention, for the re-ranker.
CONTEXT_CHARACTERS = 300
# Id and text of each document.
TextRows = Sequence[tuple[str, str]]


@dataclass(slots=True)
class LinkResources:
    """Hold what a worker opens once."""

    annotator: Annotator
    index: AliasIndex
    entities: EntityStore
    names: IndexNames
    linker: Linker
    gold: dict[str, GoldDocument] | None
    anchors: AnchorReader | None
    rerank: CandidateReranker | None


@dataclass(frozen=True, slots=True)
class DocumentMentions:
    """Hold the mentions of one document."""

    doc_id: str
    text: str
    annotated: Annotated
    # In the order of the text, none overlapping.
    spans: list[Span]


def open_resources(config: LinkConfig, folders: IndexFolders, vectors: str = "") -> LinkResources:
    """Load the spaCy pipeline, map index and store.

    Args:
        config: of the stage.
        folders: of index and store.
        vectors: file in which the re-ranker keeps vectors of items; empty keeps none.

    Raises:
        StageError: one of them is not there, or has another version.
    """
    index, store = open_index(folders)
    reach = Reach(fuzzy_cutoff=config.fuzzy_cutoff, max_partial=config.max_partial)
    rerank: CandidateReranker | None = None
    if config.rerank_model:
        stored = VectorCache(vectors, int(config.rerank_cache_gb * 1e9))
        rerank = CandidateReranker(config.rerank_model, store, stored)

    return LinkResources(
        annotator=Annotator(config.spacy_model),
        index=index,
        entities=store,
        names=IndexNames(index, store, config.word_links),
        linker=Linker(index, store, model_of(config), reach),
        gold=load_gold(config.gold_spans) if config.gold_spans else None,
        anchors=AnchorReader() if config.anchors and not config.gold_spans else None,
        rerank=rerank,
    )


def model_of(config: LinkConfig) -> Model:
    """Return the linker's weights; that of the re-ranker comes with a model that was trained for it.

    Raises:
        StageError, ConfigError: there are no such weights.
    """
    model = load_weights(config.weights)
    weight = RerankerSettings.of(config.rerank_model).weight if config.rerank_model else None
    if weight is None:
        return model
    return replace(model, weights={**model.weights, "semantic": weight})


@dataclass(frozen=True, kw_only=True)
class LinkWorker:
    """Annotate and link one unit of documents."""

    config: LinkConfig
    index: IndexFolders
    # File in which the re-ranker keeps vectors of items.
    vectors: str = ""
    _resources: OpenedOnce[LinkResources] = field(
        default_factory=OpenedOnce, compare=False, repr=False
    )

    @property
    def resources(self) -> LinkResources:
        """Return what the worker opens once."""
        return self._resources.get(lambda: open_resources(self.config, self.index, self.vectors))

    def process(self, unit: Unit[RowRange], out: UnitWriter) -> None:
        """Link one range of documents."""
        # The anchors of a part of `documents` lie in the part of the same number.
        task = unit.task
        anchors = self.resources.anchors
        if anchors is not None:
            anchors.open_part(task.path)

        for rows in read_rows(task.path, DOCUMENTS, task.start, task.end):
            documents = list(
                zip(rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True)
            )
            for batch in batches(documents):
                self._batch(batch, out)
                out.advance(len(batch))

    def _batch(self, documents: TextRows, out: UnitWriter) -> None:
        out.count("rows_in", len(documents))
        usable = [document for document in documents if self._is_usable(document, out)]
        with_mentions = find_mentions(self.resources, usable, self.config)
        links = link_mentions(self.resources, with_mentions, self.config)

        out.count("rows_out", len(usable))
        out.count("mentions", len(links.qids))
        out.count("linked", int(np.count_nonzero(links.qids)))
        out.write(SENTENCES, sentence_rows(with_mentions))
        out.write(LINKS, link_rows(with_mentions, links))

    def _is_usable(self, document: tuple[str, str], out: UnitWriter) -> bool:
        """Say whether a document can be linked; with gold spans only those of the gold file can."""
        gold = self.resources.gold
        if gold is None:
            return True
        doc_id, text = document
        if doc_id not in gold:
            out.count("skipped_without_gold_spans")
            return False
        # The spans of another text would point to other words.
        if gold[doc_id].text != text:
            out.reject(
                doc_id, "the gold file has another text for this document", gold[doc_id].text
            )
            return False
        return True


def batches(documents: TextRows) -> list[TextRows]:
    """Return the documents in batches of about BATCH_CHARACTERS, in their order."""
    filled: list[list[tuple[str, str]]] = []
    size = 0
    for document in documents:
        if not filled or size >= BATCH_CHARACTERS or len(filled[-1]) >= BATCH_DOCUMENTS:
            filled.append([])
            size = 0
        filled[-1].append(document)
        size += len(document[1])
    return list(filled)


def find_mentions(
    resources: LinkResources, documents: TextRows, config: LinkConfig
) -> list[DocumentMentions]:
    """Return the mentions of a batch of documents."""
    annotations = resources.annotator.annotate([text for _, text in documents])
    table = resources.annotator.table
    with_mentions = []
    for (doc_id, text), annotated in zip(documents, annotations, strict=True):
        # Given spans replace all detectors; the recogniser still gives labels.
        if resources.gold is not None:
            spans = gold_spans(resources.gold[doc_id], annotated)
        else:
            anchors = resources.anchors.of(doc_id) if resources.anchors else {}
            if config.mentions == "anchors":
                spans = anchor_spans(text, anchors)
            else:
                document = Document(
                    text=text, tokens=annotated.tokens, table=table, max_ngram=config.max_ngram
                )
                spans = detect(document, annotated.named, anchors, resources.names)
        with_mentions.append(DocumentMentions(doc_id, text, annotated, spans))
    return with_mentions


def gold_spans(gold: GoldDocument, annotated: Annotated) -> list[Span]:
    """Return the spans of a gold document, with the recogniser's labels."""
    labels = {(entity.start, entity.end): entity.label for entity in annotated.named}
    ranges = sorted({(mention.start, mention.end) for mention in gold.mentions})
    return [Span(start, end, "gold", labels.get((start, end)), known=True) for start, end in ranges]


def link_mentions(
    resources: LinkResources, documents: Sequence[DocumentMentions], config: LinkConfig
) -> Links:
    """Return the links of a batch, in the order of the documents and their mentions."""
    mentions, tokens = batch_of(documents, resources.annotator, fuzzy=config.fuzzy)
    scored = resources.linker.score(mentions, tokens)
    if resources.rerank is not None:
        scored.features["semantic"] = resources.rerank(contexts_of(documents), scored)

    links = resources.linker.decide(
        scored, len(mentions), top_k=config.top_k, min_confidence=config.min_confidence
    )
    # The corpus's own links overrule the model, so they come last.
    if resources.anchors is not None:
        _follow_anchors(documents, links, resources.anchors, resources.entities)
    return links


def contexts_of(documents: Sequence[DocumentMentions]) -> list[Context]:
    """Return the text around each mention of a batch."""
    contexts = []
    for document in documents:
        for span in document.spans:
            low, high = max(span.start - CONTEXT_CHARACTERS, 0), span.end + CONTEXT_CHARACTERS
            contexts.append(Context(document.text[low:high], span.start - low, span.end - low))
    return contexts


def _follow_anchors(
    documents: Sequence[DocumentMentions],
    links: Links,
    anchors: AnchorReader,
    entities: EntityStore,
) -> None:
    """Set the links that the corpus itself states, in place.

    A link of the corpus is followed if the knowledge base has its item.
    """
    spans = [(document.doc_id, span) for document in documents for span in document.spans]
    anchor_qids = [anchors.of(doc_id).get((span.start, span.end), 0) for doc_id, span in spans]
    items = np.array(anchor_qids, np.uint32)

    # An item of 0 is no link. Pages about pages are never linked.
    rows = entities.rows(items)
    is_followed = (items > 0) & (rows >= 0)
    is_followed[is_followed] &= ~entities.is_meta(rows[is_followed])
    links.qids[is_followed], links.confidence[is_followed] = items[is_followed], 1.0


def batch_of(
    documents: Sequence[DocumentMentions], annotator: Annotator, *, fuzzy: bool
) -> tuple[list[Mention], features.BatchTokens]:
    """Return the mentions and tokens of a batch as the linker needs them.

    Args:
        documents: of the batch.
        annotator: the one that annotated them; its word numbers hold until its next call.
        fuzzy: whether mentions may be misspelt.
    """
    mentions: list[Mention] = []
    # Tokens of the documents before.
    num_tokens = 0
    for number, document in enumerate(documents):
        tokens, spans = document.annotated.tokens, document.spans
        starts = np.fromiter((span.start for span in spans), np.int64, len(spans))
        ends = np.fromiter((span.end for span in spans), np.int64, len(spans))
        first_tokens = np.searchsorted(tokens.ends, starts, "right") + num_tokens
        end_tokens = np.searchsorted(tokens.starts, ends, "left") + num_tokens
        surfaces = [document.text[span.start : span.end] for span in spans]
        length = max(len(document.text), 1)
        for span, surface, low, high, longer in zip(
            spans,
            surfaces,
            first_tokens.tolist(),
            end_tokens.tolist(),
            longer_names(surfaces),
            strict=True,
        ):
            # A fuzzy match needs a stronger reason than a capital letter: the recogniser or the
            # annotator must have found the span.
            mentions.append(
                Mention(
                    document=number,
                    first_token=low,
                    end_token=high,
                    surface=surface,
                    ner_type=span.ner_type,
                    position=span.start / length,
                    allow_fuzzy=fuzzy and span.detector != "dictionary",
                    longer=longer,
                )
            )
        num_tokens += len(tokens)

    terms = annotator.table.terms
    words = np.concatenate(
        [np.empty(0, np.int64), *(document.annotated.tokens.words for document in documents)]
    )
    sizes = [len(document.annotated.tokens) for document in documents]
    owners = np.repeat(np.arange(len(documents)), sizes)
    return mentions, features.BatchTokens(terms=terms[words], documents=owners)


def sentence_rows(documents: Sequence[DocumentMentions]) -> pa.Table:
    """Return the rows of `sentences`."""
    rows: list[tuple[object, ...]] = [
        (document.doc_id, start, end)
        for document in documents
        for start, end in document.annotated.sentences
    ]
    return SENTENCES.from_rows(rows)


def link_rows(documents: Sequence[DocumentMentions], links: Links) -> pa.Table:
    """Return the rows of `links`."""
    spans = [(document, span) for document in documents for span in document.spans]

    # A mention before the first sentence counts to it.
    sentence_starts: list[int] = []
    for document in documents:
        starts = [start for start, _ in document.annotated.sentences]
        for span in document.spans:
            sentence_starts.append(
                starts[max(bisect_right(starts, span.start) - 1, 0)] if starts else 0
            )

    columns = {
        "doc_id": [document.doc_id for document, _ in spans],
        "start": [span.start for _, span in spans],
        "end": [span.end for _, span in spans],
        "sentence_start": sentence_starts,
        "surface": [document.text[span.start : span.end] for document, span in spans],
        "detector": [span.detector for _, span in spans],
        "ner_type": [span.ner_type for _, span in spans],
        "qid": pa.array(links.qids, mask=links.qids == 0),
        "confidence": links.confidence,
        "candidates": _candidate_lists(links),
    }
    return LINKS.from_columns(columns)


def _candidate_lists(links: Links) -> pa.Array:
    """Return the column `candidates`: a list of candidates per mention."""
    best = links.candidates
    matches = pa.DictionaryArray.from_arrays(
        pa.array(best.matches, pa.uint8()), pa.array(MATCHES)
    ).cast(pa.string())
    part_columns = [
        pa.array(np.round(links.parts[name], PART_DECIMALS).astype(np.float32)) for name in PARTS
    ]

    # One struct per candidate of the batch; the offsets say which belong to each mention.
    structs = pa.StructArray.from_arrays(
        [best.qids, links.probability, matches, *part_columns], fields=list(CANDIDATE)
    )
    offsets = pa.array(links.offsets.astype(np.int32))
    return pa.ListArray.from_arrays(offsets, structs, type=LINKS.schema.field("candidates").type)


def plan(config: LinkConfig, paths: RunPaths) -> StagePlan:
    """Plan units of documents; check the spaCy pipeline and the weights before any work.

    Raises:
        StageError: the run lacks a stage, or a model is not installed.
        ConfigError: no such weights, or weights that give the re-ranker none.
    """
    documents, index = paths.require("documents"), paths.require("index")
    check_model(config.spacy_model)
    model = model_of(config)
    # A forward pass per mention for nothing would be an expensive surprise.
    if config.rerank_model and not model.weights.get("semantic"):
        raise ConfigError(
            f"link.rerank_model: the weights {config.weights!r} have no weight for this "
            "model, so it would change nothing; train the model on the corpus's own links, which "
            f"fits one (`trelm-pipeline link train-reranker --model {config.rerank_model} …`), "
            "fit all weights to gold links (`link train --set link.rerank_model=…`), or use "
            "link.weights=by-hand"
        )

    # Whatever changes the links is an input: a change of it makes the stage run again.
    inputs = {"documents": documents.fingerprint, "index": index.fingerprint}
    inputs["spacy_model"] = model_version(config.spacy_model)
    inputs["weights"] = weights_stamp(config.weights)
    if config.rerank_model:
        check_model_files(config.rerank_model, "encoder", "--rerank-model")
        inputs["rerank_model"] = model_stamp(config.rerank_model)
    if config.gold_spans:
        inputs["gold_spans"] = files.stamp(config.gold_spans)

    tasks = sized_row_ranges(
        paths.files("documents", DOCUMENTS), int(config.unit_mb * 1e6), DOCUMENTS
    )
    worker = LinkWorker(
        config=config,
        index=IndexFolders.of(paths),
        vectors=_vectors_path(paths, inputs.get("rerank_model", "")),
    )
    return StagePlan(
        name="link",
        tables=(SENTENCES, LINKS),
        phases=(Phase(name="link", tasks=tasks, worker=worker),),
        inputs=inputs,
        config=to_dict(config),
    )


def _vectors_path(paths: RunPaths, stamp: str) -> str:
    """Return where the vectors of a re-ranker lie; empty without one, and for a remote run.

    SQLite needs a file on this machine.
    """
    if not stamp or files.REMOTE_MARK in paths.root:
        return ""
    name = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    return files.join(paths.stage("link"), f"vectors-{name}.sqlite")

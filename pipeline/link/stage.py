"""Link the mentions of documents to items: stage `link`, documents to sentences and links.

Map-only: a unit is a range of documents. Mentions are found by the recogniser, by dictionary probes
and by the corpus's own links, or a gold file gives them. The mentions of a batch of documents are
linked together; each is an item or NIL, with its best candidates and what speaks for them. Where
the corpus has links enough, a phase before fits the weights to them. The weights that were used lie
beside the tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.config import LinkConfig
from pipeline.documents.anchors import AnchorReader
from pipeline.encoder.tokenizer import check_model as check_model_files
from pipeline.encoder.tokenizer import model_stamp
from pipeline.engine import files
from pipeline.engine.kept_listings import once
from pipeline.engine.opened_once import OpenedOnce
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths, read_rows, sized_row_ranges
from pipeline.engine.tasks import Bucket, RowRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.index.alias_index import AliasIndex
from pipeline.index.entity_store import EntityStore
from pipeline.index.extended_index import IndexFolders, open_index
from pipeline.link.candidates import Reach
from pipeline.link.disambiguation import Model
from pipeline.link.document_mentions import DocumentMentions
from pipeline.link.gold import GoldDocument, load_gold
from pipeline.link.known_names import IndexNames
from pipeline.link.link_rows import link_rows, sentence_rows
from pipeline.link.linker import Linker, Links
from pipeline.link.mention_batch import batch_of
from pipeline.link.mentions import anchor_spans, detect
from pipeline.link.probes import Document
from pipeline.link.reranker import CandidateReranker, Context, RerankerSettings
from pipeline.link.spacy_annotator import Annotated, Annotator, check_model, model_version
from pipeline.link.spans import Span
from pipeline.link.vector_cache import VectorCache
from pipeline.link.weights import AUTO, TRAINED, load_weights, weights_stamp
from schemas import DOCUMENTS, LINKS, SENTENCES
from schemas.errors import ConfigError
from schemas.settings import to_dict

# File of the weights that were used, in the folder of the tables.
WEIGHTS = "weights.json"
BATCH_DOCUMENTS = 128
BATCH_CHARACTERS = 200_000
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
    rerank: CandidateReranker | None = None
    if config.rerank_model:
        stored = VectorCache(vectors, int(config.rerank_cache_gb * 1e9))
        rerank = CandidateReranker(config.rerank_model, store, stored)

    return LinkResources(
        annotator=Annotator(config.spacy_model),
        index=index,
        entities=store,
        names=IndexNames(index, store, config.word_links),
        linker=Linker(index, store, model_of(config), reach_of(config)),
        gold=load_gold(config.gold_spans) if config.gold_spans else None,
        anchors=AnchorReader() if config.anchors and not config.gold_spans else None,
        rerank=rerank,
    )


def reach_of(config: LinkConfig) -> Reach:
    """Return how far candidates are looked for."""
    return Reach(
        fuzzy_cutoff=config.fuzzy_cutoff, slips=config.fuzzy, max_partial=config.max_partial
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
        return self._open(self.config.weights)

    def _open(self, weights: str) -> LinkResources:
        config = replace(self.config, weights=weights)
        return self._resources.get(lambda: open_resources(config, self.index, self.vectors))

    def process(self, unit: Unit[RowRange], out: UnitWriter) -> None:
        """Link one range of documents."""
        # `auto` is left where the phase before has fitted weights.
        weights = self.config.weights
        self._open(files.join(out.folder, WEIGHTS) if weights == AUTO else weights)

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
    return [
        replace(document, spans=spans_of(resources, document, config))
        for document in annotate(resources, documents)
    ]


def annotate(resources: LinkResources, documents: TextRows) -> list[DocumentMentions]:
    """Return the documents of a batch, annotated, without mentions yet.

    Their word numbers hold until the next call.
    """
    annotations = resources.annotator.annotate([text for _, text in documents])
    return [
        DocumentMentions(doc_id, text, annotated, [])
        for (doc_id, text), annotated in zip(documents, annotations, strict=True)
    ]


def spans_of(
    resources: LinkResources, document: DocumentMentions, config: LinkConfig
) -> list[Span]:
    """Return the mentions of an annotated document."""
    # Given spans replace all detectors; the recogniser still gives labels.
    if resources.gold is not None:
        return gold_spans(resources.gold[document.doc_id], document.annotated)

    anchors = resources.anchors.of(document.doc_id) if resources.anchors else {}
    if config.mentions == "anchors":
        return anchor_spans(document.text, anchors)
    searched = Document(
        text=document.text,
        tokens=document.annotated.tokens,
        table=resources.annotator.table,
        max_ngram=config.max_ngram,
        has_recogniser=resources.annotator.has_recogniser,
    )
    return detect(searched, document.annotated.named, anchors, resources.names)


def gold_spans(gold: GoldDocument, annotated: Annotated) -> list[Span]:
    """Return the spans of a gold document, with the recogniser's labels."""
    labels = {(entity.start, entity.end): entity.label for entity in annotated.named}
    ranges = sorted({(mention.start, mention.end) for mention in gold.mentions})
    return [Span(start, end, "gold", labels.get((start, end)), known=True) for start, end in ranges]


def link_mentions(
    resources: LinkResources, documents: Sequence[DocumentMentions], config: LinkConfig
) -> Links:
    """Return the links of a batch, in the order of the documents and their mentions."""
    mentions, tokens = batch_of(
        documents, resources.annotator, resources.names, config.fuzzy_mentions
    )
    scored = resources.linker.score(mentions, tokens)
    if resources.rerank is not None:
        scored.features["semantic"] = resources.rerank(contexts_of(documents), scored)

    # An annotator has said that a gold span is an entity, so its best candidate is taken.
    is_sure = resources.gold is not None and not config.gold_nil
    min_confidence = 0.0 if is_sure else config.min_confidence
    links = resources.linker.decide(
        scored, len(mentions), top_k=config.top_k, min_confidence=min_confidence
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


@dataclass(frozen=True, kw_only=True)
class FinishLink:
    """Keep the weights that linked, as the last step of the stage."""

    # Empty where they were fitted: then they lie there already.
    weights: str

    def __call__(self, prepared: PreparedStage, reports: Sequence[UnitReport]) -> dict[str, str]:  # noqa: ARG002
        """Write the weights, and return their path."""
        if self.weights:
            content = load_weights(self.weights).to_json().encode()
            files.write_bytes(files.join(prepared.data, WEIGHTS), content)
        return {"weights": f"{prepared.plan.data_folder}/{WEIGHTS}"}


def check(config: LinkConfig) -> None:
    """Check pipeline, models, weights and gold before any work.

    Raises:
        StageError: a model is not installed, or a file is missing.
        ConfigError: no such weights, or weights that give the re-ranker none.
    """
    check_model(config.spacy_model)
    if config.rerank_model:
        check_model_files(config.rerank_model, "encoder", "--rerank-model")
    if config.weights != AUTO:
        _check_weights(config)
    if config.gold_spans:
        # Each line of it is read: a wrong one would stop the stage after hours.
        files.size_of(config.gold_spans)
        once(
            ("gold", config.gold_spans, files.stamp(config.gold_spans)),
            lambda: load_gold(config.gold_spans),
        )


def plan(config: LinkConfig, paths: RunPaths) -> StagePlan:
    """Plan units of documents; check the spaCy pipeline and the weights before any work.

    Raises:
        StageError: the run lacks a stage, or a model is not installed.
        ConfigError: no such weights, or weights that give the re-ranker none.
    """
    documents, index = paths.require("documents"), paths.require("index")
    is_fitted = _is_fitted(config, paths)
    if not is_fitted:
        _check_weights(config)
    check(config)

    # Whatever changes the links is an input: a change of it makes the stage run again.
    inputs = {"documents": documents.fingerprint, "index": index.fingerprint}
    inputs["spacy_model"] = model_version(config.spacy_model)
    inputs["weights"] = f"{weights_stamp(config.weights)}{' fitted' if is_fitted else ''}"
    if config.rerank_model:
        inputs["rerank_model"] = model_stamp(config.rerank_model)
    if config.gold_spans:
        inputs["gold_spans"] = files.stamp(config.gold_spans)

    vectors = _vectors_path(paths, inputs.get("rerank_model", ""))
    return StagePlan(
        name="link",
        tables=(SENTENCES, LINKS),
        phases=_phases(config, paths, vectors, is_fitted=is_fitted),
        inputs=inputs,
        config=to_dict(config),
        finish=FinishLink(weights="" if is_fitted else config.weights),
    )


def _is_fitted(config: LinkConfig, paths: RunPaths) -> bool:
    """Say whether the weights are to be fitted to the corpus's own links.

    Not where spans are given: they may be these very links, which are to be judged. Nor where these
    links are the only mentions: they say themselves what they mean.
    """
    from pipeline.link.training.link_gold import has_enough_links

    is_open = not config.gold_spans and config.mentions == "detected"
    return config.weights == AUTO and is_open and has_enough_links(paths)


def _check_weights(config: LinkConfig) -> None:
    """Refuse weights that cannot be read, or that give the re-ranker none."""
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


def _phases(
    config: LinkConfig, paths: RunPaths, vectors: str, *, is_fitted: bool
) -> tuple[Phase[Any], ...]:
    from pipeline.link.training.fit_worker import FitWorker

    tasks = sized_row_ranges(
        paths.files("documents", DOCUMENTS), int(config.unit_mb * 1e6), DOCUMENTS
    )
    worker = LinkWorker(
        config=config if is_fitted else replace(config, weights=_shipped_for(config.weights)),
        index=IndexFolders.of(paths),
        vectors=vectors,
    )
    link = Phase(name="link", tasks=tasks, worker=worker)
    if not is_fitted:
        return (link,)
    fit = Phase(
        name="weights",
        tasks=[Bucket(kind="weights")],
        worker=FitWorker(run=paths.root, config=config, file=WEIGHTS),
    )
    return fit, link


def _shipped_for(weights: str) -> str:
    return TRAINED if weights == AUTO else weights


def _vectors_path(paths: RunPaths, stamp: str) -> str:
    """Return where the vectors of a re-ranker lie; empty without one, and for a remote run.

    SQLite needs a file on this machine.
    """
    if not stamp or files.REMOTE_MARK in paths.root:
        return ""
    name = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    return files.join(paths.stage("link"), f"vectors-{name}.sqlite")

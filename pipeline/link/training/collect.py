"""Collect gold mentions with their candidates and features, as stage `link` computes them.

Goes in: a run with an index, and gold files or the run's own links. Comes out: `GoldMentions`, all
held out by document: no link of a document is in the counts while its mentions are scored. Costs
what `link` costs. Memory: 150 bytes per candidate.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import LinkConfig
from pipeline.database.kb_lookups import in_degrees, redirects_of
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.index.entity_store import EntityStore
from pipeline.index.extended_index import IndexFolders
from pipeline.link.document_mentions import DocumentMentions
from pipeline.link.gold import GoldDocument, load_gold
from pipeline.link.linker import Linker
from pipeline.link.mention_batch import batch_of
from pipeline.link.mention_features import Mention
from pipeline.link.stage import (
    LinkResources,
    batches,
    contexts_of,
    gold_spans,
    open_resources,
)
from pipeline.link.training.crossval import GoldMentions, fold_of
from pipeline.link.training.fitting import Examples
from pipeline.link.training.held_out import HeldOutIndex, WithoutHidden, links_by_fold, links_of
from pipeline.link.training.link_gold import gold_of_links, with_short_names
from pipeline.link.training.misspell import misspelt
from pipeline.link.weights import HAND
from schemas.array_types import F32, I64, U8, U32
from schemas.listing import a_few

# Of the gold mentions: copies with one edit, so that fuzzy candidates get a weight.
MISSPELT_SHARE = 0.1
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Say what to train on, and how."""

    run: str
    # Empty: the run's own links.
    gold_files: tuple[str, ...] = ()
    folds: int = 5
    ablate: bool = False

    @property
    def source(self) -> str:
        """Return what is trained on, in words."""
        return a_few(self.gold_files) or f"links of {self.run}"


def collect(training: Training, config: LinkConfig) -> GoldMentions:
    """Return all gold mentions, and misspelt copies of some, with candidates and features.

    Raises:
        StageError: the run has no index yet; a document is in two gold files; or there is no
        mention.
    """
    paths = RunPaths(root=training.run)
    paths.require("index")
    is_own = not training.gold_files
    file_of, documents = ({}, gold_of_links(paths)) if is_own else _load(training.gold_files)
    read_links = links_of if is_own else links_by_fold
    links = read_links(paths, documents, training.folds)

    # The gold's spans are the mentions. The weights do not matter: only features are used.
    config = replace(config, gold_spans="", anchors=False, mentions="detected", weights=HAND)
    resources = open_resources(config, IndexFolders.of(paths))
    if is_own:
        resources.entities = WithoutHidden(resources.entities)

    # One linker per fold, since each sees the index without the links of its own documents.
    linkers = [
        resources.linker.reading(HeldOutIndex(resources.index, fold_links), resources.entities)
        for fold_links in links
    ]
    scored = list(_score_batches(resources, documents, linkers, config))
    if not sum(len(batch.gold) for batch in scored):
        raise StageError(
            f"{training.source}: no mention to train on; give gold files with mentions"
        )
    joined = _joined(scored, file_of, paths, resources.entities)
    if not is_own:
        degrees = in_degrees(paths, set(joined.qids.tolist()))
        joined.in_degree = np.array([degrees.get(qid, 0) for qid in joined.qids.tolist()], np.int64)
    return joined


def _load(paths: Sequence[str]) -> tuple[dict[str, int], dict[str, GoldDocument]]:
    """Return the number of the gold file of each document, and the documents."""
    file_of: dict[str, int] = {}
    documents: dict[str, GoldDocument] = {}
    for number, path in enumerate(paths):
        for doc_id, document in load_gold(path).items():
            if doc_id in documents:
                raise StageError(
                    f"{path}: document {doc_id!r} is in {paths[file_of[doc_id]]} too; "
                    "keep it in one file only"
                )
            documents[doc_id], file_of[doc_id] = document, number
    return file_of, documents


@dataclass(frozen=True, slots=True)
class _ScoredBatch:
    """Hold the gold mentions of one batch of documents, and their candidates.

    Legend: m mentions, c candidates.
    """

    # Shape (c,) each.
    features: dict[str, F32]
    mentions: I64
    qids: U32
    matches: U8
    # Length m each. A gold item of 0 is NIL.
    gold: list[int]
    doc_ids: list[str]
    texts: list[str]
    is_copy: list[bool]


def _score_batches(
    resources: LinkResources,
    documents: Mapping[str, GoldDocument],
    linkers: Sequence[Linker],
    config: LinkConfig,
) -> Iterator[_ScoredBatch]:
    """Yield all gold mentions, a batch of documents at a time, fold by fold."""
    num_done = 0
    for fold, linker in enumerate(linkers):
        fold_documents = [
            (name, document.text)
            for name, document in documents.items()
            if fold_of(name, len(linkers)) == fold
        ]

        # In batches as stage `link` fills them, which bounds the memory.
        for batch in batches(fold_documents):
            gold = {doc_id: documents[doc_id] for doc_id, _ in batch}
            yield _score_batch(resources, linker, gold, config.fuzzy_mentions)
            num_done += len(batch)
            logger.info("link train: %d of %d documents", num_done, len(documents))


def _score_batch(
    resources: LinkResources, linker: Linker, documents: Mapping[str, GoldDocument], fuzzy: str
) -> _ScoredBatch:
    annotations = resources.annotator.annotate([document.text for document in documents.values()])
    if isinstance(resources.entities, WithoutHidden):
        # The documents' mentions are links of the corpus.
        documents = {
            doc_id: with_short_names(document, annotated.named, resources.names.is_name)
            for (doc_id, document), annotated in zip(documents.items(), annotations, strict=True)
        }
    with_mentions = [
        DocumentMentions(doc_id, document.text, annotated, gold_spans(document, annotated))
        for (doc_id, document), annotated in zip(documents.items(), annotations, strict=True)
    ]
    mentions, tokens = batch_of(with_mentions, resources.annotator, resources.names, fuzzy)
    gold = list(gold_of(with_mentions, documents))
    copies = list(_misspelt_copies(with_mentions, mentions)) if fuzzy != "none" else []
    all_mentions = [*mentions, *(copy for _, copy in copies)]

    scored = linker.score(all_mentions, tokens)
    if resources.rerank is not None:
        contexts = contexts_of(with_mentions)
        # A copy has the context of the mention that it misspells.
        scored.features["semantic"] = resources.rerank(
            [*contexts, *(contexts[number] for number, _ in copies)], scored
        )
    return _ScoredBatch(
        scored.features,
        scored.mentions,
        scored.qids,
        scored.matches,
        [*gold, *(gold[number] for number, _ in copies)],
        [with_mentions[mention.document].doc_id for mention in all_mentions],
        [mention.surface.casefold() for mention in all_mentions],
        [False] * len(mentions) + [True] * len(copies),
    )


def _misspelt_copies(
    with_mentions: Sequence[DocumentMentions], mentions: Sequence[Mention]
) -> Iterator[tuple[int, Mention]]:
    """Yield misspelt copies of some mentions, with the number of the mention.

    Chance is seeded by document, so the copies are the same however documents are batched.
    """
    chances = [random.Random(document.doc_id) for document in with_mentions]
    for number, mention in enumerate(mentions):
        chance = chances[mention.document]
        if chance.random() < MISSPELT_SHARE:
            surface = misspelt(mention.surface, chance)
            if surface != mention.surface:
                yield number, replace(mention, surface=surface, longer=())


def gold_of(
    with_mentions: Sequence[DocumentMentions], documents: Mapping[str, GoldDocument]
) -> Iterator[int]:
    """Yield the gold item of each mention; 0 for NIL."""
    for document in with_mentions:
        qid_of_span = {
            (mention.start, mention.end): mention.qid
            for mention in documents[document.doc_id].mentions
        }
        for span in document.spans:
            yield qid_of_span[span.start, span.end] or 0


def _joined(
    scored_batches: Sequence[_ScoredBatch],
    file_of: Mapping[str, int],
    paths: RunPaths,
    entities: EntityStore,
) -> GoldMentions:
    """Return the mentions of all batches as one, with what the knowledge base says of them."""
    # Gold files may name merged items, and numbers that are no ids of the knowledge base.
    items = [qid if 0 < qid < 1 << 32 else 0 for batch in scored_batches for qid in batch.gold]
    current_qid = redirects_of(paths, set(items))
    current_items = np.array([current_qid[qid] for qid in items], np.uint32)
    is_in_kb = entities.rows(current_items) >= 0
    gold = np.where(is_in_kb, current_items, 0).astype(np.uint32)

    # Mentions are numbered through all batches.
    sizes = [len(batch.gold) for batch in scored_batches]
    first_numbers = np.cumsum([0, *sizes[:-1]]).tolist()
    mentions = np.concatenate(
        [
            batch.mentions + first_number
            for batch, first_number in zip(scored_batches, first_numbers, strict=True)
        ]
    )

    qids = np.concatenate([batch.qids for batch in scored_batches])
    doc_ids = [doc_id for batch in scored_batches for doc_id in batch.doc_ids]
    features = {
        name: np.concatenate([batch.features[name] for batch in scored_batches])
        for name in scored_batches[0].features
    }
    is_gold = qids == gold[mentions]
    return GoldMentions(
        examples=Examples(
            features=features, mentions=mentions, is_gold=is_gold, num_mentions=len(gold)
        ),
        qids=qids,
        matches=np.concatenate([batch.matches for batch in scored_batches]),
        in_degree=entities.popularity(entities.rows(qids)).astype(np.int64),
        gold=gold,
        documents=doc_ids,
        files=np.array([file_of.get(doc_id, 0) for doc_id in doc_ids], np.int64),
        is_copy=np.array([is_copy for batch in scored_batches for is_copy in batch.is_copy], bool),
        known=_known(entities, qids[is_gold]) | {"repeats": _repeats(scored_batches)},
    )


def _known(entities: EntityStore, qids: U32) -> dict[str, float]:
    """Return, by kind of evidence, for which share of gold items the knowledge base has it."""
    rows = entities.rows(qids)
    has = {
        "types": entities.types(rows) > 0,
        "terms": entities.term_runs(rows)[0] > 0,
        "neighbours": entities.neighbour_runs(rows)[0] > 0,
    }
    return {
        kind: round(float(values.mean()), 4) if len(rows) else 0.0 for kind, values in has.items()
    }


def _repeats(scored_batches: Sequence[_ScoredBatch]) -> float:
    """Return the share of gold items, by document, that several texts of the document name."""
    texts_of: dict[tuple[str, int], set[str]] = defaultdict(set)
    for batch in scored_batches:
        columns = (batch.doc_ids, batch.gold, batch.texts, batch.is_copy)
        for doc_id, qid, text, is_copy in zip(*columns, strict=True):
            if qid and not is_copy:
                texts_of[doc_id, qid].add(text)
    repeated = sum(len(texts) > 1 for texts in texts_of.values())
    return round(repeated / len(texts_of), 4) if texts_of else 0.0

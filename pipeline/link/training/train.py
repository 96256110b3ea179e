"""Train the linker's weights on gold links: features as stage `link` computes them, then a fit.

Goes in: a run with an index, gold files. Comes out: weights for `link.weights`, and figures of a
cross-validation by document: each fold is scored by weights of the others, and no link of its
documents is in the counts.

Links of the gold's own documents from which the index has learned never count while these documents
are trained on: else the prior would know the answer. Costs what `link` costs, and seconds for the
fits.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline import __version__
from pipeline.config import LinkConfig
from pipeline.database.kb_lookups import in_degrees, redirects_of
from pipeline.documents.anchors import anchor_texts
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.index.alias_index import AliasIndex, Postings
from pipeline.index.extended_index import IndexFolders
from pipeline.index.name_keys import SOURCE_BITS, index_keys
from pipeline.link.candidates import KeyPostings
from pipeline.link.disambiguation import Model
from pipeline.link.features import FEATURES, GROUPS
from pipeline.link.gold import GoldDocument, load_gold
from pipeline.link.linker import Linker, Mention
from pipeline.link.stage import (
    DocumentMentions,
    LinkResources,
    batch_of,
    batches,
    contexts_of,
    find_mentions,
    open_resources,
)
from pipeline.link.training.crossval import GoldMentions, cross_validate, figures, fold_of
from pipeline.link.training.fitting import Examples, fit
from pipeline.link.training.misspell import misspelt
from pipeline.link.weights import HAND
from schemas import ANCHORS
from schemas.array_types import F32, I64, U8, U32

# Key -> item -> links of one fold.
FoldLinks = dict[str, Counter[int]]
# Of the gold mentions: copies with one edit, so that fuzzy candidates get a weight.
MISSPELT_SHARE = 0.1
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Say what to train on, and how."""

    run: str
    gold_files: tuple[str, ...]
    folds: int = 5
    ablate: bool = False


def train(training: Training, config: LinkConfig) -> tuple[Model, dict[str, Any]]:
    """Return weights fitted on all gold mentions, and figures of a cross-validation.

    Raises:
        StageError: the run has no index yet; no mention, or none with a candidate; a document is in
            two gold files; or nothing can be held out.
    """
    gold = collect(training, config)
    _check(gold, training)

    # Without a re-ranker there is no feature `semantic`.
    names = [name for name in FEATURES if name in gold.examples.features]
    report: dict[str, Any] = {
        "folds": training.folds,
        "mentions": int(np.count_nonzero(~gold.is_copy)),
    }
    report["figures"] = _by_file(gold, names, training)
    if training.ablate:
        report["without"] = _ablation(gold, names, training)

    # Fitted on all mentions, misspelt copies included; the figures above count no copy.
    model = fit(gold.examples, names)
    about = {
        "version": __version__,
        "gold": [_file_name(path) for path in training.gold_files],
        "mentions": report["mentions"],
        "held_out": report["figures"]["all"],
    }
    return Model(model.bias, model.weights, about), report


def _check(gold: GoldMentions, training: Training) -> None:
    """Refuse gold from which no weights, or no figures, can be computed.

    Raises:
        StageError: no mention has a candidate, or all documents are in one fold.
    """
    # Both would otherwise show as weights or figures of 0.
    gold_files = ", ".join(training.gold_files)
    if not len(gold.qids):
        raise StageError(
            f"{gold_files}: no mention has a candidate in the index of {training.run}; "
            "nothing to learn from"
        )
    if len(np.unique(gold.folds(training.folds))) < 2:
        raise StageError(
            f"{gold_files}: all {len(set(gold.documents))} document(s) are in one of "
            f"{training.folds} folds, so none can be held out; give more documents, "
            "or another --folds"
        )


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _by_file(gold: GoldMentions, names: Sequence[str], training: Training) -> dict[str, Any]:
    """Return the held-out figures of all mentions, and of each of several gold files."""
    probability = cross_validate(gold, names, training.folds)
    figures_of = {"all": figures(gold, probability, ~gold.is_copy)}
    if len(training.gold_files) > 1:
        for number, path in enumerate(training.gold_files):
            is_of_file = (gold.files == number) & ~gold.is_copy
            figures_of[_file_name(path)] = figures(gold, probability, is_of_file)
    return figures_of


def _ablation(gold: GoldMentions, names: Sequence[str], training: Training) -> dict[str, Any]:
    """Return figures without each group of features, and without each feature."""
    names_of_group = {
        group: [name for name in group_names if name in names]
        for group, group_names in GROUPS.items()
    }
    # A group of one feature would be the same as this feature.
    left_out = {
        f"{group} (all)": group_names
        for group, group_names in names_of_group.items()
        if len(group_names) > 1
    }
    left_out |= {name: [name] for name in names}

    figures_without = {}
    for title, removed in left_out.items():
        logger.info("link train: without %s", title)
        remaining = [name for name in names if name not in removed]
        figures_without[title] = _by_file(gold, remaining, training)
    return figures_without


def collect(training: Training, config: LinkConfig) -> GoldMentions:
    """Return all gold mentions, and misspelt copies of some, with candidates and features.

    Raises:
        StageError: the run has no index yet; a document is in two gold files; or there is no
        mention.
    """
    paths = RunPaths(root=training.run)
    paths.require("index")
    file_of, documents = _load(training.gold_files)

    # The gold's spans are the mentions. The weights do not matter: only features are used.
    config = replace(config, gold_spans="", anchors=False, weights=HAND)
    resources = open_resources(config, IndexFolders.of(paths))
    resources.gold = documents

    # One linker per fold, since each sees the index without the links of its own documents.
    linkers = [
        resources.linker.with_index(HeldOutIndex(resources.index, fold_links))
        for fold_links in links_by_fold(paths, documents, training.folds)
    ]
    batches_scored = list(_score_batches(resources, documents, linkers, config))
    if not sum(len(batch.gold) for batch in batches_scored):
        raise StageError(
            f"{', '.join(training.gold_files)}: no mention to train on; give files with mentions"
        )
    return _joined(batches_scored, file_of, paths, resources)


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


def links_by_fold(
    paths: RunPaths, documents: Mapping[str, GoldDocument], folds: int
) -> list[FoldLinks]:
    """Return, per fold, the links of the gold's documents from which the index has learned."""
    # An index built without the corpus's links has learned nothing from them.
    links_of_fold: list[FoldLinks] = [defaultdict(Counter) for _ in range(folds)]
    index, corpus = paths.manifest("index"), paths.manifest("documents")
    if index is None or corpus is None or "documents" not in index.inputs:
        return links_of_fold

    for path in paths.files("documents", ANCHORS):
        for rows, surfaces in anchor_texts(path):
            columns = (rows.column(name).to_pylist() for name in ("doc_id", "qid"))
            for doc_id, qid, surface in zip(*columns, surfaces, strict=True):
                if doc_id in documents:
                    links = links_of_fold[fold_of(doc_id, folds)]
                    for key in index_keys(surface, "anchor"):
                        links[key][qid] += 1

    # The index counts links to merged items for the items into which they were merged.
    linked_qids = {qid for links in links_of_fold for counts in links.values() for qid in counts}
    current_qid = redirects_of(paths, linked_qids)
    for links in links_of_fold:
        for key, counts in links.items():
            current_counts: Counter[int] = Counter()
            for qid, count in counts.items():
                current_counts[current_qid.get(qid, qid)] += count
            links[key] = current_counts
    return links_of_fold


class HeldOutIndex:
    """Read the alias index as if some links had never been counted."""

    def __init__(self, index: AliasIndex, links: FoldLinks) -> None:
        self._index = index
        self._links = links
        self.similar_keys = index.similar_keys
        self.items_with_word = index.items_with_word

    def postings(self, key: str) -> KeyPostings:
        """Return the candidates of a key; those that only these links state are left out."""
        postings = self._index.postings(key)
        links = self._links.get(key)
        if links is None or not len(postings.qids):
            return postings

        held_out = np.fromiter(
            (links.get(qid, 0) for qid in postings.qids.tolist()), np.int64, len(postings.qids)
        )
        counts = np.maximum(postings.counts.astype(np.int64) - held_out, 0).astype(np.uint32)

        # As in the index, the most pointed-to first.
        order = np.argsort(-counts.astype(np.int64), kind="stable")
        is_stated = (postings.flags != SOURCE_BITS["anchor"]) | (counts > 0)
        rows = order[is_stated[order]]
        return Postings(postings.qids[rows], counts[rows], postings.flags[rows])


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
            with_mentions = find_mentions(resources, batch, config)
            yield _score_batch(resources, linker, with_mentions, documents, fuzzy=config.fuzzy)
            num_done += len(batch)
            logger.info("link train: %d of %d documents", num_done, len(documents))


def _score_batch(
    resources: LinkResources,
    linker: Linker,
    with_mentions: Sequence[DocumentMentions],
    documents: Mapping[str, GoldDocument],
    *,
    fuzzy: bool,
) -> _ScoredBatch:
    mentions, tokens = batch_of(with_mentions, resources.annotator, fuzzy=fuzzy)
    gold = list(_gold_of(with_mentions, documents))
    copies = list(_misspelt_copies(with_mentions, mentions)) if fuzzy else []
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


def _gold_of(
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
    resources: LinkResources,
) -> GoldMentions:
    """Return the mentions of all batches as one, with what the knowledge base says of them."""
    # Gold files may name merged items, and numbers that are no ids of the knowledge base.
    items = [qid if 0 < qid < 1 << 32 else 0 for batch in scored_batches for qid in batch.gold]
    current_qid = redirects_of(paths, set(items))
    current_items = np.array([current_qid[qid] for qid in items], np.uint32)
    is_in_kb = resources.entities.rows(current_items) >= 0
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
    degrees = in_degrees(paths, set(qids.tolist()))
    doc_ids = [doc_id for batch in scored_batches for doc_id in batch.doc_ids]
    features = {
        name: np.concatenate([batch.features[name] for batch in scored_batches])
        for name in scored_batches[0].features
    }
    return GoldMentions(
        examples=Examples(
            features=features,
            mentions=mentions,
            is_gold=qids == gold[mentions],
            num_mentions=len(gold),
        ),
        qids=qids,
        matches=np.concatenate([batch.matches for batch in scored_batches]),
        in_degree=np.fromiter((degrees.get(qid, 0) for qid in qids.tolist()), np.int64, len(qids)),
        gold=gold,
        documents=doc_ids,
        files=np.array([file_of[doc_id] for doc_id in doc_ids], np.int64),
        is_copy=np.array([is_copy for batch in scored_batches for is_copy in batch.is_copy], bool),
    )

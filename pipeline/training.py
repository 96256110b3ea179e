"""Training the linker's weights on gold links: features as stage `link` makes them, a conditional logit, a weights file.

Goes in: a run with an index, gold files. Comes out: weights for `link.weights`, and figures of a cross-validation by document:
each fold is scored by weights of the others, and no link of its documents is in the counts. Links of the gold's own documents
that the index has learned from never count while these are trained on.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.config import LinkConfig
from pipeline.core.aliases import SOURCE_BITS, index_keys
from pipeline.core.candidates import KeyPostings
from pipeline.core.fitting import Examples
from pipeline.core.linking import Linker
from pipeline.gold import GoldDocument, load_gold
from pipeline.stages.link import Found, LinkResources, batch_of, batches, contexts_of, gold_spans, open_resources
from pipeline.storage.alias_index import AliasIndex, Postings
from pipeline.storage.errors import StageError
from pipeline.storage.tables import RunPaths, read_rows, read_table
from schemas import ANCHORS, DOCUMENTS, ENTITIES

Array = np.ndarray[Any, Any]
FoldLinks = dict[str, Counter[int]]  # key -> item -> links of one fold


@dataclass(kw_only=True, slots=True)
class GoldMentions:
    """All gold mentions with their candidates, flat, and what the figures need of each mention. m mentions, c candidates."""

    examples: Examples
    qids: Array  # uint32 (c,)
    matches: Array  # uint8 (c,)
    gold: Array  # uint32 (m,): 0 where the item is not in the KB, or NIL
    folds: Array  # int64 (m,)
    surfaces: list[str] = field(default_factory=list)


def fold_of(doc_id: str, folds: int) -> int:
    """The fold of a document: the same on every machine and in every run."""
    return zlib.crc32(doc_id.encode()) % folds


def collect(run: str, config: LinkConfig, gold_files: Sequence[str], folds: int) -> GoldMentions:
    """Features of all gold mentions.

    Raises:
        StageError: no index yet, or no mention.
    """
    paths = RunPaths(root=run)
    paths.require("index")
    documents: dict[str, GoldDocument] = {}
    for path in gold_files:
        for doc_id, document in load_gold(path).items():
            if doc_id in documents:
                raise StageError(f"{path}: document {doc_id!r} is in another gold file too")
            documents[doc_id] = document
    config = replace(config, gold_spans="", anchors=False)
    resources = open_resources(config, paths.artefact("index", "aliases"), paths.artefact("index", "entities"))
    linkers = [resources.linker.on(HeldOutIndex(resources.index, own)) for own in own_links(paths, documents, folds)]
    in_kb = set(read_table(paths.files("kb", ENTITIES), ENTITIES, ["qid"]).column("qid").to_pylist())
    parts = list(_parts(resources, documents, linkers, fuzzy=config.fuzzy))
    if not parts:
        raise StageError(f"{', '.join(gold_files)}: no mention to train on")
    return _joined(parts, in_kb)


def own_links(paths: RunPaths, documents: Mapping[str, GoldDocument], folds: int) -> list[FoldLinks]:
    """Per fold, the links of the gold's documents that the index has learned from."""
    found: list[FoldLinks] = [defaultdict(Counter) for _ in range(folds)]
    index, corpus = paths.manifest("index"), paths.manifest("documents")
    if index is None or corpus is None or "documents" not in index.inputs:
        return found
    for path in paths.files("documents", ANCHORS):
        texts: dict[str, str] = {}
        for rows in read_rows(path.replace("/anchors/", "/documents/"), DOCUMENTS):
            texts.update(zip(rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True))
        for rows in read_rows(path, ANCHORS):
            columns = (rows.column(name).to_pylist() for name in ("doc_id", "start", "end", "qid"))
            for doc_id, start, end, qid in zip(*columns, strict=True):
                for key in index_keys(texts[doc_id][start:end], "anchor") if doc_id in documents else ():
                    found[fold_of(doc_id, folds)][key][qid] += 1
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """One batch."""

    features: dict[str, Array]
    mentions: Array
    qids: Array
    matches: Array
    gold: list[int]
    folds: list[int]
    surfaces: list[str]


class HeldOutIndex:
    """The alias index as if some links had never been counted."""

    def __init__(self, index: AliasIndex, links: FoldLinks) -> None:
        self._index = index
        self._links = links
        self.similar_keys = index.similar_keys
        self.items_with_word = index.items_with_word

    def postings(self, key: str) -> KeyPostings:
        """Candidates of a key; those that only these links say are left out."""
        found = self._index.postings(key)
        own = self._links.get(key)
        if own is None or not len(found.qids):
            return found
        minus = np.fromiter((own.get(qid, 0) for qid in found.qids.tolist()), np.int64, len(found.qids))
        counts = np.maximum(found.counts.astype(np.int64) - minus, 0).astype(np.uint32)
        kept = (found.flags != SOURCE_BITS["anchor"]) | (counts > 0)
        return Postings(found.qids[kept], counts[kept], found.flags[kept])


def _parts(
    resources: LinkResources, documents: Mapping[str, GoldDocument], linkers: Sequence[Linker], *, fuzzy: bool
) -> Iterator[_Part]:
    folds = len(linkers)
    for fold, linker in enumerate(linkers):
        own = [(name, document.text) for name, document in documents.items() if fold_of(name, folds) == fold]
        for batch in batches(own):
            annotated = resources.annotator.annotate([text for _, text in batch])
            found = [
                Found(doc_id, text, notes, gold_spans(documents[doc_id], notes))
                for (doc_id, text), notes in zip(batch, annotated, strict=True)
            ]
            mentions, tokens = batch_of(found, resources.annotator, fuzzy=fuzzy)
            scored = linker.score(mentions, tokens)
            if resources.rerank is not None:
                scored.features["semantic"] = resources.rerank(contexts_of(found), scored)
            yield _Part(
                scored.features,
                scored.mentions,
                scored.qids,
                scored.matches,
                list(_gold_of(found, documents)),
                [fold] * len(mentions),
                [mention.surface for mention in mentions],
            )


def _gold_of(found: Sequence[Found], documents: Mapping[str, GoldDocument]) -> Iterator[int]:
    for document in found:
        said = {(mention.start, mention.end): mention.qid for mention in documents[document.doc_id].mentions}
        for span in document.spans:
            yield said[span.start, span.end] or 0


def _joined(parts: Sequence[_Part], in_kb: set[int]) -> GoldMentions:
    sizes = [len(part.gold) for part in parts]
    firsts = np.cumsum([0, *sizes[:-1]])
    mentions = np.concatenate([part.mentions + first for part, first in zip(parts, firsts.tolist(), strict=True)])
    gold = np.array([qid if qid in in_kb else 0 for part in parts for qid in part.gold], np.uint32)
    qids = np.concatenate([part.qids for part in parts])
    features = {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features}
    examples = Examples(features=features, mentions=mentions, is_gold=(qids == gold[mentions]), num_mentions=len(gold))
    return GoldMentions(
        examples=examples,
        qids=qids,
        matches=np.concatenate([part.matches for part in parts]),
        gold=gold,
        folds=np.array([fold for part in parts for fold in part.folds], np.int64),
        surfaces=[surface for part in parts for surface in part.surfaces],
    )

"""Hide from the linker what it must not know while it is trained: links, and items.

An index has learned from the links of the corpus: those of the documents that are judged would tell
it the answer. And a corpus that links to known items alone teaches nothing about unknown ones, so
some items are hidden: then their links are NIL.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from pipeline.database.kb_lookups import redirects_of
from pipeline.documents.anchors import anchor_texts
from pipeline.engine.tables import RunPaths
from pipeline.index.alias_index import AliasIndex, Postings
from pipeline.index.entity_store import EntityStore
from pipeline.index.name_keys import SOURCE_BITS, index_keys
from pipeline.link.candidates import KeyPostings
from pipeline.link.gold import GoldDocument
from pipeline.link.training.crossval import fold_of
from schemas import ANCHORS
from schemas.array_types import I64, Ints

# Key -> item -> links of one fold.
FoldLinks = dict[str, Counter[int]]
# One item of so many is hidden.
HIDDEN_OF = 10


def links_by_fold(
    paths: RunPaths, documents: Mapping[str, GoldDocument], folds: int
) -> list[FoldLinks]:
    """Return, per fold, the links of the gold's documents from which the index has learned.

    The gold may be a part of the corpus, or none of it: all links of the corpus are read.
    """
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

    return _of_current_items(paths, links_of_fold)


def links_of(paths: RunPaths, documents: Mapping[str, GoldDocument], folds: int) -> list[FoldLinks]:
    """Return, per fold, the links that documents hold; of an index without links, none.

    For documents whose mentions are all links of the corpus: no more of it is read.
    """
    links_of_fold: list[FoldLinks] = [defaultdict(Counter) for _ in range(folds)]
    index = paths.manifest("index")
    if index is None or "documents" not in index.inputs:
        return links_of_fold

    for doc_id, document in documents.items():
        links = links_of_fold[fold_of(doc_id, folds)]
        for mention in document.mentions:
            if mention.qid is not None:
                for key in index_keys(document.text[mention.start : mention.end], "anchor"):
                    links[key][mention.qid] += 1
    return _of_current_items(paths, links_of_fold)


def _of_current_items(paths: RunPaths, links_of_fold: list[FoldLinks]) -> list[FoldLinks]:
    """Count links to merged items for those into which they were merged, as the index does."""
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


def is_hidden(qid: int) -> bool:
    """Say whether an item is hidden: the same ones on every machine and in every run."""
    return zlib.crc32(b"hidden %d" % qid) % HIDDEN_OF == 0


class WithoutHidden(EntityStore):
    """Read an entity store as if it lacked the hidden items: they are no candidates."""

    def __init__(self, store: EntityStore) -> None:
        # The maps are shared, not opened again. `rows` is asked of the store itself, which may
        # know added entities.
        self._mapped, self._arrays = store._mapped, store._arrays
        self.idf = store.idf
        self._store = store
        self._hidden: dict[int, bool] = {}

    def __len__(self) -> int:
        """Return the number of entities, hidden ones included."""
        return len(self._store)

    def rows(self, qids: Ints) -> I64:
        """Return the rows of items, -1 where the store has none or hides it."""
        rows = self._store.rows(qids)
        for place, qid in enumerate(qids.tolist()):
            hidden = self._hidden.get(qid)
            if hidden is None:
                hidden = self._hidden[qid] = is_hidden(qid)
            if hidden:
                rows[place] = -1
        return rows

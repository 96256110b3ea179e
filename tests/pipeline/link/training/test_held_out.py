"""What training must not see: the index without the links of the gold's own documents."""

from __future__ import annotations

import shutil
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import IndexConfig
from pipeline.engine.tables import RunPaths
from pipeline.index import stage as index_stage
from pipeline.index.alias_index import AliasIndex
from pipeline.index.entity_store import EntityStore
from pipeline.index.name_keys import SOURCE_BITS, index_keys
from pipeline.link.gold import GoldDocument, GoldMention
from pipeline.link.training.crossval import fold_of
from pipeline.link.training.held_out import (
    HIDDEN_OF,
    FoldLinks,
    HeldOutIndex,
    WithoutHidden,
    is_hidden,
    links_by_fold,
    links_of,
)
from schemas import ANCHORS, DOCUMENTS
from tests.pipeline.index.test_alias_index import build
from tests.pipeline.inputs_run import rows_of, run_plan

ANCHOR = SOURCE_BITS["anchor"]
SURFACE = st.sampled_from(
    [f"{first} {last}" for first in ("Ann", "Zoë", "(x)") for last in ("Lee", "")]
)
NAME = st.tuples(SURFACE, st.integers(1, 30), st.sampled_from(["label", "title", "alias"]))
LINK = st.tuples(SURFACE, st.integers(1, 30))
Names = list[tuple[str, int, str]]
Links = list[tuple[str, int]]


def index_of(folder: Path, names: Names, links: Links) -> AliasIndex:
    """The real index of names and links; no bound on candidates is met."""
    anchors = [(surface, qid, "anchor", count) for (surface, qid), count in Counter(links).items()]
    return build(folder, [*((*name, 1) for name in names), *anchors], units=2, shards=2)


def counted(links: Links) -> FoldLinks:
    found: FoldLinks = {}
    for surface, qid in links:
        for key in index_keys(surface, "anchor"):
            found.setdefault(key, Counter())[qid] += 1
    return found


def postings(index: AliasIndex | HeldOutIndex, key: str) -> dict[int, tuple[int, int]]:
    """By item: count, and sources without the anchors, which say nothing once they are not counted."""
    columns = (column.tolist() for column in index.postings(key))
    return {qid: (count, flags & ~ANCHOR) for qid, count, flags in zip(*columns, strict=True)}


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(NAME, max_size=15), st.lists(LINK, max_size=15), st.lists(LINK, max_size=15))
def test_equals_an_index_that_never_saw_the_links(
    tmp_path_factory, names: Names, own: Links, others: Links
) -> None:
    held_out = HeldOutIndex(
        index_of(tmp_path_factory.mktemp("all"), names, [*own, *others]), counted(own)
    )
    without = index_of(tmp_path_factory.mktemp("others"), names, others)
    keys = {
        key
        for surface, *_ in [*names, *own, *others]
        for source in ("anchor", "title")
        for key in index_keys(surface, source)
    }
    for key in [*keys, "nowhere"]:
        assert postings(held_out, key) == postings(without, key), key
        assert {column.dtype for column in held_out.postings(key)} == {
            np.dtype("uint32"),
            np.dtype("uint8"),
        }


def test_folds_are_the_same_everywhere() -> None:
    ids = [f"doc-{number}" for number in range(1_000)]
    assert [fold_of(name, 5) for name in ("doc-0", "doc-1", "Zoë", "")] == [3, 1, 3, 0]
    sizes = np.bincount([fold_of(name, 5) for name in ids], minlength=5)
    assert sizes.min() > 150, "folds of like sizes"
    assert {fold_of(name, 1) for name in ids} == {0}


def gold(doc_ids: set[str]) -> dict[str, GoldDocument]:
    return {doc_id: GoldDocument(doc_id, "", ()) for doc_id in doc_ids}


@pytest.mark.parametrize("folds", [1, 3])
def test_links_of_the_gold_documents_by_fold(sample_run: Path, folds: int) -> None:
    paths = RunPaths(root=str(sample_run))
    anchors = rows_of(paths, "documents", ANCHORS)
    texts = {row["doc_id"]: row["text"] for row in rows_of(paths, "documents", DOCUMENTS)}
    some = set(sorted({row["doc_id"] for row in anchors})[::2])
    wanted: list[Counter[tuple[str, int]]] = [Counter() for _ in range(folds)]
    for row in anchors:
        if row["doc_id"] in some:
            for key in index_keys(texts[row["doc_id"]][row["start"] : row["end"]], "anchor"):
                wanted[fold_of(row["doc_id"], folds)][key, row["qid"]] += 1
    found = links_by_fold(paths, gold(some | {"not in the corpus"}), folds)
    assert [
        Counter({(key, qid): count for key, counts in own.items() for qid, count in counts.items()})
        for own in found
    ] == wanted
    assert sum(map(Counter.total, wanted)) > 20


def test_without_all_documents_no_link_counts(sample_run: Path) -> None:
    paths = RunPaths(root=str(sample_run))
    texts = {row["doc_id"]: row["text"] for row in rows_of(paths, "documents", DOCUMENTS)}
    (own,) = links_by_fold(paths, gold(set(texts)), 1)
    index = AliasIndex(paths.artefact("index", "aliases"))
    held_out = HeldOutIndex(index, own)
    assert sum(int(index.postings(key).counts.sum()) for key in own) > 50
    assert sum(int(held_out.postings(key).counts.sum()) for key in own) == 0
    assert links_by_fold(paths, {}, 2) == [{}, {}]


def test_an_index_without_links_has_none_to_hold_out(sample_run: Path, tmp_path: Path) -> None:
    shutil.copytree(sample_run, tmp_path / "run")
    paths = RunPaths(root=str(tmp_path / "run"))
    run_plan(index_stage.plan(IndexConfig(anchors=False), paths), paths)
    texts = {row["doc_id"]: row["text"] for row in rows_of(paths, "documents", DOCUMENTS)}
    assert links_by_fold(paths, gold(set(texts)), 2) == [{}, {}]


def test_links_of_documents_are_those_that_the_index_counted(sample_run: Path) -> None:
    """From the documents alone the same comes out as from all links of the corpus."""
    paths = RunPaths(root=str(sample_run))
    texts = {row["doc_id"]: row["text"] for row in rows_of(paths, "documents", DOCUMENTS)}
    mentions: dict[str, list[GoldMention]] = {}
    for row in rows_of(paths, "documents", ANCHORS):
        mentions.setdefault(row["doc_id"], []).append(
            GoldMention(row["start"], row["end"], row["qid"])
        )
    documents = {
        doc_id: GoldDocument(doc_id, texts[doc_id], tuple(own)) for doc_id, own in mentions.items()
    }
    assert links_of(paths, documents, 3) == links_by_fold(paths, documents, 3)
    assert any(links_of(paths, documents, 3))


def test_hidden_items_are_no_candidates(sample_run: Path) -> None:
    """About one in ten, the same ones always; all else is as in the store."""
    paths = RunPaths(root=str(sample_run))
    store = EntityStore(paths.artefact("index", "entities"))
    qids = np.arange(1, 2_000, dtype=np.uint32)
    hidden = np.array([is_hidden(qid) for qid in qids.tolist()])
    assert 0.05 < hidden.mean() < 0.15
    assert is_hidden(15) == (zlib.crc32(b"hidden 15") % HIDDEN_OF == 0)
    without = WithoutHidden(store)
    for _ in range(2):
        assert (without.rows(qids)[hidden] == -1).all()
        assert without.rows(qids)[~hidden].tolist() == store.rows(qids)[~hidden].tolist()
    known = store.rows(qids)[(store.rows(qids) >= 0)]
    assert without.label(int(known[0])) == store.label(int(known[0]))
    assert len(without) == len(store)

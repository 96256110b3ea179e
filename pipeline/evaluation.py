"""Scoring a run's links against a gold file: reads the tables, leaves the counting to `core.scores`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.core.candidates import exact_candidates
from pipeline.core.disambiguation import log_prior
from pipeline.core.scores import Gold, Key, Outcome, at_gold_spans, end_to_end
from pipeline.gold import GoldDocument, load_gold
from pipeline.storage.alias_index import AliasIndex
from pipeline.storage.arrays import local_folder
from pipeline.storage.entity_store import EntityStore
from pipeline.storage.errors import StageError
from pipeline.storage.tables import RunPaths, read_rows, read_table
from schemas import DOCUMENTS, ENTITIES, ENTITY_FREQUENCY, LINKS, REDIRECTS

NOT_LINKED = "not linked"


class Slices:
    """Which slices an item belongs to, under a name: its frequency band, and `rare`."""

    def __init__(self, paths: RunPaths) -> None:
        self._index = AliasIndex(local_folder(paths.artefact("index", "aliases")))
        self._store = EntityStore(local_folder(paths.artefact("index", "entities")))
        self._bands: dict[int, str] = {}
        if paths.manifest("stats") is not None:
            rows = read_table(paths.files("stats", ENTITY_FREQUENCY), ENTITY_FREQUENCY, ["qid", "band"])
            self._bands = dict(zip(rows.column("qid").to_pylist(), rows.column("band").to_pylist(), strict=True))

    def of(self, surface: str, qid: int) -> tuple[str, ...]:
        """Slices of an item under a name; rare does not depend on what the linker made of it."""
        band = f"band {self._bands.get(qid, NOT_LINKED)}"
        return (band, "rare") if self._is_rare(surface, qid) else (band,)

    def _is_rare(self, surface: str, qid: int) -> bool:
        found = exact_candidates(surface, self._index)
        rows = self._store.rows(found.qids)
        known = rows >= 0
        known[known] &= ~self._store.is_meta(rows[known])
        place = np.flatnonzero(found.qids[known] == qid)
        if not len(place):
            return False
        prior = log_prior(found.counts[known], self._store.popularity(rows[known]))
        return bool(prior[place[0]] < prior.max())


def evaluate_run(run_folder: str, gold_path: str) -> dict[str, Any]:
    """All scores of a run against a gold file.

    Raises:
        StageError: no links yet, or no document of the gold file is in the run, or its text differs.
    """
    paths = RunPaths(root=run_folder)
    paths.require("link")
    documents = load_gold(gold_path)
    _check_texts(paths, documents, gold_path)
    slices = Slices(paths)
    links, detectors = _links(paths, set(documents), slices)
    golds = _golds(paths, documents.values(), slices)
    if detectors == {"gold"}:
        return {"mode": "gold spans", "documents": len(documents)} | at_gold_spans(golds, links)
    return {"mode": "end to end", "documents": len(documents)} | end_to_end(golds, links)


def _check_texts(paths: RunPaths, documents: dict[str, GoldDocument], gold_path: str) -> None:
    missing = set(documents)
    for path in paths.files("documents", DOCUMENTS):
        for rows in read_rows(path, DOCUMENTS):
            for doc_id, text in zip(rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True):
                if doc_id in documents:
                    missing.discard(doc_id)
                    if text != documents[doc_id].text:
                        raise StageError(
                            f"{gold_path}: document {doc_id!r} has another text than the run's, so offsets differ"
                        )
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise StageError(f"{gold_path}: {len(missing)} of its documents are not in the run (for example {some})")


def _links(paths: RunPaths, wanted: set[str], slices: Slices) -> tuple[dict[Key, Outcome], set[str]]:
    links: dict[Key, Outcome] = {}
    detectors: set[str] = set()
    names = ("doc_id", "start", "end", "surface", "qid", "detector", "candidates")
    for path in paths.files("link", LINKS):
        for rows in read_rows(path, LINKS):
            for doc_id, start, end, surface, qid, detector, candidates in zip(
                *(rows.column(name).to_pylist() for name in names), strict=True
            ):
                if doc_id in wanted:
                    detectors.add(detector)
                    ranked = tuple(candidate["qid"] for candidate in candidates)
                    where = slices.of(surface, qid) if qid is not None else ()
                    links[doc_id, start, end] = Outcome(qid, ranked, where)
    return links, detectors


def _golds(paths: RunPaths, documents: Iterable[GoldDocument], slices: Slices) -> list[Gold]:
    known = set(read_table(paths.files("kb", ENTITIES), ENTITIES, ["qid"]).column("qid").to_pylist())
    redirects = read_table(paths.files("kb", REDIRECTS), REDIRECTS)
    moved = dict(zip(redirects.column("source").to_pylist(), redirects.column("target").to_pylist(), strict=True))
    golds = []
    for document in documents:
        for mention in document.mentions:
            qid = mention.qid
            if qid is not None and f"Q{qid}" in moved:
                qid = int(moved[f"Q{qid}"][1:])
            surface = document.text[mention.start : mention.end]
            where = slices.of(surface, qid) if qid in known and qid is not None else ()
            golds.append(Gold((document.doc_id, mention.start, mention.end), qid, qid in known, where))
    return golds


def format_scores(scores: dict[str, Any]) -> str:
    """Scores as aligned lines."""
    lines = [f"{name:26}{value}" for name, value in scores.items() if name != "slices"]
    for name, part in scores["slices"].items():
        lines.append(f"{name:26}" + ", ".join(f"{key} {value}" for key, value in part.items()))
    return "\n".join(lines)

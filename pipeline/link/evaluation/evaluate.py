"""Scoring a run's links against a gold file: reads the tables, leaves the counting to `core.scores` and `core.calibration`.

Only the gold's documents are kept, and of the KB only their items; the triples are counted in one scan, with bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays.mapped_files import local_folder
from pipeline.database.kb_lookups import in_degrees, matching, redirects_of
from pipeline.engine.errors import StageError
from pipeline.engine.files import check_folder
from pipeline.engine.tables import RunPaths
from pipeline.index.entity_store import EntityStore
from pipeline.link.evaluation.calibration import calibration
from pipeline.link.evaluation.errors_file import write_errors
from pipeline.link.evaluation.scores import (
    Facts,
    Gold,
    Key,
    LinkError,
    Outcome,
    at_gold_spans,
    candidate_recall,
    count_errors,
    detection,
    end_to_end,
    find_errors,
    is_rare,
)
from pipeline.link.gold import GoldDocument, load_gold
from schemas import DOCUMENTS, ENTITY_FREQUENCY, LINKS

NOT_LINKED = "not linked"
LINK_COLUMNS = ("doc_id", "start", "end", "qid", "confidence", "detector", "candidates")


@dataclass(frozen=True, slots=True)
class Compared:
    """Gold and links of the same documents, with the slices of their items, and what is wrong."""

    golds: list[Gold]
    links: dict[Key, Outcome]
    errors: list[LinkError]


def evaluate_run(run_folder: str, gold_path: str, errors_path: str = "") -> dict[str, Any]:
    """All scores of a run against a gold file; writes every error to `errors_path`, where one is given.

    Raises:
        StageError: no links yet, or no document of the gold file is in the run, or its text differs.
        ConfigError: the folder of `errors_path` does not exist.
    """
    check_folder(errors_path)
    paths = RunPaths(root=run_folder)
    link = paths.require("link").config
    documents = load_gold(gold_path)
    _check_texts(paths, documents, gold_path)
    store = EntityStore(local_folder(paths.artefact("index", "entities")))
    compared = _compare(paths, documents, store)
    if errors_path:
        write_errors(errors_path, compared.errors, compared.links, documents, store)
    return {
        "mode": "gold spans" if link["gold_spans"] else "end to end",
        "documents": len(documents),
        "top_k": link["top_k"],
    } | _scores(compared, link)


def _scores(compared: Compared, link: dict[str, Any]) -> dict[str, Any]:
    golds, links = compared.golds, compared.links
    scores = at_gold_spans(golds, links) if link["gold_spans"] else end_to_end(golds, links)
    if not link["gold_spans"]:
        scores["detection"] = detection(golds, links)
    return scores | {
        "candidate_recall_at": candidate_recall(golds, links, link["top_k"]),
        "errors": count_errors(compared.errors, golds),
        "calibration": calibration(golds, links),
    }


def _compare(paths: RunPaths, documents: dict[str, GoldDocument], store: EntityStore) -> Compared:
    links = _links(paths, sorted(documents))
    golds = _golds(paths, documents.values(), store)
    items = {
        qid
        for outcome in links.values()
        for qid in (*outcome.candidates, outcome.qid)
        if qid is not None
    }
    items |= {one.qid for one in golds if one.in_kb and one.qid is not None}
    facts = Facts(in_degrees(paths, items), _types(store, items))
    bands = _bands(paths, items)

    def slices(qid: int | None, candidates: tuple[int, ...]) -> tuple[str, ...]:
        if qid is None:
            return ()
        rare = ("rare",) if is_rare(qid, candidates, facts.in_degree) else ()
        return rare if bands is None else (f"band {bands.get(qid, NOT_LINKED)}", *rare)

    links = {
        key: replace(outcome, slices=slices(outcome.qid, outcome.candidates))
        for key, outcome in links.items()
    }
    nothing = Outcome(None)
    golds = [
        replace(one, slices=slices(one.qid, links.get(one.key, nothing).candidates))
        if one.in_kb
        else one
        for one in golds
    ]
    return Compared(golds, links, list(find_errors(golds, links, facts)))


def _check_texts(paths: RunPaths, documents: dict[str, GoldDocument], gold_path: str) -> None:
    missing = set(documents)
    for rows in matching(
        paths.files("documents", DOCUMENTS), DOCUMENTS, ("doc_id", "text"), sorted(documents)
    ):
        for doc_id, text in zip(
            rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True
        ):
            missing.discard(doc_id)
            if text != documents[doc_id].text:
                raise StageError(
                    f"{gold_path}: document {doc_id!r} has another text than the run's, so offsets differ"
                )
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise StageError(
            f"{gold_path}: {len(missing)} of its documents are not in the run (for example {some})"
        )


def _links(paths: RunPaths, doc_ids: Sequence[str]) -> dict[Key, Outcome]:
    links: dict[Key, Outcome] = {}
    for rows in matching(paths.files("link", LINKS), LINKS, LINK_COLUMNS, doc_ids):
        columns = (rows.column(name).to_pylist() for name in LINK_COLUMNS[:-1])
        for row, (qids, scores) in zip(
            zip(*columns, strict=True), _candidates(rows.column("candidates")), strict=True
        ):
            doc_id, start, end, qid, confidence, detector = row
            links[doc_id, start, end] = Outcome(
                qid, qids, confidence=confidence, scores=scores, detector=detector
            )
    return links


def _candidates(column: pa.ListArray) -> Iterator[tuple[tuple[int, ...], tuple[float, ...]]]:
    """QIDs and scores of each row; other fields of a candidate are not turned into Python objects."""
    flat = column.flatten()
    qids, scores = (pc.struct_field(flat, name).to_pylist() for name in ("qid", "score"))
    end = 0
    for length in pc.list_value_length(column).to_pylist():
        start, end = end, end + length
        yield tuple(qids[start:end]), tuple(scores[start:end])


def _golds(paths: RunPaths, documents: Iterable[GoldDocument], store: EntityStore) -> list[Gold]:
    mentions = [(document, mention) for document in documents for mention in document.mentions]
    moved = redirects_of(paths, {mention.qid for _, mention in mentions if mention.qid is not None})
    known = _types(store, set(moved.values()))
    golds = []
    for document, mention in mentions:
        qid = None if mention.qid is None else moved[mention.qid]
        key = (document.doc_id, mention.start, mention.end)
        golds.append(
            Gold(key, qid, qid in known, surface=document.text[mention.start : mention.end])
        )
    return golds


def _types(store: EntityStore, items: set[int]) -> dict[int, int]:
    """Coarse type bits of the items that the KB has, and of no other."""
    qids = np.array(sorted(qid for qid in items if 0 < qid < 1 << 32), np.uint32)
    rows = store.rows(qids)
    known = rows >= 0
    return dict(zip(qids[known].tolist(), store.types(rows[known]).tolist(), strict=True))


def _bands(paths: RunPaths, items: Iterable[int]) -> dict[int, str] | None:
    """Frequency bands of the items that the run has linked; None where the run has no statistics."""
    if paths.manifest("stats") is None:
        return None
    bands: dict[int, str] = {}
    found = paths.files("stats", ENTITY_FREQUENCY)
    for rows in matching(found, ENTITY_FREQUENCY, ("qid", "band"), sorted(items)):
        bands.update(
            zip(rows.column("qid").to_pylist(), rows.column("band").to_pylist(), strict=True)
        )
    return bands

"""Scoring a run's links against a gold file: reads the tables, leaves the counting to `core.scores`."""

from __future__ import annotations

from typing import Any

from pipeline.core.scores import Gold, Key, Outcome, at_gold_spans, end_to_end
from pipeline.gold import GoldDocument, read_gold
from pipeline.storage.errors import StageError
from pipeline.storage.tables import RunPaths, read_rows, read_table
from schemas import DOCUMENTS, ENTITIES, ENTITY_FREQUENCY, LINKS, REDIRECTS


def evaluate_run(run_folder: str, gold_path: str) -> dict[str, Any]:
    """All scores of a run against a gold file.

    Raises:
        StageError: no links yet, or no document of the gold file is in the run, or its text differs.
    """
    paths = RunPaths(root=run_folder)
    paths.require("link")
    documents = {document.doc_id: document for document in read_gold(gold_path)}
    _check_texts(paths, documents, gold_path)
    links, detectors = _links(paths, set(documents))
    golds = _golds(paths, documents.values())
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


def _links(paths: RunPaths, wanted: set[str]) -> tuple[dict[Key, Outcome], set[str]]:
    links: dict[Key, Outcome] = {}
    detectors: set[str] = set()
    names = ("doc_id", "start", "end", "qid", "detector", "candidates")
    for path in paths.files("link", LINKS):
        for rows in read_rows(path, LINKS):
            for doc_id, start, end, qid, detector, candidates in zip(
                *(rows.column(name).to_pylist() for name in names), strict=True
            ):
                if doc_id in wanted:
                    detectors.add(detector)
                    ranked = tuple((candidate["qid"], candidate["prior"]) for candidate in candidates)
                    links[doc_id, start, end] = Outcome(qid, ranked)
    return links, detectors


def _golds(paths: RunPaths, documents: Any) -> list[Gold]:  # noqa: ANN401
    known = set(read_table(paths.files("kb", ENTITIES), ENTITIES, ["qid"]).column("qid").to_pylist())
    redirects = read_table(paths.files("kb", REDIRECTS), REDIRECTS)
    moved = dict(zip(redirects.column("source").to_pylist(), redirects.column("target").to_pylist(), strict=True))
    bands: dict[int, str] = {}
    if paths.manifest("stats") is not None:
        rows = read_table(paths.files("stats", ENTITY_FREQUENCY), ENTITY_FREQUENCY, ["qid", "band"])
        bands = dict(zip(rows.column("qid").to_pylist(), rows.column("band").to_pylist(), strict=True))
    golds = []
    for document in documents:
        for mention in document.mentions:
            qid = mention.qid
            if qid is not None and f"Q{qid}" in moved:
                qid = int(moved[f"Q{qid}"][1:])
            key = (document.doc_id, mention.start, mention.end)
            golds.append(Gold(key, qid, qid in known, bands.get(qid or -1, "not linked")))
    return golds


def format_scores(scores: dict[str, Any]) -> str:
    """Scores as aligned lines."""
    lines = [f"{name:26}{value}" for name, value in scores.items() if name != "slices"]
    lines += [
        f"{name:26}{part['right']}  (n = {part['n']}, candidate recall {part['candidate_recall']})"
        for name, part in scores["slices"].items()
    ]
    return "\n".join(lines)

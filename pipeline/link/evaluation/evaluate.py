"""Score a run's links against a gold file: read the tables; `scores` and `calibration` count.

Only the gold's documents are kept in memory, and of the KB only their items. The triples are
counted in one scan, with bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database.kb_lookups import in_degrees, matching, redirects_of
from pipeline.engine.errors import StageError
from pipeline.engine.files import check_folder
from pipeline.engine.tables import RunPaths
from pipeline.index.entity_store import EntityStore
from pipeline.index.extended_index import IndexFolders, open_store
from pipeline.link.evaluation.calibration import calibration
from pipeline.link.evaluation.errors_file import write_errors
from pipeline.link.evaluation.scores import (
    NIL,
    Gold,
    ItemFacts,
    LinkError,
    Prediction,
    SpanKey,
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

# The band of an item to which the run has no link.
NOT_LINKED = "not linked"
LINK_COLUMNS = ("doc_id", "start", "end", "qid", "confidence", "detector", "candidates")


@dataclass(frozen=True, slots=True)
class Compared:
    """Hold gold and links of the same documents, with the slices of their items, and the errors."""

    golds: list[Gold]
    links: dict[SpanKey, Prediction]
    errors: list[LinkError]


def evaluate_run(run_folder: str, gold_path: str, errors_path: str = "") -> dict[str, Any]:
    """Return all scores of a run against a gold file.

    Args:
        run_folder: of the run.
        gold_path: the gold file.
        errors_path: file to write every error to; empty: none.

    Raises:
        StageError: the run has no links yet, or lacks a document of the gold file, or has another
            text for it.
        ConfigError: the folder of `errors_path` does not exist.
    """
    check_folder(errors_path)
    paths = RunPaths(root=run_folder)
    link_config = paths.require("link").config
    documents = load_gold(gold_path)
    _check_texts(paths, documents, gold_path)

    store = open_store(IndexFolders.of(paths))
    compared = _compare(paths, documents, store)
    if errors_path:
        write_errors(errors_path, compared.errors, compared.links, documents, store)

    # The mode comes with the figures: those of one mode must not be compared with the other's.
    return {
        "mode": "gold spans" if link_config["gold_spans"] else "end to end",
        "documents": len(documents),
        "top_k": link_config["top_k"],
    } | _scores(compared, link_config)


def _scores(compared: Compared, link_config: dict[str, Any]) -> dict[str, Any]:
    golds, links = compared.golds, compared.links
    # At given spans nothing was detected, so there is no precision to speak of.
    if link_config["gold_spans"]:
        scores = at_gold_spans(golds, links)
    else:
        scores = end_to_end(golds, links)
        scores["detection"] = detection(golds, links)

    return scores | {
        "candidate_recall_at": candidate_recall(golds, links, link_config["top_k"]),
        "errors": count_errors(compared.errors, golds),
        "calibration": calibration(golds, links),
    }


def _compare(paths: RunPaths, documents: dict[str, GoldDocument], store: EntityStore) -> Compared:
    links = _links(paths, sorted(documents))
    golds = _golds(paths, documents.values(), store)

    # All items about which something must be known.
    qids = {
        qid for link in links.values() for qid in (*link.candidates, link.qid) if qid is not None
    }
    qids |= {mention.qid for mention in golds if mention.in_kb and mention.qid is not None}
    facts = ItemFacts(in_degrees(paths, qids), _types(store, qids))
    bands = _bands(paths, qids)

    # The same item may be rare at one mention and not at another: it depends on the candidates.
    def slices(qid: int | None, candidates: tuple[int, ...]) -> tuple[str, ...]:
        if qid is None:
            return ()
        rare = ("rare",) if is_rare(qid, candidates, facts.in_degree) else ()
        return rare if bands is None else (f"band {bands.get(qid, NOT_LINKED)}", *rare)

    links = {
        key: replace(link, slices=slices(link.qid, link.candidates)) for key, link in links.items()
    }
    golds = [
        replace(mention, slices=slices(mention.qid, links.get(mention.key, NIL).candidates))
        if mention.in_kb
        else mention
        for mention in golds
    ]
    return Compared(golds, links, list(find_errors(golds, links, facts)))


def _check_texts(paths: RunPaths, documents: dict[str, GoldDocument], gold_path: str) -> None:
    """Check that the run has all documents of the gold, with the same texts.

    Raises:
        StageError: it has not.
    """
    # Offsets of the gold mean nothing in another text.
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
                    f"{gold_path}: document {doc_id!r} has another text than the run's, "
                    "so offsets differ; give gold that was made from the run's texts"
                )

    if missing:
        examples = ", ".join(sorted(missing)[:3])
        raise StageError(
            f"{gold_path}: {len(missing)} of its documents are not in the run "
            f"(for example {examples}); give gold whose documents the run has linked"
        )


def _links(paths: RunPaths, doc_ids: Sequence[str]) -> dict[SpanKey, Prediction]:
    """Read the links of some documents."""
    links: dict[SpanKey, Prediction] = {}
    for rows in matching(paths.files("link", LINKS), LINKS, LINK_COLUMNS, doc_ids):
        # All columns but the candidates, which are lists of structs.
        columns = (rows.column(name).to_pylist() for name in LINK_COLUMNS[:-1])
        for row, (qids, scores) in zip(
            zip(*columns, strict=True), _candidates(rows.column("candidates")), strict=True
        ):
            doc_id, start, end, qid, confidence, detector = row
            links[doc_id, start, end] = Prediction(
                qid, qids, confidence=confidence, scores=scores, detector=detector
            )
    return links


def _candidates(column: pa.ListArray) -> Iterator[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Yield QIDs and scores of each row.

    Other fields of a candidate are not turned into Python objects, which would cost most of the
    time.
    """
    flat = column.flatten()
    qids, scores = (pc.struct_field(flat, name).to_pylist() for name in ("qid", "score"))
    end = 0
    for length in pc.list_value_length(column).to_pylist():
        start, end = end, end + length
        yield tuple(qids[start:end]), tuple(scores[start:end])


def _golds(paths: RunPaths, documents: Iterable[GoldDocument], store: EntityStore) -> list[Gold]:
    """Return the gold mentions, their items as they are called in the KB now."""
    mentions = [(document, mention) for document in documents for mention in document.mentions]
    current_qid = redirects_of(
        paths, {mention.qid for _, mention in mentions if mention.qid is not None}
    )
    # Only items of the KB have an entry.
    types = _types(store, set(current_qid.values()))

    golds = []
    for document, mention in mentions:
        qid = None if mention.qid is None else current_qid[mention.qid]
        key = (document.doc_id, mention.start, mention.end)
        surface = document.text[mention.start : mention.end]
        golds.append(Gold(key, qid, qid in types, surface=surface))
    return golds


def _types(store: EntityStore, qids: set[int]) -> dict[int, int]:
    """Return the coarse type bits of the items that the KB has, and of no other."""
    # Gold files may hold numbers that are no 32-bit ids.
    sorted_qids = np.array(sorted(qid for qid in qids if 0 < qid < 1 << 32), np.uint32)
    rows = store.rows(sorted_qids)
    is_stored = rows >= 0
    types = store.types(rows[is_stored])
    return dict(zip(sorted_qids[is_stored].tolist(), types.tolist(), strict=True))


def _bands(paths: RunPaths, qids: Iterable[int]) -> dict[int, str] | None:
    """Return the frequency bands of the items that the run has linked.

    None where the run has no statistics.
    """
    if paths.manifest("stats") is None:
        return None
    bands: dict[int, str] = {}
    part_paths = paths.files("stats", ENTITY_FREQUENCY)
    for rows in matching(part_paths, ENTITY_FREQUENCY, ("qid", "band"), sorted(qids)):
        bands.update(
            zip(rows.column("qid").to_pylist(), rows.column("band").to_pylist(), strict=True)
        )
    return bands

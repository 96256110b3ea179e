"""Score a run's links against a gold file: read the tables; `scores` and `calibration` count.

Only the gold's documents are kept in memory, and of the KB only their items. The triples are
counted in one scan, with bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database.kb_lookups import matching
from pipeline.engine.errors import StageError
from pipeline.engine.files import check_folder
from pipeline.engine.tables import RunPaths
from pipeline.index.extended_index import IndexFolders, open_store
from pipeline.link.evaluation.calibration import calibration
from pipeline.link.evaluation.comparison import (
    Compared,
    bands_of,
    compare,
    facts_of,
    golds_of,
    items_of,
    within_kb,
)
from pipeline.link.evaluation.errors_file import write_errors
from pipeline.link.evaluation.scores import (
    Prediction,
    SpanKey,
    at_gold_spans,
    candidate_recall,
    count_errors,
    detection,
    end_to_end,
)
from pipeline.link.evaluation.wrong_links import count_wrong_links, wrong_links
from pipeline.link.gold import GoldDocument, load_gold
from schemas import DOCUMENTS, LINKS
from schemas.listing import a_few

LINK_COLUMNS = (
    "doc_id", "start", "end", "qid", "confidence", "detector", "ner_type", "surface", "candidates",
)  # fmt: skip


def evaluate_run(
    run_folder: str, gold_path: str, errors_path: str = "", *, kb_only: bool = False
) -> dict[str, Any]:
    """Return all scores of a run against a gold file.

    Args:
        run_folder: of the run.
        gold_path: the gold file.
        errors_path: file to write every error to; empty: none.
        kb_only: leave out gold that is not in the KB, and the links at its spans.

    Raises:
        StageError: the run has no links yet, or lacks a document of the gold file, or has another
            text for it.
        ConfigError: the folder of `errors_path` does not exist.
    """
    check_folder(errors_path, inputs=[gold_path])
    paths = RunPaths(root=run_folder)
    link_config = paths.require("link").config
    documents = load_gold(gold_path)
    _check_texts(paths, documents, gold_path)

    store = open_store(IndexFolders.of(paths))
    all_golds = golds_of(paths, documents.values(), store)
    golds, links = all_golds, _links(paths, sorted(documents))
    if kb_only:
        golds, links = within_kb(golds, links, store)
    qids = items_of(golds, links)
    facts = facts_of(paths, store, qids)
    compared = compare(golds, links, facts, bands_of(paths, qids))
    if errors_path:
        write_errors(errors_path, compared.errors, compared.links, documents, store)

    # The mode comes with the figures: those of one mode must not be compared with the other's.
    scores: dict[str, Any] = {
        "mode": "gold spans" if link_config["gold_spans"] else "end to end",
        "documents": len(documents),
        "top_k": link_config["top_k"],
        "kb_only": kb_only,
    } | _scores(compared, link_config)
    if not link_config["gold_spans"]:
        # The gold as it is: without NIL a part of an unknown name would have no class.
        texts = {doc_id: document.text for doc_id, document in documents.items()}
        classes = [name for _, name in wrong_links(all_golds, compared.links, texts, facts)]
        scores["wrong_links"] = count_wrong_links(classes, scores["predicted"])
    return scores


def _scores(compared: Compared, link_config: dict[str, Any]) -> dict[str, Any]:
    golds, links = compared.golds, compared.links
    # At given spans nothing was detected, so there is no precision to speak of.
    if link_config["gold_spans"]:
        scores = at_gold_spans(golds, links)
    else:
        scores = end_to_end(golds, links) | {"detection": detection(golds, links)}

    return scores | {
        "candidate_recall_at": candidate_recall(golds, links, link_config["top_k"]),
        "errors": count_errors(compared.errors, golds),
        "calibration": calibration(golds, links),
    }


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
        raise StageError(
            f"{gold_path}: {len(missing)} of its documents are not in the run "
            f"({a_few(sorted(missing))}); give gold whose documents the run has linked"
        )


def _links(paths: RunPaths, doc_ids: Sequence[str]) -> dict[SpanKey, Prediction]:
    """Read the links of some documents."""
    links: dict[SpanKey, Prediction] = {}
    for rows in matching(paths.files("link", LINKS), LINKS, LINK_COLUMNS, doc_ids):
        # All columns but the candidates, which are lists of structs.
        columns = (rows.column(name).to_pylist() for name in LINK_COLUMNS[:-1])
        for row, (qids, scores, match) in zip(
            zip(*columns, strict=True), _candidates(rows.column("candidates")), strict=True
        ):
            doc_id, start, end, qid, confidence, detector, ner_type, surface = row
            links[doc_id, start, end] = Prediction(
                qid,
                qids,
                confidence=confidence,
                scores=scores,
                detector=detector,
                ner_type=ner_type,
                match=match,
                surface=surface,
            )
    return links


def _candidates(
    column: pa.ListArray,
) -> Iterator[tuple[tuple[int, ...], tuple[float, ...], str]]:
    """Yield QIDs and scores of each row, and how its best candidate was found.

    Other fields of a candidate are not turned into Python objects, which would cost most of the
    time.
    """
    flat = column.flatten()
    qids, scores, matches = (
        pc.struct_field(flat, name).to_pylist() for name in ("qid", "score", "match")
    )
    end = 0
    for length in pc.list_value_length(column).to_pylist():
        start, end = end, end + length
        yield tuple(qids[start:end]), tuple(scores[start:end]), "".join(matches[start:end][:1])

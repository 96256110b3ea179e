"""The truth of a corpus against the pipeline that reads it: links, frequencies, supported facts."""

from __future__ import annotations

import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import DocumentsConfig, IndexConfig, KbConfig, LinkConfig, StatsConfig
from pipeline.documents import stage as documents
from pipeline.engine.tables import RunPaths
from pipeline.index import stage as index
from pipeline.kb import stage as kb
from pipeline.link import stage as link
from pipeline.link.evaluation.evaluate import evaluate_run
from pipeline.stats import stage as stats
from schemas import ENTITY_FREQUENCY, FACT_SUPPORT, LINKS, SENTENCES
from schemas.settings import build
from tests.pipeline import cases
from tests.pipeline.inputs_run import rows_of, run_plan
from tests.pipeline.synth.conftest import Make, totals, truth


def run_all(corpus: Path, folder: Path) -> RunPaths:
    """The stages up to `stats`, with the settings that the corpus comes with."""
    settings = tomllib.loads((corpus / "pipeline.toml").read_text())
    paths = RunPaths(root=str(folder))
    for stage, config in (
        (kb, build(KbConfig, settings["kb"], "kb")),
        (documents, build(DocumentsConfig, settings["documents"], "documents")),
        (index, IndexConfig()),
        (link, build(LinkConfig, settings["link"], "link")),
        (stats, StatsConfig(num_bootstrap=10)),
    ):
        run_plan(stage.plan(config, paths), paths)
    return paths


def linked_items(corpus: Path) -> dict[tuple[str, int], set[int]]:
    """The items that the links of each sentence lead to, by document and start."""
    starts = {(row["doc_id"], row["start"]): row["end"] for row in truth(corpus, "sentences")}
    items: dict[tuple[str, int], set[int]] = defaultdict(set)
    for row in truth(corpus, "links"):
        for (doc_id, start), end in starts.items():
            if doc_id == row["doc_id"] and start <= row["start"] < end:
                items[doc_id, start].add(row["linked_qid"])
    return items


def expected_support(corpus: Path, paths: RunPaths) -> list[tuple[int, ...]]:
    """Triples whose ends are linked in one document, by plain loops over the truth."""
    sentences = linked_items(corpus)
    of_document: dict[str, set[int]] = defaultdict(set)
    for (doc_id, _), items in sentences.items():
        of_document[doc_id] |= items

    support = []
    for subject, predicate, object_ in {
        row[:3] for row in cases.rows_of(Path(paths.root), "facts")
    }:
        both = {subject, object_}
        num_documents = sum(both <= items for items in of_document.values())
        if num_documents and subject != object_:
            num_sentences = sum(both <= items for items in sentences.values())
            support.append((subject, predicate, object_, num_sentences, num_documents))
    return sorted(support)


@pytest.mark.slow
@pytest.mark.parametrize("corrupt_links", [0.0, 0.1])
def test_the_pipeline_counts_what_the_truth_says(
    make: Make, tmp_path: Path, corrupt_links: float
) -> None:
    corpus = make(corrupt_links=corrupt_links)
    paths = run_all(corpus, tmp_path / "run")

    def rows(stage: str, table: Any) -> list[dict[str, Any]]:
        return rows_of(paths, stage, table)

    # Links: every one, with its span and its item, and no other.
    assert {
        (row["doc_id"], row["start"], row["end"], row["qid"]) for row in rows("link", LINKS)
    } == {
        (row["doc_id"], row["start"], row["end"], row["linked_qid"])
        for row in truth(corpus, "links")
    }
    assert {(row["doc_id"], row["start"], row["end"]) for row in rows("link", SENTENCES)} == {
        (row["doc_id"], row["start"], row["end"]) for row in truth(corpus, "sentences")
    }

    # Counts.
    frequencies = {row["qid"]: row["num_mentions"] for row in rows("stats", ENTITY_FREQUENCY)}
    assert frequencies == {
        row["qid"]: row["num_links"] for row in truth(corpus, "entities") if row["num_links"]
    }
    names = ("subject", "predicate", "object", "num_sentences", "num_documents")
    supported = sorted(tuple(row[name] for name in names) for row in rows("stats", FACT_SUPPORT))
    assert supported == expected_support(corpus, paths)
    assert any(row[3] for row in supported)

    # Scores: what is wrong is what was made wrong.
    scores = evaluate_run(paths.root, str(corpus / "gold.jsonl"))
    figures = totals(corpus)
    right = 1 - figures["corrupted_links"] / figures["links"]
    assert scores["mode"] == "end to end"
    for name in ("precision", "recall", "f1"):
        assert scores[name] == pytest.approx(right, abs=1e-4), name

    if not corrupt_links:
        check_stated(corpus, supported)


def check_stated(corpus: Path, supported: list[tuple[int, ...]]) -> None:
    """Every stated fact is supported by just the sentences that state it, and no KB-only fact is."""
    num_sentences = {row[:3]: row[3] for row in supported}
    pair_count = Counter(
        frozenset((row["subject"], row["other"])) for row in truth(corpus, "sentences")
    )
    stated, kb_only = 0, 0
    for row in truth(corpus, "facts"):
        fact = (row["subject"], row["predicate"], row["object"])
        if row["num_stated"]:
            stated += 1
            # The same two items may also have a fact in the other direction.
            assert num_sentences[fact] == pair_count[frozenset(fact[::2])] >= row["num_stated"]
        elif row["class"] in ("kb-only", "nowhere"):
            kb_only += 1
            assert num_sentences.get(fact, 0) == 0
    assert stated > 80
    assert kb_only > 20

"""`evaluate` on the sample: figures that agree with each other, the file of errors, subsets,
folders that do not exist.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.database.kb_lookups import in_degrees
from pipeline.engine.tables import RunPaths
from pipeline.link.evaluation.evaluate import evaluate_run
from pipeline.link.evaluation.scores import CUTOFFS, ERROR_CLASSES, NIL_LINKED
from pipeline.link.evaluation.scores_text import format_scores
from pipeline.link.gold import load_gold
from schemas.errors import ConfigError
from tests.pipeline.cases import GOLD, in_process, rows_of, sample_arguments

USAGE = 2


@pytest.fixture(scope="module")
def scored(
    sample_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores and errors of the sample, by the program."""
    errors = tmp_path_factory.mktemp("errors") / "errors.jsonl"
    errors.write_text("an older file\n")
    done = in_process(
        "evaluate", "--run", str(sample_run), "--gold", str(GOLD), "--errors", str(errors), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in errors.parent.iterdir()] == [errors.name], (
        "no temporary file stays"
    )
    return json.loads(done.stdout), [json.loads(line) for line in errors.read_text().splitlines()]


def test_figures_agree_with_each_other(scored) -> None:
    scores, _ = scored
    wrong = scores["errors"]["wrong_in_kb"]
    assert scores["recall"] == pytest.approx(1 - wrong / scores["gold_in_kb"], abs=1e-4)
    found = scores["detection"]
    assert scores["recall"] == pytest.approx(
        found["span_recall"] * found["item_accuracy_at_found_spans"], abs=1e-3
    )
    by_first = found["span_recall_by_first_character"].values()
    assert sum(part["gold"] for part in by_first) == scores["gold_in_kb"]
    assert {"ner", "dictionary"} <= set(found["detectors"])
    assert not any("+" in name for name in found["detectors"])
    recalls = scores["candidate_recall_at"]
    assert list(recalls) == [*map(str, CUTOFFS), "all"]
    assert recalls["1"] <= recalls["5"] <= recalls["all"] <= found["span_recall"]
    assert (recalls["20"], scores["top_k"]) == (None, 8)
    assert scores["slices"]["rare"]["gold"] > 0
    in_kb = scores["calibration"]["in_kb"]
    assert in_kb["spans"] == scores["gold_in_kb"]
    assert in_kb["precision"] * in_kb["coverage"] == pytest.approx(recalls["1"], abs=1e-3)


def test_every_error_has_a_line(scored) -> None:
    scores, errors = scored
    counted = Counter(error["class"] for error in errors)
    listed = {name: part["count"] for name, part in scores["errors"]["classes"].items()}
    assert counted == Counter(listed | {NIL_LINKED: scores["errors"][NIL_LINKED]["count"]})
    documents = load_gold(str(GOLD))
    for error in errors:
        text = documents[error["doc_id"]].text
        around = error["before"] + error["surface"] + error["after"]
        assert around == text[max(error["start"] - 60, 0) : error["end"] + 60]
        assert error["surface"] == text[error["start"] : error["end"]]
        assert len(error["candidates"]) <= 5
        shown = [candidate["qid"] for candidate in error["candidates"]]
        if error["rank"] is not None and error["rank"] <= 5:
            assert shown[error["rank"] - 1] == error["gold"]["qid"]
        assert (error["linked"] is None) == (error["class"] == "not_detected")
        if error["class"] in ("type", "rare", "popular"):
            assert error["linked"]["label"]
            assert error["linked"]["qid"] != error["gold"]["qid"]
            assert error["rank"] is not None
            assert 0 < error["linked"]["confidence"] <= 1
    order = {doc_id: place for place, doc_id in enumerate(documents)}
    places = [order[error["doc_id"]] for error in errors]
    assert places == sorted(places), "in the order of the gold file"


def test_text_has_a_section_for_every_question(scored) -> None:
    text = format_scores(scored[0])
    for part in (
        "end to end: ", "F1", "by detector", "at 20", "link.top_k is 8", "  rare ", "errors, in-KB", *ERROR_CLASSES,
        NIL_LINKED, "expected calibration error", "precision at coverage 0.25",
    ):  # fmt: skip
        assert part in text, part
    assert max(map(len, text.splitlines())) <= 110


def test_pointing_triples_follow_redirects(sample_run: Path) -> None:
    moved = {
        int(source[1:]): int(target[1:]) for source, target in rows_of(sample_run, "redirects")
    }
    objects = [row[2] for row in rows_of(sample_run, "triples")]
    assert set(moved) & set(objects), "the sample has triples that point to a merged item"
    naive = Counter(moved.get(qid, qid) for qid in objects)
    wanted = {*moved.values(), 90, 4_000_000_099}
    assert in_degrees(RunPaths(root=str(sample_run)), wanted) == {
        qid: naive[qid] for qid in wanted if naive[qid]
    }
    assert in_degrees(RunPaths(root=str(sample_run)), set()) == {}


def test_subset_of_the_documents(sample_run: Path, scored, tmp_path: Path) -> None:
    """Gold of a few of the run's documents: their mentions alone count, and give the same errors."""
    lines = GOLD.read_text().splitlines()[:5]
    (tmp_path / "gold.jsonl").write_text("\n".join(lines) + "\n")
    scores = evaluate_run(
        str(sample_run), str(tmp_path / "gold.jsonl"), str(tmp_path / "errors.jsonl")
    )
    doc_ids = {json.loads(line)["doc_id"] for line in lines}
    assert scores["documents"] == len(doc_ids)
    assert scores["predicted"] == sum(
        row[0] in doc_ids and row[7] is not None for row in rows_of(sample_run, "links")
    )
    errors = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert errors == [error for error in scored[1] if error["doc_id"] in doc_ids]


def test_merged_and_impossible_gold_items(sample_run: Path, tmp_path: Path) -> None:
    document = json.loads(GOLD.read_text().splitlines()[0])
    (france,) = {mention["qid"] for mention in document["mentions"] if mention["start"] == 15}
    merged = {target: source for source, target in rows_of(sample_run, "redirects")}
    mentions = [
        {"start": 15, "end": 21, "qid": merged[france]},
        {"start": 25, "end": 30, "qid": 1 << 40},
    ]
    (tmp_path / "gold.jsonl").write_text(json.dumps(document | {"mentions": mentions}) + "\n")
    scores = evaluate_run(str(sample_run), str(tmp_path / "gold.jsonl"))
    assert (scores["gold_in_kb"], scores["nil_mentions"], scores["recall"]) == (1, 1, 1.0)


@pytest.mark.slow
def test_gold_spans(sample_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sample_run, run, ignore=shutil.ignore_patterns("stats"))
    done = in_process(
        "link", *sample_arguments(run, "--gold-spans", str(GOLD), "--set", "link.top_k=20")
    )
    assert done.returncode == 0, done.stderr
    scores = evaluate_run(str(run), str(GOLD), str(tmp_path / "errors.jsonl"))
    assert scores["mode"] == "gold spans"
    assert scores["candidate_recall_at"]["1"] == scores["accuracy_best_candidate"]
    assert (
        scores["candidate_recall_at"]["20"]
        == scores["candidate_recall_at"]["all"]
        == scores["candidate_recall"]
    )
    classes = {name: part["count"] for name, part in scores["errors"]["classes"].items()}
    assert classes["not_detected"] == classes["wrong_span"] == 0
    assert scores["accuracy"] == pytest.approx(
        1 - sum(classes.values()) / scores["gold_in_kb"], abs=1e-4
    )
    assert scores["slices"]["rare"]["gold_in_kb"] > 0
    assert list(scores["slices"]) == ["rare"], "no bands without stats"
    assert "gold spans: " in format_scores(scores)


@pytest.mark.parametrize(
    ("path", "problem"), [("none/errors.jsonl", "there is no folder"), (".", "is a folder")]
)
def test_errors_that_cannot_be_written(tmp_path: Path, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        evaluate_run("no-run", "no-gold", str(tmp_path / path))


@pytest.mark.slow
def test_missing_folder_is_a_usage_error(sample_run: Path, tmp_path: Path) -> None:
    errors = tmp_path / "none" / "errors.jsonl"
    done = in_process(
        "evaluate", "--run", str(sample_run), "--gold", str(GOLD), "--errors", str(errors)
    )
    assert done.returncode == USAGE
    assert "create it first" in done.stderr
    assert not errors.parent.exists()

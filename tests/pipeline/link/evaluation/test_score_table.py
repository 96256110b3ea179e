"""`link score` on the sample: the figures are those of `link` and `evaluate`, mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import LinkConfig
from pipeline.engine.errors import StageError
from pipeline.link.evaluation.comparison import in_annotated_lines
from pipeline.link.evaluation.evaluate import evaluate_run
from pipeline.link.evaluation.gold_files import most_pointed_to
from pipeline.link.evaluation.score_table import Counted, gold_files, score_files
from pipeline.link.evaluation.scores import Prediction
from pipeline.link.gold import GoldDocument, GoldMention
from tests.pipeline.cases import GOLD, in_process

SPACY = "--set", "link.spacy_model=blank:en"


@pytest.mark.slow
def test_the_figures_are_those_of_the_stage_and_of_evaluate(sample_run: Path) -> None:
    """The stage linked the same texts with the same settings; only the anchors are its own."""
    evaluated = evaluate_run(str(sample_run), str(GOLD))
    config = LinkConfig()
    scored = score_files(str(sample_run), [str(GOLD)], config, Counted())["files"]["gold"]
    assert {name: scored["end_to_end"][name] for name in ("predicted", "precision", "recall", "f1")} == {
        name: evaluated[name] for name in ("predicted", "precision", "recall", "f1")
    }  # fmt: skip
    assert scored["wrong_links"] == evaluated["wrong_links"]
    wrong = sum(part["count"] for part in scored["wrong_links"].values())
    right = scored["end_to_end"]["predicted"] - wrong
    assert scored["end_to_end"]["precision"] == pytest.approx(
        right / scored["end_to_end"]["predicted"], abs=1e-4
    )
    given = scored["gold_spans"]
    assert given["accuracy"] == given["accuracy_best_candidate"], "gold spans are never NIL"
    assert given["accuracy"] >= scored["baseline"]["gold_spans"]["accuracy"]
    assert given["candidate_recall"] >= scored["baseline"]["gold_spans"]["candidate_recall"]


@pytest.mark.slow
def test_the_command_writes_markdown_and_json(sample_run: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "gold", tmp_path / "scores"
    folder.mkdir()
    lines = GOLD.read_text().splitlines()
    (folder / "first.jsonl").write_text("\n".join(lines[:20]) + "\n")
    (folder / "second.jsonl").write_text("\n".join(lines[20:30]) + "\n")
    done = in_process(
        "link", "score", "--run", str(sample_run), "--gold", str(folder), "--out", str(out), "--kb-only",
        "--annotated-lines", *SPACY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = (out / "scores.md").read_text()
    assert table.strip() == done.stdout.strip()
    assert "gold outside the KB is left out; only the annotated lines count" in table
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores["files"]) == ["first", "second"]
    for title, figures in scores["files"].items():
        row = next(line for line in table.splitlines() if line.startswith(f"| {title} |"))
        assert f"{figures['end_to_end']['f1']:.3f}".removeprefix("0") in row
        assert figures["end_to_end"]["nil_mentions"] == 0, "--kb-only"


@pytest.mark.slow
def test_gold_spans_may_be_nil_where_one_asks_for_it(sample_run: Path) -> None:
    config = LinkConfig(spacy_model="blank:en", gold_nil=True, min_confidence=0.9)
    figures = score_files(str(sample_run), [str(GOLD)], config, Counted())["files"]["gold"]
    given = figures["gold_spans"]
    assert given["accuracy"] < given["accuracy_best_candidate"]


def test_kb_only_leaves_out_gold_and_links_at_its_spans(sample_run: Path) -> None:
    whole = evaluate_run(str(sample_run), str(GOLD))
    restricted = evaluate_run(str(sample_run), str(GOLD), kb_only=True)
    assert whole["nil_mentions"] > 0
    linked_nil = whole["errors"]["nil_linked"]["count"]
    assert restricted["nil_mentions"] == 0
    assert restricted["predicted"] == whole["predicted"] - linked_nil
    assert restricted["recall"] == whole["recall"]


def test_paths_of_gold_files(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no file that ends in \.jsonl"):
        gold_files([str(tmp_path)])
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        (tmp_path / name).write_text("")
    inside = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert gold_files([str(tmp_path)]) == inside
    with pytest.raises(StageError, match="two gold files are called 'a'"):
        gold_files([str(tmp_path), str(tmp_path / "a.jsonl")])


def test_a_file_in_the_place_of_the_folder_is_a_usage_error(
    sample_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "scores").write_text("")
    done = in_process(
        "link", "score", "--run", str(sample_run), "--gold", str(GOLD), "--out", str(tmp_path / "scores")
    )  # fmt: skip
    assert done.returncode == 2
    assert "is a file; give the name of a folder" in done.stderr


def test_the_baseline_takes_the_most_pointed_to() -> None:
    links = most_pointed_to({("d", 0, 3): (7, 5, 9), ("d", 4, 6): ()}, {5: 2, 7: 2, 9: 1})
    assert links["d", 0, 3].candidates == (5, 7, 9), "of equals the lowest QID"
    assert links["d", 4, 6].qid is None


def test_annotated_lines() -> None:
    text = "Paris one\nParis two\nParis three\nParis four"
    starts = [0, 10, 20, 32]
    links = {("d", start, start + 5): Prediction(1) for start in starts}
    mentions = (GoldMention(14, 19, None), GoldMention(20, 25, 1))
    documents = {"d": GoldDocument("d", text, mentions), "e": GoldDocument("e", text, ())}
    counted = in_annotated_lines(links | {("e", 0, 5): Prediction(1)}, documents)
    assert [start for _, start, _ in counted] == [10, 20]

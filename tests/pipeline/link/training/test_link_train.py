"""`trelm-pipeline link train` as a user types it: weights come out, `link` takes them, mistakes are
named before any work.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.pipeline.cases import GOLD, in_process, program, rows_of, sample_arguments

pytestmark = pytest.mark.slow


def test_weights_of_ones_own(sample_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.json"
    done = in_process(
        "link",
        "train",
        "--run",
        str(sample_run),
        "--gold",
        str(GOLD),
        "--out",
        str(out),
        "--folds",
        "3",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]["all"]
    assert figures["gold_in_kb"] > 500
    assert figures["accuracy"] > 0.9
    assert (
        figures["candidate_recall"]
        >= figures["recall_at_5"]
        >= figures["recall_at_1"]
        >= figures["accuracy"] - 1e-9
    )
    assert figures["calibration_error"] < 0.1
    assert "links of" not in done.stderr
    weights = json.loads(out.read_text())
    assert weights["about"]["gold"] == [GOLD.name]
    assert (
        min(weights["weights"][name] for name in ("prior", "similarity", "near", "mentioned")) >= 0
    )

    run = tmp_path / "run"
    shutil.copytree(sample_run, run)
    linked = program("link", *sample_arguments(run), "--weights", str(out))
    assert linked.returncode == 0, linked.stderr
    before, after = rows_of(sample_run, "links"), rows_of(run, "links")
    assert [row[:7] for row in before] == [row[:7] for row in after]  # the same mentions
    assert [row[8] for row in before] != [row[8] for row in after]  # with another confidence


def test_the_text_report_with_an_ablation(sample_run: Path, tmp_path: Path) -> None:
    done = in_process(
        "link", "train", "--run", str(sample_run), "--gold", str(GOLD), "--out", str(tmp_path / "w.json"), "--folds",
        "2", "--ablate", "--set", "link.spacy_model=blank:en",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split()[:4] == ["in", "KB", "accuracy", "R@1"]
    assert [line for line in lines if line.startswith("- context (all)")]
    assert [line for line in lines if line.startswith("- prior ")]
    assert lines[-1].split()[0] == "bias"


def test_mistakes_are_named_before_any_work(sample_run: Path, tmp_path: Path) -> None:
    missing = in_process(
        "link",
        "train",
        "--run",
        str(sample_run),
        "--gold",
        str(GOLD),
        "--out",
        str(tmp_path / "no/w.json"),
    )
    assert missing.returncode == 2
    assert "there is no folder" in missing.stderr
    for sources in ((), ("--gold", str(GOLD), "--from-links")):
        out = ("--out", str(tmp_path / "w.json"))
        both = in_process("link", "train", "--run", str(sample_run), *sources, *out)
        assert both.returncode == 2
        assert "either --gold FILE or --from-links" in both.stderr
    out = ("--out", str(tmp_path / "w.json"))
    few = in_process("link", "train", "--run", str(sample_run), "--from-links", *out)
    assert few.returncode == 1
    assert "weights need 2,000 links" in few.stderr
    twice = in_process(
        "link",
        "train",
        "--run",
        str(sample_run),
        "--gold",
        str(GOLD),
        "--gold",
        str(GOLD),
        "--out",
        str(tmp_path / "w.json"),
    )
    assert twice.returncode == 1
    assert "is in" in twice.stderr
    assert not list(tmp_path.iterdir())
    useless = in_process("link", *sample_arguments(sample_run), "--rerank-model", str(tmp_path))
    assert useless.returncode == 2
    assert "would change nothing" in useless.stderr
    (tmp_path / "bad.json").write_text(
        '{"format": "trelm linker weights 2", "bias": 0, "weights": {"luck": 1}}'
    )
    unknown = in_process(
        "link", *sample_arguments(sample_run), "--weights", str(tmp_path / "bad.json")
    )
    assert unknown.returncode == 2
    assert "luck" in unknown.stderr


def test_gold_that_teaches_nothing_is_named(sample_run: Path, tmp_path: Path) -> None:
    def trained(*documents: dict[str, object]) -> str:
        gold, out = tmp_path / "gold.jsonl", tmp_path / "w.json"
        gold.write_text("".join(json.dumps(document) + "\n" for document in documents))
        done = in_process(
            "link", "train", "--run", str(sample_run), "--gold", str(gold), "--out", str(out), "--set",
            "link.spacy_model=blank:en",
        )  # fmt: skip
        assert done.returncode == (0 if out.exists() else 1)
        return done.stderr

    def document(name: str, text: str, qid: object) -> dict[str, object]:
        return {"doc_id": name, "text": text, "mentions": [{"start": 0, "end": 5, "qid": qid}]}

    assert "no mention has a candidate" in trained(
        document("a", "Zzqqx is far.", "Q90"), document("b", "Zzqqx.", "Q90")
    )
    assert "in one of 5 folds" in trained(document("a", "Paris is far.", "Q90"))
    # An item that cannot be one is as unknown as one that the KB does not have.
    few = [
        document(f"{number}", "Paris is far.", qid)
        for number, qid in enumerate(["Q90", "Q90", 1 << 40, 1 << 41])
    ]
    assert "Error" not in trained(*few)

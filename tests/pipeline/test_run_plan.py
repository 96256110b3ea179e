"""`run` checks what all stages need before the first one begins, and `--plan` says what would run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.cases import in_process, sample_arguments


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("link.spacy_model=xx_none", "spaCy pipeline 'xx_none' is not installed"),
        ("link.weights=none.json", "link.weights 'none.json'"),
        ("link.gold_spans=none.jsonl", "none.jsonl: no such file"),
        ("importance.model=./none", "./none: no such model folder"),
        ("shards.model=./none", "./none: no such model folder"),
        ('documents.inputs=["none.jsonl"]', "none.jsonl: no such file or folder"),
        ('kb.redirects=["none.sql.gz"]', "none.sql.gz: no such file or folder"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--plan",)])
def test_what_a_later_stage_lacks_is_said_at_once(
    tmp_path: Path, setting: str, part: str, flags: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    done = in_process("run", *sample_arguments(run, "--set", setting, *flags))
    assert done.returncode != 0
    assert part in done.stderr
    assert not run.exists(), "no stage has begun"


def test_templates_of_statements_are_checked_at_once(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"relation": "P19", "template": "[X] alone."}\n')
    settings = ("shards.statements=true", f"shards.statement_templates={tmp_path / 't.jsonl'}")
    flags = [f"--set={setting}" for setting in settings]
    done = in_process("run", *sample_arguments(tmp_path / "run", *flags))
    assert "must have [X] and [Y] once each" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_plan_says_what_would_run_and_why(sample_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}

    def lines(*more: str) -> list[str]:
        done = in_process("run", *sample_arguments(run, "--plan", *more))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    names = ["kb", "titles", "documents", "index", "link", "stats"]
    assert [line.partition(" (")[0] for line in lines("--until", "stats")] == [
        f"{name}: up to date" for name in names
    ]
    assert lines("--set", "documents.unit_mb=1")[1:] == [
        "titles: runs: unit_mb is 1.0 now, it was 16.0",
        "documents: runs: titles runs",
        "index: runs: titles runs",
        "link: runs: documents runs",
        "stats: runs: link runs",
        "importance: runs: documents runs",
        "shards: runs: documents runs",
    ]
    part = next((run / "stats").glob("data-*/tail_summary/*.parquet"))
    part.unlink()
    assert lines("--until", "stats")[-1] == f"stats: runs: {part} is missing"
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert after == {path: time for path, time in before.items() if path in after}
    assert before.keys() - after.keys() == {part}

"""`run` checks what all stages need before the first one begins, and `--plan` says what would run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import run_stage
from pipeline.config import load_config
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.run_stage import run_missing
from schemas.run_lock import LOCK_NAME
from tests.pipeline.cases import SAMPLE, in_process, program, sample_arguments


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
        ("kb.update=none", "none: stage 'kb' has not finished"),
        ("link.gold_spans=examples/tiny/documents.jsonl", "documents.jsonl:1: not a gold document"),
        (
            "kb.wiki=dewiki",
            "an export of enwiki, but the knowledge base holds the titles of dewiki",
        ),
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


def test_a_device_that_is_not_there_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = tmp_path / "run"
    done = in_process("run", *sample_arguments(run, "--plan", "--set", "importance.device=cuda"))
    assert done.returncode != 0
    assert "importance.device is cuda, but torch finds no GPU here" in done.stderr
    # A stage that is not asked for, or has finished, needs none.
    flags = ("--plan", "--set", "importance.device=cuda", "--until", "stats")
    assert in_process("run", *sample_arguments(run, *flags)).returncode == 0


@pytest.mark.parametrize(
    ("content", "part"),
    [("cut", "not a readable Parquet file"), ("other column", "no column 'text' among body")],
)
def test_a_corpus_of_parquet_is_looked_into(tmp_path: Path, content: str, part: str) -> None:
    corpus, run = tmp_path / "corpus.parquet", tmp_path / "run"
    pq.write_table(pa.table({"body": ["Vela is a town."]}), corpus)
    if content == "cut":
        corpus.write_bytes(corpus.read_bytes()[:-20])
    setting = f'documents.inputs=["{corpus}"]'
    done = in_process("run", *sample_arguments(run, "--plan", "--set", setting))
    assert done.returncode != 0
    assert part in done.stderr
    assert not run.exists()


@pytest.mark.parametrize("flags", [(), ("--plan",)])
def test_a_folder_with_control_characters_is_refused(flags: tuple[str, ...]) -> None:
    done = in_process("run", *sample_arguments(Path("run\0s"), *flags))
    assert done.returncode != 0
    assert "may not have control characters" in done.stderr


def test_a_folder_may_have_any_other_character(tmp_path: Path) -> None:
    run = tmp_path / "\u3000a\u00a0b é"
    done = in_process("run", *sample_arguments(run, "--until", "kb"))
    assert done.returncode == 0, done.stderr
    assert (run / "kb" / "manifest.json").exists()


def test_a_run_holds_its_folder_between_two_stages(tmp_path: Path) -> None:
    config = load_config(str(SAMPLE / "pipeline.toml"), ())
    run = tmp_path / "run"
    stages = run_missing(replace(config, run=str(run)), RunnerSettings(), "documents")
    assert next(stages) == ("kb", True)
    # The system's lock is one of the process, so another process has to ask.
    refused = program("documents", *sample_arguments(run))
    assert not (run / "kb" / "run.duckdb").exists()
    assert refused.returncode == 1
    assert "writes there; wait until it has ended" in refused.stderr
    assert [name for name, _ in stages] == ["titles", "documents"]
    assert not (run / LOCK_NAME).exists()


def test_a_run_that_is_verified_holds_its_folder_too(sample_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))
    part = next((run / "kb").glob("data-*/entities/*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    config = replace(load_config(str(SAMPLE / "pipeline.toml"), ()), run=str(run))
    stages = run_missing(config, RunnerSettings(), "kb", verify=True)
    assert next(stages) == ("kb", True)
    assert (run / LOCK_NAME).exists()
    stages.close()  # type: ignore[attr-defined]
    assert not (run / LOCK_NAME).exists()


def test_skipped_stages_of_a_run_write_nothing(
    sample_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))
    (run / "stats" / "manifest.json").unlink()
    written: list[str] = []
    monkeypatch.setattr(run_stage, "write_database", lambda paths: written.append(paths.root))
    done = in_process("run", *sample_arguments(run, "--until", "stats"))
    assert done.returncode == 0, done.stderr
    assert written == [str(run)], "by stats alone"


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

"""The sample end to end: rows, skipping, same rows for any units and workers, resume after kill -9."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.database.connection import open_run
from pipeline.engine.tables import RunPaths
from tests.pausing import PATIENCE_S, Pause
from tests.pipeline.cases import GOLD, ROOT, in_process, kill_at, program, rows_of, sample_arguments
from tests.pipeline.stats import naive_stats
from tests.pipeline.stats.test_stats import assert_equal, counted

LINK_TABLES = ("sentences", "links")
STATS_TABLES = (
    "entity_frequency",
    "surface_frequency",
    "cooccurrence",
    "fact_support",
    "tail_summary",
)


def copy_of(run: Path, target: Path, *without: str) -> Path:
    shutil.copytree(run, target)
    for stage in without:
        shutil.rmtree(target / stage)
    return target


def test_counts_equal_a_naive_recount(sample_run: Path) -> None:
    with open_run(RunPaths(root=str(sample_run))) as connection:
        mentions = connection.sql(
            "SELECT doc_id, sentence_start, surface, qid, confidence FROM links"
        ).fetchall()
        merged = dict(connection.sql("SELECT source, target FROM redirects").fetchall())
    triples = [
        (subject, predicate, int(merged.get(f"Q{target}", f"Q{target}")[1:]))
        for subject, predicate, target, _ in rows_of(sample_run, "triples")
    ]
    wanted = naive_stats.tables(naive_stats.count(mentions, triples, 32, 128), 2)
    assert_equal(counted(RunPaths(root=str(sample_run))), wanted)
    assert min(len(rows) for rows in wanted.values()) > 50
    assert {row[5] for row in rows_of(sample_run, "entity_frequency")} == {"head", "torso", "tail"}


def test_links_are_good_on_the_gold(sample_run: Path) -> None:
    scores = json.loads(
        in_process("evaluate", "--run", str(sample_run), "--gold", str(GOLD), "--json").stdout
    )
    assert scores["f1"] > 0.85
    assert scores["nil_left_unlinked"] > 0.8
    assert scores["slices"]["band tail"]["recall"] > 0.7


def test_offsets_point_at_their_surfaces(sample_run: Path) -> None:
    texts = {row[0]: row[2] for row in rows_of(sample_run, "documents")}
    for doc_id, start, end, sentence_start, surface, *_ in rows_of(sample_run, "links"):
        assert texts[doc_id][start:end] == surface
        assert sentence_start <= start
    for doc_id, start, end in rows_of(sample_run, "sentences"):
        assert texts[doc_id][start:end].strip() == texts[doc_id][start:end] != ""


@pytest.mark.slow
def test_second_run_skips_and_a_change_redoes_what_follows(
    sample_run: Path, tmp_path: Path
) -> None:
    run = copy_of(sample_run, tmp_path / "run")
    again = in_process("run", *sample_arguments(run, "--until", "stats"))
    assert again.stderr.count("up to date, skipped") == 6
    changed = in_process(
        "run", *sample_arguments(run, "--until", "stats", "--set", "link.min_confidence=0.9")
    )
    assert changed.stderr.count("up to date, skipped") == 4
    assert len(list((run / "link").glob("data-*"))) == 1  # the older output is gone
    assert sum(row[7] is None for row in rows_of(run, "links")) > sum(
        row[7] is None for row in rows_of(sample_run, "links")
    )


@pytest.mark.slow
def test_same_rows_for_any_units_and_workers(sample_run: Path, tmp_path: Path) -> None:
    run = copy_of(sample_run, tmp_path / "run", "link", "stats")
    done = program(
        "run",
        *sample_arguments(run, "--until", "stats", "--workers", "2", "--set", "link.unit_mb=0.006"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "link" / "manifest.json").read_text())["tables"]["links"]["files"][
        5:
    ]  # many units
    for table in (*LINK_TABLES, *STATS_TABLES):
        assert rows_of(run, table) == rows_of(sample_run, table), table


@pytest.mark.slow
def test_killed_link_goes_on_where_it_stopped(sample_run: Path, tmp_path: Path) -> None:
    """kill -9 in the middle, then `run`: the same rows, finished units are not done again, nothing
    half written is read.
    """
    run = copy_of(sample_run, tmp_path / "run", "link", "stats")
    arguments = sample_arguments(run, "--until", "link", "--set", "link.unit_mb=0.001")
    pause = Pause.at("pipeline.engine.units:UnitWriter.finish", call=3, folder=tmp_path / "pause")
    kill_at(pause, "run", *arguments)
    assert not (run / "link" / "manifest.json").exists()
    finished = {
        path: path.stat().st_mtime_ns for path in (run / "link").glob("data-*/_units/*.json")
    }
    done = program("run", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"{len(finished)} of" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    for table in LINK_TABLES:
        assert rows_of(run, table) == rows_of(sample_run, table)
    assert not list((run / "link").glob("data-*/_tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stops_cleanly(sample_run: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    run = copy_of(sample_run, tmp_path / "run", "link", "stats")
    arguments = sample_arguments(run, "--set", "link.unit_mb=0.001")
    pause = Pause.at("pipeline.engine.units:UnitWriter.finish", call=1, folder=tmp_path / "pause")
    running = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "link", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=pause.environment(),
        # A job that a shell starts in the background ignores SIGINT, and hands that on to its
        # children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pause.wait(running)
    running.send_signal(number)
    _, said = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == code, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert not (run / "link" / "manifest.json").exists()


@pytest.mark.slow
def test_gold_spans(sample_run: Path, tmp_path: Path) -> None:
    run = copy_of(sample_run, tmp_path / "run", "link", "stats")
    done = in_process("link", *sample_arguments(run, "--gold-spans", str(GOLD)))
    assert done.returncode == 0, done.stderr
    scores = json.loads(
        in_process("evaluate", "--run", str(run), "--gold", str(GOLD), "--json").stdout
    )
    assert scores["mode"] == "gold spans"
    assert scores["accuracy"] > 0.9
    assert scores["candidate_recall"] > 0.95
    assert {row[5] for row in rows_of(run, "links")} == {"gold"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "table"])
def test_sql_output(sample_run: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    query = "SELECT qid(qid) AS id, num_mentions FROM entity_frequency ORDER BY num_mentions DESC, qid LIMIT 2"
    done = in_process("sql", "--run", str(sample_run), "--format", kind, "--out", str(out), query)
    assert done.returncode == 0, done.stderr
    assert b"Q46" in out.read_bytes()
    listed = in_process("sql", "--run", str(sample_run), "--format", "csv").stdout
    assert {"links", "entities", "rejects", "title_redirects"} <= set(
        listed.replace('"', "").split()
    )

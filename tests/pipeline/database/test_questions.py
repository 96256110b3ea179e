"""Named questions: every one answers, against counts made by hand; its SQL runs as shown in a
DuckDB of one's own.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline.database.connection import open_run
from pipeline.database.questions import QUESTIONS
from pipeline.engine.tables import RunPaths
from schemas import BY_NAME
from schemas.checksums import sealed
from tests.manifests import list_again
from tests.pipeline.cases import in_process, rows_of
from tests.pipeline.scored_run import cosine_of, scored_copy

ARGUMENTS = {"item": "Q90", "type": "Q515"}


def ask(run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return in_process("ask", *arguments, "--run", str(run))


def answered(run: Path, *arguments: str) -> list[dict[str, Any]]:
    done = ask(run, *arguments, "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def scored_run(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored_copy(sample_run, tmp_path_factory.mktemp("scored"))


@pytest.mark.parametrize(
    "question",
    [one for one in QUESTIONS if not one.takes_items],
    ids=lambda question: question.name,
)
def test_every_question_answers_and_its_sql_gives_the_same(scored_run: Path, question: Any) -> None:
    argument = [ARGUMENTS[question.about]] if question.about else []
    rows = answered(scored_run, question.name, *argument, "--rows", "7")
    assert rows or question.name == "rejects", "the sample has an answer"
    if "$rows" in question.sql and question.name != "entity":
        assert len(rows) <= 7
    sql = ask(scored_run, question.name, *argument, "--rows", "7", "--show-sql").stdout
    assert "$" not in sql
    before = Path.cwd()
    os.chdir(scored_run)
    try:
        with duckdb.connect("run.duckdb", read_only=True) as connection:
            relation = connection.sql(sql)
            found = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    finally:
        os.chdir(before)
    assert [{key: str(value) for key, value in row.items()} for row in found] == [
        {key: str(value) for key, value in row.items()} for row in rows
    ]


def counts(run: Path) -> dict[int, int]:
    return {row[0]: row[1] for row in rows_of(run, "entity_frequency")}  # type: ignore[misc]


def test_rarest_have_facts_and_come_first(scored_run: Path) -> None:
    rows = answered(scored_run, "rarest", "--rows", "1000")
    mentions = [row["num_mentions"] for row in rows]
    assert mentions == sorted(mentions)
    facts = {qid for row in rows_of(scored_run, "facts") for qid in (row[0], row[2])}
    assert {int(row["id"][1:]) for row in rows} == facts & counts(scored_run).keys()


def test_unimportant_are_ranked_by_distance(scored_run: Path) -> None:
    rows, mentions = answered(scored_run, "unimportant", "--rows", "1000"), counts(scored_run)
    for row in rows:
        qid = int(row["id"][1:])
        assert row["distance"] == pytest.approx(1 - cosine_of(qid), abs=2e-5)
        assert row["scored"] == row["num_mentions"] == mentions[qid]
        assert row["band"] != "tail"
    assert [row["distance"] for row in rows] == sorted(row["distance"] for row in rows)


def test_unsupported_facts_are_those_that_no_document_has(scored_run: Path) -> None:
    rows = answered(scored_run, "unsupported", "--rows", "100000")
    linked = counts(scored_run).keys()
    facts = {
        row
        for row in rows_of(scored_run, "facts")
        if row[0] in linked and row[2] in linked and row[0] != row[2]
    }
    supported = {row[:3] for row in rows_of(scored_run, "fact_support")}
    assert len(rows) == len({row for row in facts - supported})
    assert {(int(row["subject"][1:]), int(row["object"][1:])) for row in rows} == {
        (fact[0], fact[2]) for fact in facts - supported
    }


def test_coverage_counts_items_and_linked_items_of_a_type(scored_run: Path) -> None:
    items: dict[int, set[int]] = {}
    for row in rows_of(scored_run, "entities"):
        record = dict(zip(BY_NAME["entities"].column_names, row, strict=True))
        for kind in [] if record["is_meta"] else record["instance_of"]:
            items.setdefault(kind, set()).add(record["qid"])
    linked = counts(scored_run).keys()
    for row in answered(scored_run, "coverage", "--rows", "1000"):
        of_type = items[int(row["id"][1:])]
        assert (row["items"], row["linked"]) == (len(of_type), len(of_type & linked))


def test_ambiguous_surfaces_by_entropy(tmp_path: Path) -> None:
    from pipeline.config import StatsConfig
    from pipeline.stats import stage as stats
    from tests.pipeline.inputs_run import run_plan
    from tests.pipeline.stats.test_stats import made_run

    found = {
        "Georgia": [1, 1, 1, 2, 2, 2],
        "Paris": [3, 3, 3, 3, 3, 4],
        "Rome": [5] * 6,
        "Ulm": [6, 7],
    }
    mentions = [
        (f"{name}{place}", 0, name, qid, 1.0)
        for name, qids in found.items()
        for place, qid in enumerate(qids)
    ]
    paths = made_run(tmp_path, [mentions], [], items=7)
    run_plan(stats.plan(StatsConfig(), paths), paths)
    rows = answered(tmp_path, "ambiguous")
    assert [(row["surface"], row["entropy"], row["share"]) for row in rows] == [
        ("Georgia", 1, 0.5),
        ("Paris", 0.65, 0.833),
    ]
    assert rows[1]["label"] == "item 3"


def test_card_of_an_entity(scored_run: Path) -> None:
    by_id, by_label = (
        answered(scored_run, "entity", "Q142"),
        answered(scored_run, "entity", "fRance"),
    )
    assert by_id == by_label
    card = [(row["field"], row["value"]) for row in by_id]
    assert card[0] == ("label", "France")
    mentions = next(value for field, value in card if field == "mentions")
    assert mentions.startswith(f"{counts(scored_run)[142]} in ")
    assert {"type", "band", "surface", "with", "facts"} <= {field for field, _ in card}


def test_an_entity_that_no_sentence_names(scored_run: Path) -> None:
    linked = counts(scored_run).keys()
    never = next(row[0] for row in rows_of(scored_run, "entities") if row[0] not in linked)
    card = [(row["field"], row["value"]) for row in answered(scored_run, "entity", f"q{never}")]
    assert ("mentions", "none") in card


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["rares"], 2, "'rares' is not a question; give one of bands, rarest"),
        (["entity"], 2, "needs an item, for example `trelm-pipeline ask entity Q937`"),
        (["rarest", "Q1"], 2, "takes no argument"),
        (["entity", "Q4199999990"], 1, "Q4199999990 is not in this run"),
        (["entity", "Nowhere Town"], 1, "no item has this label"),
        (["entity", "paris"], 1, "several items have this label: Q90 ("),
        (["rarest", "--format", "xml"], 2, "one of table, csv, json, parquet"),
        (["rarest", "--format", "parquet"], 2, "needs --out FILE"),
        (["rarest", "--rows", "0"], 2, "0 is not in the range"),
        (
            ["rarest", "--format", "csv", "--out", "/no/such/folder/a.csv"],
            2,
            "there is no folder '/no/such/folder'",
        ),
        (["unimportant"], 1, "run `trelm-pipeline importance --run"),
    ],
)
def test_wrong_questions(sample_run: Path, arguments: list[str], code: int, said: str) -> None:
    done = ask(sample_run, *arguments)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), (
        done.stdout + done.stderr
    )


def test_stale_and_old_tables_are_not_asked(sample_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sample_run, run)
    manifest = run / "link" / "manifest.json"
    fresh = manifest.read_text()
    manifest.write_text(sealed({**json.loads(fresh), "fingerprint": "another"}))
    done = ask(run, "bands")
    assert (
        done.returncode,
        "'stats' was made from another output of 'link'" in done.stdout + done.stderr,
    ) == (
        1,
        True,
    ), done.stdout + done.stderr
    manifest.write_text(fresh)
    with_old_version(run, "surface_frequency")
    assert answered(run, "bands")
    done = ask(run, "ambiguous")
    assert (done.returncode, "run `trelm-pipeline stats" in done.stdout + done.stderr) == (
        1,
        True,
    ), done.stdout + done.stderr


def with_old_version(run: Path, table: str) -> None:
    """Say in a table's files that they are of version 0."""
    import pyarrow.parquet as pq

    for path in (run / "stats").glob(f"data-*/{table}/*.parquet"):
        rows = pq.read_table(path)
        pq.write_table(
            rows.replace_schema_metadata({**rows.schema.metadata, b"trelm.version": b"0"}), path
        )
    list_again(run / "stats")


def test_a_merged_item_is_the_item_that_it_became(scored_run: Path) -> None:
    assert answered(scored_run, "entity", "Q4000000001") == answered(scored_run, "entity", "Q142")


@pytest.mark.slow
def test_a_missing_database_is_written_again(sample_run: Path, tmp_path: Path) -> None:
    from tests.pipeline.cases import program, sample_arguments

    run = tmp_path / "run"
    shutil.copytree(sample_run, run)
    (run / "run.duckdb").unlink()
    done = program("stats", *sample_arguments(run))
    assert "up to date, skipped" in done.stderr
    assert (run / "run.duckdb").exists()


def test_list_and_no_run() -> None:
    listed = in_process("ask", "--list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == [
        question.name for question in QUESTIONS
    ]
    done = in_process("ask", "rarest")
    assert (done.returncode, "give --run FOLDER" in done.stdout + done.stderr) == (2, True)


def test_the_run_has_a_database_of_views_that_moves_with_it(
    sample_run: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "it's moved"
    shutil.copytree(sample_run, moved)
    assert (sample_run / "run.duckdb").stat().st_size < 2_000_000
    with open_run(RunPaths(root=str(sample_run))) as connection:
        wanted = {
            name: connection.sql(f'SELECT count(*) FROM "{name}"').fetchall()
            for (name,) in connection.sql(
                "SELECT view_name FROM duckdb_views() WHERE NOT internal"
            ).fetchall()
        }
    with duckdb.connect(str(moved / "run.duckdb"), read_only=True) as connection:
        connection.execute("SET file_search_path = $folder", {"folder": str(moved)})
        assert connection.sql("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)], (
            "views only"
        )
        stored = [
            name
            for (name,) in connection.sql(
                "SELECT view_name FROM duckdb_views() WHERE NOT internal"
            ).fetchall()
        ]
        assert set(stored) == {name for name in wanted if not name.startswith("_")}
        for name in stored:
            assert connection.sql(f'SELECT count(*) FROM "{name}"').fetchall() == wanted[name], name
        assert connection.sql("SELECT qid(90), label(90), property(17)").fetchall() == [
            ("Q90", "Paris", "country")
        ]
    assert [path for path in sample_run.iterdir() if path.name.startswith(".")] == []


def test_lists_are_texts_in_csv(sample_run: Path) -> None:
    done = in_process(
        "sql", "--run", str(sample_run), "--format", "csv",
        "SELECT qid, candidates, [1, 2] AS numbers FROM links WHERE qid IS NOT NULL LIMIT 2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header, *rows = csv.reader(done.stdout.splitlines())
    assert header == ["qid", "candidates", "numbers"]
    for qid, candidates, numbers in rows:
        assert json.loads(candidates)[0]["qid"] == int(qid)
        assert json.loads(numbers) == [1, 2]

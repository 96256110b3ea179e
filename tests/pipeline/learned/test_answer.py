"""`ask learned`: features counted by hand, old ids, files that are none, both questions' rows."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.database.connection import open_run
from pipeline.engine.tables import RunPaths
from pipeline.learned import answer
from pipeline.learned.fact_features import FEATURES, facts_of
from schemas.probes import LAMA_ITEMS
from tests.pipeline.cases import in_process, rows_of
from tests.pipeline.scored_run import cosine_of, scored_copy

Asked = tuple[int, int, int, int]


@pytest.fixture(scope="module")
def scored_run(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored_copy(sample_run, tmp_path_factory.mktemp("learned"))


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "FEWEST", 3)


def write_answers(path: Path, asked: Sequence[Asked], model: str = "m") -> Path:
    """Write subject, predicate, object and rank as the rows of an evaluation."""
    values: dict[str, Any] = {name: [None] * len(asked) for name in LAMA_ITEMS.column_names}
    values |= {
        "model": [model] * len(asked),
        "relation": [f"P{predicate}" for _, predicate, _, _ in asked],
        "template": ["[X] [Y]"] * len(asked),
        "sub_label": [f"s{subject}" for subject, _, _, _ in asked],
        "obj_label": [f"o{object_}" for _, _, object_, _ in asked],
        "sub_qid": [subject for subject, _, _, _ in asked],
        "obj_qid": [object_ for _, _, object_, _ in asked],
        "rank": [rank for _, _, _, rank in asked],
        "filtered_rank": [rank for _, _, _, rank in asked],
        "p_gold": [0.5] * len(asked),
        "answers": [[]] * len(asked),
        "p_answers": [[]] * len(asked),
    }
    pq.write_table(LAMA_ITEMS.from_columns(values), path)
    return path


def asked_of(run: Path) -> list[Asked]:
    """Return facts of the sample, those with support known."""
    supported = {row[:3] for row in rows_of(run, "fact_support")}
    facts = sorted({row[:3] for row in rows_of(run, "facts")})
    return [(*fact, 1 if fact in supported else 5) for fact in facts]  # type: ignore[misc]


def found(run: Path, *arguments: str) -> list[dict[str, Any]]:
    done = in_process("ask", *arguments, "--run", str(run), "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_features_are_those_of_the_run(scored_run: Path, tmp_path: Path) -> None:
    support = rows_of(scored_run, "fact_support")
    subject, predicate, object_, sentences, documents = next(row for row in support if row[3])[:5]
    path = write_answers(tmp_path / "items.parquet", [(subject, predicate, object_, 1)])  # type: ignore[list-item]
    with open_run(RunPaths(root=str(scored_run))) as connection:
        facts = facts_of(connection, [str(path)])
    columns = {name: float(values[0]) for name, values in facts.columns.items()}

    links = [row for row in rows_of(scored_run, "links") if row[7] == subject]
    surfaces = [row for row in rows_of(scored_run, "surface_frequency") if row[1] == subject]
    same_relation = [row for row in rows_of(scored_run, "facts") if row[1] == predicate]
    by_hand = {
        "support_sentences": math.log(1 + int(sentences)),  # type: ignore[call-overload]
        "support_documents": math.log(1 + int(documents)),  # type: ignore[call-overload]
        "subject_mentions": math.log(1 + len(links)),
        "subject_importance": 1 - cosine_of(subject),
        "subject_ambiguity": sum(float(row[4]) * (1 - float(row[3])) for row in surfaces),  # type: ignore[arg-type]
        "object_share": sum(row[2] == object_ for row in same_relation) / len(same_relation),
    }
    for name, value in by_hand.items():
        assert columns[name] == pytest.approx(value, abs=1e-6), name
    assert 0 < columns["subject_confidence"] <= 1
    assert columns.keys() == {column for names, _ in FEATURES.values() for column in names}


def test_an_id_from_before_a_merge_is_followed(scored_run: Path, tmp_path: Path) -> None:
    subject, predicate, object_ = next(iter(rows_of(scored_run, "fact_support")))[:3]
    run = Path(shutil.copytree(scored_run, tmp_path / "run"))
    path = write_answers(tmp_path / "items.parquet", [(4_000_001, predicate, object_, 1)])  # type: ignore[list-item]
    with open_run(RunPaths(root=str(run))) as connection:
        connection.execute("CREATE OR REPLACE TEMP VIEW redirects AS SELECT * FROM (VALUES "
                           f"('Q4000001', 'Q4000002'), ('Q4000002', 'Q{subject}')) t(source, target)")  # fmt: skip
        facts = facts_of(connection, [str(path)])
    assert facts.subject.tolist() == [subject]
    assert facts.columns["support_documents"][0] > 0


def test_an_item_that_nothing_links_has_no_confidence(scored_run: Path, tmp_path: Path) -> None:
    path = write_answers(tmp_path / "items.parquet", [(4_000_001, 31, 4_000_002, 1)])
    with open_run(RunPaths(root=str(scored_run))) as connection:
        columns = facts_of(connection, [str(path)]).columns
    assert columns["subject_mentions"][0] == columns["support_sentences"][0] == 0
    assert math.isnan(columns["subject_confidence"][0])
    assert math.isnan(columns["subject_importance"][0])


def test_support_decides_where_it_does(scored_run: Path, tmp_path: Path) -> None:
    asked = asked_of(scored_run)
    path = write_answers(tmp_path / "items.parquet", asked)
    whole, *features = found(scored_run, "learned", "--items", str(path))
    num_known = sum(rank == 1 for *_, rank in asked)

    assert whole["feature"] == "all together"
    assert whole["meaning"] == f"{len(asked)} facts, {num_known} known"
    assert features[0]["feature"] == "support"
    assert features[0]["auc"] > 0.9
    assert {row["feature"] for row in features} == {*FEATURES, "relation"}
    assert [row["auc"] for row in features] == sorted(
        (row["auc"] for row in features), reverse=True
    )


def test_facts_come_most_surprising_first(scored_run: Path, tmp_path: Path) -> None:
    asked = asked_of(scored_run)
    # One fact without support is known, against all others.
    odd = next(at for at, fact in enumerate(asked) if fact[3] != 1)
    asked[odd] = (*asked[odd][:3], 1)
    path = write_answers(tmp_path / "items.parquet", asked)
    rows = found(scored_run, "learned-facts", "--items", str(path), "--rows", "5")

    assert len(rows) == 5
    wrong = [abs(row["is_known"] - row["p_known"]) for row in rows]
    assert wrong == sorted(wrong, reverse=True)
    assert f"Q{asked[odd][0]}" in [row["subject"] for row in rows if row["is_known"]]


def test_several_files_count_together(scored_run: Path, tmp_path: Path) -> None:
    asked = asked_of(scored_run)
    first = write_answers(tmp_path / "a.parquet", asked[::2])
    second = write_answers(tmp_path / "b.parquet", asked[1::2])
    whole = found(scored_run, "learned", "--items", str(first), "--items", str(second))[0]
    assert whole["meaning"].startswith(f"{len(asked)} facts, ")


def test_what_was_known_before_is_left_out(scored_run: Path, tmp_path: Path) -> None:
    asked = asked_of(scored_run)
    path = write_answers(tmp_path / "after.parquet", asked)
    earlier = [(*fact[:3], 2 if number else 1) for number, fact in enumerate(asked)]
    before = write_answers(tmp_path / "before.parquet", earlier)
    whole = found(scored_run, "learned", "--items", str(path), "--before", str(before))[0]
    assert whole["meaning"].startswith(f"{len(asked) - 1} facts, ")
    assert whole["meaning"].endswith(", 1 known before left out")


@pytest.mark.parametrize("ranks", [(1, 2), (2, 1)])
def test_what_one_of_several_questions_knew_before_is_left_out(
    scored_run: Path, tmp_path: Path, ranks: tuple[int, int]
) -> None:
    asked = asked_of(scored_run)
    path = write_answers(tmp_path / "after.parquet", asked)
    earlier = [(*fact[:3], 2) for fact in asked[1:]]
    before = write_answers(
        tmp_path / "before.parquet", [*((*asked[0][:3], rank) for rank in ranks), *earlier]
    )
    whole = found(scored_run, "learned", "--items", str(path), "--before", str(before))[0]
    assert whole["meaning"].endswith(", 1 known before left out")


def test_what_was_not_asked_before_is_left_out(scored_run: Path, tmp_path: Path) -> None:
    """Whether training taught it cannot be said."""
    asked = asked_of(scored_run)
    path = write_answers(tmp_path / "after.parquet", asked)
    earlier = [(*fact[:3], 2) for fact in asked[2:]]
    before = write_answers(tmp_path / "before.parquet", earlier)
    whole = found(scored_run, "learned", "--items", str(path), "--before", str(before))[0]
    assert whole["meaning"].startswith(f"{len(asked) - 2} facts, ")
    assert whole["meaning"].endswith(", 2 not asked before left out")

    other = write_answers(tmp_path / "other.parquet", [(1, 2, 3, 1)])
    done = in_process(
        "ask", "learned", "--run", str(scored_run), "--items", str(path), "--before", str(other)
    )
    assert done.returncode == 1
    assert (
        f"0 facts whose relation and items have ids, 0 of them known, {len(asked)} not asked"
        in (done.stderr)
    )


def test_sql_of_the_features_runs_elsewhere(scored_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "it's"
    folder.mkdir()
    path = write_answers(folder / "items.parquet", asked_of(scored_run))
    arguments = ("ask", "learned", "--run", str(scored_run), "--items", str(path), "--show-sql")
    sql = in_process(*arguments).stdout
    here = Path.cwd()
    os.chdir(scored_run)
    try:
        with duckdb.connect("run.duckdb", read_only=True) as connection:
            assert len(connection.sql(sql).fetchall()) == len(asked_of(scored_run))
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("question", "items", "message"),
    [
        ("learned", "", "needs --items FILE"),
        ("rarest", "items.parquet", "takes no --items"),
        ("learned", "missing.parquet", "not the rows of"),
        ("learned", "other.parquet", "not the rows of"),
        ("learned", "two.parquet", "has 2 models"),
        ("learned", "few.parquet", "1 facts whose relation and items have ids, 1 of them known"),
    ],
)
def test_wrong_files_are_refused(
    scored_run: Path, tmp_path: Path, question: str, items: str, message: str
) -> None:
    asked = asked_of(scored_run)
    write_answers(tmp_path / "items.parquet", asked)
    write_answers(tmp_path / "few.parquet", [(1, 31, 2, 1)])
    pq.write_table(
        pq.read_table(tmp_path / "items.parquet").drop_columns(["rank"]), tmp_path / "other.parquet"
    )
    both = [
        pq.read_table(write_answers(tmp_path / f"{name}.parquet", asked, name)) for name in "ab"
    ]
    with pq.ParquetWriter(tmp_path / "two.parquet", both[0].schema) as writer:
        for table in both:
            writer.write_table(table)

    given = ["--items", str(tmp_path / items)] if items else []
    done = in_process("ask", question, "--run", str(scored_run), *given)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr

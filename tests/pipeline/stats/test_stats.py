"""Stage `stats`: every count equals a naive recount, at any number of units; caps, bands, the
tail's summary.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.made_run import write_stage
from pipeline.arrays.sorted_map import follow, sorted_map
from pipeline.config import StatsConfig
from pipeline.database.connection import add_triples, connect, open_run
from pipeline.database.kb_lookups import in_degrees, redirects_of
from pipeline.database.questions import _followed
from pipeline.engine.tables import RunPaths, read_table
from pipeline.stats import stage as stats
from schemas import ENTITIES, LINKS, REDIRECTS, TAIL_SUMMARY, TRIPLES
from schemas.errors import ConfigError
from tests.pipeline.cases import ROOT, program
from tests.pipeline.inputs_run import run_plan
from tests.pipeline.stats import naive_stats

Triple = tuple[int, int, int]
KEYED = {"entity_frequency": 1, "surface_frequency": 2, "cooccurrence": 2, "fact_support": 3}


def links(rows: list[naive_stats.Mention]) -> pa.Table:
    """Rows of `links`; spans are made up."""
    return LINKS.from_rows(
        [
            (document, place, place + 1, sentence, surface, "ner", None, qid, confidence, [])
            for place, (document, sentence, surface, qid, confidence) in enumerate(rows)
        ]
    )


def made_run(
    root: Path, parts: list[list[naive_stats.Mention]], triples: list[Triple], items: int = 0
) -> RunPaths:
    """A run whose `link` and `kb` hold just what `stats` reads."""
    entities = [
        (qid, f"item {qid}", "", None, 0, 0, 0, [], False, None) for qid in range(1, items + 1)
    ]
    write_stage(root, "link", {"links": (LINKS, [links(part) for part in parts])})
    write_stage(
        root,
        "kb",
        {
            "entities": (ENTITIES, [ENTITIES.from_rows(entities)]),
            "triples": (TRIPLES, [TRIPLES.from_rows([(*triple, "normal") for triple in triples])]),
            "redirects": (REDIRECTS, [REDIRECTS.from_rows([])]),
        },
    )
    return RunPaths(root=str(root))


def counted(paths: RunPaths) -> dict[str, list[tuple[Any, ...]]]:
    """The tables that are counts, sorted by key, without the bands."""
    with open_run(paths) as connection:
        return {
            table: connection.sql(
                f"SELECT * {'EXCLUDE (band)' if table == 'entity_frequency' else ''} FROM {table}"
            ).order(", ".join(map(str, range(1, keys + 1)))).fetchall()
            for table, keys in KEYED.items()
        }  # fmt: skip


def assert_equal(
    found: dict[str, list[tuple[Any, ...]]], wanted: dict[str, list[tuple[Any, ...]]]
) -> None:
    """Keys and counts exactly, floats to their last digits."""
    for table, rows in wanted.items():
        assert [tuple(v for v in row if not isinstance(v, float)) for row in found[table]] == [
            tuple(v for v in row if not isinstance(v, float)) for row in rows
        ], table
        for one, other in zip(found[table], rows, strict=True):
            assert one == pytest.approx(other, abs=1e-9), table


MENTIONS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.integers(0, 3),
        st.sampled_from(["Bern", "bern", "Zürich 🏔"]),
        st.one_of(st.none(), st.integers(1, 7)),
        st.integers(0, 100_000).map(lambda value: value / 100_000),
    ),
    max_size=60,
)
FACTS = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 2), st.integers(1, 8)), max_size=12)


@pytest.mark.slow
@settings(max_examples=12)
@given(MENTIONS, FACTS, st.integers(2, 5), st.integers(0, 6), st.integers(1, 3))
def test_counts_equal_a_naive_recount(
    tmp_path_factory: pytest.TempPathFactory,
    mentions: list[naive_stats.Mention],
    triples: list[Triple],
    in_sentence: int,
    in_document: int,
    least: int,
) -> None:
    documents = sorted({mention[0] for mention in mentions})
    parts = [[mention for mention in mentions if mention[0] == document] for document in documents]
    paths = made_run(tmp_path_factory.mktemp("made"), parts, triples)
    config = StatsConfig(
        max_sentence_entities=in_sentence, max_document_entities=in_document, min_cooccurrence=least, unit_rows=20,
        num_buckets=2, num_bootstrap=10,
    )  # fmt: skip
    manifest = run_plan(stats.plan(config, paths), paths)
    naive = naive_stats.count(mentions, triples, in_sentence, in_document)
    assert_equal(counted(paths), naive_stats.tables(naive, least))
    lists = [
        [mention for mention in mentions if mention[0] == document and mention[3]]
        for document in documents
    ]
    in_heavy = sum(len(one) for one in lists if len({mention[3] for mention in one}) > in_document)
    assert manifest.counters.get("links_of_documents_over_pair_limit", 0) == in_heavy
    expected = {
        "rows_in": len(mentions),
        "rows_out": len(mentions),
        "sentences_over_pair_limit": naive.over_sentence,
    }
    for counter, number in (expected | {"documents_over_pair_limit": naive.over_document}).items():
        assert manifest.counters.get(counter, 0) == number, counter


@pytest.fixture(scope="module")
def kit_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's extracts, linked by capitalised words alone: no recogniser, for its time."""
    if "TRELM_KIT" not in os.environ:
        pytest.skip("TRELM_KIT is not set")
    folder = tmp_path_factory.mktemp("kit")
    from tests.examples.test_kit import prepare

    prepare.prepare(prepare.kit_folder(), folder / "input")
    run = folder / "run"
    inputs = [
        f'documents.inputs=["{folder}/input/extracts"]',
        f'kb.dumps=["{folder}/input/subset-A-typed.json.gz"]',
        "link.spacy_model=blank:en",
        "link.unit_mb=0.25",
    ]
    done = program(
        "run", "--run", str(run), "--until", "stats", *(f"--set={key}" for key in inputs), cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
@pytest.mark.kit
def test_kit_counts_equal_a_naive_recount_at_1_2_and_7_units(kit_run: Path) -> None:
    paths = RunPaths(root=str(kit_run))
    with open_run(paths) as connection:
        mentions = connection.sql(
            "SELECT doc_id, sentence_start, surface, qid, confidence FROM links"
        ).fetchall()
    with connect() as connection:
        add_triples(connection, paths)
        triples = connection.sql("SELECT subject, predicate, object FROM triples").fetchall()
    config = StatsConfig(num_bootstrap=10)
    naive = naive_stats.count(
        mentions, _between(triples, mentions), config.max_sentence_entities, 128
    )
    wanted = naive_stats.tables(naive, config.min_cooccurrence)
    assert len(wanted["cooccurrence"]) > 8_000
    assert len(wanted["fact_support"]) > 1_000
    for units in (1, 2, 7):
        sizes = (
            int(len(mentions) / (units + part / 10)) for part in range(30)
        )  # files are not cut: try
        plans = (stats.plan(StatsConfig(unit_rows=rows, num_bootstrap=10), paths) for rows in sizes)
        run_plan(
            next(plan for plan in plans if len(plan.phase_named("stats").tasks) == units), paths
        )
        assert_equal(counted(paths), wanted)


def _between(triples: list[Triple], mentions: list[naive_stats.Mention]) -> list[Triple]:
    linked = {mention[3] for mention in mentions}
    return [triple for triple in triples if triple[0] in linked and triple[2] in linked]


def summary(paths: RunPaths) -> dict[str, Any]:
    (row,) = read_table(paths.files("stats", TAIL_SUMMARY), TAIL_SUMMARY).to_pylist()
    return row


def mention(document: str, qid: int | None) -> naive_stats.Mention:
    return (document, 0, "x", qid, 0.5)


def test_summary_of_a_corpus_counted_by_hand(tmp_path: Path) -> None:
    qids = [1] * 6 + [2, 2] + [3, 4] + [None, None]
    paths = made_run(
        tmp_path, [[mention(f"d{place}", qid) for place, qid in enumerate(qids)]], [], items=8
    )
    run_plan(stats.plan(StatsConfig(), paths), paths)
    row = summary(paths)
    counts = {
        "num_documents": 12,
        "num_sentences": 12,
        "num_mentions": 12,
        "num_linked": 10,
        "num_entities": 4,
    }
    assert row.items() >= counts.items()
    assert row["nil_share"] == pytest.approx(2 / 12)
    assert row["hapax_share"] == pytest.approx(2 / 4)
    assert row["dis_share"] == pytest.approx(1 / 4)
    assert row["good_turing_unseen"] == pytest.approx(2 / 10)
    # Lorenz curve over 1, 1, 2, 6: area (.05 + .15 + .3 + .7) / 4
    assert row["gini"] == pytest.approx(1 - 2 * (0.05 + 0.15 + 0.3 + 0.7) / 4)
    assert row["kb_coverage"] == pytest.approx(4 / 8)
    assert (row["head_min_mentions"], row["torso_min_mentions"]) == (6, 2)
    assert row["power_law_exponent"] is None, "four entities are too few"
    for name in ("nil_share", "hapax_share", "gini", "good_turing_unseen"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], name


def test_nothing_linked_leaves_empty_tables(tmp_path: Path) -> None:
    paths = made_run(tmp_path, [[mention("a", None)], []], [(1, 2, 3)], items=3)
    run_plan(stats.plan(StatsConfig(), paths), paths)
    assert not any(counted(paths).values())
    row = summary(paths)
    assert (row["num_mentions"], row["nil_share"], row["gini"], row["kb_coverage"]) == (
        1,
        1.0,
        None,
        0.0,
    )


def test_no_links_file_at_all(tmp_path: Path) -> None:
    paths = made_run(tmp_path, [], [])
    run_plan(stats.plan(StatsConfig(), paths), paths)
    row = summary(paths)
    assert (row["num_mentions"], row["nil_share"], row["kb_coverage"]) == (0, None, None)


def test_bands_by_count(tmp_path: Path) -> None:
    rows = [
        mention(f"{qid}-{place}", qid)
        for qid, number in ((1, 5), (2, 3), (3, 2))
        for place in range(number)
    ]
    paths = made_run(tmp_path, [rows], [])
    run_plan(
        stats.plan(StatsConfig(bands="count", head_min_mentions=4, torso_min_mentions=3), paths),
        paths,
    )
    with open_run(paths) as connection:
        assert dict(connection.sql("SELECT qid, band FROM entity_frequency").fetchall()) == {
            1: "head", 2: "torso", 3: "tail",
        }  # fmt: skip
    assert (summary(paths)["head_min_mentions"], summary(paths)["torso_min_mentions"]) == (4, 3)


def test_merged_items_support_the_facts_of_the_item_that_they_became(tmp_path: Path) -> None:
    paths = made_run(tmp_path, [[mention("a", 1), mention("a", 2)]], [(1, 17, 9)])
    redirects = REDIRECTS.from_rows([("Q9", "Q2")])
    tables = {
        "entities": (ENTITIES, []),
        "triples": (TRIPLES, [TRIPLES.from_rows([(1, 17, 9, "normal")])]),
    }
    write_stage(tmp_path, "kb", {**tables, "redirects": (REDIRECTS, [redirects])})
    run_plan(stats.plan(StatsConfig(), paths), paths)
    assert counted(paths)["fact_support"] == [(1, 17, 2, 1, 1)]


def test_chains_of_merged_items_are_followed_everywhere_alike(tmp_path: Path) -> None:
    """Q1 became Q2, which became Q3 …; Q11 and Q12 lead to each other; Q20 needs six hops."""
    chain = [("Q1", "Q2"), ("Q2", "Q3"), ("Q11", "Q12"), ("Q12", "Q11")]
    long_chain = [(f"Q{number}", f"Q{number + 1}") for number in range(20, 26)]
    pairs = [*chain, *long_chain]
    triples = [(7, 17, item, "normal") for item in (1, 2, 3, 4, 11, 20)]
    paths = made_run(tmp_path, [[mention("a", 7), mention("a", 3)]], [])
    tables = {
        "entities": (ENTITIES, []),
        "triples": (TRIPLES, [TRIPLES.from_rows(triples)]),
        "redirects": (REDIRECTS, [REDIRECTS.from_rows(pairs)]),
    }
    write_stage(tmp_path, "kb", tables)

    sources, targets = (
        np.array([int(pair[place][1:]) for pair in pairs], np.uint32) for place in (0, 1)
    )
    items = sorted({*sources.tolist(), *targets.tolist(), 4})
    followed = follow(sorted_map(sources, targets), np.array(items, np.uint32)).tolist()
    wanted = dict(zip(items, followed, strict=True))
    assert [wanted[item] for item in (1, 2, 3, 4, 11, 20)] == [3, 3, 3, 4, 12, 25]
    assert redirects_of(paths, set(items)) == wanted
    with open_run(paths) as connection:
        assert {item: _followed(connection, item) for item in items} == wanted
        facts = connection.sql("SELECT object FROM facts").fetchall()
    assert Counter(target for (target,) in facts) == Counter([3, 3, 3, 4, 12, 25])
    assert in_degrees(paths, [3, 1, 25]) == {3: 3, 25: 1}


@pytest.mark.slow
def test_a_killed_count_goes_on(tmp_path: Path) -> None:
    parts = [
        [mention(f"{part}-{place}", place % 5 + 1) for place in range(30)] for part in range(4)
    ]
    paths = made_run(tmp_path / "one", parts, [(1, 2, 3)])
    run_plan(stats.plan(StatsConfig(unit_rows=1), paths), paths)
    wanted = counted(paths)
    paths = made_run(tmp_path / "two", parts, [(1, 2, 3)])
    plan = stats.plan(StatsConfig(unit_rows=1), paths)
    _half(plan, paths)
    run_plan(plan, paths)
    assert counted(paths) == wanted


def _half(plan: Any, paths: RunPaths) -> None:
    """The first phase and two units of the second."""
    from pipeline.engine.stage import prepare
    from pipeline.engine.units import write_unit

    prepared = prepare(plan, paths)
    for phase, units in plan.numbered_phases[:2]:
        for unit in units[:2]:
            write_unit(prepared.data, plan.name, unit, phase.worker.process)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"head_mass": 0.9}, "0 < head_mass < torso_mass < 1"),
        (
            {"torso_min_mentions": 100},
            "torso_min_mentions is 100, but must be below head_min_mentions, which is 100",
        ),
        ({"max_sentence_entities": 1}, "max_sentence_entities is 1"),
        ({"memory_gb": 0.0}, "memory_gb is 0.0"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        StatsConfig(**wrong)

"""Frequencies and stated facts: of runs, of shards, and of the sample's real run."""

import json
from pathlib import Path

import duckdb
import pytest

from pipeline.engine.tables import RunPaths
from schemas import ENTITY_FREQUENCY, FACT_SUPPORT
from schemas.errors import ConfigError, TrelmError
from tests.conftest import ROOT
from tests.trelm_train import world
from tests.trelm_train.evaluate.statistics_run import write_run
from trelm_train.evaluate.corpus_statistics import (
    NEVER_LINKED,
    NOT_STATED,
    CorpusStatistics,
    Frequency,
    Support,
    statistics_of,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(
        tmp_path / "run",
        [[(1, 9, 3, 4, 8.5, "head"), (2, 2, 1, 1, 1.5, "tail")], [], [(7, 4, 2, 2, 3.5, "torso")]],
        [[(1, 17, 2, 3, 2)], [(1, 17, 7, 0, 1), (2, 36, 1, 5, 5)]],
        [("Q70", "Q7"), ("Ruritania", "Zenda"), ("Q5", "Q6"), ("Q700", "Q70")],
    )


def test_frequencies_of_a_run(run: Path) -> None:
    statistics = statistics_of(run, None)
    assert statistics.frequencies({1, 2, 70, 99, 700}) == {
        700: Frequency(4, "torso"),  # merged into Q70, which was merged later
        1: Frequency(9, "head"),
        2: Frequency(2, "tail"),
        70: Frequency(4, "torso"),  # merged into Q7
        99: NEVER_LINKED,
    }
    assert statistics.frequencies(set()) == {}


def test_facts_of_a_run(run: Path) -> None:
    wanted = {
        (1, 17, 2): Support(3, 2),
        (1, 17, 70): Support(0, 1),  # in one document, but never in one sentence
        (2, 36, 1): Support(5, 5),
        (1, 36, 2): NOT_STATED,  # subject, predicate and object occur, but not together
        (2, 17, 1): NOT_STATED,
    }
    statistics = statistics_of(run, None)
    assert statistics.supports(set(wanted)) == wanted
    assert statistics.supports(set()) == {}


def test_statistics_without_a_kb_beside_them(tmp_path: Path) -> None:
    run = write_run(tmp_path, [[(7, 4, 2, 2, 3.5, "torso")]], [])
    statistics = statistics_of(run, None)
    assert statistics.frequencies({7, 70}) == {7: Frequency(4, "torso"), 70: NEVER_LINKED}
    # A corpus where no fact's ends meet: known, and none is stated.
    assert statistics.supports({(7, 1, 8)}) == {(7, 1, 8): NOT_STATED}


def test_frequencies_of_shards(shards_path: Path) -> None:
    statistics = statistics_of(None, shards_path)
    # In the test world an id is 100 + the row; relations follow the entities.
    relation = 100 + world.ROW[world.LIVES]
    frequencies = statistics.frequencies({100 + world.ROW["Zenda"], relation, 5})
    num_facts = sum("Zenda" in (head, tail) for head, _, tail in world.facts())
    assert frequencies == {
        100 + world.ROW["Zenda"]: Frequency(3 * num_facts, "tail"),
        relation: NEVER_LINKED,
        5: NEVER_LINKED,
    }
    assert statistics.supports({(1, 2, 3)}) is None


def test_nothing_is_known_without_a_corpus() -> None:
    assert statistics_of(None, None) == CorpusStatistics()
    assert CorpusStatistics().frequencies({1}) is None
    assert CorpusStatistics().supports({(1, 2, 3)}) is None


def test_wrong_folders(run: Path, shards_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--run and --shards both name a corpus"):
        statistics_of(run, shards_path)
    with pytest.raises(ConfigError, match=r"no manifest.json there; .* `trelm-pipeline stats`"):
        statistics_of(tmp_path, None)
    with pytest.raises(ConfigError, match="`trelm-pipeline shards`"):
        statistics_of(None, run)
    part = run / "stats" / "fact_support-0.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(TrelmError, match="copy the folder again"):
        statistics_of(run, None)
    # Of the right size, but the footer is damaged, or the rows before it.
    for damaged in (b"\0" * (len(whole) - 8) + whole[-8:], b"\xff" * 60 + whole[60:]):
        part.write_bytes(damaged)
        with pytest.raises(TrelmError, match="was changed after it was written"):
            statistics_of(run, None)
    # Changed after it was opened.
    part.write_bytes(whole)
    statistics = statistics_of(run, None)
    part.write_bytes(b"\xff" * 60 + whole[60:])
    with pytest.raises(TrelmError, match="cannot be read"):
        statistics.supports({(1, 17, 2)})


@pytest.mark.slow
def test_the_samples_run_against_sql(sample_run: Path) -> None:
    """What the pipeline really writes, asked for every probe of the sample, as one would by hand."""
    facts = {
        (int(row["sub_uri"][1:]), int(path.stem[1:]), int(row["obj_uri"][1:]))
        for path in (ROOT / "examples/tiny/probes").glob("P*.jsonl")
        for row in map(json.loads, path.read_text().splitlines())
    }
    qids = {qid for fact in facts for qid in (fact[0], fact[2])}
    statistics = statistics_of(sample_run, None)
    frequencies, supports = statistics.frequencies(qids), statistics.supports(facts)
    assert frequencies is not None
    assert supports is not None

    paths = RunPaths(root=str(sample_run))
    connection = duckdb.connect()
    for table in (ENTITY_FREQUENCY, FACT_SUPPORT):
        files = paths.files("stats", table)
        connection.execute(f"CREATE VIEW {table.name} AS FROM read_parquet({files})")
    for qid in qids:
        rows = connection.execute(
            "SELECT num_mentions, band FROM entity_frequency WHERE qid = ?", [qid]
        ).fetchall()
        assert frequencies[qid] == (Frequency(*rows[0]) if rows else NEVER_LINKED)
    for fact in facts:
        rows = connection.execute(
            "SELECT num_sentences, num_documents FROM fact_support "
            "WHERE subject = ? AND predicate = ? AND object = ?",
            list(fact),
        ).fetchall()
        assert supports[fact] == (Support(*rows[0]) if rows else NOT_STATED)
    assert any(one.num_mentions for one in frequencies.values())
    assert any(one.num_sentences for one in supports.values())

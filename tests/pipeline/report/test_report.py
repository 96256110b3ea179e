"""The report without a browser: its figures against the tables, what it says of missing stages,
where it is written.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.database.connection import open_run
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.report import data, entities
from pipeline.report.build import write_report
from pipeline.report.tail_sections import fit_in_words
from schemas import DOCUMENTS, TAIL_SUMMARY
from schemas.errors import ConfigError
from tests.manifests import change_manifest, list_again
from tests.pipeline.cases import in_process, program
from tests.pipeline.report import runs
from tests.pipeline.report.conftest import Report

USAGE = 2


def block(page: str, name: str) -> str:
    """Content of the page's style or script."""
    return re.search(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)[1]


def known(page: str) -> dict:
    """The entities of the search box."""
    return json.loads(re.search(r'id="entities-data">(.*?)</script>', page, re.DOTALL)[1])


def test_page_names_no_address_but_those_of_links(full: Report) -> None:
    outside = re.sub(r' href="https://www\.wikidata\.org/wiki/Q\d+"', "", full.text)
    outside = re.sub(r'<script type="application/json".*?</script>', "", outside, flags=re.DOTALL)
    assert set(re.findall(r"\w+://[^\s\"'`&]*", outside)) <= {
        "http://www.w3.org/2000/svg",
        "https://www.wikidata.org/wiki/${id}",
    }
    assert not re.search(
        r"\ssrc=|@import|url\(|\sstyle=|\son\w+=", re.sub(r"&[#\w]+;[^<]*", "", outside)
    )


def test_policy_allows_this_style_and_this_script_only(full: Report) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', full.text)[1].replace(
        "&#x27;", "'"
    )
    hashes = [
        base64.b64encode(hashlib.sha256(block(full.text, name).encode()).digest()).decode()
        for name in ("style", "script")
    ]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert full.text.index("Content-Security-Policy") < full.text.index("<style>")


def test_search_data_is_what_the_tables_hold(full: Report) -> None:
    found = known(full.text)
    rows = runs.ask(
        full.run,
        "SELECT qid, label, num_mentions, num_documents FROM entity_frequency JOIN entities USING (qid) "
        "ORDER BY num_mentions DESC, qid",
    )
    assert (
        list(zip(*(found[name] for name in ("qid", "label", "mentions", "documents")), strict=True))
        == rows
    )
    surfaces = runs.ask(
        full.run, "SELECT qid, surface, num_mentions FROM surface_frequency ORDER BY 1, 3 DESC, 2"
    )
    pairs = {
        (low, high): count
        for low, high, count in runs.ask(
            full.run, "SELECT qid_a, qid_b, num_sentences FROM cooccurrence"
        )
    }
    for place, (qid, *_) in enumerate(rows):
        own = [(surface, count) for item, surface, count in surfaces if item == qid][:3]
        assert found["surfaces"][place] == [value for one in own for value in one]
        near = found["near"][place]
        for other, count in zip(near[::2], near[1::2], strict=True):
            assert pairs[tuple(sorted((qid, rows[other][0])))] == count
    facts = [fact for fact in found["facts"] if fact]
    assert facts
    assert all(len(fact) in (4, 8, 12) for fact in facts)


def test_bands_importance_and_targets_against_the_tables(full: Report) -> None:
    with open_run(RunPaths(root=str(full.run))) as connection:
        changes = data.weigh(connection)
        bands = data.bands(connection, changes, data.targets_by_band(connection))
    rows = runs.ask(
        full.run,
        'SELECT band, 1 - cosine::DOUBLE, si FROM importance JOIN links USING (doc_id, start, "end") '
        "JOIN entity_frequency USING (qid)",
    )
    assert [one.name for one in bands] == ["head", "torso", "tail"]
    for one in bands:
        distances = [distance for band, distance, _ in rows if band == one.name]
        assert one.num_mentions == len(distances)
        assert one.mean_si == pytest.approx(
            np.mean([si for band, _, si in rows if band == one.name]), rel=1e-4
        )
        assert changes[one.name].quantile(0.5) == pytest.approx(
            np.quantile(distances, 0.5, method="inverted_cdf"), abs=1e-6
        )
        assert one.num_targets == (one.num_mentions if one.name == "tail" else 0)
    facts = runs.ask(full.run, "SELECT subject, object FROM fact_support")
    assert sum(one.num_supported for one in bands) == len({qid for fact in facts for qid in fact})


def test_confidences_and_detectors_count_every_mention_once(full: Report) -> None:
    links = runs.ask(full.run, "SELECT qid, confidence, detector FROM links")
    with open_run(RunPaths(root=str(full.run))) as connection:
        found, detectors = data.confidences(connection), data.detectors(connection)
        unknown = data.nil_without_candidates(connection)
    anchors = [detector for qid, _, detector in links if qid is not None and "anchor" in detector]
    assert found.anchors == len(anchors) > 0
    assert found.nil.sum() == sum(qid is None for qid, *_ in links)
    assert found.linked.sum() + found.nil.sum() + found.anchors == len(links)
    above = [
        value
        for qid, value, detector in links
        if qid is not None and "anchor" not in detector and round(value, 5) >= 0.9
    ]
    assert found.above(0.9) == (len(above), pytest.approx(np.mean(above)))
    assert sum(one.num_mentions for one in detectors) == len(links)
    assert sum(one.num_linked for one in detectors) == sum(qid is not None for qid, *_ in links)
    assert unknown == sum(qid is None and value == 0 for qid, value, _ in links)


def test_rank_points_start_and_end_with_the_ranks(
    full: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MAX_POINTS", 30)
    counts = [
        count
        for (count,) in runs.ask(
            full.run, "SELECT num_mentions FROM entity_frequency ORDER BY 1 DESC"
        )
    ]
    with open_run(RunPaths(root=str(full.run))) as connection:
        points = data.rank_points(connection, len(counts))
    assert (points[0].rank, points[-1].rank) == (1, len(counts))
    assert len(points) <= 30
    assert [one.num_mentions for one in points] == [counts[one.rank - 1] for one in points]


def test_tail_sample_is_of_the_tail_with_facts_first(full: Report) -> None:
    with open_run(RunPaths(root=str(full.run))) as connection:
        data.no_weights(connection)
        sample, top = entities.tail_sample(connection), entities.top_entities(connection)
        assert entities.tail_sample(connection) == sample
    assert {one.band for one in sample} == {"tail"}
    assert len({one.qid for one in sample}) == len(sample) == entities.NUM_TOP
    assert all(one.num_facts for one in sample), "the sample's corpus has that many"
    assert [one.num_mentions for one in top] == sorted(
        (one.num_mentions for one in top), reverse=True
    )
    assert top[0].qid == full.hostile_qid


def test_same_run_same_page(full: Report, tmp_path: Path) -> None:
    pages = [write_report(str(full.run), str(tmp_path / name)) for name in ("one.html", "two.html")]
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert pages[0].num_bytes == (tmp_path / "one.html").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "two.html"], (
        "no temporary file stays"
    )


def page_after(full: Report, folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """The page of a copy of the run, in which the manifest of `importance` is another one."""
    run = folder / "run"
    shutil.copytree(full.run, run)
    change_manifest(run / "importance", change)
    return Path(write_report(str(run)).path).read_text()


def test_stage_that_is_out_of_date_is_not_shown(full: Report, tmp_path: Path) -> None:
    text = page_after(full, tmp_path, lambda values: values["inputs"].update(link="older"))
    assert "Semantic importance is out of date" in text
    assert "The choice of targets is out of date" in text


def test_tables_of_another_form_are_out_of_date(full: Report, tmp_path: Path) -> None:
    """As after an update of this program."""
    text = page_after(
        full, tmp_path, lambda values: values["tables"]["importance"].update(version=2)
    )
    assert "Semantic importance is out of date" in text


def test_figures_of_a_sample_have_an_interval(full: Report, tmp_path: Path) -> None:
    text = page_after(full, tmp_path, lambda values: values["config"].update(mentions="needed"))
    assert "of a random sample of sentences, with the 95% interval" in text
    assert " ± " in text


def test_the_interval_sums_deviations_per_sentence(full: Report) -> None:
    with open_run(RunPaths(root=str(full.run))) as connection:
        changes = data.weigh(connection, only_sample=True)
        rows = connection.sql("""
            SELECT band, doc_id, (SELECT max(s.start) FROM sentences s
                WHERE s.doc_id = i.doc_id AND s.start <= i.start), si
            FROM importance i JOIN links USING (doc_id, start, "end")
            JOIN entity_frequency USING (qid)
        """).fetchall()
    for band, found in changes.items():
        by_sentence: dict[tuple[str, int], list[float]] = {}
        for name, doc_id, sentence, si in rows:
            if name == band:
                by_sentence.setdefault((doc_id, sentence), []).append(si)
        scores = list(by_sentence.values())
        mean = np.mean([si for sentence in scores for si in sentence])
        deviations = [sum(si - mean for si in sentence) for sentence in scores]
        count = sum(map(len, scores))
        wanted = 1.96 * np.std(deviations, ddof=1) * np.sqrt(len(scores)) / count
        # The mean of deviations is 0, so their standard deviation is that about the ratio.
        assert found.margin == pytest.approx(wanted, rel=1e-3)


def test_run_in_which_nothing_is_linked(sample_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sample_run, run)
    empty = {"num_linked": 0, "num_entities": 0, "nil_share": 1.0}
    row = {
        column.name: None
        if column.nullable
        else 1
        if column.name.endswith(("mentions", "documents"))
        else 0
        for column in TAIL_SUMMARY.columns
    }
    manifest = RunPaths(root=str(run)).finished("stats")
    rows = {
        TAIL_SUMMARY: TAIL_SUMMARY.from_columns(
            {name: [value] for name, value in (row | empty).items()}
        ),
        **{table: table.empty() for table in tables_of(manifest) if table is not TAIL_SUMMARY},
    }
    runs.add_stage(run, manifest, rows)
    text = Path(write_report(str(run)).path).read_text()
    assert "No mention is linked." in text
    assert known(text)["qid"] == []


def tables_of(manifest) -> list:
    from schemas import BY_NAME

    return [BY_NAME[name] for name in manifest.tables]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"power_law_exponent": None}, "no power law was fitted"),
        ({"power_law_vs_lognormal_p": 0.2}, "neither fits clearly better"),
        (
            {"power_law_vs_lognormal_p": 0.0002},
            "the lognormal fits better (Vuong's ratio −2.00, p < 0.001)",
        ),
        (
            {"power_law_vs_lognormal": 3.0, "power_law_vs_lognormal_p": 0.01},
            "the power law fits better",
        ),
        ({"power_law_vs_lognormal": None}, "distance: 0.050."),
        ({"power_law_exponent_low": None}, "exponent 2.00 fits the 200"),
    ],
)
def test_fit_in_words(change: dict, said: str) -> None:
    tail = {
        "power_law_exponent": 2.0, "power_law_exponent_low": 1.9, "power_law_exponent_high": 2.1, "num_bootstrap": 200,
        "power_law_entities": 200, "power_law_x_min": 5, "zipf_exponent": 1.0, "power_law_ks": 0.05,
        "power_law_vs_lognormal": -2.0, "power_law_vs_lognormal_p": 0.01,
    }  # fmt: skip
    assert said in fit_in_words(tail | change)


@pytest.mark.slow
def test_program_writes_into_the_run_and_says_where(sample_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sample_run, run)
    done = program("report", "--run", str(run))
    assert done.returncode == 0, done.stderr
    path = run / "report.html"
    assert re.fullmatch(rf"{re.escape(str(path))}  [\d.]+ kB\n", done.stdout)
    assert path.read_text().startswith("<!doctype html>")
    shutil.rmtree(run / "stats")
    failed = in_process("report", "--run", str(run))
    assert failed.returncode == 1
    assert f"trelm-pipeline stats --run {run}" in failed.stderr
    assert in_process("report", "--run", str(run), "--entities", "-1").returncode == USAGE


def test_wrong_places(full: Report, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder; name a file"):
        write_report(str(full.run), str(tmp_path))
    with pytest.raises(StageError, match="trelm-pipeline stats"):
        write_report(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot be written"):
        write_report(str(full.run), str(tmp_path / "file" / "report.html"))


def test_a_long_text_is_not_copied_for_every_mention(sample_run: Path, tmp_path: Path) -> None:
    """With copies the texts would need more memory than a connection has."""
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))
    ((doc_id, num_quotes),) = runs.ask(
        run,
        "SELECT doc_id, count(*) AS quotes FROM (SELECT doc_id FROM links WHERE qid IS NOT NULL QUALIFY "
        f"row_number() OVER (PARTITION BY qid ORDER BY doc_id, start) <= {entities.QUOTES}) "
        "GROUP BY doc_id ORDER BY quotes DESC, doc_id LIMIT 1",
    )
    padding = " Rain fell." * (1_600_000_000 // num_quotes // 11)
    for path in RunPaths(root=str(run)).files("documents", DOCUMENTS):
        rows = pq.read_table(path)
        texts = [
            text + padding if found == doc_id else text
            for found, text in zip(
                rows["doc_id"].to_pylist(), rows["text"].to_pylist(), strict=True
            )
        ]
        place = rows.schema.get_field_index("text")
        pq.write_table(rows.set_column(place, rows.schema.field(place), pa.array(texts)), path)
    list_again(run / "documents")

    with open_run(RunPaths(root=str(run))) as connection:
        data.no_weights(connection)
        columns = entities.searchable(connection, 1000)
    quotes = [column[1] for column in columns["quotes"] if column]
    assert len(quotes) > num_quotes
    assert all(0 < len(quote) < 100 for quote in quotes)

"""Stage `link` on the sample: anchors, scores that add up, any units, weights by name, blank
pipelines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import DocumentsConfig, IndexConfig, KbConfig, LinkConfig
from pipeline.documents import stage as documents
from pipeline.documents import titles_stage as titles
from pipeline.documents.anchors import AnchorReader
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.index import stage as index
from pipeline.kb import stage as kb
from pipeline.link import stage as link
from pipeline.link.candidates import MATCHES
from pipeline.link.disambiguation import BY_HAND, Model
from pipeline.link.linked_sentences import LinkedReader, linked_units
from pipeline.link.stage import batches
from pipeline.link.training import fit_worker, link_gold
from pipeline.link.training import train as train_module
from pipeline.link.weights import AUTO, HAND, TRAINED, fitted_in_words, load_weights, weights_stamp
from schemas import ANCHORS, DOCUMENTS, LINKS, SENTENCES
from schemas.errors import ConfigError
from schemas.link import DETECTORS, PARTS
from tests.conftest import SAMPLE
from tests.pipeline.cases import GOLD
from tests.pipeline.inputs_run import rows_of, run_plan

Rows = list[dict[str, Any]]
BLANK = LinkConfig(spacy_model="blank:en")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """The sample, ready to be linked."""
    paths = RunPaths(root=str(tmp_path_factory.mktemp("run")))
    sql = tuple(str(SAMPLE / f"wikidatawiki-{table}.sql.gz") for table in ("redirect", "page"))
    run_plan(kb.plan(KbConfig(dumps=(str(SAMPLE / "entities.json"),), redirects=sql), paths), paths)
    config = DocumentsConfig(inputs=(str(SAMPLE / "pages.xml"), str(SAMPLE / "documents.jsonl")))
    run_plan(titles.plan(config, paths), paths)
    run_plan(documents.plan(config, paths), paths)
    run_plan(index.plan(IndexConfig(), paths), paths)
    return paths


def linked(run: RunPaths, config: LinkConfig) -> Rows:
    run_plan(link.plan(config, run), run)
    return rows_of(run, "link", LINKS)


@pytest.fixture(scope="module")
def rows(run: RunPaths) -> Rows:
    """Links without a recogniser, all candidates kept."""
    return linked(run, replace(BLANK, top_k=64))


def by_span(rows: Rows) -> Mapping[tuple[str, int, int], dict[str, Any]]:
    return {(row["doc_id"], row["start"], row["end"]): row for row in rows}


def test_the_corpus_own_links_are_followed(run: RunPaths, rows: Rows) -> None:
    found, anchors = by_span(rows), by_span(rows_of(run, "documents", ANCHORS))
    assert len(anchors) > 50
    for span, anchor in anchors.items():
        assert found[span]["detector"].split("+")[0] == "anchor"
        assert (found[span]["qid"], found[span]["confidence"]) == (anchor["qid"], 1.0)
    assert {row["detector"] for row in rows if "anchor" not in row["detector"]} == {
        "dictionary",
        "reuse",
    }
    assert {span for span, row in found.items() if "anchor" in row["detector"]} == set(anchors)


def test_without_them_the_linker_decides(run: RunPaths, rows: Rows) -> None:
    alone = linked(run, replace(BLANK, anchors=False))
    assert not any("anchor" in row["detector"] for row in alone)
    anchors = by_span(rows_of(run, "documents", ANCHORS))
    found = by_span(alone)
    there = [span for span in anchors if span in found]
    assert len(there) > 0.5 * len(anchors), "most of the names are in the index"
    assert all(found[span]["confidence"] < 1 for span in there)
    said = [found[span]["qid"] == anchors[span]["qid"] for span in there]
    assert sum(said) > 0.8 * len(there)


def test_rows_are_well_formed(run: RunPaths, rows: Rows) -> None:
    texts = {row["doc_id"]: row["text"] for row in rows_of(run, "documents", DOCUMENTS)}
    sentences = {
        (row["doc_id"], row["start"]): row["end"] for row in rows_of(run, "link", SENTENCES)
    }
    assert {doc_id for doc_id, _ in sentences} == set(texts)
    for row in rows:
        assert texts[row["doc_id"]][row["start"] : row["end"]] == row["surface"] != ""
        assert row["start"] < sentences[row["doc_id"], row["sentence_start"]]
        assert row["sentence_start"] <= row["start"]
        assert set(row["detector"].split("+")) <= set(DETECTORS)
        assert {candidate["match"] for candidate in row["candidates"]} <= set(MATCHES)
        qids = [candidate["qid"] for candidate in row["candidates"]]
        assert len(set(qids)) == len(qids)
    ordered = sorted(rows, key=lambda row: (row["doc_id"], row["start"]))
    for one, other in zip(ordered, ordered[1:], strict=False):
        assert one["doc_id"] != other["doc_id"] or one["end"] <= other["start"], (
            "no mention overlaps another"
        )


def test_scores_are_a_softmax_of_the_parts(rows: Rows) -> None:
    bias = load_weights(BLANK.weights).bias
    several = [row for row in rows if row["candidates"]]
    assert sum(len(row["candidates"]) > 1 for row in several) > 30
    for row in several:
        logits = np.array(
            [bias + sum(candidate[name] for name in PARTS) for candidate in row["candidates"]]
        )
        top = max(logits.max(), 0.0)
        exponents = np.exp(logits - top)
        wanted = exponents / (np.exp(-top) + exponents.sum())
        scores = [candidate["score"] for candidate in row["candidates"]]
        assert scores == pytest.approx(wanted.tolist(), abs=1e-3)
        assert scores == sorted(scores, reverse=True)
        if "anchor" not in row["detector"]:
            assert row["confidence"] == scores[0]
            assert row["qid"] == (
                row["candidates"][0]["qid"] if scores[0] >= BLANK.min_confidence else None
            )


def test_any_units_give_the_same_rows(run: RunPaths, rows: Rows) -> None:
    sentences = rows_of(run, "link", SENTENCES)
    plan = link.plan(replace(BLANK, top_k=64, unit_mb=0.01), run)
    assert len(plan.all_units) > 2
    run_plan(plan, run)
    again = rows_of(run, "link", LINKS)
    assert [list(row.values())[:8] for row in again] == [list(row.values())[:8] for row in rows]
    for one, other in zip(again, rows, strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1.01e-5)
        assert [candidate["qid"] for candidate in one["candidates"]] == [
            candidate["qid"] for candidate in other["candidates"]
        ]
    assert rows_of(run, "link", SENTENCES) == sentences


def test_weights_from_a_file(run: RunPaths, rows: Rows, tmp_path: Path) -> None:
    """Weights that say nothing: all candidates alike, and so few are good enough."""
    path = tmp_path / "w.json"
    path.write_text(Model(0.0, {}).to_json())
    plain = linked(run, replace(BLANK, top_k=64, weights=str(path)))
    assert by_span(plain).keys() == by_span(rows).keys()
    for row in plain:
        count = len(row["candidates"])
        assert [candidate["score"] for candidate in row["candidates"]] == pytest.approx(
            [1 / (count + 1)] * count, abs=1e-4
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "nowhere.json"), ("{}", "no weights of a linker"), (b"\xff\xfe", "nowhere.json"),
     (Model(0.0, {"prior": 1.0}).to_json().replace("prior", "priör"), "unknown feature")],
)  # fmt: skip
def test_bad_weights_are_an_error_before_any_work(
    run: RunPaths, tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    path = tmp_path / "nowhere.json"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=message) as raised:
        link.plan(replace(BLANK, weights=str(path)), run)
    assert f"give {AUTO}, {TRAINED}, {HAND} or a file" in str(raised.value)
    assert "TRELM-ERROR" not in str(raised.value)


def test_weights_by_name(tmp_path: Path) -> None:
    assert load_weights(HAND) == BY_HAND
    assert load_weights(TRAINED).weights
    path = tmp_path / "w.json"
    path.write_text(Model(1.0, {"prior": 2.0}, {"gold": "g"}).to_json())
    assert load_weights(str(path)) == Model(1.0, {"prior": 2.0}, {"gold": "g"})
    stamp = weights_stamp(str(path))
    path.write_text(Model(1.0, {"prior": 2.5}, {"gold": "g"}).to_json())
    assert weights_stamp(str(path)) != stamp, "new weights in the same file make the links stale"
    assert weights_stamp(HAND) == weights_stamp(HAND)


def test_gold_spans_leave_anchors_alone(run: RunPaths) -> None:
    found = linked(run, replace(BLANK, gold_spans=str(GOLD)))
    gold = [json.loads(line) for line in GOLD.read_text().splitlines()]
    spans = {(row["doc_id"], one["start"], one["end"]) for row in gold for one in row["mentions"]}
    assert set(by_span(found)) == spans
    assert {row["detector"] for row in found} == {"gold"}
    counters = run.require("link").counters
    assert counters["rows_out"] == len(gold)
    assert counters["skipped_without_gold_spans"] == counters["rows_in"] - len(gold)


def test_anchors_alone(run: RunPaths) -> None:
    """Every link of the corpus is a mention with its own item, and there is no other mention."""
    alone = by_span(linked(run, replace(BLANK, mentions="anchors")))
    stated = {
        (row["doc_id"], row["start"], row["end"]): row["qid"]
        for row in rows_of(run, "documents", ANCHORS)
    }
    assert {span: row["qid"] for span, row in alone.items()} == stated
    assert {row["detector"] for row in alone.values()} == {"anchor"}
    with pytest.raises(ConfigError, match="gold_spans must be empty"):
        replace(BLANK, mentions="anchors", gold_spans=str(GOLD))


def test_common_words_are_mentions_only_where_asked_for(run: RunPaths, rows: Rows) -> None:
    fewer = linked(run, replace(BLANK, word_links=0.0, anchors=False))
    lone = [
        row["surface"] for row in fewer if row["surface"].islower() and row["surface"].isalpha()
    ]
    assert lone == []


def test_anchors_of_a_part(run: RunPaths, tmp_path: Path) -> None:
    reader = AnchorReader()
    reader.open_part(str(tmp_path / "documents" / "part-00000-of-00001.parquet"))
    assert reader.of("1") == {}
    wanted: dict[str, dict[tuple[int, int], int]] = {}
    for row in rows_of(run, "documents", ANCHORS):
        wanted.setdefault(row["doc_id"], {})[row["start"], row["end"]] = row["qid"]
    found: dict[str, object] = {}
    for path in run.files("documents", DOCUMENTS):
        reader.open_part(path)
        found |= {doc_id: links for doc_id in wanted if (links := reader.of(doc_id))}
    assert found == wanted
    assert reader.of("no such document") == {}


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([], []),
        ([5], [[5]]),
        ([199_999, 1, 1], [[199_999, 1], [1]]),  # a batch is full at this number of characters
        ([300_000, 1], [[300_000], [1]]),
        ([0] * 130, [[0] * 128, [0] * 2]),
    ],
)
def test_batches(sizes: list[int], wanted: list[list[int]]) -> None:
    found = batches([(str(number), "x" * size) for number, size in enumerate(sizes)])
    assert [[len(text) for _, text in batch] for batch in found] == wanted


@pytest.fixture
def few_links_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_gold, "MIN_LINKS", 30)
    monkeypatch.setattr(link_gold, "MIN_DOCUMENTS", 5)


def used_weights(run: RunPaths) -> Model:
    path = run.artefact("link", "weights")
    return Model.from_json(Path(path).read_text(), path)


@pytest.mark.usefixtures("few_links_are_enough")
def test_weights_are_fitted_to_the_links_of_the_corpus(
    run: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phase of its own fits them, the units of the next one read them, the run keeps them."""
    # Fitted to few links they may be no better; what is tested is which ones are read.
    monkeypatch.setattr(fit_worker, "load_weights", lambda _: Model(9.0, {}))
    monkeypatch.setattr(train_module, "load_weights", lambda _: Model(9.0, {}))
    plan = link.plan(BLANK, run)
    assert [phase.name for phase in plan.phases] == ["weights", "link"]
    run_plan(plan, run)
    rows, model = rows_of(run, "link", LINKS), used_weights(run)
    assert model.about["choice"] == "fitted"
    assert model.about["held_out"]["gold_in_kb"] > 20
    assert "fitted to" in fitted_in_words(model.about)
    assert str(model.about["held_out"]["accuracy"]) in fitted_in_words(model.about)
    for row in rows:
        for candidate in row["candidates"]:
            logit = model.bias + sum(candidate[name] for name in PARTS)
            others = sum(
                np.exp(model.bias + sum(other[name] for name in PARTS))
                for other in row["candidates"]
            )
            if len(row["candidates"]) < BLANK.top_k:
                assert candidate["score"] == pytest.approx(np.exp(logit) / (1 + others), abs=2e-3)

    run_plan(link.plan(replace(BLANK, unit_mb=0.01), run), run)
    assert used_weights(run) == model, "other units, the same weights"

    # The next stages find the part of each unit, though the phase before shifts the numbers.
    reader, units = LinkedReader(run), linked_units(run)
    assert len(units) > 2
    read = [reader.read(unit) for unit in units]
    ids = [doc_id for unit in read for doc_id in unit.doc_ids.to_pylist()]
    assert sorted(ids) == sorted(row["doc_id"] for row in rows_of(run, "documents", DOCUMENTS))
    assert sum(len(unit.start) for unit in read) == len(rows_of(run, "link", SENTENCES))
    linked = [row for row in rows_of(run, "link", LINKS) if row["qid"] is not None]
    left_out = sum(unit.num_outside + unit.num_overlapping for unit in read)
    assert sum(len(unit.qid) for unit in read) + left_out == len(linked)


@pytest.mark.usefixtures("few_links_are_enough")
def test_nothing_is_fitted_where_the_links_are_the_only_mentions(
    run: RunPaths, tmp_path: Path
) -> None:
    """They say what they mean; a corpus of `synth` with 2,000 links could not be linked at all."""
    anchors = replace(BLANK, mentions="anchors")
    assert [phase.name for phase in link.plan(anchors, run).phases] == ["link"]
    # Asked for by hand, the weights are fitted as they are for detected mentions.
    for mentions in ("anchors", "detected"):
        training = train_module.Training(run=run.root)
        fitted, _ = train_module.train(training, replace(BLANK, mentions=mentions))
        (tmp_path / f"{mentions}.json").write_text(str((fitted.bias, fitted.weights)))
    anchors_text, detected_text = (
        (tmp_path / f"{mentions}.json").read_text() for mentions in ("anchors", "detected")
    )
    assert anchors_text == detected_text


@pytest.mark.usefixtures("few_links_are_enough")
def test_fitted_weights_that_are_no_better_are_not_used(
    run: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "log_loss", lambda *_: 1.0)
    # Other settings, so that nothing of an earlier run is found done.
    run_plan(link.plan(replace(BLANK, top_k=6), run), run)
    model = used_weights(run)
    assert model.weights == load_weights(TRAINED).weights
    assert model.about["choice"] == "shipped"
    assert "as shipped" in fitted_in_words(model.about)


@pytest.mark.usefixtures("few_links_are_enough")
def test_links_that_teach_nothing_leave_the_shipped_weights(
    run: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StageError("nothing to learn from")

    monkeypatch.setattr(fit_worker, "train", refuse)
    run_plan(link.plan(replace(BLANK, top_k=7), run), run)
    assert used_weights(run) == load_weights(TRAINED)
    assert fitted_in_words(used_weights(run).about) == ""


def test_when_weights_are_fitted(run: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def fits(config: LinkConfig) -> bool:
        return len(link.plan(config, run).phases) > 1

    assert not fits(BLANK), "too few links"
    few = link.plan(BLANK, run).fingerprint
    monkeypatch.setattr(link_gold, "MIN_LINKS", 30)
    monkeypatch.setattr(link_gold, "MIN_DOCUMENTS", 5)
    assert fits(BLANK)
    assert link.plan(BLANK, run).fingerprint != few
    assert not fits(replace(BLANK, weights=TRAINED))
    assert not fits(replace(BLANK, weights=HAND))
    assert not fits(replace(BLANK, gold_spans=str(GOLD))), "they may be the links themselves"


def test_the_weights_that_linked_are_kept(run: RunPaths) -> None:
    run_plan(link.plan(replace(BLANK, weights=HAND), run), run)
    assert used_weights(run) == BY_HAND
    run_plan(link.plan(BLANK, run), run)
    assert used_weights(run) == load_weights(TRAINED)

"""Rows of one unit made by hand: what becomes of every mention, and windows of a sentence that is
too long.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import ShardsConfig
from pipeline.encoder.tokenizer import TextTokenizer
from pipeline.link.linked_sentences import join_linked
from pipeline.shards.example_rows import KEYED_SCHEMA, RowMaker
from pipeline.shards.knowledge_lookup import make_lookup
from pipeline.shards.policies import PolicyLimits
from schemas import LINKS, SENTENCES
from schemas.shards import POLICY_BITS
from tests.pipeline import tiny_model

TEXT = "Rome and Paris. Lyon \u200b is near Vienna Vienna Vienna Vienna, not Oslo-Bergen."
QIDS = {"Rome": 1, "Paris": 2, "Lyon": 3, "Vienna": 4, "Oslo": 5, "Bergen": 6}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer(str(tiny_model.make(tmp_path_factory.mktemp("model"))))


def rows_of(
    tokenizer: TextTokenizer,
    spans: list[tuple[int, int, int]],
    confidence: list[float] | None = None,
    **settings: object,
) -> tuple[pa.Table, Counter]:
    """Rows of TEXT as two sentences with mentions; Paris has a fact with Rome, Bergen no row."""
    cut = TEXT.index("Lyon")
    sentences = pa.table({"doc_id": ["d", "d"], "start": [0, cut], "end": [cut - 1, len(TEXT)]})
    sentences = sentences.cast(
        pa.schema(
            [pa.field(name, SENTENCES.schema.field(name).type) for name in sentences.column_names]
        )
    )
    start, end, qid = zip(*spans, strict=True)
    links = pa.table(
        {
            "doc_id": ["d"] * len(spans),
            "start": list(start),
            "end": list(end),
            "qid": list(qid),
            "confidence": confidence or [1.0] * len(spans),
        }
    )
    links = links.cast(
        pa.schema([pa.field(name, LINKS.schema.field(name).type) for name in links.column_names])
    )
    linked = join_linked(pa.array(["d"]), [TEXT], sentences, links)
    ones = np.ones(5)
    maker = RowMaker(
        config=ShardsConfig(**settings),
        tokenizer=tokenizer,
        frame=tokenizer.frame,
        lookup=make_lookup(
            np.arange(1, 6), ones, ones, [(np.array([1]), np.array([9]), np.array([0]))]
        ),
        limits=PolicyLimits(r_freq=3, median_distance=0.0, klt_r_min=1, klt_r_max=9),
    )
    counters: Counter[str] = Counter()
    rows = maker.rows(linked, np.full(len(linked.qid), np.nan, np.float32), counters)
    assert rows.schema.equals(KEYED_SCHEMA)
    return rows, counters


def at(name: str, length: int = 0, qid: int = 0) -> tuple[int, int, int]:
    start = TEXT.index(name)
    return start, start + (length or len(name)), qid or QIDS[name]


def lost(counters: Counter) -> dict[str, int]:
    names = [
        name
        for name in counters
        if name.startswith("spans_") and name not in ("spans_in", "spans_out")
    ]
    assert counters["spans_in"] == counters["spans_out"] + sum(counters[name] for name in names)
    return {name.removeprefix("spans_"): counters[name] for name in names if counters[name]}


def test_spans_and_facts_of_a_sentence(tokenizer: TextTokenizer) -> None:
    rows, counters = rows_of(tokenizer, [at("Rome"), at("Paris"), at("Lyon")])
    assert lost(counters) == {}
    first, second = rows.to_pylist()
    opening, closing = tokenizer.frame
    assert first["input_ids"] == [
        opening,
        *tokenizer.encode_runs([TEXT[:15]]).ids.tolist(),
        closing,
    ]
    assert [
        first["input_ids"][low:high]
        for low, high in zip(first["span_start"], first["span_end"], strict=True)
    ] == [tokenizer.label_runs([name]).ids.tolist() for name in ("Rome", "Paris")]
    assert (first["span_entity_row"], second["span_entity_row"]) == ([0, 1], [2])
    assert (first["fact_head_span"], first["fact_relation_row"], first["fact_tail_span"]) == (
        [1],
        [9],
        [0],
    )
    assert (second["fact_head_span"], second["sentence_start"]) == ([], TEXT.index("Lyon"))
    assert first["span_policies"] == [POLICY_BITS["all"] | POLICY_BITS["low-frequency"]] * 2
    assert np.isnan(first["span_cosine"]).all()
    assert first["split"] == second["split"]


@pytest.mark.parametrize(
    ("rome", "paris", "is_stated"), [(0.5, 0.9, True), (0.49, 0.9, False), (0.9, 0.49, False)]
)
def test_an_unsure_link_is_no_end_of_a_fact(
    tokenizer: TextTokenizer, *, rome: float, paris: float, is_stated: bool
) -> None:
    mentions = [at("Rome"), at("Paris"), at("Lyon")]
    rows, _ = rows_of(tokenizer, mentions, [rome, paris, 0.1], min_fact_confidence=0.5)
    first, second = rows.to_pylist()
    assert (len(first["span_start"]), len(second["span_start"])) == (2, 1), "mentions stay"
    assert first["fact_head_span"] == ([1] if is_stated else [])
    assert first["fact_tail_span"] == ([0] if is_stated else [])


def test_a_surer_mention_stands_for_its_entity(tokenizer: TextTokenizer) -> None:
    """Facts are those of the first mention that is sure enough."""
    mentions = [at("Rome"), at("and", qid=QIDS["Rome"]), at("Paris"), at("Lyon")]
    rows, _ = rows_of(tokenizer, mentions, [0.2, 0.8, 0.9, 1.0], min_fact_confidence=0.5)
    first = rows.to_pylist()[0]
    assert (first["fact_head_span"], first["fact_tail_span"]) == ([2], [1])


@pytest.mark.parametrize(
    ("reason", "spans"),
    [
        ("outside_sentence", [at("Paris", len("Paris. Lyon"))]),  # crosses the end of its sentence
        ("outside_sentence", [at("Paris", len("Paris. "))]),  # the space between two sentences
        ("overlapping", [at("Paris"), at("Pa", qid=1)]),  # the longer one stays
        ("overlapping", [at("Paris"), at("ris", qid=1)]),  # the first one stays
        ("without_tokens", [at("\u200b", qid=3)]),  # a character that the tokenizer takes away
        ("without_entity", [at("Bergen")]),  # no label in the KB, say
        ("sharing_token", [at("Vie", qid=1), at("nna", qid=2)]),  # two halves of a token
        (
            "too_long",
            [at("Vienna", len("Vienna Vienna Vienna Vienna, not Oslo"))],
        ),  # cut by any window of 8 tokens
    ],
)
def test_every_lost_mention_has_a_reason(
    tokenizer: TextTokenizer, reason: str, spans: list
) -> None:
    rows, counters = rows_of(tokenizer, [at("Rome"), *spans], max_tokens=8)
    assert lost(counters) == {reason: 1}
    kept = 1 + len(spans) - 1
    assert (
        sum(len(starts) for starts in rows["span_start"].to_pylist())
        == counters["spans_out"]
        == kept
    )
    assert counters["rows_in"] == counters["rows_out"] == 2


def test_windows_of_a_long_sentence(tokenizer: TextTokenizer) -> None:
    rows, counters = rows_of(tokenizer, [at("Oslo"), at("Rome")], max_tokens=8)
    found = rows.to_pylist()
    assert counters["windows"] == len(found) > 4
    assert all(row["n_tokens"] == len(row["input_ids"]) <= 8 for row in found)
    assert all(row["word_starts"][0] == 1 for row in found)
    ids = [token for row in found for token in row["input_ids"][1:-1]]
    assert ids == tokenizer.encode_runs([TEXT[:15], TEXT[16:]]).ids.tolist()
    for row in found:  # every window says where it starts
        (first, *_) = tokenizer.encode_runs([TEXT[row["sentence_start"] :]]).ids.tolist()
        assert row["input_ids"][1] == first
    (with_oslo,) = [row for row in found if row["span_entity_row"] == [4]]
    low, high = with_oslo["span_start"][0], with_oslo["span_end"][0]
    assert with_oslo["input_ids"][low:high] == tokenizer.label_runs(["Oslo"]).ids.tolist()
    assert len(set(rows["shuffle_key"].to_pylist())) == len(found)

"""Contexts against candidates with a tiny model: exact against the plain way, whatever the order
and the cache.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pipeline.encoder.tokenizer import Encoding
from pipeline.engine.errors import StageError
from pipeline.link.linker import Scored
from pipeline.link.reranker import (
    MAX_TOKENS,
    SETTINGS_FILE,
    CandidateReranker,
    Context,
    Reranker,
    RerankerSettings,
    item_text,
    marked,
    window_ids,
)
from pipeline.link.vector_cache import VectorCache
from tests.pipeline import tiny_model

SENTENCE = "The capital of France is Paris , and the river runs through the city ."
TEXTS = [
    "Paris: capital of France",
    "Paris: a town in Texas",
    "",
    "France",
    "  \u00a0",
    "\u200b",
    "the river: " + "city " * 200,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reranker(model: Path) -> Reranker:
    return Reranker(str(model), num_threads=1)


def context(name: str, text: str = SENTENCE) -> Context:
    start = text.index(name)
    return Context(text, start, start + len(name))


def plain_vector(model: Path, text: str) -> torch.Tensor:
    """The plain way: one text, one forward pass."""
    encoded = AutoTokenizer.from_pretrained(model)(
        text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS
    )
    with torch.no_grad():
        states = (
            AutoModelForMaskedLM.from_pretrained(model)
            .eval()
            .base_model(**encoded)
            .last_hidden_state
        )
    return states[0, 1:-1].mean(0)


def test_cosines_equal_the_plain_way(reranker: Reranker, model: Path) -> None:
    (found,) = reranker.similarity([context("Paris")], [TEXTS])
    assert found.dtype == np.float32
    wanted = []
    for text in TEXTS:
        says_something = text.strip(" \u00a0\u200b")
        vectors = (
            (plain_vector(model, SENTENCE), plain_vector(model, text)) if says_something else None
        )
        wanted.append(float(torch.cosine_similarity(*vectors, dim=0)) if vectors else 0.0)
    # Vectors of texts have 11 bits, as on disk.
    assert found.tolist() == pytest.approx(wanted, abs=5e-4)
    assert found.tolist() == [np.float32(f"{value:.4f}") for value in found]
    assert [place for place, value in enumerate(found) if value == 0] == [2, 4, 5]


def test_order_and_company_do_not_matter(reranker: Reranker, model: Path) -> None:
    words = [word for word in SENTENCE.split() if word.isalpha()]
    picker = random.Random(3)
    longer = " ".join(picker.choices(words, k=300))
    contexts = [context(word) for word in words] + [
        Context(longer, at, at + 3) for at in range(0, 1000, 90)
    ]
    texts = [picker.choices(TEXTS, k=picker.randrange(5)) for _ in contexts]
    together = reranker.similarity(contexts, texts)
    order = picker.sample(range(len(contexts)), len(contexts))
    shuffled = Reranker(str(model), 1).similarity(
        [contexts[at] for at in order], [texts[at] for at in order]
    )
    alone = [reranker.similarity([one], [own])[0] for one, own in zip(contexts, texts, strict=True)]
    for place, at in enumerate(order):
        assert together[at].shape == (len(texts[at]),)
        assert (
            np.abs(shuffled[place] - together[at]).max(initial=0) <= 1.01e-4
        )  # a last bit at the edge of rounding
        assert np.abs(alone[at] - together[at]).max(initial=0) <= 1.01e-4


@pytest.mark.parametrize(("cache_size", "computed_again"), [(0, 5), (1, 4), (3, 2), (50, 0)])
def test_the_cache_is_bounded_and_changes_nothing(
    model: Path, reranker: Reranker, cache_size: int, computed_again: int
) -> None:
    (wanted,) = reranker.similarity([context("Paris")], [TEXTS])
    small = Reranker(str(model), num_threads=1, cache_size=cache_size)
    computed = count_sequences(small)
    for _ in range(3):
        (found,) = small.similarity([context("Paris")], [TEXTS])
        assert found.tolist() == pytest.approx(wanted.tolist(), abs=1.01e-4)
        assert len(small._vectors) == min(cache_size, 5)  # two of the texts are empty
    assert computed == [
        1,
        5,
        1,
        computed_again,
        1,
        computed_again,
    ]  # the window, then the texts, of each call
    assert all(vector.base is None for vector in small._vectors._values.values()), (
        "no view that holds a whole batch"
    )


def count_sequences(reranker: Reranker) -> list[int]:
    """Sequences of each call of the encoder from now on."""
    counts: list[int] = []
    encode = reranker.encoder.encode

    def counting(sequences: list[np.ndarray], batch_tokens: int) -> np.ndarray:
        counts.append(len(sequences))
        return encode(sequences, batch_tokens)

    reranker.encoder.encode = counting  # type: ignore[method-assign]
    return counts


def test_mentions_that_share_a_window_share_its_forward_pass(model: Path) -> None:
    reranker = Reranker(str(model), num_threads=1)
    computed = count_sequences(reranker)
    found = reranker.similarity([context("Paris"), context("France")], [TEXTS[:2], TEXTS[:1]])
    assert computed == [1, 2]
    assert found[0][0] == found[1][0]


def test_nothing_to_compare(model: Path) -> None:
    reranker = Reranker(str(model), num_threads=1)
    computed = count_sequences(reranker)
    assert reranker.similarity([], []) == []
    found = reranker.similarity(
        [context("Paris"), Context("", 0, 0), context("Paris")], [[], ["France"], ["", " "]]
    )
    assert [values.tolist() for values in found] == [[], [0.0], [0.0, 0.0]]
    assert computed[-2:] == [
        1,
        1,
    ]  # of the empty context and of "France": contexts without candidates are not encoded


@pytest.mark.parametrize("width", [3, 4, 9, 200])
def test_windows_keep_the_mention(width: int) -> None:
    """Tokens of five characters with a space between; the mention is two of them, anywhere."""
    num_tokens = 40
    starts = np.arange(num_tokens) * 6
    encoding = Encoding(np.arange(num_tokens), starts, starts + 5, np.arange(num_tokens))
    text = "abcde " * num_tokens
    for first in range(num_tokens - 1):
        ids = window_ids(encoding, Context(text, first * 6 + 1, first * 6 + 8), width).tolist()
        assert {first, first + 1} <= set(ids)
        assert ids == list(range(ids[0], ids[0] + min(width, num_tokens)))
        between = window_ids(encoding, Context(text, first * 6 + 5, first * 6 + 6), width).tolist()
        assert first + 1 in between or first in between
    assert len(window_ids(encoding, Context(text, 0, len(text)), width)) == min(
        width, num_tokens
    )  # longer than the window


def test_long_contexts_are_cut_around_the_mention(model: Path) -> None:
    words = "the river runs through the city and France is the capital of the city ".split()
    text = " ".join(words * 8 + ["Paris"] + words * 8)
    start = text.index("Paris")
    reranker = Reranker(str(model), num_threads=1, max_tokens=12)
    near = " ".join([*words[-5:], "Paris", *words[:4]])  # ten tokens
    found = reranker.similarity(
        [Context(text, start, start + 5), context("Paris", near)], [TEXTS[:2]] * 2
    )
    assert found[0].tolist() == found[1].tolist()


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be loaded"):
        Reranker(str(tmp_path))


class Items:
    """Labels, descriptions and neighbours by row; the row is the item."""

    labels = ("Paris", "France", "", "Texas", "Paris", "Paris")
    descriptions = ("capital of France", "country", "", "state", "", "")
    near = ((1, 3, 99), (), (), (), (2, 3), ())

    def label(self, row: int) -> str:
        return self.labels[row]

    def description(self, row: int) -> str:
        return self.descriptions[row]

    def neighbours(self, row: int) -> np.ndarray:
        return np.array(self.near[row], np.uint32)

    def rows(self, qids: np.ndarray) -> np.ndarray:
        return np.where(qids < len(self.labels), qids.astype(np.int64), -1)


@pytest.mark.parametrize(
    ("row", "plain", "with_facts"),
    [
        (0, "Paris: capital of France", "Paris: capital of France; France, Texas"),
        (4, "Paris: Texas", "Paris: Texas"),  # no description, and a neighbour without a label
        (5, "", ""),  # a label alone says what the name says
    ],
)
def test_what_an_item_is_in_words(row: int, plain: str, with_facts: str) -> None:
    items: Any = Items()
    assert item_text(items, row, with_facts=False) == plain
    assert item_text(items, row, with_facts=True) == with_facts


def test_marks_are_part_of_the_mention() -> None:
    found = marked(Context("in Paris today", 3, 8))
    assert found.text == "in [ Paris ] today"
    assert found.text[found.start : found.end] == "[ Paris ]"


def scored_rows(*rows_of_mentions: tuple[int, ...]) -> Scored:
    rows = np.array([row for rows in rows_of_mentions for row in rows], np.int64)
    mentions = np.repeat(np.arange(len(rows_of_mentions)), [len(rows) for rows in rows_of_mentions])
    popularity = np.zeros(len(rows), np.float32)
    return Scored(
        mentions, rows.astype(np.uint32), rows, np.zeros(len(rows), np.uint8), popularity.astype(np.uint32),
        {"popularity": popularity},
    )  # fmt: skip


def test_a_candidate_of_which_nothing_is_known_has_no_evidence(model: Path) -> None:
    items: Any = Items()
    reranker = CandidateReranker(str(model), items)
    values = reranker([context("Paris")] * 3, scored_rows((0, 3, 5), (0, 5), (5,)))
    assert values[:2].sum() == pytest.approx(0, abs=1e-6)
    assert (values[:2] != 0).all()
    # Two of them cannot be compared where only one has a text.
    assert values[2:].tolist() == [0.0] * 4


def test_vectors_of_an_earlier_run_are_not_computed_again(model: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "vectors.sqlite")
    first = Reranker(str(model), num_threads=1, stored=VectorCache(path, 10**9))
    wanted = first.similarity([context("Paris")], [TEXTS])
    second = Reranker(str(model), num_threads=1, stored=VectorCache(path, 10**9))
    computed = count_sequences(second)
    assert second.similarity([context("Paris")], [TEXTS])[0].tolist() == wanted[0].tolist()
    assert computed == [1, 0]  # the window alone


def test_a_trained_model_says_how_it_is_used(model: Path, tmp_path: Path) -> None:
    assert RerankerSettings.of(str(model)) == RerankerSettings(is_trained=False, weight=None)
    (tmp_path / SETTINGS_FILE).write_text('{"is_trained": true, "weight": 12.5, "report": {}}')
    assert RerankerSettings.of(str(tmp_path)) == RerankerSettings(is_trained=True, weight=12.5)
    (tmp_path / SETTINGS_FILE).write_text('{"weight": "x"}')
    with pytest.raises(StageError, match="not written by `link train-reranker`"):
        RerankerSettings.of(str(tmp_path))

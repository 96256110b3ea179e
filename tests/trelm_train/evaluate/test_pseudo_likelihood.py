"""Pseudo-log-likelihoods: by hand, and by loops over the model's own forward pass."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.trelm_train.evaluate.broken import logits_by, with_one, zeroed
from trelm_train.data.arrays import Ragged, from_lengths
from trelm_train.evaluate import pseudo_likelihood
from trelm_train.evaluate.finite import NotFiniteError
from trelm_train.evaluate.pseudo_likelihood import masked_inputs, pseudo_log_likelihoods
from trelm_train.model.masked_lm import MaskedLm

CLS, SEP, MASK = 2, 3, 4


def ragged(rows: list[list[int]]) -> Ragged:
    values = np.asarray([value for row in rows for value in row], np.int64)
    return from_lengths(values, np.asarray([len(row) for row in rows], np.int64))


def scored(model: MaskedLm, tokenizer: Any, texts: list[str]) -> list[float]:
    encodings = tokenizer(texts).encodings
    scores: list[float] = pseudo_log_likelihoods(
        model, tokenizer.pad_token_id, tokenizer.mask_token_id, encodings
    ).tolist()
    return scores


def log_p(model: MaskedLm, ids: list[int], position: int, token: int) -> float:
    """What transformers itself says."""
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([ids])).logits[0, position]
    return float(logits.double().log_softmax(0)[token])


def test_two_words_by_hand(model: MaskedLm, tokenizer: Any) -> None:
    king, rain = tokenizer.convert_tokens_to_ids(["king", "rain"])
    wanted = log_p(model, [CLS, MASK, rain, SEP], 1, king) + log_p(
        model, [CLS, king, MASK, SEP], 2, rain
    )
    assert scored(model, tokenizer, ["king rain"]) == [pytest.approx(wanted, abs=1e-4)]


def test_pieces_to_the_right_in_a_word_are_hidden() -> None:
    """A word of three pieces between words of one."""
    inputs = masked_inputs(
        ragged([[CLS, 10, 20, 21, 22, 30, SEP]]),
        ragged([[-1, 0, 1, 1, 1, 2, -1]]),
        ragged([[1, 0, 0, 0, 0, 0, 1]]),
        np.array([0]),
        MASK,
    )
    rows = [inputs.ids.of(number).tolist() for number in inputs.input_W]
    assert rows == [
        [CLS, MASK, 20, 21, 22, 30, SEP],
        [CLS, 10, MASK, MASK, MASK, 30, SEP],
        [CLS, 10, 20, MASK, MASK, 30, SEP],
        [CLS, 10, 20, 21, MASK, 30, SEP],
        [CLS, 10, 20, 21, 22, MASK, SEP],
    ]
    assert inputs.position_Q[inputs.input_W].tolist() == [1, 2, 3, 4, 5]
    assert inputs.gold_W.tolist() == [10, 20, 21, 22, 30]
    assert inputs.sentence_W.tolist() == [0] * 5


def test_equal_inputs_are_asked_once() -> None:
    """Two answers of one token: the input that hides them is one, and has two right tokens."""
    inputs = masked_inputs(
        ragged([[CLS, 10, 20, SEP], [CLS, 10, 21, SEP], [CLS, 10, 20, SEP]]),
        ragged([[-1, 0, 1, -1]] * 3),
        ragged([[1, 0, 0, 1]] * 3),
        np.array([0, 1, 2]),
        MASK,
    )
    # [MASK] 20, 10 [MASK], [MASK] 21; the third sentence is the first again.
    assert len(inputs.ids) == len(inputs.position_Q) == 3
    assert inputs.input_W.tolist() == [0, 1, 2, 1, 0, 1]
    assert inputs.gold_W.tolist() == [10, 20, 10, 21, 10, 20]


def test_the_same_ids_at_another_position_are_another_input() -> None:
    """Two sentences that name the mask token themselves."""
    inputs = masked_inputs(
        ragged([[CLS, 10, MASK, SEP], [CLS, MASK, 11, SEP]]),
        ragged([[-1, 0, 1, -1]] * 2),
        ragged([[1, 0, 0, 1]] * 2),
        np.array([0, 1]),
        MASK,
    )
    asked = [
        (inputs.ids.of(number).tolist(), position)
        for number, position in enumerate(inputs.position_Q.tolist())
    ]
    both = [CLS, MASK, MASK, SEP]
    assert asked == [(both, 1), ([CLS, 10, MASK, SEP], 2), ([CLS, MASK, 11, SEP], 1), (both, 2)]


def test_a_word_ends_with_its_sentence() -> None:
    """Also where no special token stands between two sentences."""
    inputs = masked_inputs(
        ragged([[10, 11], [12, 13]]),
        ragged([[0, 0], [0, 0]]),
        ragged([[0, 0], [0, 0]]),
        np.array([0, 1]),
        MASK,
    )
    rows = [inputs.ids.of(number).tolist() for number in inputs.input_W]
    assert rows == [[MASK, MASK], [10, MASK], [MASK, MASK], [12, MASK]]


def by_plain_loops(
    sentences: list[list[int]], words: list[list[int]]
) -> list[tuple[list[int], int, int, int]]:
    """Every masked input, the position that is asked, what stands there, and the sentence."""
    asked = []
    for number, (ids, word) in enumerate(zip(sentences, words, strict=True)):
        for position, token in enumerate(ids):
            if token in (CLS, SEP):
                continue
            masked = list(ids)
            for place in range(position, len(ids)):
                if word[place] != word[position]:
                    break
                masked[place] = MASK
            asked.append((masked, position, token, number))
    return asked


def test_random_sentences_are_masked_as_by_plain_loops() -> None:
    random = np.random.default_rng(3)
    for _ in range(1000):
        sentences, words = [], []
        for _ in range(random.integers(1, 4)):
            # Few tokens, so that inputs are equal.
            length = int(random.integers(0, 6))
            sentences.append([CLS, *random.integers(10, 13, length).tolist(), SEP])
            starts = random.random(length) < 0.5
            words.append([-1, *np.cumsum(starts).tolist(), -1])
        special = [[int(token in (CLS, SEP)) for token in ids] for ids in sentences]
        inputs = masked_inputs(
            ragged(sentences), ragged(words), ragged(special), np.arange(len(sentences)), MASK
        )
        asked = [
            (inputs.ids.of(row).tolist(), int(inputs.position_Q[row]), gold, sentence)
            for row, gold, sentence in zip(
                inputs.input_W, inputs.gold_W.tolist(), inputs.sentence_W.tolist(), strict=True
            )
        ]
        wanted = by_plain_loops(sentences, words)
        assert asked == wanted
        assert len(inputs.ids) == len({(tuple(ids), position) for ids, position, _, _ in wanted})


def test_sentences_of_the_model_are_scored_as_by_plain_loops(
    model: MaskedLm, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        "king", "Flavia lives in townking .", "Flavia lives in town .", "The house of rainy Mona .",
        "Flavia lives in Ruritania .", "",
    ]  # fmt: skip
    encodings = tokenizer(texts).encodings
    assert any(
        word is not None and word == following
        for encoding in encodings
        for word, following in zip(encoding.word_ids, encoding.word_ids[1:], strict=False)
    )
    wanted = [0.0] * len(texts)
    for ids, position, token, sentence in by_plain_loops(
        [encoding.ids for encoding in encodings],
        [[-1 if word is None else word for word in one.word_ids] for one in encodings],
    ):
        wanted[sentence] += log_p(model, ids, position, token)
    assert scored(model, tokenizer, texts) == pytest.approx(wanted, abs=1e-3)
    assert wanted[-1] == 0

    # The size of a block changes nothing.
    monkeypatch.setattr(pseudo_likelihood, "BLOCK_TOKENS", 40)
    assert scored(model, tokenizer, texts) == pytest.approx(wanted, abs=1e-3)


def test_a_zeroed_model_scores_by_length_alone(model: MaskedLm, tokenizer: Any) -> None:
    scores = scored(zeroed(model), tokenizer, ["king rain", "rain town", "king"])
    per_token = -np.log(model.config.vocab_size)
    assert scores == pytest.approx([2 * per_token, 2 * per_token, per_token], rel=1e-5)
    assert scores[0] == scores[1]


def test_a_broken_model_has_no_score(model: MaskedLm, tokenizer: Any) -> None:
    with (
        logits_by(model, with_one(float("inf"))),
        pytest.raises(NotFiniteError, match="at 1 of 2 positions of the statements"),
    ):
        scored(model, tokenizer, ["king rain"])


def test_nothing_to_score(model: MaskedLm) -> None:
    assert len(pseudo_log_likelihoods(model, 0, MASK, [])) == 0

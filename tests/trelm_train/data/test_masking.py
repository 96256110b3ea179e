from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm_train.config import MaskingConfig
from trelm_train.data.loader import Batch, Position, assemble, sentences_from_lists
from trelm_train.data.masking import Vocabulary, mask_batch, unit_ends, unit_starts

VOCABULARY = Vocabulary(size=50, mask_id=4, pad_id=0, special_ids=(0, 1, 2, 3, 4))


@st.composite
def sentence(draw: st.DrawFn) -> dict[str, list[int]]:
    """Words of 1 to 3 tokens; mentions anywhere, also across the borders of words."""
    words = draw(st.lists(st.integers(1, 3), min_size=1, max_size=8))
    starts = [1 + sum(words[:number]) for number in range(len(words))]
    length = 1 + sum(words)
    borders = sorted(draw(st.sets(st.integers(1, length), max_size=6)))
    spans = list(zip(borders[::2], borders[1::2], strict=False))
    return {
        "ids": [
            2,
            *draw(st.lists(st.integers(5, 49), min_size=length - 1, max_size=length - 1)),
            3,
        ],
        "words": starts,
        "span_start": [start for start, _ in spans],
        "span_end": [end for _, end in spans],
        "span_entity": [0 for _ in spans],
        "span_policies": [0 for _ in spans],
    }


def batch_of(sentences: list[dict[str, list[int]]], rows: list[list[int]]) -> Batch:
    lists = {name: [item[name] for item in sentences] for name in sentences[0]}
    return assemble(sentences_from_lists(lists), rows, Position(), 0)


@given(st.lists(sentence(), min_size=1, max_size=4), st.integers(0, 10**6), st.floats(0.05, 0.9))
@settings(max_examples=80)
def test_words_and_mentions_are_masked_wholly_or_not_at_all(
    sentences: Any, seed: int, probability: float
) -> None:
    batch = batch_of(sentences, [list(range(len(sentences)))])
    masked = mask_batch(
        batch, MaskingConfig(probability=probability), VOCABULARY, seed=seed, epoch=0
    )
    chosen = masked.chosen_RS.reshape(-1)
    for start, end in zip(batch.span_start_P, batch.span_end_P, strict=True):
        assert len(set(chosen[start:end].tolist())) == 1
    word_ends = np.minimum(
        np.append(batch.word_start_W[1:], 10**9),
        batch.end_N[batch.segment_RS[0, batch.word_start_W]] - 1,
    )
    for start, end in zip(batch.word_start_W, word_ends, strict=True):
        assert len(set(chosen[start:end].tolist())) == 1
    ends = np.concatenate([batch.start_N, batch.end_N - 1])
    assert not chosen[ends].any(), "special tokens are never targets"
    assert np.array_equal(masked.gold_M, batch.input_ids_RS.reshape(-1)[masked.target_M])
    untouched = ~masked.chosen_RS
    assert np.array_equal(masked.input_ids_RS[untouched], batch.input_ids_RS[untouched])


@given(st.lists(sentence(), min_size=2, max_size=4), st.integers(0, 1000))
@settings(max_examples=40)
def test_masks_do_not_depend_on_the_packing(sentences: Any, seed: int) -> None:
    config = MaskingConfig(probability=0.4)
    together = batch_of(sentences, [list(range(len(sentences)))])
    apart = batch_of(sentences, [[number] for number in range(len(sentences))])
    left = mask_batch(together, config, VOCABULARY, seed=seed, epoch=1)
    right = mask_batch(apart, config, VOCABULARY, seed=seed, epoch=1)
    for number in range(len(sentences)):
        a = left.input_ids_RS.reshape(-1)[together.start_N[number] : together.end_N[number]]
        b = right.input_ids_RS.reshape(-1)[apart.start_N[number] : apart.end_N[number]]
        assert a.tolist() == b.tolist()


def test_shares() -> None:
    plain = {"ids": [2, *([7] * 60), 3], "words": list(range(1, 61))}
    lists = {name: [plain[name]] * 300 for name in plain}
    batch = assemble(
        sentences_from_lists(lists), [[number] for number in range(300)], Position(), 0
    )
    masked = mask_batch(batch, MaskingConfig(), VOCABULARY, seed=1, epoch=0)
    ids = masked.input_ids_RS.reshape(-1)[masked.target_M]
    assert abs(len(ids) / (300 * 60) - 0.15) < 0.01
    assert abs((ids == 4).mean() - 0.8) < 0.03
    changed = ids[(ids != 4) & (ids != 7)]
    assert abs(len(changed) / len(ids) - 0.1) < 0.03
    assert changed.min() >= 5, "random tokens are never special"
    other = mask_batch(batch, MaskingConfig(), VOCABULARY, seed=1, epoch=1)
    assert not np.array_equal(masked.target_M, other.target_M), "every epoch has its own masks"


def test_units_of_a_real_sentence(batch: Batch) -> None:
    starts = unit_starts(batch)
    ends = unit_ends(batch, starts)
    assert (ends > starts).all()
    assert int((ends - starts).sum()) == batch.num_tokens - 2 * len(batch.key_N)
    assert set(batch.span_start_P) <= set(starts)

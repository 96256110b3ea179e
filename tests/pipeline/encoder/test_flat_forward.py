"""The flat forward pass: the library's numbers, and the same bits in any batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from pipeline.encoder.flat_forward import FlatBatch, FlatForward
from pipeline.encoder.library_forward import LibraryForward
from pipeline.encoder.sequences import Sequences

FRAME = (2, 3)
SIZES: dict[str, Any] = {
    "vocab_size": 200, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 100, "max_position_embeddings": 66, "initializer_range": 0.2,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "relu": lambda: BertForMaskedLM(BertConfig(**SIZES, hidden_act="relu")),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES, pad_token_id=1)),
    "xlm-roberta": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**SIZES, pad_token_id=1)),
}


def encoder_of(make: Any) -> Any:
    torch.manual_seed(0)
    return make().eval().base_model


def rows(count: int = 50, longest: int = 60) -> Sequences:
    random = np.random.default_rng(0)
    lengths = [*random.integers(1, longest, size=count - 1), longest]
    return Sequences.of([random.integers(5, 199, size=size) for size in lengths])


def encoded(forward: FlatForward | LibraryForward, sequences: Sequences, budget: int) -> np.ndarray:
    vectors = np.zeros((len(sequences), 48), np.float32)
    for batch in forward.batches(sequences, budget):
        vectors[batch] = forward.means(sequences, batch, budget)
    return vectors


@pytest.mark.parametrize("name", MODELS)
def test_it_gives_what_the_library_gives(name: str) -> None:
    model = encoder_of(MODELS[name])
    assert FlatForward.can_run(model.config)
    library = LibraryForward(model, FRAME, "cpu", False, "words")
    wanted = encoded(library, rows(), 256)
    found = encoded(FlatForward(model, FRAME, torch.float32), rows(), 256)
    assert np.abs(wanted).max() > 0.5
    assert np.abs(found - wanted).max() < 2e-6


def test_bfloat16_is_as_near_as_the_library_s() -> None:
    model = encoder_of(MODELS["bert"])
    exact = encoded(LibraryForward(model, FRAME, "cpu", False, "words"), rows(), 256)
    flat = encoded(FlatForward(model, FRAME, torch.bfloat16), rows(), 256)
    library = encoded(LibraryForward(model, FRAME, "cpu", True, "words"), rows(), 256)
    apart = np.abs(library - exact).mean()
    assert apart > 1e-4  # it is another format
    assert np.abs(flat - exact).mean() < 1.2 * apart


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_do_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    """A wide model, whose products of few rows are computed in another order."""
    wide = BertConfig(**{**SIZES, "hidden_size": 768, "num_attention_heads": 12,
                         "intermediate_size": 3072, "num_hidden_layers": 1})  # fmt: skip
    forward = FlatForward(encoder_of(lambda: BertForMaskedLM(wide)), FRAME, dtype)
    sequences = rows(30)
    together = np.zeros((30, 768), np.float32)
    for batch in forward.batches(sequences, 512):
        together[batch] = forward.means(sequences, batch, 512)
    for number in range(0, 30, 5):
        alone = forward.means(sequences, np.array([number]), 512)
        assert np.array_equal(alone[0], together[number])


def test_a_batch_has_its_tokens_in_order() -> None:
    sequences = Sequences.of([np.array([7, 8, 9]), np.array([5, 6, 4]), np.array([1])])
    batch = FlatBatch.of(sequences, FRAME)
    assert batch.ids.tolist() == [2, 7, 8, 9, 3, 2, 5, 6, 4, 3, 2, 1, 3]
    assert batch.places.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.groups == [(2, 5), (1, 3)]


def test_batches_hold_every_sequence_once_and_no_more_than_fits() -> None:
    forward = FlatForward(encoder_of(MODELS["bert"]), FRAME, torch.float32)
    sequences = rows(80)
    batches = list(forward.batches(sequences, 100))
    assert sorted(np.concatenate(batches).tolist()) == list(range(80))
    tokens = [int(sequences.lengths[batch].sum()) + 2 * len(batch) for batch in batches]
    assert max(tokens) <= 100
    # No batch would have had room for the first sequence of the next one.
    openings = [int(sequences.lengths[batch[0]]) + 2 for batch in batches[1:]]
    assert all(size + opening > 100 for size, opening in zip(tokens, openings, strict=False))


def test_an_empty_sequence_is_in_no_batch() -> None:
    forward = FlatForward(encoder_of(MODELS["bert"]), FRAME, torch.float32)
    sequences = Sequences.of([np.empty(0, np.int64), np.array([7])])
    assert [batch.tolist() for batch in forward.batches(sequences, 100)] == [[1]]
    assert not list(forward.batches(Sequences.of([]), 100))


def test_a_small_budget_still_takes_the_longest_sequence() -> None:
    model = encoder_of(MODELS["bert"])
    wanted = encoded(LibraryForward(model, FRAME, "cpu", False, "words"), rows(9, 64), 8)
    found = encoded(FlatForward(model, FRAME, torch.float32), rows(9, 64), 8)
    assert np.abs(found - wanted).max() < 2e-6


def test_other_layers_are_left_to_the_library() -> None:
    assert not FlatForward.can_run(DistilBertConfig())
    assert not FlatForward.can_run(BertConfig(**SIZES, is_decoder=True))
    assert not FlatForward.can_run(BertConfig(**SIZES, position_embedding_type="relative_key"))

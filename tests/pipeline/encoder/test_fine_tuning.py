"""Fine-tuning: the loss falls, wrong texts move away, what is saved is what was trained."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.encoder.fine_tuning import FineTuning, RankingExample, fine_tune, padded
from pipeline.encoder.sentence_encoder import SentenceEncoder
from pipeline.encoder.sequences import Sequences, cosines
from tests.pipeline import tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.make(tmp_path / "model")


def opened(folder: Path | str) -> SentenceEncoder:
    return SentenceEncoder(str(folder), "cpu", 1, kind="encoder")


def test_padding_changes_nothing(model: Path) -> None:
    encoder, chance = opened(model), np.random.default_rng(0)
    rows = [chance.integers(5, 100, size=size) for size in (1, 7, 3, 12)]
    with torch.no_grad():
        found = encoder.padded_vectors(rows).numpy()
    assert found == pytest.approx(encoder.encode(Sequences.of(rows), 64), abs=1e-5)


def test_padded_rows() -> None:
    ids, mask = padded([np.array([7, 8]), np.array([9])], (2, 3), 0)
    assert ids.tolist() == [[2, 7, 8, 3], [2, 9, 3, 0]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def made_examples(count: int) -> list[RankingExample]:
    """Contexts that have one word of the right text: what is to be learned."""
    chance = random.Random(0)
    examples = []
    for _ in range(count):
        words = chance.sample(range(20, 60), 4)
        texts = tuple(np.array([word, word + 40]) for word in words)
        context = np.array([*chance.choices(range(110, 130), k=6), words[0]])
        examples.append(RankingExample(context, texts))
    return examples


def accuracy(encoder: SentenceEncoder, examples: list[RankingExample]) -> float:
    # All at once: a call has a price of its own.
    rows = [ids for example in examples for ids in (example.context, *example.texts)]
    vectors = encoder.encode(Sequences.of(rows), 4096).reshape(len(examples), 5, -1)
    found = [
        np.argmax(cosines(np.broadcast_to(context, texts.shape), texts))
        for context, texts in zip(vectors[:, 0], vectors[:, 1:], strict=True)
    ]
    return float(np.mean(np.array(found) == 0))


@pytest.mark.slow
def test_it_learns_and_is_saved(model: Path, tmp_path: Path) -> None:
    encoder, held_out = opened(model), made_examples(140)[100:]
    before, shares = accuracy(encoder, held_out), []
    settings = FineTuning(epochs=5, learning_rate=3e-3, batch_size=10)
    loss = fine_tune(
        encoder, made_examples(100), settings, lambda share, _loss: shares.append(share)
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    after = accuracy(encoder, held_out)
    assert (before < 0.6, after > 0.8, loss < 1.5) == (True, True, True), (before, after, loss)

    (tmp_path / "saved").mkdir()
    encoder.save(str(tmp_path / "saved"))
    rows = Sequences.of([example.context for example in held_out])
    again = opened(tmp_path / "saved").encode(rows, 64)
    assert again == pytest.approx(encoder.encode(rows, 64), abs=1e-5)


def test_no_example_is_no_step(model: Path) -> None:
    encoder = opened(model)
    before = [parameter.detach().clone() for parameter in encoder.parameters()]
    assert np.isnan(fine_tune(encoder, [], FineTuning()))
    assert all(map(torch.equal, before, encoder.parameters()))

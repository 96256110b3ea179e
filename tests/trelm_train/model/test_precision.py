"""Products of few shapes: rows are added in bfloat16 alone, and change neither losses nor gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trelm_train.data.batches import Batch
from trelm_train.model import precision, token_log_probability
from trelm_train.model.encoder import Attention, encode_reads, read_positions
from trelm_train.model.masked_lm import MaskedLm, mlm_losses
from trelm_train.model.precision import ROWS_OF_A_PRODUCT, rows_to_add


@pytest.mark.parametrize(("rows", "added"), [(0, 0), (1, 63), (63, 1), (64, 0), (65, 63), (128, 0)])
def test_rows_fill_up_to_a_multiple(rows: int, added: int) -> None:
    assert ROWS_OF_A_PRODUCT == 64
    assert rows_to_add(torch.zeros(rows, 3), torch.bfloat16) == added
    assert rows_to_add(torch.zeros(rows, 3), torch.float32) == 0


def losses_and_gradients(model: MaskedLm, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """In bfloat16, of 21 targets that the encoder reads."""
    inside = np.flatnonzero(batch.segment_RS.reshape(-1) >= 0)[:21]
    learned = np.zeros(batch.input_ids_RS.size, np.bool_)
    learned[inside] = True
    target = torch.from_numpy(inside)
    gold = torch.from_numpy(batch.input_ids_RS.reshape(-1)[inside])
    read = read_positions(learned, np.zeros_like(learned), model.device)
    with torch.autocast("cpu", torch.bfloat16):
        states = encode_reads(model.family, model.pack(batch), read, Attention(dropout=0.0))
        losses = mlm_losses(model, states, target, gold)
    parameters = dict(model.hf.named_parameters())
    found = torch.autograd.grad(losses.sum(), list(parameters.values()), allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return losses.detach(), {name: value for name, value in pairs if value is not None}


def test_added_rows_change_nothing(
    model: MaskedLm, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    linear = torch.nn.functional.linear

    def counted(states: Tensor, *others: Tensor) -> Tensor:
        sizes.append(len(states))
        return linear(states, *others)

    monkeypatch.setattr(token_log_probability.F, "linear", counted)
    with model.evaluating():
        losses, gradients = losses_and_gradients(model, batch)
        assert 64 in sizes
        assert 21 not in sizes
        monkeypatch.setattr(precision, "ROWS_OF_A_PRODUCT", 1)
        plain_losses, plain_gradients = losses_and_gradients(model, batch)
    assert 21 in sizes
    assert losses.shape == plain_losses.shape == (21,)
    assert torch.allclose(losses, plain_losses, rtol=1e-2)
    assert gradients.keys() == plain_gradients.keys()
    for name, value in gradients.items():
        wanted = plain_gradients[name]
        assert (value - wanted).norm() <= 0.02 * wanted.norm() + 1e-6, name

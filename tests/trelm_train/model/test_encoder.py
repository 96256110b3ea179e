"""The training encoder equals the library's own forward pass, where it is read, in values and in
gradients.
"""

import numpy as np
import pytest
import torch

from tests.trelm_train import world
from trelm_train.data.arrays import expand
from trelm_train.data.batches import Batch
from trelm_train.model.encoder import Attention, encode_reads, read_positions, varlen_attention
from trelm_train.model.masked_lm import MaskedLm

FAMILIES = ("bert", "roberta", "modernbert")


@pytest.fixture(params=FAMILIES)
def any_model(request: pytest.FixtureRequest, tokenizer: object) -> MaskedLm:
    made = MaskedLm(
        world.make_family(request.param, len(tokenizer), tokenizer), torch.device("cpu")
    )  # type: ignore[arg-type]
    made.hf.eval()
    return made


def some(size: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(size) < share


def test_states_that_are_read(any_model: MaskedLm, batch: Batch) -> None:
    size = batch.input_ids_RS.size
    inside = batch.segment_RS.reshape(-1) >= 0
    learned, noted = some(size, 0.2, 1) & inside, some(size, 0.6, 2) & inside
    packed = any_model.pack(batch)
    out = encode_reads(
        any_model.family,
        packed,
        read_positions(learned, noted, any_model.device),
        Attention(dropout=0.0),
    ).flatten(0, 1)
    with torch.no_grad():
        wanted = any_model.encode(packed).flatten(0, 1)
    read = torch.from_numpy(learned | noted)
    assert torch.allclose(out[read], wanted[read], atol=1e-5)
    assert not out[~read].any()


def test_gradients_are_those_of_the_rows_that_learn(any_model: MaskedLm, batch: Batch) -> None:
    size = batch.input_ids_RS.size
    inside = batch.segment_RS.reshape(-1) >= 0
    learned, noted = some(size, 0.2, 1) & inside, some(size, 0.6, 2) & inside
    packed, parameters = any_model.pack(batch), dict(any_model.base.named_parameters())
    weights = torch.randn(size, any_model.hidden_size, generator=torch.Generator().manual_seed(0))

    def gradients(hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (hidden.flatten(0, 1) * weights)[torch.from_numpy(learned)].sum()
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {
            name: value for name, value in zip(parameters, found, strict=True) if value is not None
        }

    read = read_positions(learned, noted, any_model.device)
    ours = gradients(encode_reads(any_model.family, packed, read, Attention(dropout=0.0)))
    theirs = gradients(any_model.encode(packed))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max())), (
            name
        )


def test_notes_alone_record_nothing(any_model: MaskedLm, batch: Batch) -> None:
    size = batch.input_ids_RS.size
    nothing, everything = np.zeros(size, np.bool_), np.ones(size, np.bool_)
    out = encode_reads(
        any_model.family,
        any_model.pack(batch),
        read_positions(nothing, everything, any_model.device),
        Attention(dropout=0.0),
    )
    out.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in any_model.hf.parameters())


def test_sentence_by_sentence_is_the_same(any_model: MaskedLm, batch: Batch) -> None:
    if any_model.config.model_type == "modernbert":
        pytest.skip("varlen knows no windows, and is refused for it")
    size = batch.input_ids_RS.size
    inside = batch.segment_RS.reshape(-1) >= 0
    read = read_positions(inside, np.zeros(size, np.bool_), any_model.device)
    packed = any_model.pack(batch)
    by_mask = encode_reads(any_model.family, packed, read, Attention(dropout=0.0))
    attention = varlen_attention(batch, any_model.device)
    by_borders = encode_reads(any_model.family, packed, read, attention)
    assert torch.allclose(by_mask, by_borders, atol=1e-5)
    assert attention.borders is not None
    lengths = np.diff(attention.borders.numpy())
    assert lengths.min() > 0
    assert lengths.sum() == size
    assert attention.longest == lengths.max()


def test_dropped_attention_still_sees_its_own_sentence_only(
    any_model: MaskedLm, batch: Batch
) -> None:
    """With dropout on, another sentence of the row may say what it wants."""
    first = expand(batch.start_N[:1], (batch.end_N - batch.start_N)[:1])
    learned = np.zeros(batch.input_ids_RS.size, np.bool_)
    learned[first] = True
    read = read_positions(learned, np.zeros_like(learned), any_model.device)
    other = batch.input_ids_RS.copy()
    other.reshape(-1)[batch.start_N[1] + 1 : batch.end_N[1] - 1] = 7
    found = []
    for ids in (batch.input_ids_RS, other):
        torch.manual_seed(5)
        any_model.hf.train()
        found.append(
            encode_reads(
                any_model.family, any_model.pack(batch, ids), read, Attention(dropout=0.3)
            ).flatten(0, 1)
        )
    assert torch.equal(found[0][torch.from_numpy(first)], found[1][torch.from_numpy(first)])


def test_attention_dropout_is_drawn(any_model: MaskedLm, batch: Batch) -> None:
    learned = batch.segment_RS.reshape(-1) >= 0
    read = read_positions(learned, np.zeros_like(learned), any_model.device)
    states = [
        encode_reads(any_model.family, any_model.pack(batch), read, Attention(dropout=p))
        for p in (0.0, 0.3, 0.3)
    ]
    assert not torch.equal(states[0], states[1])
    assert not torch.equal(states[1], states[2])


def test_states_in_bfloat16(any_model: MaskedLm, batch: Batch) -> None:
    """States have the format of the products where LayerNorm follows each sum; all stay near."""
    everywhere = np.ones(batch.input_ids_RS.size, np.bool_)
    read = read_positions(everywhere, everywhere, any_model.device)
    packed, attention = any_model.pack(batch), Attention(dropout=0.0)
    exact = encode_reads(any_model.family, packed, read, attention)
    with torch.autocast("cpu", torch.bfloat16):
        near = encode_reads(any_model.family, packed, read, attention)

    is_narrow = near.dtype == torch.bfloat16
    assert is_narrow == any_model.family.normalises_sums
    assert (near.float() - exact).norm() < 0.02 * exact.norm()


def test_dropped_attention_sees_its_own_sentence_only(any_model: MaskedLm, batch: Batch) -> None:
    """With a probability too small to drop anything, it is the library's attention."""
    everywhere = np.ones(batch.input_ids_RS.size, np.bool_)
    read = read_positions(everywhere, everywhere, any_model.device)
    packed = any_model.pack(batch)
    wanted, found = (
        encode_reads(any_model.family, packed, read, Attention(dropout=probability))
        for probability in (0.0, 1e-9)
    )
    assert torch.allclose(found, wanted, atol=1e-5)

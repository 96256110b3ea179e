from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trelm_train import world
from tests.trelm_train.conftest import request_for
from trelm_train.config import RoutingConfig
from trelm_train.data.loader import Position, assemble, sentences_from_lists
from trelm_train.model.families import FAMILIES
from trelm_train.model.masked_lm import MaskedLm, load_pretrained
from trelm_train.routing.attribution import evaluating
from trelm_train.routing.router import whole_parameters
from trelm_train.training.train import run

CPU = torch.device("cpu")
NAMES = sorted(FAMILIES)
ids_list = st.lists(st.lists(st.integers(5, 60), min_size=1, max_size=20), min_size=1, max_size=4)


@cache
def model_of(family: str) -> MaskedLm:
    model = MaskedLm(world.make_family(family, 64), CPU)
    model.hf.eval()
    return model


def states(
    model: MaskedLm, sentences: list[list[int]], rows: list[list[int]]
) -> list[torch.Tensor]:
    batch = assemble(sentences_from_lists({"ids": sentences}), rows, Position(), 1)
    with torch.no_grad():
        hidden = model.encode(model.pack(batch)).reshape(-1, model.hidden_size)
    found = {
        int(key): hidden[s:e]
        for key, s, e in zip(batch.key_N, batch.start_N, batch.end_N, strict=True)
    }
    return [found[number] for number in range(len(sentences))]


@pytest.mark.parametrize("family", NAMES)
@given(ids_list)
@settings(max_examples=15)
def test_packed_equals_one_by_one(family: str, sentences: list[list[int]]) -> None:
    """ModernBERT's windows of 4 tokens on either side are narrower than most of these sentences."""
    model = model_of(family)
    packed = states(model, sentences, [list(range(len(sentences)))])
    for number, ids in enumerate(sentences):
        with torch.no_grad():
            alone = model.base(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert torch.allclose(packed[number], alone, atol=1e-5)


@pytest.mark.parametrize("family", NAMES)
def test_the_parts_make_the_whole(family: str) -> None:
    model = model_of(family)
    parts = model.family
    ids = [[2, *range(5, 18), 3], [2, 9, 3]]
    packed = model.pack(assemble(sentences_from_lists({"ids": ids}), [[0, 1]], Position(), 1))
    with torch.no_grad(), evaluating(model, "float32"):
        hidden = model.embed(packed).flatten(0, 1)
        for layer in range(model.num_layers):
            rotation = parts.rotation(layer, packed)
            keys_values = parts.keys_values(layer, hidden, rotation)
            mixed = parts.mix(
                parts.queries(layer, hidden, rotation), keys_values, parts.mask(layer, packed)
            )
            attended = parts.join(layer, mixed, hidden)
            hidden = parts.from_neurons(layer, parts.neurons(layer, attended), attended)
        hidden = parts.finish(hidden)
        assert torch.allclose(hidden, model.encode(packed).flatten(0, 1), atol=2e-6)
        whole = model.hf(**parts.inputs(packed)).logits
        assert torch.allclose(model.logits(hidden[[1, 16]]), whole[0, [1, 16]], atol=1e-5)


@pytest.mark.parametrize("family", NAMES)
def test_a_neuron_is_its_rows_and_its_column(family: str) -> None:
    """Without them the neuron is 0 and adds nothing; the others are what they were."""
    model = MaskedLm(world.make_family(family, 64), CPU)
    model.hf.eval()
    index = torch.tensor([3, 40])
    ffn = model.family.ffn(1)
    x = torch.randn(5, model.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.family.neurons(1, x)
        out = model.family.from_neurons(1, before, x)
        ffn.w_in.weight[ffn.rows(index)] = 0
        if ffn.w_in.bias is not None:
            ffn.w_in.bias[ffn.rows(index)] = 0
        after = model.family.neurons(1, x)
        assert not after[:, index].any()
        rest = torch.ones(model.inner_size, dtype=torch.bool).index_fill(0, index, False)
        assert torch.equal(after[:, rest], before[:, rest])
        ffn.w_out.weight[:, index] = 0
        changed = before.index_fill(1, index, 7.0)
        assert torch.allclose(
            model.family.from_neurons(1, changed, x), model.family.from_neurons(1, after, x)
        )
        assert not torch.allclose(out, model.family.from_neurons(1, changed, x))
    assert ffn.rows_per_neuron == (2 if family == "modernbert" else 1)


@pytest.mark.parametrize("family", NAMES)
def test_every_parameter_has_a_kind(family: str) -> None:
    model = model_of(family)
    kinds: dict[str, int] = {}
    for name, _ in model.hf.named_parameters():
        kinds[model.family.kind(name)] = kinds.get(model.family.kind(name), 0) + 1
    assert set(kinds) == {"norm", "embeddings", "attention", "ffn", "head"} | (
        set() if family == "modernbert" else {"out_bias"}
    )
    assert kinds["ffn"] == model.num_layers * (2 if family == "modernbert" else 3)
    assert kinds["attention"] == model.num_layers * (2 if family == "modernbert" else 8)


@pytest.mark.parametrize("family", NAMES)
def test_the_switches_hold_in_every_family(family: str) -> None:
    model = MaskedLm(world.make_family(family, 64), CPU)
    for switch, kinds in (
        ("train_attention", {"attention"}),
        ("train_embeddings", {"embeddings"}),
        ("train_layer_norm", {"norm"}),
        ("train_head", {"head", "out_bias"}),
    ):
        chosen = whole_parameters(model, RoutingConfig(**{switch: True}))  # type: ignore[arg-type]
        assert chosen
        for name, parameter in model.hf.named_parameters():
            assert parameter.requires_grad == (model.family.kind(name) in kinds) == (name in chosen)


def test_modernbert_trains_end_to_end(tokenizer: Any, shards_path: Path, tmp_path: Path) -> None:
    """Injection, memory, CKA and routing on; the exported model loads as a plain one and its
    untrained weights are equal.
    """
    model_path = tmp_path / "model"
    world.make_modernbert(len(tokenizer)).save_pretrained(model_path)
    tokenizer.save_pretrained(model_path)
    request = request_for(shards_path, model_path, tmp_path / "out", "train.validate=false")
    summary = run(request)
    assert summary["steps"] == 6
    before, after = (
        load_pretrained(str(path), CPU) for path in (model_path, tmp_path / "out" / "model")
    )
    old = dict(before.hf.named_parameters())
    changed = {
        name for name, value in after.hf.named_parameters() if not torch.equal(value, old[name])
    }
    assert changed
    assert {after.family.kind(name) for name in changed} == {"ffn"}

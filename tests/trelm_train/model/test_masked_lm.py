import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from schemas.errors import ConfigError, TrelmError
from tests.trelm_train import world
from trelm_train.data.loader import Position, assemble, sentences_from_lists
from trelm_train.data.shards import Shards
from trelm_train.model.masked_lm import (
    MaskedLm,
    check_tokenizer,
    load_pretrained,
    mlm_loss_sum,
    pick_device,
    vocabulary_of,
)

CPU = torch.device("cpu")


def test_roberta_positions_start_after_the_padding_id(roberta: MaskedLm) -> None:
    assert roberta.position_offset == 2
    assert roberta.max_tokens == 64


def test_an_edit_ends_with_its_block(model: MaskedLm) -> None:
    packed = model.pack(assemble(sentences_from_lists({"ids": [[2, 7, 3]]}), [[0]], Position(), 0))
    before = model.embed(packed)

    def fail() -> None:
        with model.edit_embeddings(lambda word_RSH: word_RSH * 0):
            assert not torch.equal(model.embed(packed), before)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert torch.equal(model.embed(packed), before)


def test_no_target_gives_zero_with_a_graph(model: MaskedLm) -> None:
    hidden = torch.ones(1, 3, model.hidden_size, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    loss = mlm_loss_sum(model, hidden, none, none)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0.0
    assert hidden.grad is not None


def test_evaluating_restores_the_mode(model: MaskedLm) -> None:
    model.hf.train()
    with model.evaluating():
        assert not model.hf.training
    assert model.hf.training


def test_the_right_tokenizer(
    model_path: Path, model: MaskedLm, shards: Shards, tokenizer: Any
) -> None:
    vocabulary = check_tokenizer(str(model_path), model, shards)
    assert vocabulary.mask_id == tokenizer.mask_token_id
    assert vocabulary.size == len(tokenizer)


def test_the_vocabulary_counts_not_the_file(
    tokenizer: Any, model: MaskedLm, shards: Shards, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    assert check_tokenizer(str(tmp_path), model, shards).size == len(tokenizer)


def test_another_tokenizer_is_refused(shards: Shards, model: MaskedLm, tmp_path: Path) -> None:
    from trelm_train.init import train_tokenizer

    other = train_tokenizer(lambda: iter(["quite another corpus of words"] * 3), 200)
    other.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="its tokenizer is not the one"):
        check_tokenizer(str(tmp_path), model, shards)
    with pytest.raises(ConfigError, match="no tokenizer there"):
        check_tokenizer(str(tmp_path / "nowhere"), model, shards)
    small = MaskedLm(world.make_bert(other), CPU)
    with pytest.raises(ConfigError, match="for which these shards were made"):
        check_tokenizer(str(tmp_path), small, shards)


def test_no_mask_token() -> None:
    class Plain:
        mask_token_id = None

    with pytest.raises(ConfigError, match="no mask token"):
        vocabulary_of(Plain(), 5)


def test_a_checkpoint_without_its_head_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    world.make_bert(tokenizer).bert.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="not a masked LM"):
        load_pretrained(str(tmp_path), CPU)


def test_pickled_weights_and_code_of_a_model_are_refused(model_path: Path, tmp_path: Path) -> None:
    """Both run what a stranger wrote: neither is loaded, whatever the file says."""
    pickled = tmp_path / "pickled"
    shutil.copytree(model_path, pickled)
    weights = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pickled: cannot load its weights .*safetensors"):
        load_pretrained(str(pickled), CPU)

    coded = tmp_path / "coded"
    shutil.copytree(model_path, coded)
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(ConfigError, match="coded: no such model here"):
        load_pretrained(str(coded), CPU)
    assert not (tmp_path / "ran").exists()


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=20))
    gpt2.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="'gpt2' model is not a masked LM"):
        load_pretrained(str(tmp_path), CPU)
    with pytest.raises(TrelmError, match="not supported"):
        MaskedLm(gpt2, CPU)


def test_no_model_there(tmp_path: Path, model_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        load_pretrained(str(tmp_path / "nowhere"), CPU)
    with pytest.raises(ConfigError, match="no such model here"):
        load_pretrained(str(tmp_path), CPU)
    (tmp_path / "config.json").write_text((model_path / "config.json").read_text())
    with pytest.raises(ConfigError, match="cannot load its weights"):
        load_pretrained(str(tmp_path), CPU)


def test_weights_are_float32(tokenizer: Any, tmp_path: Path) -> None:
    world.make_bert(tokenizer).to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = load_pretrained(str(tmp_path), CPU)
    assert {parameter.dtype for parameter in loaded.hf.parameters()} == {torch.float32}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_weights_that_are_not_finite_are_refused(
    family: str, value: float, tokenizer: Any, tmp_path: Path
) -> None:
    made = world.make_family(family, len(tokenizer), tokenizer)
    name, parameter = list(made.named_parameters())[-3]
    with torch.no_grad():
        parameter.view(-1)[-1] = value
    made.save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=f"^{tmp_path}: 1 tensor.s. such as '{name}' hold NaN or inf"
    ):
        load_pretrained(str(tmp_path), CPU)


def test_half_precision_that_overflowed_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    """float16 ends at 65,504: a larger weight was saved as infinite."""
    made = world.make_bert(tokenizer)
    with torch.no_grad():
        made.bert.embeddings.LayerNorm.weight[3] = 70_000
    made.half().save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match="'bert.embeddings.LayerNorm.weight' hold NaN or infinite"
    ):
        load_pretrained(str(tmp_path), CPU)


def test_a_model_has_the_name_it_was_loaded_by(model: MaskedLm, model_path: Path) -> None:
    assert model.name == str(model_path)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="sees no GPU"):
        pick_device("cuda")


def test_padding_attends_to_padding_only(model: MaskedLm) -> None:
    batch = assemble(
        sentences_from_lists({"ids": [[2, 7, 8, 3], [2, 3]]}), [[0], [1]], Position(), 0
    )
    mask = model.pack(batch).mask_R1SS[:, 0]
    assert mask[1].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert np.isfinite(model.encode(model.pack(batch)).detach().numpy()).all()

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, BertModel, GPT2Config, GPT2Model

from schemas.errors import ConfigError
from tests.trelm_train import world
from trelm_train.finetune.classifier import SpanClassifier, load_encoder
from trelm_train.model.masked_lm import MaskedLm, load_pretrained


def save(model: Any, tokenizer: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_encoder_of_a_masked_lm_is_its_own(model: MaskedLm, model_path: Path) -> None:
    encoder = load_encoder(str(model_path))
    ids = torch.tensor([[2, 30, 40, 50, 3]])
    with torch.no_grad():
        own = encoder.hf.eval()(input_ids=ids).last_hidden_state
        assert torch.equal(own, model.base(input_ids=ids).last_hidden_state)
    assert encoder.hf.pooler is None
    assert encoder.max_tokens == 64
    assert encoder.num_ids == model.config.vocab_size


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_every_family_gives_logits_and_gradients(
    family: str, tokenizer: Any, tmp_path: Path
) -> None:
    hf = world.make_family(family, len(tokenizer), tokenizer)
    encoder = load_encoder(save(hf, tokenizer, tmp_path / family))
    encoder.add_markers(("subject", "end of subject"))
    # RoBERTa's positions begin behind the padding id.
    assert encoder.max_tokens == 64
    first = encoder.num_ids - 2
    ids = torch.tensor([[2, first, 40, first + 1, 3], [2, first, first + 1, 3, encoder.pad_id]])
    mask = torch.tensor([[1] * 5, [1] * 4 + [0]])
    marks = torch.tensor([[1], [1]])
    for reads_marks in (False, True):
        model = SpanClassifier(encoder.hf, 7, 1, reads_marks=reads_marks).eval()
        logits = model(ids, mask, marks)
        assert logits.shape == (2, 7)
        # A row is answered alike alone and beside a longer one.
        alone = model(ids[1:, :4], mask[1:, :4], marks[1:])
        assert torch.allclose(logits[1:], alone, atol=1e-5)
        logits.sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_classified(model_path: Path) -> None:
    encoder = load_encoder(str(model_path)).hf.eval()
    ids, mask, marks = torch.tensor([[2, 30, 40, 50, 3]]), torch.ones(1, 5, dtype=torch.long), torch.tensor([[3, 1]])  # fmt: skip
    states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state[0]
    by_cls = SpanClassifier(encoder, 4, 2, reads_marks=False).eval()
    by_marks = SpanClassifier(encoder, 4, 2, reads_marks=True).eval()
    for model, state in ((by_cls, states[0]), (by_marks, torch.cat([states[3], states[1]]))):
        expected = model.output.weight @ state + model.output.bias
        assert torch.allclose(model(ids, mask, marks)[0], expected, atol=1e-5)


def test_markers_begin_as_the_mean_of_their_words(model_path: Path, tokenizer: Any) -> None:
    encoder = load_encoder(str(model_path))
    before = encoder.hf.get_input_embeddings().weight.detach().clone()
    encoder.add_markers(("the king", "rain"))
    after = encoder.hf.get_input_embeddings().weight.detach()
    assert torch.equal(after[:-2], before)
    king = tokenizer("the king", add_special_tokens=False)["input_ids"]
    assert torch.allclose(after[-2], before[king].mean(0))
    assert torch.allclose(after[-1], before[tokenizer("rain", add_special_tokens=False)["input_ids"]].mean(0))  # fmt: skip


def test_a_model_without_a_head_will_do(tokenizer: Any, tmp_path: Path) -> None:
    bare = BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))  # fmt: skip
    folder = save(bare, tokenizer, tmp_path / "bare")
    with pytest.raises(ConfigError, match="not a masked LM"):
        load_pretrained(folder, torch.device("cpu"))
    assert load_encoder(folder).weights_sha256 == load_encoder(folder).weights_sha256


def test_other_weights_have_another_hash(model: MaskedLm, tokenizer: Any, tmp_path: Path) -> None:
    first = load_encoder(save(model.hf, tokenizer, tmp_path / "a"))
    with torch.no_grad():
        model.layers[0].output.dense.weight[0, 0] += 1
    second = load_encoder(save(model.hf, tokenizer, tmp_path / "b"))
    assert first.weights_sha256 != second.weights_sha256


def test_wrong_models_are_refused(tokenizer: Any, model: MaskedLm, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        load_encoder(str(tmp_path / "none"))

    config = BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, is_decoder=True)  # fmt: skip
    decoder = save(BertLMHeadModel(config), tokenizer, tmp_path / "decoder")
    with pytest.raises(ConfigError, match="is no encoder"):
        load_encoder(decoder)
    gpt = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, n_positions=64)
    with pytest.raises(ConfigError, match="'gpt2' model is no encoder"):
        load_encoder(save(GPT2Model(gpt), tokenizer, tmp_path / "gpt"))

    with torch.no_grad():
        model.layers[0].output.dense.weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match="NaN or infinite"):
        load_encoder(save(model.hf, tokenizer, tmp_path / "nan"))

    encoder = load_encoder(save(world.make_bert(tokenizer), tokenizer, tmp_path / "sound"))
    with pytest.raises(ConfigError, match="reads 64 tokens at most; give --length 64"):
        encoder.check_length(65)

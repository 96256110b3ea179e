"""Any encoder as a re-ranker: the vectors that it was trained to give; no pickle, no code of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertModel,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5Model,
)

from pipeline.encoder.sentence_encoder import SentenceEncoder
from pipeline.encoder.sequences import Sequences
from pipeline.encoder.tokenizer import check_model
from pipeline.engine.errors import StageError
from tests.pipeline import tiny_model

IDS = (7, 9, 30, 8)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model."""
    return tiny_model.make(tmp_path_factory.mktemp("masked"))


@pytest.fixture
def bare(masked: Path, tmp_path: Path) -> Path:
    """The same without a head, as sentence encoders come: refused where the head must be there."""
    folder = Path(shutil.copytree(masked, tmp_path / "bare"))
    BertModel.from_pretrained(masked, add_pooling_layer=False).save_pretrained(folder)
    return folder


def vector(folder: Path) -> np.ndarray:
    encoder = SentenceEncoder(str(folder), "cpu", 1, kind="encoder")
    return encoder.encode(Sequences.of([np.array(IDS)]), 64)[0]


def pooled(folder: Path, **modes: bool) -> Path:
    """Write how sentence-transformers makes a vector of this model's states."""
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder


def states(folder: Path) -> torch.Tensor:
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([[2, *IDS, 3]])).last_hidden_state[0]


@pytest.mark.parametrize(
    ("modes", "of_states"),
    [
        ({}, lambda states: states[1:-1].mean(0)),
        ({"pooling_mode_mean_tokens": True}, lambda states: states.mean(0)),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            lambda states: states[0],
        ),
    ],
)
def test_vectors_are_those_of_its_training(
    bare: Path, modes: dict[str, bool], of_states: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    if modes:
        pooled(bare, **modes)
    assert vector(bare) == pytest.approx(of_states(states(bare)).numpy(), abs=1e-5)


def test_a_head_changes_nothing(masked: Path, bare: Path) -> None:
    assert vector(bare) == pytest.approx(vector(masked), abs=1e-6)
    with pytest.raises(StageError, match="is no masked language model"):
        SentenceEncoder(str(bare), "cpu", 1)


def test_another_pooling_is_refused(bare: Path) -> None:
    pooled(bare, pooling_mode_max_tokens=True, pooling_mode_mean_tokens=True)
    with pytest.raises(StageError, match="its vectors are max and mean of the states"):
        vector(bare)


def with_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_weights_that_are_not_finite_are_refused(bare: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["encoder.layer.0.output.dense.bias"][3] = torch.nan

    with pytest.raises(StageError, match="'encoder.layer.0.output.dense.bias' hold NaN"):
        vector(with_weights(bare, spoil))


def test_missing_weights_are_refused(bare: Path) -> None:
    def lose(weights: dict[str, torch.Tensor]) -> None:
        del weights["encoder.layer.1.output.dense.bias"]

    with pytest.raises(
        StageError, match=r"1 weights are not in it, .*layer\.1\.output\.dense\.bias"
    ):
        vector(with_weights(bare, lose))


def test_pickles_are_not_read(bare: Path) -> None:
    weights = load_file(bare / "model.safetensors")
    (bare / "model.safetensors").unlink()
    torch.save(weights, bare / "pytorch_model.bin")
    with pytest.raises(StageError, match="no weights in safetensors"):
        check_model(str(bare), "encoder", "--rerank-model")
    with pytest.raises(StageError, match="encoder cannot be loaded"):
        vector(bare)


def test_no_code_of_the_models_own_is_run(bare: Path) -> None:
    config = json.loads((bare / "config.json").read_text())
    config |= {
        "model_type": "own-kind",
        "auto_map": {"AutoModel": "own.Model", "AutoConfig": "own.Config"},
    }
    (bare / "config.json").write_text(json.dumps(config))
    (bare / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(StageError, match="cannot be loaded"):
        vector(bare)


@pytest.mark.parametrize(
    "model",
    [
        T5Model(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)),
        GPT2Model(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, is_decoder=True)),
    ],
    ids=["t5", "gpt2"],
)
def test_decoders_are_refused(masked: Path, tmp_path: Path, model: torch.nn.Module) -> None:
    folder = Path(shutil.copytree(masked, tmp_path / "decoder"))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    with pytest.raises(StageError, match="has a decoder; use an encoder"):
        vector(folder)

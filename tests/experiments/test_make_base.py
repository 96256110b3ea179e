"""experiments/make_base.py on a tiny encoder without a head."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from schemas.errors import ConfigError, TrelmError
from tests.conftest import ROOT
from tests.trelm_train import world
from trelm_train.config import TrainConfig
from trelm_train.model.masked_lm import load_pretrained

SCRIPT = ROOT / "experiments" / "make_base.py"
# Words that the tokenizer learns and no text of the base has.
UNUSED = "zebra quagga zebra quagga zebra quagga"
WARMUP = TrainConfig(
    steps=60, batch_tokens=256, learning_rate=0.005, dropout=0.0, threads=1, loggers=(),
    checkpoint_every=1_000_000,
)  # fmt: skip


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_base", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules["make_base"] = module
    spec.loader.exec_module(module)
    return module


make_base = load_script()


@pytest.fixture(autouse=True)
def _settings_of_transformers() -> Iterator[None]:
    """The command line silences transformers; other tests read its warnings."""
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    yield
    hf_logging.set_verbosity(verbosity)


def sentences() -> list[str]:
    return [template.format(h=fact[0], t=fact[2]) for template, fact in world.sentences()]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "world.txt"
    path.write_text("\n".join(sentences()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder as one comes: no head, and a tokenizer that cuts and pads."""
    folder = tmp_path_factory.mktemp("encoder")
    corpus = sentences() * 2 + world.ENTITIES + [UNUSED] * 20
    tokenizer: Any = make_base.wordpiece_tokenizer(
        **_pieces_of(world.train_tokenizer(lambda: iter(corpus), 400))
    )
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    torch.manual_seed(0)
    config = BertConfig(
        # Two rows more than pieces, as models have that were padded to a round number.
        vocab_size=len(tokenizer) + 2, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _pieces_of(tokenizer: Any) -> dict[str, Any]:
    backend = tokenizer.backend_tokenizer
    return {
        "pieces": tokenizer.get_vocab(),
        "normalizer": backend.normalizer,
        "splitter": backend.pre_tokenizer,
    }


def request(encoder: Path, text: Path, out: Path, **options: Any) -> Any:
    return make_base.BaseRequest(
        **{"model": encoder, "out": out, "texts": (text,), "warmup": WARMUP, **options}
    )


@pytest.mark.slow
def test_a_base_of_an_encoder_without_a_head(
    encoder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "base"
    command = [
        "--model",
        encoder,
        "--text",
        text,
        "--vocabulary-from",
        text,
        "--measure",
        text,
        "--out",
        out,
    ]
    options = [
        "--steps",
        "60",
        "--batch-tokens",
        "256",
        "--learning-rate",
        "0.005",
        "--threads",
        "1",
    ]
    assert make_base.main([*map(str, command), *options]) == 0
    assert "masked-LM loss on world.txt: " in capsys.readouterr().out

    record = json.loads((out / "base.json").read_text())
    assert record["loss_after"] < 0.8 * record["loss_before"], "it has learned the text"
    assert not record["had_head"]
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (encoder, out))
    assert len(after) == record["vocabulary"] < len(before)
    assert set(after.get_vocab()) < set(before.get_vocab())
    assert "zebra" in before.get_vocab()
    assert "zebra" not in after.get_vocab()
    model = load_pretrained(str(out), torch.device("cpu"))
    assert model.config.vocab_size == len(after)
    assert model.hf.get_output_embeddings().weight is model.word_embeddings.weight  # type: ignore[operator]

    assert make_base.main([*map(str, command), *options]) == 2
    assert "holds a model already" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(encoder: Path, text: Path, tmp_path: Path) -> None:
    brief = replace(WARMUP, steps=5)
    for name, warmup in (("a", brief), ("b", brief), ("c", replace(brief, seed=1))):
        made = request(encoder, text, tmp_path / name, warmup=warmup, vocabulary_from=(text,))
        make_base.make_base(made)
    first, second, other = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b", "c")
    )
    assert first == second
    assert first != other


def test_a_cut_vocabulary_cuts_used_texts_as_before(encoder: Path, text: Path) -> None:
    full = make_base.plain_tokenizer(encoder, num_rows=1000)
    kept = make_base.kept_ids(full, (text,), ())
    cut = make_base.cut_tokenizer(full, kept)
    for sentence in [*sentences(), " ".join(sentences())]:
        pieces = full.convert_ids_to_tokens(full(sentence)["input_ids"])
        again = cut(sentence)["input_ids"]
        assert cut.convert_ids_to_tokens(again) == pieces, "also longer than the old limit of 8"
        assert cut.decode(again) == full.decode(full(sentence)["input_ids"])
    # A word that is not in use is spelled, as all its characters are still there.
    spelled = cut("zebra", add_special_tokens=False)["input_ids"]
    assert cut.decode(spelled) == "zebra"
    assert len(spelled) > 1
    assert cut.unk_token_id not in spelled


def test_a_cut_model_is_the_same_on_kept_pieces(encoder: Path, text: Path) -> None:
    hf, has_head = make_base.load_bert(encoder)
    assert not has_head
    make_base.regrow_head(hf)
    full = make_base.plain_tokenizer(encoder, num_rows=hf.config.vocab_size)
    kept = make_base.kept_ids(full, (text,), ())
    cut, smaller = make_base.cut_tokenizer(full, kept), make_base.cut_model(hf, kept)
    for model in (hf, smaller):
        model.eval()
    with torch.no_grad():
        old = hf(**full(sentences()[0], return_tensors="pt")).logits
        new = smaller(**cut(sentences()[0], return_tensors="pt")).logits
    assert torch.allclose(new, old[..., torch.from_numpy(kept)], atol=1e-5)


def test_a_new_head_is_an_identity_up_to_its_activation(encoder: Path) -> None:
    hf, _ = make_base.load_bert(encoder)
    make_base.regrow_head(hf)
    states = torch.randn(3, 32)
    expected = torch.nn.functional.layer_norm(
        torch.nn.functional.gelu(states), (32,), eps=hf.config.layer_norm_eps
    )
    table = hf.get_input_embeddings().weight
    assert torch.allclose(hf.cls(states), expected @ table.T, atol=1e-6)


def test_a_head_that_is_there_is_kept(encoder: Path, tmp_path: Path) -> None:
    with_head = BertForMaskedLM(BertConfig.from_pretrained(encoder))
    with_head.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    hf, has_head = make_base.load_bert(tmp_path)
    assert has_head
    dense = with_head.cls.predictions.transform.dense.weight
    assert torch.equal(hf.cls.predictions.transform.dense.weight, dense)


def test_what_a_vocabulary_is_kept_for(encoder: Path, text: Path, tmp_path: Path) -> None:
    tokenizer = make_base.plain_tokenizer(encoder, num_rows=1000)
    zebra = tokenizer.get_vocab()["zebra"]

    def keeps(path: Path) -> bool:
        return bool(np.isin(zebra, make_base.kept_ids(tokenizer, (text,), (path,))))

    probes, folder = tmp_path / "P1.jsonl", tmp_path / "texts"
    probes.write_text(json.dumps({"sub_label": "Zenda", "obj_label": "zebra", "n": 1}) + "\n")
    folder.mkdir()
    (folder / "a.txt").write_text("A zebra.")
    shards = world.write_shards(
        tmp_path / "shards", tokenizer, world.example_columns(tokenizer), world.knowledge_columns(tokenizer)
    )  # fmt: skip
    assert [keeps(path) for path in (text, probes, folder, shards)] == [False, True, True, False]


def test_files_are_mixed_line_by_line() -> None:
    corpus = ["\n".join(f"{name}{number}" for number in range(500)) for name in "ab"]
    first, again, other = (list(make_base.mixed(corpus, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert sorted("\n".join(first).split("\n")) == sorted("\n".join(corpus).split("\n"))
    assert all({line[0] for line in text.split("\n")} == {"a", "b"} for text in first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": Path("nowhere")}, "has no config.json"),
        ({"texts": (Path("nowhere.txt"),)}, "cannot read it"),
        ({"vocabulary_from": (Path("nowhere"),)}, "cannot read it"),
        ({"warmup": replace(WARMUP, steps=0)}, "greater than 0"),
    ],
)
def test_wrong_options(
    options: dict[str, Any], message: str, encoder: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_base.make_base(request(encoder, text, tmp_path / "base", **options))
    assert not (tmp_path / "base").exists()


def test_wrong_models_and_texts(encoder: Path, text: Path, tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.txt", tmp_path / "broken.jsonl"
    empty.write_text(" \n")
    broken.write_text("{")
    with pytest.raises(TrelmError, match="hold no text"):
        make_base.make_base(request(encoder, empty, tmp_path / "base"))
    with pytest.raises(ConfigError, match=r"broken.jsonl:1: not JSON"):
        make_base.make_base(request(encoder, broken, tmp_path / "base"))
    with pytest.raises(ConfigError, match="do not belong together"):
        make_base.plain_tokenizer(encoder, num_rows=10)

    other = tmp_path / "other"
    BertModel(BertConfig.from_pretrained(encoder)).save_pretrained(other)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(other)
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "model_type": "roberta"}))
    with pytest.raises(ConfigError, match="give a BERT"):
        make_base.load_bert(other)
    (other / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match="of the encoder such as"):
        make_base.load_bert(other)

"""The small real BERT and the real probes of the data kit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.trelm_train import world
from tests.trelm_train.conftest import request_for
from trelm_train.attribution import attribute, quadrature
from trelm_train.cli import cli
from trelm_train.loader import BatchStream, Packing, Position
from trelm_train.model import check_tokenizer, load_pretrained, load_tokenizer
from trelm_train.routing import make_probe
from trelm_train.shards import open_shards
from trelm_train.train import run

pytestmark = pytest.mark.kit


@pytest.fixture(scope="module")
def real_model(kit: Path) -> Path:
    return kit / "model" / "splade-tiny-msmarco-mlm"


@pytest.fixture(scope="module")
def real_tokenizer(real_model: Path) -> Any:
    return load_tokenizer(str(real_model))


@pytest.fixture(scope="module")
def out(real_model: Path, real_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit")
    examples, knowledge = world.example_columns(real_tokenizer), world.knowledge_columns(real_tokenizer)
    shards = world.write_shards(folder / "shards", real_tokenizer, examples, knowledge)
    request = request_for(
        shards, real_model, folder / "out", "train.steps=10", "train.learning_rate=0.0005", "routing.share=0.1"
    )
    run(request)
    return request.out


def test_a_real_model_trains_and_exports(out: Path) -> None:
    from transformers import AutoModelForMaskedLM

    summary = json.loads((out / "summary.json").read_text())
    assert summary["validation_after"]["loss"] < summary["validation_before"]["loss"]
    assert summary["weights_updated_share"] < 0.01, "a tenth of the FFN of a model that is mostly embeddings"
    _, info = AutoModelForMaskedLM.from_pretrained(out / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_one_midpoint_picks_what_the_integral_picks(out: Path) -> None:
    """Overlap of the top tenth with a 16-point integral; a real model, since a random one has no signal."""
    shards = open_shards(Path(json.loads((out / "run.json").read_text())["shards"]))
    model = load_pretrained(str(out / "initial"), torch.device("cpu"))
    vocabulary = check_tokenizer(str(out / "initial"), model, shards)
    stream = BatchStream(
        shards, Packing(max_tokens=128, batch_tokens=1024, limit=512), seed=0, pad_id=vocabulary.pad_id
    )
    batch, _ = next(stream.iterate(Position()))
    probe = make_probe(batch, vocabulary, seed=0, limit=100)
    assert probe is not None
    packed = model.pack(batch, probe.input_ids_RS)
    rules = quadrature("gauss_legendre", 16), quadrature("midpoint", 1)
    exact, quick = (attribute(model, packed, probe.targets, rule).clamp(min=0).sum(0).flatten() for rule in rules)
    count = len(exact) // 10
    overlap = set(exact.topk(count).indices.tolist()) & set(quick.topk(count).indices.tolist())
    assert len(overlap) / count >= 0.85


def test_real_probes(kit: Path, real_model: Path) -> None:
    probes = kit / "probes"
    paths = {
        "--probes": "pararel_trex_lms_vocab",
        "--relations": "LAMA_relations.jsonl",
        "--common-vocab": "common_vocab_cased.txt",
    }
    options = [word for name, path in paths.items() for word in (name, str(probes / path))]
    command = ["evaluate", "lama", "--model", str(real_model), *options, "--limit", "20", "--json"]
    result = json.loads(CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert result["num_relations"] == 13
    assert "P19" in result["missing_relations"]
    assert 0 < result["macro"]["mrr"] < 1
    assert 15000 < result["candidates"] < 21018


def test_a_real_mask(real_model: Path, real_tokenizer: Any) -> None:
    model = load_pretrained(str(real_model), torch.device("cpu"))
    model.hf.eval()
    with torch.no_grad():
        ids = torch.tensor([real_tokenizer("paris is the capital of [MASK] .")["input_ids"]])
        logits = model.hf(input_ids=ids).logits[0, ids[0].tolist().index(real_tokenizer.mask_token_id)]
    assert "france" in [real_tokenizer.decode([i]).strip() for i in logits.topk(50).indices.tolist()]

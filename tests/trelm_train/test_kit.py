"""The small real BERT and the real probes of the data kit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from benchmarks.shards_data import make_roberta
from tests.trelm_train import world
from tests.trelm_train.conftest import request_for
from tests.trelm_train.training.test_train import StopAfter
from trelm_train.cli import cli
from trelm_train.data.loader import Packing
from trelm_train.model.families import Packed
from trelm_train.model.masked_lm import MaskedLm, load_pretrained, load_tokenizer
from trelm_train.routing.attribution import (
    Cut,
    Targets,
    Walk,
    attribute,
    evaluating,
    make_estimator,
)
from trelm_train.routing.probes import Probe, chunks
from trelm_train.training.signals import InterruptedRun
from trelm_train.training.train import resume, run

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
    examples, knowledge = (
        world.example_columns(real_tokenizer),
        world.knowledge_columns(real_tokenizer),
    )
    shards = world.write_shards(folder / "shards", real_tokenizer, examples, knowledge)
    request = request_for(
        shards,
        real_model,
        folder / "out",
        "train.steps=10",
        "train.learning_rate=0.0005",
        "routing.share=0.1",
    )
    run(request)
    return request.out


def test_a_real_model_trains_and_exports(out: Path) -> None:
    from transformers import AutoModelForMaskedLM

    summary = json.loads((out / "summary.json").read_text())
    assert summary["validation_after"]["loss"] < summary["validation_before"]["loss"]
    assert summary["weights_updated_share"] < 0.01, (
        "a tenth of the FFN of a model that is mostly embeddings"
    )
    _, info = AutoModelForMaskedLM.from_pretrained(out / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


@pytest.fixture(scope="module")
def facts(kit: Path, real_model: Path, real_tokenizer: Any) -> tuple[MaskedLm, Packed, Targets]:
    """24 facts as ParaRel and LAMA put them, the object masked, for the trained model."""
    model = load_pretrained(str(real_model), torch.device("cpu"))
    mask = real_tokenizer.mask_token
    probes = []
    for relation, template in (
        ("P17", "[X] is located in [Y] ."),
        ("P36", "The capital of [X] is [Y] ."),
    ):
        for line in (
            (kit / "probes" / "pararel_trex_lms_vocab" / f"{relation}.jsonl")
            .read_text()
            .splitlines()[:12]
        ):
            row = json.loads(line)
            gold = real_tokenizer(row["obj_label"], add_special_tokens=False)["input_ids"]
            text = template.replace("[X]", row["sub_label"]).replace("[Y]", mask * len(gold))
            ids = real_tokenizer(text)["input_ids"]
            at = np.flatnonzero(np.asarray(ids) == real_tokenizer.mask_token_id)
            probes.append(Probe(input_ids=ids, position_T=at, gold_T=np.asarray(gold, np.int64)))
    ((batch, targets),) = chunks(probes, Packing(max_tokens=128, batch_tokens=2048, limit=512), 0)
    return model, model.pack(batch), targets


def overlap(left: Tensor, right: Tensor) -> float:
    count = left.numel() // 10
    best = [set(scores.flatten().topk(count).indices.tolist()) for scores in (left, right)]
    return len(best[0] & best[1]) / count


@pytest.mark.parametrize(
    ("rule", "points", "least", "how"),
    [
        ("midpoint", 1, 0.93, {}),
        ("gauss_legendre", 2, 0.97, {}),
        ("midpoint", 1, 0.93, {"context": "fixed"}),
        ("gauss_legendre", 2, 0.97, {"context": "fixed"}),
        ("midpoint", 1, 0.93, {"precision": "bfloat16"}),
    ],
)
def test_few_points_pick_what_the_integral_picks(
    rule: str,
    points: int,
    least: float,
    how: dict[str, str],
    facts: tuple[MaskedLm, Packed, Targets],
) -> None:
    """Top tenth against the 20-step integral, summed over facts; on a trained model, since a random one has no signal."""
    exact = attribute(*facts, make_estimator("midpoint", 20)).sum(0)
    assert overlap(attribute(*facts, make_estimator(rule, points, **how)).sum(0), exact) >= least


def test_the_integral_is_complete(facts: tuple[MaskedLm, Packed, Targets]) -> None:
    """|sum Attr - (P(v) - P(0))| <= .02 max(|P(v) - P(0)|, .01), per fact and layer, at 20 steps."""
    model, packed, targets = facts
    attribution = attribute(*facts, make_estimator("midpoint", 20))
    with evaluating(model, "float32"), torch.no_grad():
        walk = Walk(model, packed, targets)
        for cut in walk.cuts():
            gain = walk.probabilities(cut, cut.neurons_TI) - walk.probabilities(
                cut, torch.zeros_like(cut.neurons_TI)
            )
            missing = (attribution[:, cut.layer].sum(-1) - gain).abs()
            assert (missing <= 0.02 * gain.abs().clamp(min=0.01)).all()


def test_captum_agrees_on_a_trained_model(facts: tuple[MaskedLm, Packed, Targets]) -> None:
    from captum.attr import IntegratedGradients

    model, packed, targets = facts
    rows = np.flatnonzero(targets.example_T == 0)
    one = Targets(
        position_T=targets.position_T[rows],
        example_T=rows * 0,
        gold_T=targets.gold_T[rows],
        num_examples=1,
    )
    ours = attribute(model, packed, one, make_estimator("midpoint", 20))[0]
    with evaluating(model, "float32"):
        walk = Walk(model, packed, one)
        for cut in walk.cuts():

            def f(many: Tensor, cut: Cut = cut) -> Tensor:
                return torch.cat(
                    [walk.probabilities(cut, v.view(cut.neurons_TI.shape)) for v in many]
                )

            oracle = IntegratedGradients(f).attribute(
                cut.neurons_TI.reshape(1, -1), n_steps=20, method="riemann_middle"
            )
            wanted = oracle.view(cut.neurons_TI.shape).sum(0).float()
            assert float((ours[cut.layer] - wanted).abs().max() / wanted.abs().max()) <= 1e-5


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
        logits = model.hf(input_ids=ids).logits[
            0, ids[0].tolist().index(real_tokenizer.mask_token_id)
        ]
    assert "france" in [
        real_tokenizer.decode([i]).strip() for i in logits.topk(50).indices.tolist()
    ]


@pytest.mark.slow
def test_roberta_on_a_byte_level_tokenizer(kit: Path, tmp_path: Path) -> None:
    """GPT-2's vocabulary and merges behind RoBERTa's special tokens; random weights; everything on;
    stopped once.
    """
    from transformers import AutoModelForMaskedLM

    folder = tmp_path / "roberta"
    tokenizer = load_tokenizer(str(make_roberta(folder, kit / "model" / "gpt2-bpe")))
    world.make_roberta(len(tokenizer)).save_pretrained(folder)
    examples, knowledge = world.example_columns(tokenizer), world.knowledge_columns(tokenizer)
    shards = world.write_shards(tmp_path / "shards", tokenizer, examples, knowledge)
    sets = ("train.steps=8", "train.validate=true", "evaluation.every=4", "evaluation.best=loss")
    whole = run(request_for(shards, folder, tmp_path / "whole", *sets))
    with pytest.raises(InterruptedRun):
        run(request_for(shards, folder, tmp_path / "out", *sets), StopAfter(2))
    summary = resume(tmp_path / "out")
    for name in ("loss_last", "validation_after", "best", "weights_updated_share"):
        assert summary[name] == whole[name]
    assert summary["loss_last"] < summary["loss_first"]
    assert summary["bank_rows_written"] > 0
    assert summary["facts_per_step_last"] > 0
    assert summary["injected_per_step_last"] > 0
    exported, info = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "out" / "model", output_loading_info=True
    )
    assert exported.config.model_type == "roberta"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]

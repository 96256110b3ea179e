"""Ranks: ties count against the model, models that know nothing are last, broken ones an error."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError
from tests.trelm_train.evaluate.broken import logits_by, with_one, zeroed
from trelm_train.cli import cli
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Packing
from trelm_train.data.masking import Vocabulary
from trelm_train.data.shards import Shards
from trelm_train.evaluate.answers import Answers, Cloze, ask, ranks_of
from trelm_train.evaluate.finite import NotFiniteError
from trelm_train.evaluate.lama import Options, evaluate_lama
from trelm_train.evaluate.mlm import MlmReport, evaluate_mlm
from trelm_train.model.masked_lm import MaskedLm

PACKING = Packing(max_tokens=64, batch_tokens=256, limit=64)
CANDIDATES = np.arange(5, 60)
CLOZES = [Cloze(ids=[2, 9, 4, 11, 3], mask_position=2, gold=gold) for gold in (5, 20, 59)]
NOT_FINITE = pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])


def asked(model: MaskedLm, num_top: int = 3) -> Answers:
    return ask(model, 0, CANDIDATES, CLOZES, num_top)


def mlm_of(
    model: MaskedLm, vocabulary: Vocabulary, shards: Shards, knowledge: Knowledge
) -> MlmReport:
    return evaluate_mlm(model, vocabulary, shards, knowledge, PACKING)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12),
    st.integers(min_value=0),
)
@settings(deadline=None, max_examples=60)
def test_the_rank_is_one_plus_better_plus_equal_others(values: list[float], choice: int) -> None:
    gold = choice % len(values)
    others = values[:gold] + values[gold + 1 :]
    rank = 1 + sum(other > values[gold] for other in others) + others.count(values[gold])
    logits = torch.tensor([values])
    assert ranks_of(logits, logits[:, gold : gold + 1]).tolist() == [rank]


def test_a_zeroed_model_is_last(model: MaskedLm) -> None:
    answers = asked(zeroed(model))
    assert answers.rank_M.tolist() == [len(CANDIDATES)] * 3
    assert answers.p_gold_M == pytest.approx(1 / model.config.vocab_size)
    # Equal answers in the order of their ids.
    assert answers.top_id_MK.tolist() == [[5, 6, 7]] * 3


def test_a_constant_model_is_right_about_one_token_at_most(model: MaskedLm) -> None:
    with logits_by(
        model, lambda logits: torch.zeros_like(logits).index_fill(1, torch.tensor([20]), 1)
    ):
        assert asked(model).rank_M.tolist() == [len(CANDIDATES), 1, len(CANDIDATES)]


def test_two_best_answers_are_no_right_one(model: MaskedLm) -> None:
    best = torch.tensor([20, 21])
    with logits_by(model, lambda logits: logits.index_fill(1, best, 99.0)):
        assert asked(model).rank_M[1] == 2


@NOT_FINITE
def test_a_logit_that_is_not_finite_is_an_error(value: float, model: MaskedLm) -> None:
    with (
        logits_by(model, with_one(value)),
        pytest.raises(NotFiniteError, match=f"^{model.name}: NaN or infinite logits at 1 of 3"),
    ):
        asked(model)


def test_the_order_of_batches_changes_nothing(model: MaskedLm) -> None:
    """Questions of many lengths, which the loader sorts into batches."""
    random = np.random.default_rng(1)
    lengths = random.integers(4, 40, 30).tolist()
    clozes = [
        Cloze(ids=[2, 4, *random.integers(5, 60, length).tolist(), 3], mask_position=1, gold=30)
        for length in lengths
    ]
    together = ask(model, 0, CANDIDATES, clozes, 2)
    for number, cloze in enumerate(clozes):
        alone = ask(model, 0, CANDIDATES, [cloze], 2)
        assert together.rank_M[number] == alone.rank_M[0]
        assert together.top_id_MK[number].tolist() == alone.top_id_MK[0].tolist()
        assert together.p_gold_M[number] == pytest.approx(alone.p_gold_M[0], rel=1e-4)


def test_a_zeroed_model_scores_nothing_anywhere(
    model: MaskedLm,
    vocabulary: Vocabulary,
    shards: Shards,
    knowledge: Knowledge,
    tokenizer: Any,
    probes: Path,
) -> None:
    options = Options(probes=probes, relations=probes / "relations.jsonl")
    lama = evaluate_lama(zeroed(model), tokenizer, options)
    assert lama["macro"]["p_at_1"] == lama["macro"]["p_at_10"] == 0
    assert lama["macro"]["mrr"] == pytest.approx(1 / lama["candidates"])

    report = mlm_of(model, vocabulary, shards, knowledge)
    assert report.num_masked > 0
    assert report.accuracy == 0
    assert report.loss == pytest.approx(math.log(model.config.vocab_size))
    # The true tail is as likely as any other: what knowing nothing means.
    assert report.num_facts > 0
    assert report.cka_score == pytest.approx(1)


@NOT_FINITE
def test_no_evaluation_scores_a_broken_model(
    value: float,
    model: MaskedLm,
    vocabulary: Vocabulary,
    shards: Shards,
    knowledge: Knowledge,
    tokenizer: Any,
    probes: Path,
) -> None:
    options = Options(probes=probes, relations=probes / "relations.jsonl")
    with logits_by(model, with_one(value)):
        with pytest.raises(NotFiniteError, match=rf"^{model.name}: .* of the probes, so it has no"):
            evaluate_lama(model, tokenizer, options)
        with pytest.raises(NotFiniteError, match=f"^{model.name}: .* of the validation split"):
            mlm_of(model, vocabulary, shards, knowledge)


def test_a_broken_model_is_refused_by_the_commands(
    model: MaskedLm, tokenizer: Any, shards_path: Path, probes: Path, tmp_path: Path
) -> None:
    with torch.no_grad():
        model.layers[1].output.dense.weight[0, 0] = math.nan
    model.hf.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lama = ("lama", "--probes", probes, "--relations", probes / "relations.jsonl", "--json")
    for command in (lama, ("mlm", "--shards", shards_path, "--json")):
        words = ["evaluate", *map(str, command), "--model", str(tmp_path), "--device", "cpu"]
        outcome = CliRunner().invoke(cli, words)
        assert isinstance(outcome.exception, ConfigError)
        assert "layer.1.output.dense.weight" in str(outcome.exception)
        assert outcome.stdout == ""


def test_json_never_holds_nan() -> None:
    from trelm_train.command_options import show

    with pytest.raises(ValueError, match="not JSON compliant"):
        show({"loss": math.nan}, "", as_json=True)
    assert json.dumps(None) == "null"

"""Objects of several tokens: by hand, by plain passes of the model, and what is left out."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.trelm_train.evaluate.broken import logits_by, with_one, zeroed
from tests.trelm_train.evaluate.known import (
    Table,
    fact,
    known_bert,
    known_model,
    tokenizer_of,
    write_jsonl,
)
from trelm_train.cli import cli
from trelm_train.evaluate.finite import NotFiniteError
from trelm_train.evaluate.lama import Options, Prober, evaluate_lama, readable
from trelm_train.evaluate.lama_multi_token import (
    ALL_MASKS,
    LEFT_TO_RIGHT,
    METHODS,
    log_p_of_candidates,
    slots_of,
)
from trelm_train.model.masked_lm import MaskedLm

WORDS = ["Ann", "Bob", "Rome", "New", "York", "Bern", "##ville", "lives", "in", "."]
# York is likely where New stands already, and not without.
TABLE: Table = {"Ann": {"New": 60, "Rome": 55}, "New": {"York": 90}, "Bob": {"Bern": 80}}
OBJECTS = [
    ("Rome",),
    ("New", "York"),
    ("New", "Bern"),
    ("Rome", "##ville"),
    ("New", "York", "Bern"),
]


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    folder = tmp_path / "probes"
    relations = [
        {"relation": "P1", "template": "[X] lives in [Y] .", "type": "N-1"},
        {"relation": "P2", "template": "[X] in [Y] ."},
    ]
    write_jsonl(folder / "relations.jsonl", relations)
    write_jsonl(
        folder / "P1.jsonl",
        [
            fact("Ann", "New York"), fact("Ann", "Rome"), fact("Bob", "New Bern"), fact("Bob", "Rome"),
            fact("Bob", "Nowhere"), fact("[MASK]", "Rome"), fact("Bob " * 60, "Rome"),
        ],
    )  # fmt: skip
    write_jsonl(folder / "P2.jsonl", [fact("Ann", "Rome"), fact("Bob", "Rome")])
    return folder


def plain_log_p(
    model: Any, ids: list[int], mask: int, tokens: list[int], method: str, mask_id: int
) -> float:
    """The sum over an object's tokens, one pass of the model for each."""
    total = 0.0
    for place, token in enumerate(tokens):
        shown = list(tokens[:place]) if method == LEFT_TO_RIGHT else [mask_id] * place
        shown += [mask_id] * (len(tokens) - place)
        text = [*ids[:mask], *shown, *ids[mask + 1 :]]
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([text])).logits[0, mask + place]
        total += float(logits.double().log_softmax(0)[token])
    return total


@pytest.mark.parametrize("method", METHODS)
def test_scores_equal_plain_passes(method: str, model: MaskedLm, tokenizer: Any) -> None:
    """Sentences of many lengths, and objects of one to four tokens that share beginnings."""
    prober = Prober(model, tokenizer, None)
    random = np.random.default_rng(3)
    candidates = [
        (9,),
        (12,),
        (9, 12),
        (9, 13),
        (20, 9, 12),
        (20, 9, 13),
        (20, 9, 13, 13),
        (9, 12, 30),
    ]
    sentences = []
    for _ in range(7):
        before, after = (random.integers(5, 60, random.integers(0, 12)).tolist() for _ in range(2))
        ids = [
            tokenizer.cls_token_id,
            *before,
            tokenizer.mask_token_id,
            *after,
            tokenizer.sep_token_id,
        ]
        sentences.append((ids, 1 + len(before)))
    sums = log_p_of_candidates(prober, sentences, candidates, method)
    for row, (ids, mask) in enumerate(sentences):
        for column, tokens in enumerate(candidates):
            wanted = plain_log_p(model, ids, mask, list(tokens), method, tokenizer.mask_token_id)
            assert sums[row, column] == pytest.approx(wanted, rel=1e-4)


def test_sentences_are_shared() -> None:
    candidates = [(1,), (2,), (1, 2), (1, 3), (4, 2), (1, 3, 5)]
    # One sentence per length; or per length and beginning.
    assert {(slot.filled, slot.num_tokens) for slot in slots_of(candidates, ALL_MASKS)} == {
        ((), 1), ((), 2), ((), 3),
    }  # fmt: skip
    assert {(slot.filled, slot.num_tokens) for slot in slots_of(candidates, LEFT_TO_RIGHT)} == {
        ((), 1), ((), 2), ((1,), 2), ((4,), 2), ((), 3), ((1,), 3), ((1, 3), 3),
    }  # fmt: skip
    for method in METHODS:
        assert sum(len(slot.token_G) for slot in slots_of(candidates, method)) == 11


def ranks(sentence_length: int, method: str) -> dict[str, int]:
    """The ranks for Ann by hand: a token in the sentence adds its strength over the length."""
    size = 5 + len(WORDS)

    def log_p(strengths: dict[str, float], token: str) -> float:
        rest = size - len(strengths)
        return strengths.get(token, 0.0) - math.log(sum(map(math.exp, strengths.values())) + rest)

    means = {}
    for tokens in OBJECTS[:3]:
        length = sentence_length - 1 + len(tokens)
        total = 0.0
        for place, token in enumerate(tokens):
            strengths = {name: value / length for name, value in TABLE["Ann"].items()}
            if method == LEFT_TO_RIGHT and place:
                strengths["York"] = 90 / length
            total += log_p(strengths, token)
        means[" ".join(tokens)] = total / len(tokens)
    return {name: sum(other >= mean for other in means.values()) for name, mean in means.items()}


@pytest.mark.parametrize("method", METHODS)
def test_ranks_by_hand(method: str, probes: Path) -> None:
    # [CLS] Ann lives in [MASK] . [SEP]
    wanted = ranks(7, method)
    assert wanted["Rome"] == (1 if method == ALL_MASKS else 2)
    tokenizer = tokenizer_of(WORDS)
    found = {}
    for answer in ("Rome", "New York", "New Bern"):
        rows = [fact("Ann", answer), *(fact("Bob", other) for other in wanted if other != answer)]
        write_jsonl(probes / "P1.jsonl", rows)
        options = Options(probes=probes, multi_token=method, limit=1)
        result = evaluate_lama(known_model(tokenizer, TABLE), tokenizer, options)["multi_token"]
        assert result["relations"]["P1"]["n"] == 1
        assert result["relations"]["P1"]["num_candidates"] == 3
        found[answer] = round(1 / result["relations"]["P1"]["mrr"])
    assert found == wanted


def test_it_stands_beside_lamas_protocol(probes: Path) -> None:
    tokenizer = tokenizer_of(WORDS)
    model = known_model(tokenizer, TABLE)
    plain = evaluate_lama(model, tokenizer, Options(probes=probes))
    result = evaluate_lama(model, tokenizer, Options(probes=probes, multi_token=LEFT_TO_RIGHT))
    other = result.pop("multi_token")
    assert result == plain
    assert plain["excluded"]["object_not_one_token"] == 3
    # Rome, New York, New Bern; P2 has one object, which anybody would name.
    assert other["relations"].keys() == {"P1"}
    assert other["relations"]["P1"]["n"] == 4
    assert other["relations"]["P1"]["num_candidates"] == 3
    assert other["relations"]["P1"]["num_of_several_tokens"] == 2
    assert other["chance_p_at_1"] == pytest.approx(1 / 3)
    assert other["excluded"] == {
        "not_one_mask": 1, "object_unknown": 1, "relation_with_fewer_than_two_candidates": 2, "too_long": 1,
    }  # fmt: skip
    assert {name: group["num_items"] for name, group in other["groups"]["tokens"].items()} == {
        "1": 2, "2": 2,
    }  # fmt: skip
    # Ann: New York is better than Rome, and right as well.
    assert other["filtered"]["num_items_with_other_answers"] == 4
    assert other["filtered"]["micro"]["p_at_1"] > other["micro"]["p_at_1"]
    text = readable({**result, "multi_token": other})
    assert "another protocol: objects of any number of tokens (left-to-right)" in text
    assert "chance: macro P@1 0.333" in text


@pytest.mark.parametrize("method", METHODS)
def test_a_zeroed_model_is_last(method: str, probes: Path) -> None:
    """All means are equal but for rounding, whatever the number of tokens."""
    tokenizer = tokenizer_of(WORDS)
    options = Options(probes=probes, multi_token=method)
    result = evaluate_lama(zeroed(known_model(tokenizer, TABLE)), tokenizer, options)["multi_token"]
    assert result["micro"] == pytest.approx({"p_at_1": 0, "p_at_10": 1, "mrr": 1 / 3})
    # Two of three candidates are right for each subject.
    assert result["filtered"]["micro"] == pytest.approx({"p_at_1": 0, "p_at_10": 1, "mrr": 1 / 2})


def test_objects_that_read_the_same_are_one_candidate(probes: Path) -> None:
    write_jsonl(
        probes / "P1.jsonl", [fact("Ann", "Rome"), fact("Bob", "rome"), fact("Bob", "new york")]
    )
    tokenizer = tokenizer_of([word.lower() for word in WORDS], lowercase=True)
    options = Options(probes=probes, multi_token=ALL_MASKS)
    result = evaluate_lama(known_model(tokenizer, {}), tokenizer, options)["multi_token"]
    assert result["relations"]["P1"]["num_candidates"] == 2


def test_a_broken_model_is_an_error(probes: Path) -> None:
    tokenizer = tokenizer_of(WORDS)
    model = known_model(tokenizer, TABLE)
    prober = Prober(model, tokenizer, None)
    ids = tokenizer("Ann lives in [MASK] .")["input_ids"]
    with (
        logits_by(model, with_one(math.nan)),
        pytest.raises(NotFiniteError, match="several tokens"),
    ):
        log_p_of_candidates(
            prober, [(ids, ids.index(tokenizer.mask_token_id))], [(5,), (6, 7)], ALL_MASKS
        )


def test_sentences_of_their_own(tmp_path: Path) -> None:
    rows = [
        {
            "masked_sentences": [f"{name} lives in [MASK] ."],
            "obj_label": answer,
            "sub_label": "Squad",
        }
        for name, answer in (("Ann", "New York"), ("Bob", "Bern"), ("Ann", "Rome"))
    ]
    write_jsonl(tmp_path / "Squad" / "test.jsonl", rows)
    tokenizer = tokenizer_of(WORDS)
    options = Options(probes=tmp_path / "Squad", multi_token=LEFT_TO_RIGHT)
    result = evaluate_lama(known_model(tokenizer, TABLE), tokenizer, options)["multi_token"]
    assert result["relations"]["Squad"]["num_candidates"] == 3
    # Nobody says that two of these sentences ask about one subject.
    assert result["filtered"] is None


def test_the_command(probes: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(WORDS)
    known_bert(tokenizer, TABLE).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    command = [
        "evaluate",
        "lama",
        "--model",
        str(tmp_path / "model"),
        "--device",
        "cpu",
        "--probes",
        str(probes),
    ]
    shown = CliRunner().invoke(cli, [*command, "--multi-token", "all-masks", "--json"])
    assert json.loads(shown.stdout)["multi_token"]["method"] == "all-masks"
    shown = CliRunner().invoke(cli, command)
    assert "another protocol" not in shown.output


def test_one_very_long_object_silences_no_relation(probes: Path) -> None:
    """It is no candidate: a sentence with as many masks would have no room for anything else."""
    tokenizer = tokenizer_of(WORDS)
    model = known_model(tokenizer, TABLE)
    options = Options(probes=probes, multi_token=ALL_MASKS)
    plain = evaluate_lama(model, tokenizer, options)["multi_token"]
    for num_tokens in (model.max_tokens // 2 + 1, 5 * model.max_tokens):
        with (probes / "P1.jsonl").open("a") as file:
            file.write(json.dumps(fact("Ann", "Rome " * num_tokens)) + "\n")
        found = evaluate_lama(model, tokenizer, options)["multi_token"]
        assert found["excluded"].pop("object_too_long") >= 1
        assert found == plain

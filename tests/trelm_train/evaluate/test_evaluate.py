import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from schemas.errors import ConfigError
from tests.trelm_train.world import ROW
from trelm_train.cli import cli
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch, Packing
from trelm_train.data.masking import Vocabulary
from trelm_train.data.shards import Shards
from trelm_train.evaluate import lama
from trelm_train.evaluate.lama import (
    Options,
    Prober,
    Questions,
    ask_all,
    evaluate_lama,
    readable,
    scores,
    skip_reason,
)
from trelm_train.evaluate.mlm import NEAR, SMOOTHING, _answer, evaluate_mlm, near_rare
from trelm_train.evaluate.mlm_items import measure
from trelm_train.model.masked_lm import MaskedLm


def test_masks_are_fixed_whatever_the_packing(
    model: MaskedLm, vocabulary: Vocabulary, shards: Shards, knowledge: Knowledge
) -> None:
    wide = evaluate_mlm(
        model, vocabulary, shards, knowledge, Packing(max_tokens=64, batch_tokens=256, limit=64)
    )
    narrow = evaluate_mlm(
        model, vocabulary, shards, knowledge, Packing(max_tokens=20, batch_tokens=20, limit=64)
    )
    assert wide.num_sentences == 6
    assert wide.num_masked == narrow.num_masked > 0
    assert wide.loss == pytest.approx(narrow.loss, abs=1e-4)
    assert wide.entity_loss == pytest.approx(narrow.entity_loss, abs=1e-4)
    assert wide.num_near_rare_masked == narrow.num_near_rare_masked > 0
    assert wide.near_rare_loss == pytest.approx(narrow.near_rare_loss, abs=1e-4)
    assert wide.num_facts == narrow.num_facts > 0
    assert wide.cka_score == pytest.approx(narrow.cka_score, abs=1e-3)


def test_words_near_rare_entities_by_hand(batch: Batch, knowledge: Knowledge) -> None:
    # One entity is rare; its mentions have no row elsewhere.
    rare = int(batch.span_entity_P[0])
    rows = np.full(len(knowledge), -1)
    rows[rare] = 0
    marked = near_rare(batch, replace(knowledge, bank_row=rows))

    wanted = np.zeros(batch.input_ids_RS.size, np.bool_)
    inside = np.zeros_like(wanted)
    for span, entity in enumerate(batch.span_entity_P.tolist()):
        first, end = int(batch.span_start_P[span]), int(batch.span_end_P[span])
        inside[first:end] = True
        sentence = batch.span_sentence_P[span]
        # Without the special tokens at both ends of the sentence.
        low, high = int(batch.start_N[sentence]) + 1, int(batch.end_N[sentence]) - 1
        if entity == rare:
            wanted[max(low, first - NEAR) : min(high, end + NEAR)] = True
    assert np.array_equal(marked, wanted & ~inside)
    assert marked.any()
    assert not near_rare(batch, replace(knowledge, bank_row=np.full(len(knowledge), -1))).any()


def test_the_knowledge_score_by_hand(batch: Batch, knowledge: Knowledge, tokenizer: Any) -> None:
    fact = int(np.flatnonzero(batch.span_entity_P[batch.fact_tail_F] == ROW["Zenda"])[0])
    length = len(knowledge.label_ids.of(ROW["Zenda"]))
    logits = torch.full((length, len(tokenizer)), -20.0)
    for position, token in enumerate(knowledge.label_ids.of(ROW["Zenda"]).tolist()):
        logits[position, token] = 0.0
    answer = _answer(logits, batch, fact, knowledge)
    others = [
        row
        for row in knowledge.tails.of(ROW["lives in"])
        if len(knowledge.label_ids.of(row)) == length
    ]
    if len(others) < 2:
        assert answer is None
    else:
        assert answer is not None
        assert answer.rank == 1
        assert answer.score == pytest.approx((1 + SMOOTHING) / SMOOTHING, rel=0.01)
    assert _answer(logits[:1].repeat(40, 1), batch, fact, knowledge) is None, (
        "another number of tokens"
    )


def test_mlm_command(model_path: Path, shards_path: Path) -> None:
    command = [
        "evaluate",
        "mlm",
        "--model",
        str(model_path),
        "--shards",
        str(shards_path),
        "--device",
        "cpu",
    ]
    data = json.loads(CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).stdout)
    assert data == measure(str(model_path), shards_path, "cpu").to_dict()
    assert "entity_loss" in CliRunner().invoke(cli, command, catch_exceptions=False).output


def test_lama_counts_and_names_what_it_leaves_out(
    model: MaskedLm, tokenizer: Any, probes: Path
) -> None:
    options = Options(
        probes=probes,
        relations=probes / "relations.jsonl",
        common_vocab=probes / "common.txt",
        uhn="string",
    )
    result = evaluate_lama(model, tokenizer, options)
    single = len(tokenizer("Zenda", add_special_tokens=False)["input_ids"]) == 1
    assert result["relations"]["P1"]["n"] == result["num_items"] == 1 + single
    assert result["relations"]["P1"]["type"] == "N-1"
    assert result["excluded"]["duplicate"] == 1
    assert result["excluded"]["uhn_string"] == 1
    assert result["excluded"]["judged_wrong"] == 1
    assert result["excluded"]["no_label"] == 1
    assert result["excluded"]["too_long"] == 1
    assert result["excluded"]["not_one_mask"] == 1
    assert result["excluded"]["object_not_one_token"] == 3 - single
    assert result["missing_relations"] == ["P3"]
    assert result["relations_without_items"] == ["P2"]
    assert result["uhn"] == "string match only"
    text = readable(result)
    assert "relations without a probe file: P3" in text
    assert "1 duplicate" in text


def test_ranks_equal_a_plain_forward(model: MaskedLm, tokenizer: Any, probes: Path) -> None:
    prober = Prober(model, tokenizer, None)
    assert len(prober.candidates) == len(tokenizer) - 5
    items = [
        prober.item("[X] lives in [Y] .", {"sub_label": name, "obj_label": "town"})
        for name in ("Flavia", "Mia of Pyrus")
    ]
    answers = ask_all(prober, Questions(items={"P1": items}), num_top=5)["P1"]  # type: ignore[dict-item]
    for number, item in enumerate(items):
        assert not isinstance(item, str)
        cloze = item.cloze
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([cloze.ids])).logits[0, cloze.mask_position]
        better = int((logits[prober.candidates] > logits[cloze.gold] + 1e-6).sum())
        assert answers.rank_M[number] == better + 1
        p = logits.softmax(-1).numpy()
        assert answers.p_gold_M[number] == pytest.approx(p[cloze.gold], rel=1e-4)
        best = sorted(prober.candidates.tolist(), key=lambda token: -p[token])[:5]
        assert answers.top_id_MK[number].tolist() == best
        assert answers.top_p_MK[number] == pytest.approx(p[best], rel=1e-4)


def test_roberta_objects_follow_a_space(roberta: MaskedLm) -> None:
    seen: list[str] = []

    class Spy:
        all_special_ids: tuple[int, ...] = ()
        unk_token_id = 0

        def __len__(self) -> int:
            return 10

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            seen.append(text)
            return {"input_ids": [5]}

    assert Prober(roberta, Spy(), None).single_token("Paris") == 5
    assert seen == [" Paris"]


def test_scores_by_hand() -> None:
    assert scores(np.array([1, 2, 20, 1])) == {
        "p_at_1": 0.5,
        "p_at_10": 0.75,
        "mrr": pytest.approx((1 + 0.5 + 0.05 + 1) / 4),
    }


def test_macro_is_the_mean_over_relations(model: MaskedLm, tokenizer: Any, probes: Path) -> None:
    (probes / "P2.jsonl").write_text('{"sub_label": "Mona", "obj_label": "king"}\n')
    result = evaluate_lama(
        model, tokenizer, Options(probes=probes, relations=probes / "relations.jsonl")
    )
    rows = result["relations"]
    assert result["macro"]["mrr"] == pytest.approx((rows["P1"]["mrr"] + rows["P2"]["mrr"]) / 2)
    total = rows["P1"]["n"] * rows["P1"]["mrr"] + rows["P2"]["mrr"]
    assert result["micro"]["mrr"] == pytest.approx(total / result["num_items"])


@pytest.mark.parametrize(
    ("judgments", "reason"),
    [
        (["no", "yes"], ""),  # more than half must be against it
        (["no", "no", "yes"], "judged_wrong"),
        (["skip", "skip", "yes"], "judged_wrong"),  # LAMA counts whatever is not a yes as a no
        (["skip", "no", "yes", "yes"], ""),
        ([None, "Yes"], "judged_wrong"),
        ([], ""),  # T-REx has no judgments
    ],
)
def test_judgments_as_lama_counts_them(judgments: list[str], reason: str) -> None:
    row = {
        "sub_label": "a",
        "obj_label": "b",
        "judgments": [{"judgment": judgment} for judgment in judgments],
    }
    assert skip_reason(row, set(), uhn=False) == reason


def test_wrong_probe_files(model: MaskedLm, tokenizer: Any, probes: Path, tmp_path: Path) -> None:
    relations = probes / "relations.jsonl"
    with pytest.raises(ConfigError, match=r"no file P….jsonl"):
        evaluate_lama(model, tokenizer, Options(probes=tmp_path, relations=relations))
    with pytest.raises(ConfigError, match="cannot read"):
        evaluate_lama(model, tokenizer, Options(probes=probes, relations=tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="cannot read"):
        evaluate_lama(
            model,
            tokenizer,
            Options(probes=probes, relations=relations, common_vocab=tmp_path / "none"),
        )
    (tmp_path / "odd.txt").write_text("nosuchwordatall\n")
    with pytest.raises(ConfigError, match="no word in it is a single token"):
        evaluate_lama(
            model,
            tokenizer,
            Options(probes=probes, relations=relations, common_vocab=tmp_path / "odd.txt"),
        )
    for text, message in (
        ("{", "1: not JSON"),
        ("[1]", "not a JSON object"),
        ('{"relation": "P1"}', "without 'relation'"),
    ):
        relations.write_text(text + "\n")
        with pytest.raises(ConfigError, match=message):
            evaluate_lama(model, tokenizer, Options(probes=probes, relations=relations))


def test_lama_command(model_path: Path, probes: Path) -> None:
    command = ["evaluate", "lama", "--model", str(model_path), "--probes", str(probes), "--relations",
               str(probes / "relations.jsonl"), "--limit", "1"]  # fmt: skip
    result = CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["num_items"] == 1
    assert "macro" in CliRunner().invoke(cli, command, catch_exceptions=False).output


@pytest.mark.parametrize("judgments", ["Bob", 5, None, ["yes", 7], {"judgment": "yes"}])
def test_what_is_no_list_of_judgments_is_no_yes(judgments: object) -> None:
    row = {"sub_label": "Ada", "obj_label": "Paris", "judgments": judgments}
    wanted = "" if judgments == {"judgment": "yes"} else "judged_wrong"
    assert lama.skip_reason(row, set(), uhn=False) == wanted

"""LAMA's scores: by hand, and against a second implementation that shares nothing with ours."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.trelm_train.evaluate.broken import zeroed
from tests.trelm_train.evaluate.known import (
    Table,
    fact,
    known_model,
    tokenizer_of,
    write_jsonl,
)
from trelm_train.evaluate.answers import Answers, Cloze, ask
from trelm_train.evaluate.lama import Options, Questions, evaluate_lama, readable, score_answers
from trelm_train.evaluate.lama_files import ProbeFile, ProbeFiles
from trelm_train.evaluate.lama_report import filtered_means, grouped, means, scores

CITIES = ["Rome", "Oslo", "Bern", "Kyiv", "Lima"]
WORDS = [*CITIES, "Ann", "Bob", "Cid", "Dan", "lives", "in", "has", "."]
TABLE: Table = {
    "Ann": {"Rome": 5, "Oslo": 4, "Bern": 3, "Kyiv": 2, "Lima": 1},
    "Bob": {"Lima": 5, "Kyiv": 4, "Bern": 3, "Oslo": 2, "Rome": 1},
    # Two cities are equal.
    "Cid": {"Rome": 5, "Oslo": 5, "Bern": 1},
}
RELATIONS = [
    {"relation": "P1", "template": "[X] lives in [Y] .", "type": "N-1"},
    {"relation": "P2", "template": "[X] has [Y] .", "type": "N-M"},
    {"relation": "P3", "template": "[X] [Y] .", "type": "N-M"},
]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    write_jsonl(tmp_path / "relations.jsonl", RELATIONS)
    write_jsonl(
        tmp_path / "P1.jsonl", [fact("Ann", "Rome"), fact("Bob", "Lima"), fact("Cid", "Oslo")]
    )
    # Ann has three right answers, Bob two.
    write_jsonl(
        tmp_path / "P2.jsonl",
        [
            *(fact("Ann", city) for city in ("Oslo", "Rome", "Kyiv")),
            fact("Bob", "Oslo"),
            fact("Bob", "Rome"),
        ],
    )
    write_jsonl(tmp_path / "P3.jsonl", [fact("Dan", "Rome")])
    words = tmp_path / "words.txt"
    words.write_text("\n".join(CITIES) + "\n")
    return Options(probes=tmp_path, common_vocab=words)


def test_scores_by_hand(options: Options) -> None:
    tokenizer = tokenizer_of(WORDS)
    result = evaluate_lama(known_model(tokenizer, TABLE), tokenizer, options)
    # P1: ranks 1, 1 and, since Rome is as good as Oslo, 2. P2: Oslo 2, Rome 1, Kyiv 4; Oslo 4, Rome 5.
    mrr_1, mrr_2 = (1 + 1 + 1 / 2) / 3, (1 / 2 + 1 + 1 / 4 + 1 / 4 + 1 / 5) / 5
    rows = result["relations"]
    assert rows["P1"] == {
        "n": 3,
        "type": "N-1",
        "p_at_1": pytest.approx(2 / 3),
        "p_at_10": 1,
        "mrr": pytest.approx(mrr_1),
    }
    assert rows["P2"] == {
        "n": 5,
        "type": "N-M",
        "p_at_1": pytest.approx(1 / 5),
        "p_at_10": 1,
        "mrr": pytest.approx(mrr_2),
    }
    # Of Dan the table knows nothing: five equal cities, each of which is last.
    assert rows["P3"] == {"n": 1, "type": "N-M", "p_at_1": 0, "p_at_10": 1, "mrr": 1 / 5}
    assert result["macro"]["p_at_1"] == pytest.approx((2 / 3 + 1 / 5) / 3)
    assert result["micro"]["p_at_1"] == pytest.approx(3 / 9)
    assert result["macro"]["mrr"] == pytest.approx((mrr_1 + mrr_2 + 1 / 5) / 3)
    assert result["micro"]["mrr"] == pytest.approx((3 * mrr_1 + 5 * mrr_2 + 1 / 5) / 9)

    by_type = result["groups"]["type"]
    assert by_type["N-1"]["macro"]["p_at_1"] == pytest.approx(2 / 3)
    assert by_type["N-M"]["macro"]["p_at_1"] == pytest.approx(1 / 5 / 2)
    assert by_type["N-M"]["micro"]["p_at_1"] == pytest.approx(1 / 6)
    assert (by_type["N-M"]["num_items"], by_type["N-M"]["num_relations"]) == (6, 2)


def test_several_right_answers(options: Options) -> None:
    """The published code ranks an object among the subject's other objects; the paper leaves them out."""
    for path in ("P1.jsonl", "P3.jsonl"):
        (options.probes / path).unlink()
    tokenizer = tokenizer_of(WORDS)
    model = known_model(tokenizer, TABLE)
    result = evaluate_lama(model, tokenizer, options)
    assert result["micro"]["p_at_1"] == pytest.approx(1 / 5)
    # Ann: Oslo 1, Rome 1, Kyiv 2 (Bern is better, and wrong). Bob: Oslo 4, Rome 4.
    assert result["filtered"] == {
        "macro": pytest.approx(
            {"p_at_1": 2 / 5, "p_at_10": 1, "mrr": (1 + 1 + 1 / 2 + 1 / 4 + 1 / 4) / 5}
        ),
        "micro": pytest.approx(
            {"p_at_1": 2 / 5, "p_at_10": 1, "mrr": (1 + 1 + 1 / 2 + 1 / 4 + 1 / 4) / 5}
        ),
        "num_items_with_other_answers": 5,
    }
    assert "without the other right answers, which 5 items have:" in readable(result)
    # A right answer that UHN or the limit leaves out is right all the same.
    limited = evaluate_lama(
        model, tokenizer, Options(probes=options.probes, common_vocab=options.common_vocab, limit=1)
    )
    assert limited["filtered"]["micro"]["p_at_1"] == 1
    assert limited["micro"]["p_at_1"] == 0
    # Without a second answer there is nothing to leave out.
    write_jsonl(options.probes / "P2.jsonl", [fact("Ann", "Oslo"), fact("Bob", "Rome")])
    assert evaluate_lama(model, tokenizer, options)["filtered"] is None


def test_a_zeroed_model_is_last_in_every_score(options: Options) -> None:
    tokenizer = tokenizer_of(WORDS)
    result = evaluate_lama(zeroed(known_model(tokenizer, TABLE)), tokenizer, options)
    last = pytest.approx({"p_at_1": 0, "p_at_10": 1, "mrr": 1 / 5})
    assert result["macro"] == last
    assert result["micro"] == last
    # Three cities are left for Ann, four for Bob: last among them.
    filtered = 3 * (1 / 3) + 2 * (1 / 4) + 4 * (1 / 5)
    assert result["filtered"]["micro"]["mrr"] == pytest.approx(filtered / 9)
    assert result["filtered"]["micro"]["p_at_1"] == 0


def test_groups_without_items_have_no_score() -> None:
    none = np.zeros(0, np.int64)
    assert means({}) == means({"P1": none}) == {
        "macro": None, "micro": None, "num_items": 0, "num_relations": 0,
    }  # fmt: skip
    ranks = {"P1": np.asarray([1, 3]), "P2": np.asarray([2])}
    groups = grouped(ranks, {"P1": ["head", "tail"], "P2": ["tail"]})
    assert groups["head"] == {**means({"P1": np.asarray([1])})}
    assert groups["tail"]["macro"]["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert filtered_means(ranks, {"P1": [0, 0], "P2": [0]}) is None


class Written:
    """A model whose logits are written down: of question `key`, at any of its masks."""

    name = "written"
    device = torch.device("cpu")

    def __init__(self, logits_MV: np.ndarray) -> None:
        self.logits_MV, self.hidden_size = torch.from_numpy(logits_MV), logits_MV.shape[1]

    def evaluating(self) -> Any:
        return nullcontext()

    def pack(self, batch: Any) -> Any:
        return batch

    def encode(self, batch: Any) -> torch.Tensor:
        rows, width = batch.input_ids_RS.shape
        hidden = torch.zeros(rows * width, self.hidden_size)
        for key, start, end in zip(batch.key_N, batch.start_N, batch.end_N, strict=True):
            hidden[int(start) : int(end)] = self.logits_MV[int(key)]
        return hidden.reshape(rows, width, -1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


Case = dict[str, Any]


def random_case(random: np.random.Generator) -> Case:
    """Relations with types, items with logits of few values (so that many are equal), groups."""
    size = int(random.integers(4, 20))
    candidates = sorted(random.choice(size, int(random.integers(2, size)), replace=False).tolist())
    items: dict[str, list[dict[str, Any]]] = {}
    for number in range(int(random.integers(1, 4))):
        of_relation = items.setdefault(f"P{number}", [])
        for _ in range(int(random.integers(0 if number else 1, 5))):
            gold = int(random.choice(candidates))
            right = random.choice(candidates, int(random.integers(0, len(candidates) + 1)))
            of_relation.append(
                {
                    "logits": random.integers(-3, 3, size).astype(np.float32),
                    "gold": gold,
                    "others": tuple(sorted(set(right.tolist()) - {gold})),
                    "band": str(random.choice(["head", "torso", "tail"])),
                }
            )
    types = {name: str(random.choice(["1-1", "N-1", "N-M"])) for name in items}
    return {"candidates": candidates, "items": items, "types": types}


def ours(case: Case) -> dict[str, Any]:
    """The scores of a case by this program."""
    candidates = np.asarray(case["candidates"])
    answers: dict[str, Answers] = {}
    for name, items in case["items"].items():
        clozes = [
            Cloze(ids=[1, 2, 3], mask_position=1, gold=item["gold"], others=item["others"])
            for item in items
        ]
        model: Any = Written(np.stack([item["logits"] for item in items])) if items else None
        if items:
            answers[name] = ask(model, 0, candidates, clozes)
    files = [
        ProbeFile(relation=name, path=Path(name), template="", type=kind, corpus="x")
        for name, kind in case["types"].items()
    ]
    bands = {name: [item["band"] for item in case["items"][name]] for name in answers}
    prober: Any = SimpleNamespace(candidates=candidates)
    questions = Questions(found=ProbeFiles(files=files))
    result = score_answers(prober, questions, answers, {"subject": bands})
    return {
        "macro": result["macro"],
        "micro": result["micro"],
        "relations": {
            name: {key: row[key] for key in ("p_at_1", "p_at_10", "mrr")}
            for name, row in result["relations"].items()
        },
        "filtered": result["filtered"]
        and {key: result["filtered"][key] for key in ("macro", "micro")},
        "types": {
            name: (group["macro"], group["micro"])
            for name, group in result["groups"]["type"].items()
        },
        "bands": {
            name: (group["macro"], group["micro"])
            for name, group in result["groups"]["subject"].items()
        },
    }


def plain_rank(item: dict[str, Any], candidates: list[int], *, leave_out: bool) -> int:
    """A place of the protocol: whoever is not worse stands before the right answer."""
    place = 1
    for candidate in candidates:
        if candidate == item["gold"]:
            continue
        if leave_out and candidate in item["others"]:
            continue
        if not item["logits"][candidate] < item["logits"][item["gold"]]:
            place += 1
    return place


def plain_scores(ranks: list[int]) -> dict[str, float]:
    first = tenth = reciprocal = 0.0
    for rank in ranks:
        first += rank == 1
        tenth += rank <= 10
        reciprocal += 1 / rank
    return {
        "p_at_1": first / len(ranks),
        "p_at_10": tenth / len(ranks),
        "mrr": reciprocal / len(ranks),
    }


def plain_means(by_relation: dict[str, list[int]]) -> tuple[Any, Any]:
    each, every = [], []
    for ranks in by_relation.values():
        if ranks:
            each.append(plain_scores(ranks))
            every += ranks
    if not every:
        return None, None
    macro = {key: sum(one[key] for one in each) / len(each) for key in each[0]}
    return macro, plain_scores(every)


def plain(case: Case) -> dict[str, Any]:
    """The scores of a case by the protocol, in plain loops."""
    raw: dict[str, list[int]] = {}
    filtered: dict[str, list[int]] = {}
    for name, items in case["items"].items():
        raw[name] = [plain_rank(item, case["candidates"], leave_out=False) for item in items]
        filtered[name] = [plain_rank(item, case["candidates"], leave_out=True) for item in items]
    groups: dict[str, dict[str, tuple[Any, Any]]] = {"types": {}, "bands": {}}
    for kind in ("1-1", "N-1", "N-M"):
        of_kind = {
            name: ranks for name, ranks in raw.items() if case["types"][name] == kind and ranks
        }
        if of_kind:
            groups["types"][kind] = plain_means(of_kind)
    for band in ("head", "torso", "tail"):
        of_band = {
            name: [
                rank
                for rank, item in zip(ranks, case["items"][name], strict=True)
                if item["band"] == band
            ]
            for name, ranks in raw.items()
        }
        if any(of_band.values()):
            groups["bands"][band] = plain_means(of_band)
    macro, micro = plain_means(raw)
    others = any(item["others"] for items in case["items"].values() for item in items)
    return {
        "macro": macro,
        "micro": micro,
        "relations": {name: plain_scores(ranks) for name, ranks in raw.items() if ranks},
        "filtered": dict(zip(("macro", "micro"), plain_means(filtered), strict=True))
        if others
        else None,
        **groups,
    }


def close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(close, one, other))
    return one is other is None or abs(one - other) < 1e-9


@pytest.mark.slow
def test_a_second_implementation_agrees_on_random_cases() -> None:
    random = np.random.default_rng(20)
    num_filtered = 0
    for number in range(1000):
        case = random_case(random)
        wanted = plain(case)
        assert close(ours(case), wanted), f"case {number}: {case}"
        num_filtered += (
            wanted["filtered"] is not None and wanted["filtered"]["macro"] != wanted["macro"]
        )
    # The cases are not all of the easy kind.
    assert num_filtered > 300


def test_a_random_model_scores_chance() -> None:
    random = np.random.default_rng(4)
    model: Any = Written(random.normal(size=(3000, 60)).astype(np.float32))
    golds = random.integers(0, 50, 3000).tolist()
    clozes = [Cloze(ids=[1, 2, 3], mask_position=1, gold=gold) for gold in golds]
    ranks = ask(model, 0, np.arange(50), clozes).rank_M
    # 1 in 50, and four standard deviations around it.
    assert scores(ranks)["p_at_1"] == pytest.approx(1 / 50, abs=4 * (0.02 * 0.98 / 3000) ** 0.5)
    assert scores(ranks)["p_at_10"] == pytest.approx(10 / 50, abs=4 * (0.2 * 0.8 / 3000) ** 0.5)


def test_a_constant_model_scores_at_most_chance() -> None:
    """Whatever it always answers is right as often as that is the right object; equal ones are last."""
    golds = [number % 50 for number in range(500)]
    clozes = [Cloze(ids=[1, 2, 3], mask_position=1, gold=gold) for gold in golds]
    for logits_V, right in ((np.zeros(60), 0.0), (np.eye(60)[7], 1 / 50), (-np.arange(60), 1 / 50)):
        model: Any = Written(np.tile(logits_V.astype(np.float32), (500, 1)))
        assert scores(ask(model, 0, np.arange(50), clozes).rank_M)["p_at_1"] == right

"""Paraphrases: rates by hand and by plain loops, models that know nothing, files that are wrong."""

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from schemas import PARAPHRASE_ITEMS
from schemas.command_line import INTERRUPTED, call
from schemas.errors import ConfigError
from tests.conftest import ROOT
from tests.trelm_train.evaluate.broken import logits_by, with_one, zeroed
from trelm_train.cli import PROGRAM, cli
from trelm_train.evaluate import paraphrases
from trelm_train.evaluate.finite import NotFiniteError
from trelm_train.evaluate.paraphrase_items import probe
from trelm_train.evaluate.paraphrase_scores import (
    TIED,
    Counts,
    RelationAnswers,
    article_fits,
    count,
    macro,
    micro,
)
from trelm_train.evaluate.paraphrases import (
    ParaphraseOptions,
    Relation,
    ask_all,
    collect,
    judge,
    readable,
    result_of,
)
from trelm_train.evaluate.prober import Prober
from trelm_train.model.masked_lm import MaskedLm

SUBJECTS = ["Flavia", "Joseph", "Shuri", "Ramonda", "Bokonon", "Mona", "Zenda", "Rudolf"]
OBJECTS = ["town", "king", "rain", "house"]
PATTERNS = ["[X] lives in [Y] .", "[X] moved to [Y] .", "The [Y] of [X] ."]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def options(tmp_path: Path) -> ParaphraseOptions:
    """Two relations of different size; the first one has as many facts of each of four objects."""
    facts, patterns = tmp_path / "facts", tmp_path / "patterns"
    write_rows(
        facts / "P1.jsonl",
        [{"sub_label": s, "sub_uri": "Q7", "obj_label": o} for s, o in product(SUBJECTS, OBJECTS)],
    )
    write_rows(patterns / "P1.jsonl", [{"pattern": pattern, "lemma": "x"} for pattern in PATTERNS])
    write_rows(
        facts / "P20.jsonl",
        [
            {"sub_label": "Mona", "obj_label": "year"},
            {"sub_label": "Shuri", "obj_label": "last"},
            {"sub_label": "Shuri", "obj_label": "last"},  # twice
            {"sub_label": "Shuri", "obj_label": "North Falls"},  # two tokens
            {"sub_label": "Shuri " * 80, "obj_label": "last"},
        ],
    )
    write_rows(patterns / "P20.jsonl", [{"pattern": "[X] saw [Y] ."}, {"pattern": "[Y] saw [X] ."}])
    return ParaphraseOptions(probes=facts, patterns=patterns)


def scored(model: MaskedLm, tokenizer: Any, options: ParaphraseOptions) -> dict[str, Any]:
    prober = Prober(model, tokenizer, None)
    read = collect(prober, options)
    return result_of(read, ask_all(prober, read))


def test_rates_by_hand() -> None:
    """Three patterns, four facts; the right answers are 5, 5, 6, 6, out of the candidates 5, 6, 7."""
    best_PI = np.array([[5, 5, 6, 7], [5, 6, TIED, 7], [5, 5, TIED, 6]])
    gold_I = np.array([5, 5, 6, 6])
    fits_PI = np.ones((3, 4), np.bool_)
    fits_PI[2, 3] = False
    answers = RelationAnswers(
        rank_PI=np.where(best_PI == gold_I, 1, 2),
        best_PI=best_PI,
        log_p_PI=np.zeros((3, 4)),
        fits_PI=fits_PI,
    )
    rates = count(answers, gold_I, num_candidates=3).rates()
    assert rates == {
        "accuracy_base": pytest.approx(3 / 4),
        # Right: three times, twice, once, and once.
        "accuracy_mean": pytest.approx(7 / 12),
        "consistent_accuracy": pytest.approx(1 / 4),
        # Of three pairs each: all, one, none (a tie agrees with nothing). The last fact has a
        # single pair, which agrees.
        "consistency": pytest.approx((3 + 1 + 0 + 1) / 10),
        "known_consistency": pytest.approx((3 + 1 + 0) / 9),
        # What is right by a pattern whose article does not suit the object is not known by it.
        "unknown_consistency": 1.0,
        "majority": pytest.approx(2 / 4),
        "consistent_majority": pytest.approx(2 / 4),
        "chance": pytest.approx(1 / 3),
    }


def test_macro_counts_relations_and_micro_counts_items() -> None:
    small = Counts(items=1, base_right=1, questions=2, right=2, paraphrased=1, all_right=1,
                   known_pairs=1, known_agreeing=1)  # fmt: skip
    large = Counts(items=9, base_right=3, questions=18, right=3, paraphrased=9, all_right=0,
                   known_pairs=3, unknown_pairs=6, unknown_agreeing=6)  # fmt: skip
    # One pattern alone: no pairs.
    single = Counts(items=5, base_right=0, questions=5, right=0)
    over_relations, over_items = macro([small, large, single]), micro([small, large, single])
    assert over_relations["accuracy_base"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert over_items["accuracy_base"] == pytest.approx(4 / 15)
    assert over_relations["accuracy_mean"] == pytest.approx((1 + 3 / 18 + 0) / 3)
    assert over_items["accuracy_mean"] == pytest.approx(5 / 25)
    assert over_relations["consistency"] == pytest.approx((1 + 6 / 9) / 2)
    assert over_items["consistency"] == pytest.approx(7 / 10)
    assert over_relations["consistent_accuracy"] == pytest.approx((1 + 0) / 2)
    assert over_items["consistent_accuracy"] == pytest.approx(1 / 10)
    assert single.rates()["consistency"] is single.rates()["consistent_accuracy"] is None
    assert macro([single])["consistency"] is None


def by_plain_loops(
    logits: list[list[list[float]]], golds: list[int], fits: list[list[bool]], candidates: list[int]
) -> dict[str, float | None]:
    """The protocol again, question by question: logits by pattern and item over a vocabulary."""

    def winner(row: list[float]) -> int | None:
        most = max(row[candidate] for candidate in candidates)
        best = [candidate for candidate in candidates if row[candidate] == most]
        return best[0] if len(best) == 1 else None

    base = right = all_right = 0
    pairs: dict[bool, list[bool]] = {True: [], False: []}
    for item, gold in enumerate(golds):
        winners = [winner(of_pattern[item]) for of_pattern in logits]
        asked = [number for number in range(len(logits)) if fits[number][item]]
        base += winners[0] == gold
        right += winners.count(gold)
        all_right += all(answer == gold for answer in winners)
        is_known = any(winners[number] == gold for number in asked)
        for one in asked:
            for other in asked:
                if one < other:
                    is_same = winners[one] is not None and winners[one] == winners[other]
                    pairs[is_known].append(is_same)

    def mean(values: list[bool]) -> float | None:
        return sum(values) / len(values) if values else None

    has_several = len(logits) > 1
    most = max(golds.count(gold) for gold in golds) / len(golds)
    return {
        "accuracy_base": base / len(golds),
        "accuracy_mean": right / (len(golds) * len(logits)),
        "consistent_accuracy": all_right / len(golds) if has_several else None,
        "consistency": mean(pairs[True] + pairs[False]),
        "known_consistency": mean(pairs[True]),
        "unknown_consistency": mean(pairs[False]),
        "majority": most,
        "consistent_majority": most if has_several else None,
        "chance": 1 / len(candidates),
    }


def random_cases() -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    random = np.random.default_rng(5)
    for _ in range(1000):
        num_patterns, num_items, size = random.integers(1, (5, 6, 9))
        candidates = np.sort(random.choice(size, random.integers(1, size + 1), replace=False))
        # Few levels, so that there are ties.
        yield (
            random.integers(-2, 3, (num_patterns, num_items, size)).astype(np.float32),
            random.choice(candidates, num_items),
            random.random((num_patterns, num_items)) < 0.8,
            candidates,
        )


def test_random_numbers_are_scored_as_by_plain_loops() -> None:
    for logits_PIV, gold_I, fits_PI, candidates in random_cases():
        judged = [
            judge(
                torch.from_numpy(of_pattern), torch.from_numpy(gold_I), torch.from_numpy(candidates)
            )
            for of_pattern in logits_PIV
        ]
        rank_PI, best_PI, log_p_PI = (
            np.stack([answer.numpy() for answer in column]) for column in zip(*judged, strict=True)
        )
        answers = RelationAnswers(
            rank_PI=rank_PI, best_PI=best_PI, log_p_PI=log_p_PI, fits_PI=fits_PI
        )
        wanted = by_plain_loops(
            logits_PIV.tolist(), gold_I.tolist(), fits_PI.tolist(), candidates.tolist()
        )
        assert count(answers, gold_I, len(candidates)).rates() == pytest.approx(wanted)
        p = np.exp(logits_PIV) / np.exp(logits_PIV).sum(2, keepdims=True)
        p_gold = np.take_along_axis(p, gold_I[None, :, None], 2)[:, :, 0]
        assert log_p_PI == pytest.approx(np.log(p_gold), abs=1e-4)


@pytest.mark.parametrize(
    ("pattern", "label", "fits"),
    [
        ("[X] is a [Y] .", "town", True),
        ("[X] is a [Y] .", "island", False),
        ("[X] is an [Y] .", "island", True),
        ("[X] is an [Y] .", "town", False),
        ("A [Y] is [X] .", "Island", False),
        ("[X] is the [Y] .", "island", True),
        ("[Y] is [X] .", "island", True),  # no word before it
        ("[X] plays a, [Y].", "island", True),
    ],
)
def test_an_article_suits_an_object(pattern: str, label: str, *, fits: bool) -> None:
    assert article_fits(pattern, label) == fits


def test_questions_equal_a_plain_forward(
    model: MaskedLm, tokenizer: Any, options: ParaphraseOptions
) -> None:
    prober = Prober(model, tokenizer, None)
    read = collect(prober, options)
    answers = ask_all(prober, read)
    for relation in read.relations:
        candidates = relation.candidates.tolist()
        for number, pattern in enumerate(relation.patterns):
            for place, item in enumerate(relation.items_PI[number]):
                text = pattern.replace("[X]", item.row.sub_label).replace("[Y]", "[MASK]")
                ids = tokenizer(text)["input_ids"]
                with torch.no_grad():
                    logits = model.hf(input_ids=torch.tensor([ids])).logits[0]
                at_mask = logits[ids.index(tokenizer.mask_token_id)]
                gold = tokenizer.convert_tokens_to_ids(item.row.obj_label)
                best = max(candidates, key=lambda token: float(at_mask[token]))
                of_relation = answers[relation.name]
                assert of_relation.best_PI[number, place] == best
                better = sum(float(at_mask[token]) > float(at_mask[gold]) for token in candidates)
                assert of_relation.rank_PI[number, place] == 1 + better
                assert of_relation.log_p_PI[number, place] == pytest.approx(
                    float(at_mask.log_softmax(0)[gold]), abs=1e-4
                )


def test_what_counts_and_what_is_left_out(
    model: MaskedLm, tokenizer: Any, options: ParaphraseOptions
) -> None:
    write_rows(options.probes / "P3.jsonl", [{"sub_label": "Mona", "obj_label": "North Falls"}])
    write_rows(options.patterns / "P3.jsonl", [{"pattern": "[X] is [Y] ."}])
    write_rows(options.probes / "P4.jsonl", [{"sub_label": "Mona", "obj_label": "town"}])
    write_rows(options.probes / "P5.jsonl", [{"sub_label": "Mona", "obj_label": "town"}])
    # The same pattern twice is one.
    write_rows(options.patterns / "P5.jsonl", [{"pattern": "[X] is [Y] ."}] * 2)
    write_rows(options.patterns / "P6.jsonl", [{"pattern": "[X] is [Y] ."}])
    result = scored(model, tokenizer, options)
    assert list(result["relations"]) == ["P1", "P5", "P20"]
    assert [row["n"] for row in result["relations"].values()] == [32, 1, 2]
    assert [row["candidates"] for row in result["relations"].values()] == [4, 1, 2]
    assert result["num_items"] == 35
    assert result["num_questions"] == 32 * 3 + 1 + 2 * 2
    assert result["relations_with_one_pattern"] == ["P5"]
    assert result["relations_without_items"] == ["P3"]
    assert result["relations_without_patterns"] == ["P4"]
    assert result["relations_without_facts"] == ["P6"]
    assert result["excluded"] == {"duplicate": 1, "object_not_one_token": 2, "too_long": 1}
    # One candidate cannot be missed.
    assert result["relations"]["P5"]["accuracy_base"] == result["relations"]["P5"]["chance"] == 1
    assert result["relations"]["P5"]["consistency"] is None
    text = readable(result)
    assert "relations without a file of facts: P6" in text
    assert "relations with one pattern, so without pairs: P5" in text


def test_an_item_counts_if_every_pattern_can_ask_it(
    model: MaskedLm, tokenizer: Any, options: ParaphraseOptions
) -> None:
    long = "[X] and " + "king " * 54 + "saw [Y] ."
    write_rows(options.patterns / "P20.jsonl", [{"pattern": "[X] saw [Y] ."}, {"pattern": long}])
    write_rows(
        options.probes / "P20.jsonl",
        [
            {"sub_label": "Mona", "obj_label": "year"},
            # Too long for the second pattern alone.
            {"sub_label": "Rudolf Rassendyll of Strelsau", "obj_label": "last"},
        ],
    )
    result = scored(model, tokenizer, options)
    # Its object may be named all the same.
    assert (result["relations"]["P20"]["n"], result["relations"]["P20"]["candidates"]) == (1, 2)
    assert result["excluded"] == {"too_long": 1}


def test_a_limit_keeps_the_candidates(
    model: MaskedLm, tokenizer: Any, options: ParaphraseOptions
) -> None:
    limited = ParaphraseOptions(probes=options.probes, patterns=options.patterns, limit=3)
    row = scored(model, tokenizer, limited)["relations"]["P1"]
    assert (row["n"], row["candidates"], row["chance"]) == (3, 4, pytest.approx(1 / 4))


def test_zeroed_constant_and_random_models(
    model: MaskedLm, tokenizer: Any, options: ParaphraseOptions
) -> None:
    (options.probes / "P20.jsonl").unlink()
    steady = torch.randn(len(tokenizer), generator=torch.Generator().manual_seed(1))
    with logits_by(model, lambda logits: steady.expand_as(logits)):
        constant = scored(model, tokenizer, options)["micro"]
    # One answer to everything: consistent, and right once in four.
    assert constant["accuracy_base"] == constant["accuracy_mean"] == constant["majority"] == 0.25
    assert constant["chance"] == 0.25
    assert constant["consistency"] == 1
    assert constant["consistent_accuracy"] == 0.25

    noise = torch.Generator().manual_seed(2)
    with logits_by(model, lambda logits: torch.randn(logits.shape, generator=noise)):
        random = scored(model, tokenizer, options)["micro"]
    # 96 questions: four standard deviations above chance.
    assert random["accuracy_mean"] < 0.25 + 4 * (0.25 * 0.75 / 96) ** 0.5
    assert random["consistency"] < 0.25 + 4 * (0.25 * 0.75 / 96) ** 0.5
    assert random["consistent_accuracy"] < 0.25

    zero = scored(zeroed(model), tokenizer, options)["micro"]
    for name in ("accuracy_base", "accuracy_mean", "consistent_accuracy", "consistency"):
        assert zero[name] == 0


def test_a_broken_model_has_no_score(
    model: MaskedLm, tokenizer: Any, options: ParaphraseOptions
) -> None:
    with (
        logits_by(model, with_one(float("nan"))),
        pytest.raises(NotFiniteError, match="of the probes, so it has no score"),
    ):
        scored(model, tokenizer, options)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"lemma": "x"}', "row 2 has no text under 'pattern'"),
        ('{"pattern": "in [Y] ."}', r"row 2 has no \[X\], the place of the subject"),
        ('{"pattern": "[X] is ."}', r"row 2 has \[Y\], the place of the object, 0 times"),
        ('{"pattern": "[X] [Y] [Y]"}', "2 times instead of once"),
        ("{", "P1.jsonl:2: not JSON"),
    ],
)
def test_wrong_patterns(
    model: MaskedLm, tokenizer: Any, options: ParaphraseOptions, row: str, message: str
) -> None:
    (options.patterns / "P1.jsonl").write_text('{"pattern": "[X] is [Y] ."}\n' + row + "\n")
    with pytest.raises(ConfigError, match=message):
        collect(Prober(model, tokenizer, None), options)


def test_wrong_folders(
    model: MaskedLm, tokenizer: Any, options: ParaphraseOptions, tmp_path: Path
) -> None:
    prober, empty = Prober(model, tokenizer, None), tmp_path / "empty"
    empty.mkdir()
    for probes, patterns in ((empty, options.patterns), (options.probes, empty)):
        with pytest.raises(ConfigError, match="empty: no file P….jsonl in it"):
            collect(prober, ParaphraseOptions(probes=probes, patterns=patterns))
    with pytest.raises(ConfigError, match="none: no such folder"):
        collect(prober, ParaphraseOptions(probes=options.probes, patterns=tmp_path / "none"))
    write_rows(empty / "P99.jsonl", [{"pattern": "[X] is [Y] ."}])
    with pytest.raises(ConfigError, match="empty: no patterns for any relation of .*facts"):
        collect(prober, ParaphraseOptions(probes=options.probes, patterns=empty))
    (options.patterns / "P1.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="P1.jsonl: no pattern in it"):
        collect(prober, options)


def command_of(model_path: Path, options: ParaphraseOptions, *more: str) -> list[str]:
    return [
        "evaluate", "paraphrases", "--model", str(model_path), "--device", "cpu",
        "--probes", str(options.probes), "--patterns", str(options.patterns), *more,
    ]  # fmt: skip


def test_the_command_and_its_rows(
    model_path: Path, options: ParaphraseOptions, tmp_path: Path
) -> None:
    """The rates come out of the rows again, by SQL."""
    path = tmp_path / "items.parquet"
    command = command_of(model_path, options, "--items", str(path), "--json")
    result = json.loads(CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert result == json.loads(json.dumps(probe(str(model_path), "cpu", options)))
    PARAPHRASE_ITEMS.check(pq.read_schema(path), str(path))
    row = result["relations"]["P1"]
    base, mean, every, consistency = duckdb.sql(f"""
        WITH rows AS (SELECT * FROM '{path}' WHERE relation = 'P1'),
        pairs AS (
            SELECT coalesce(a.answer = b.answer, FALSE)::INT AS same
            FROM rows a JOIN rows b USING (sub_label, obj_label) WHERE a.template < b.template
        )
        SELECT
            (SELECT avg(is_right::INT) FROM rows WHERE template = '{PATTERNS[0]}'),
            (SELECT avg(is_right::INT) FROM rows),
            (SELECT avg(every::INT) FROM
                (SELECT bool_and(is_right) AS every FROM rows GROUP BY sub_label, obj_label)),
            (SELECT avg(same) FROM pairs)
    """).fetchall()[0]
    assert row["accuracy_base"] == pytest.approx(base)
    assert row["accuracy_mean"] == pytest.approx(mean)
    assert row["consistent_accuracy"] == pytest.approx(every)
    assert row["consistency"] == pytest.approx(consistency)
    assert row["accuracy_by_pattern"][PATTERNS[0]] == pytest.approx(base)

    rows = pq.read_table(path).to_pylist()
    assert len(rows) == result["num_questions"]
    assert {row["sub_qid"] for row in rows if row["relation"] == "P1"} == {7}
    assert {row["obj_qid"] for row in rows} == {None}
    for row in rows:
        assert row["is_right"] == (row["rank"] == 1) == (row["answer"] == row["obj_label"])
        assert row["score"] < 0
    text = CliRunner().invoke(cli, command_of(model_path, options), catch_exceptions=False).output
    assert "macro" in text
    assert "consistency" in text


def test_the_query_of_the_docs(
    model: MaskedLm, model_path: Path, tokenizer: Any, options: ParaphraseOptions, tmp_path: Path
) -> None:
    """`before` is a zeroed model: it has nothing right, and no answer that another could share."""
    zeroed(model).hf.save_pretrained(tmp_path / "zeroed")
    tokenizer.save_pretrained(tmp_path / "zeroed")
    for name, folder in (("before", tmp_path / "zeroed"), ("after", model_path)):
        probe(str(folder), "cpu", options, tmp_path / f"{name}.parquet")
    result = probe(str(model_path), "cpu", options)

    query = re.search(r"```sql\n(.*?)```", (ROOT / "docs/evaluation.md").read_text(), re.S)
    assert query is not None
    sql = query[1]
    for name in ("before", "after"):
        sql = sql.replace(f"{name}.parquet", str(tmp_path / f"{name}.parquet"))
    answer = duckdb.sql(sql)
    assert answer.columns == [
        "relation", "num_questions", "accuracy_before", "accuracy_after", "same_answer",
    ]  # fmt: skip
    assert answer.fetchall() == [
        (name, row["n"] * row["patterns"], 0, pytest.approx(row["accuracy_mean"]), 0)
        for name, row in result["relations"].items()
    ]


def test_an_interrupted_command_writes_nothing(
    model_path: Path,
    options: ParaphraseOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []
    plain = paraphrases.ask_relation

    def interrupted(prober: Prober, relation: Relation) -> RelationAnswers:
        if asked:
            raise KeyboardInterrupt
        asked.append(relation.name)
        return plain(prober, relation)

    monkeypatch.setattr(paraphrases, "ask_relation", interrupted)
    path = tmp_path / "items.parquet"
    command = command_of(model_path, options, "--items", str(path), "--json")
    assert call(lambda: cli.main(command, standalone_mode=False), PROGRAM) == INTERRUPTED
    assert asked == ["P1"]
    assert not path.exists()
    captured = capsys.readouterr()
    assert "interrupted; nothing was written" in captured.err
    assert captured.out == ""

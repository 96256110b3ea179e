"""BEAR: accuracies by hand and by plain loops, models that know nothing, files that are wrong."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from schemas import BEAR_ITEMS
from schemas.command_line import INTERRUPTED, call
from schemas.errors import ConfigError
from tests.trelm_train.evaluate.broken import logits_by, with_one, zeroed
from trelm_train.cli import PROGRAM, cli
from trelm_train.evaluate import bear
from trelm_train.evaluate.bear import BearScores, fill, probe, readable, result_of, score_all
from trelm_train.evaluate.bear_data import METADATA, BearProbe, BearRelation, Instance, read_bear
from trelm_train.evaluate.finite import NotFiniteError
from trelm_train.evaluate.pseudo_likelihood import pseudo_log_likelihoods
from trelm_train.model.masked_lm import MaskedLm

SUBJECTS = ["Flavia", "Joseph", "Shuri", "Ramonda", "Bokonon", "Mona", "Zenda", "Rudolf"]
TOWNS = ["Strelsau", "North Falls", "Pyrus", "Port Saint Luis"]
TEMPLATES = ["[X] lives in [Y].", "[Y] is the town of [X].", "[X] moved to [Y]."]
COUNTRIES = ["Ruritania", "Genovia"]


def write_probe(folder: Path, metadata: dict[str, Any], rows: dict[str, list[Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / METADATA).write_text(json.dumps(metadata))
    for name, of_relation in rows.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in of_relation)
        )
    return folder


def row_of(number: int, subject: str, labels: list[str], answer: int) -> dict[str, Any]:
    return {
        "sub_id": f"Q{number}", "sub_label": subject, "sub_aliases": ["x"], "obj_id": f"Q{90 + answer}",
        "obj_label": labels[answer], "answer_idx": answer,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two relations; answers are balanced, as in BEAR, and some have several tokens."""
    metadata = {
        "P1": {
            "templates": TEMPLATES,
            "answer_space_labels": TOWNS,
            "answer_space_ids": [f"Q{90 + number}" for number in range(4)],
        },
        "P2": {"templates": TEMPLATES, "answer_space_labels": COUNTRIES},
    }
    rows = {
        "P1": [row_of(number, name, TOWNS, number % 4) for number, name in enumerate(SUBJECTS)],
        "P2": [row_of(number, name, COUNTRIES, number) for number, name in enumerate(TOWNS[:2])],
    }
    return write_probe(tmp_path / "probe", metadata, rows)


def scored(model: MaskedLm, tokenizer: Any, folder: Path) -> dict[str, Any]:
    read = read_bear(folder)
    return result_of(read, score_all(model, tokenizer, read))


def relation_of(name: str, num_templates: int, num_answers: int, right: list[int]) -> BearRelation:
    return BearRelation(
        name=name,
        templates=tuple(f"[X] {number} [Y]" for number in range(num_templates)),
        answers=tuple(f"a{number}" for number in range(num_answers)),
        instances=tuple(Instance(sub_label="s", answer=number) for number in right),
    )


def test_scores_by_hand() -> None:
    """A relation with three instances, and one with a single one: the mean over relations is
    another one.
    """
    large, small = relation_of("P1", 2, 3, [0, 1, 1]), relation_of("P2", 2, 2, [1])
    scores = {
        "P1": BearScores(
            score_PIA=np.array(
                [
                    # Right; a tie with another answer; right.
                    [[-1.0, -2.0, -3.0], [-2.0, -1.0, -1.0], [-5.0, -4.0, -6.0]],
                    # Right; wrong; wrong.
                    [[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]],
                ]
            ),
            answer_I=np.array([0, 1, 1]),
        ),
        "P2": BearScores(
            # Wrong by the first template, right by the second.
            score_PIA=np.array([[[-1.0, -2.0]], [[-2.0, -1.0]]]),
            answer_I=np.array([1]),
        ),
    }
    assert scores["P1"].rank_PI.tolist() == [[1, 2, 1], [1, 2, 2]]
    read = BearProbe(relations=(large, small), missing=("P3",), unnamed=("extra",))
    result = result_of(read, scores)
    assert result["relations"]["P1"]["by_template"] == pytest.approx([2 / 3, 1 / 3])
    assert result["relations"]["P1"]["accuracy"] == pytest.approx(1 / 2)
    assert result["relations"]["P2"]["accuracy"] == pytest.approx(1 / 2)
    assert result["by_template"] == pytest.approx([2 / 4, 2 / 4])
    assert result["score"] == pytest.approx(1 / 2)
    assert result["sd_over_templates"] == 0
    assert result["chance"] == pytest.approx((3 / 3 + 1 / 2) / 4)
    assert result["majority"] == pytest.approx((2 + 1) / 4)

    scores["P2"] = BearScores(score_PIA=np.array([[[-2.0, -1.0]]] * 2), answer_I=np.array([1]))
    result = result_of(read, scores)
    assert result["score"] == pytest.approx((3 * 0.5 + 1 * 1) / 4)
    assert result["macro"] == pytest.approx((0.5 + 1) / 2)
    assert result["by_template"] == pytest.approx([3 / 4, 2 / 4])
    assert result["sd_over_templates"] == pytest.approx(0.25 / 2**0.5)
    text = readable(result)
    assert "relations without a file: P3" in text
    assert "files without an entry in metadata_relations.json: extra" in text
    assert "score 0.6250 ± 0.1768 over templates" in text


def test_relations_that_differ_in_templates_have_no_spread() -> None:
    relations = (relation_of("P1", 1, 2, [0]), relation_of("P2", 2, 2, [0]))
    scores = {
        "P1": BearScores(score_PIA=np.array([[[-1.0, -2.0]]]), answer_I=np.array([0])),
        "P2": BearScores(
            score_PIA=np.array([[[-1.0, -2.0]], [[-2.0, -1.0]]]), answer_I=np.array([0])
        ),
    }
    result = result_of(BearProbe(relations=relations, missing=(), unnamed=()), scores)
    assert result["by_template"] is result["sd_over_templates"] is None
    assert result["score"] == pytest.approx((1 + 0.5) / 2)
    assert "over templates" not in readable(result)


def by_plain_loops(
    relations: list[tuple[list[list[list[float]]], list[int]]],
) -> tuple[float, float, float]:
    """The protocol again: score, mean over relations, and the first template's score."""
    right_of_all, means, right_of_first, num_instances = 0.0, [], 0, 0
    for scores, golds in relations:
        right_of_relation = 0.0
        for number, of_template in enumerate(scores):
            right = 0
            for row, gold in zip(of_template, golds, strict=True):
                others = row[:gold] + row[gold + 1 :]
                right += all(row[gold] > other for other in others)
            right_of_relation += right / len(scores)
            right_of_first += right if number == 0 else 0
        right_of_all += right_of_relation
        means.append(right_of_relation / len(golds))
        num_instances += len(golds)
    return (
        right_of_all / num_instances,
        sum(means) / len(means),
        right_of_first / num_instances,
    )


def test_random_numbers_are_scored_as_by_plain_loops() -> None:
    random = np.random.default_rng(8)
    for _ in range(1000):
        num_templates = int(random.integers(1, 4))
        relations, scores, plain = [], {}, []
        for number in range(int(random.integers(1, 4))):
            num_instances, num_answers = random.integers(1, (6, 5))
            # Few levels, so that there are ties.
            score_PIA = -random.integers(1, 5, (num_templates, num_instances, num_answers)) / 2
            golds = random.integers(num_answers, size=num_instances)
            name = f"P{number}"
            relations.append(relation_of(name, num_templates, int(num_answers), golds.tolist()))
            scores[name] = BearScores(score_PIA=score_PIA, answer_I=golds)
            plain.append((score_PIA.tolist(), golds.tolist()))
        result = result_of(BearProbe(relations=tuple(relations), missing=(), unnamed=()), scores)
        assert (result["score"], result["macro"], result["by_template"][0]) == pytest.approx(
            by_plain_loops(plain)
        )


def test_a_statement_begins_with_a_capital_letter() -> None:
    assert fill("[X] is in [Y].", "the hague", "holland") == "The hague is in holland."
    # What stands in a name is no place.
    assert (
        fill("[Y] has [X], and [X].", "[Y] and [X]", "a") == "A has [Y] and [X], and [Y] and [X]."
    )


def test_statements_are_those_of_the_templates(
    model: MaskedLm, tokenizer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each score is that of its own statement, whatever the chunks are."""
    read = read_bear(folder)
    monkeypatch.setattr(bear, "CHUNK", 10)
    scores = score_all(model, tokenizer, read)
    for relation in read.relations:
        for p, template in enumerate(relation.templates):
            for i, instance in enumerate(relation.instances):
                texts = [
                    template.replace("[X]", instance.sub_label).replace("[Y]", answer)
                    for answer in relation.answers
                ]
                alone = pseudo_log_likelihoods(
                    model, tokenizer.pad_token_id, tokenizer.mask_token_id,
                    tokenizer([text[0].upper() + text[1:] for text in texts]).encodings,
                )  # fmt: skip
                assert scores[relation.name].score_PIA[p, i] == pytest.approx(alone, abs=1e-3)


def test_zeroed_constant_and_random_models(model: MaskedLm, tokenizer: Any, folder: Path) -> None:
    chance = (8 / 4 + 2 / 2) / 10
    steady = torch.randn(len(tokenizer), generator=torch.Generator().manual_seed(1))
    with logits_by(model, lambda logits: steady.expand_as(logits)):
        constant = scored(model, tokenizer, folder)
    assert constant["chance"] == pytest.approx(chance)
    # One answer to everything; answers are balanced.
    assert constant["score"] == pytest.approx(chance)
    assert constant["majority"] == pytest.approx(chance)

    noise = torch.Generator().manual_seed(2)
    with logits_by(model, lambda logits: torch.randn(logits.shape, generator=noise)):
        random = scored(model, tokenizer, folder)
    # 30 questions: three standard deviations above chance.
    assert random["score"] < chance + 3 * (chance * (1 - chance) / 30) ** 0.5

    zero = scored(zeroed(model), tokenizer, folder)
    # The shortest statements are the likeliest. Two towns have one token, so neither is alone;
    # both countries have one too.
    assert zero["score"] == 0


def test_a_broken_model_has_no_score(model: MaskedLm, tokenizer: Any, folder: Path) -> None:
    with (
        logits_by(model, with_one(float("nan"))),
        pytest.raises(NotFiniteError, match=f"^{model.name}: .* of the statements"),
    ):
        scored(model, tokenizer, folder)


def test_a_statement_that_is_too_long(model: MaskedLm, tokenizer: Any, folder: Path) -> None:
    row = row_of(1, "king " * 80, TOWNS, 0)
    (folder / "P1.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="P1: a statement of 90 tokens, but .* takes 64: '"):
        scored(model, tokenizer, folder)


def test_answers_that_read_the_same_are_one(tmp_path: Path) -> None:
    metadata = {
        "P1": {
            "templates": ["[X] is in [Y]."],
            "answer_space_labels": ["Paris", "Rome", "Paris"],
            "answer_space_ids": ["Q1", "Q2", "Q3"],
        }
    }
    row = {"sub_id": "Q7", "sub_label": "a", "obj_id": "Q3", "obj_label": "Paris", "answer_idx": 2}
    (relation,) = read_bear(write_probe(tmp_path / "p", metadata, {"P1": [row]})).relations
    assert relation.answers == ("Paris", "Rome")
    assert relation.instances == (Instance(sub_label="a", answer=0, sub_qid=7, obj_qid=3),)


def test_statements_of_the_same_tokens_are_one_answer() -> None:
    """As an uncased model reads Asia and asia: neither ties with the other, and a guess has fewer."""
    relation = dataclasses.replace(
        relation_of("P1", 1, 4, [1, 3]), answers=("Asia", "asia", "Rome", "Oslo")
    )
    # The second statement's score differs in its last bits from the first one's.
    score_IA = [[-1.0, -1.0 + 1e-9, -2.0, -3.0], [-2.0, -2.0, -1.0, -1.0]]
    scores = BearScores(
        score_PIA=np.array([score_IA]),
        answer_I=np.array([1, 3]),
        first_PIA=np.array([[[0, 0, 2, 3]] * 2]),
    )
    assert scores.rank_PI.tolist() == [[1, 2]]
    read = BearProbe(relations=(relation,), missing=(), unnamed=())
    result = result_of(read, {"P1": scores})
    assert (result["score"], result["chance"]) == (0.5, pytest.approx(1 / 3))
    rows = bear.bear_rows("m", read, {"P1": scores}).to_pylist()
    assert [row["answer"] for row in rows] == ["Asia", None]
    assert [row["is_right"] for row in rows] == [True, False]


def test_answers_that_a_tokenizer_reads_alike_are_told(
    model: MaskedLm, tokenizer: Any, tmp_path: Path
) -> None:
    labels = [TOWNS[0], TOWNS[0].upper(), TOWNS[1]]
    metadata = {"P1": {"templates": ["[X] is in [Y]."], "answer_space_labels": labels}}
    rows = [row_of(number, "Ada", labels, number) | {"obj_id": None} for number in range(3)]
    read = read_bear(write_probe(tmp_path / "probe", metadata, {"P1": rows}))
    texts = ["Ada is in " + label + "." for label in labels]
    are_alike = len({tuple(ids) for ids in tokenizer(texts)["input_ids"]}) < len(texts)
    scores = score_all(model, tokenizer, read)["P1"]
    assert scores.first_PIA is not None
    assert scores.first_PIA.tolist() == [[[0, 0 if are_alike else 1, 2]] * 3]
    # The same fact by either spelling.
    assert not are_alike or scores.rank_PI[0, 0] == scores.rank_PI[0, 1]


def test_unknown_answers_are_not_the_same_answer(
    model: MaskedLm, tokenizer: Any, tmp_path: Path
) -> None:
    """The model sees one unknown token for both, and cannot tell them apart: neither is right."""
    labels = ["北京", "東京", TOWNS[0]]
    assert tokenizer.unk_token_id in tokenizer(labels[0])["input_ids"]
    metadata = {"P1": {"templates": ["[X] is in [Y]."], "answer_space_labels": labels}}
    rows = [row_of(number, "Ada", labels, number) | {"obj_id": None} for number in range(2)]
    read = read_bear(write_probe(tmp_path / "probe", metadata, {"P1": rows}))
    scores = score_all(model, tokenizer, read)["P1"]
    assert scores.first_PIA is not None
    assert scores.first_PIA.tolist() == [[[0, 1, 2]] * 2]
    assert scores.rank_PI.min() >= 2


def test_names_on_one_side_only(folder: Path) -> None:
    (folder / "P2.jsonl").rename(folder / "P3.jsonl")
    read = read_bear(folder, limit=3)
    assert [relation.name for relation in read.relations] == ["P1"]
    assert len(read.relations[0].instances) == 3
    assert read.missing == ("P2",)
    assert read.unnamed == ("P3",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"templates": ["in [Y]."]}, r"P1: no \[X\] in the template 'in \[Y\]\.'"),
        ({"templates": ["[X] is."]}, r"P1: no \[Y\] in the template"),
        ({"templates": []}, "P1: 'templates' is no list of texts"),
        ({"templates": "[X] [Y]"}, "P1: 'templates' is no list of texts"),
        ({"answer_space_labels": None}, "P1: 'answer_space_labels' is no list of texts"),
        ({"answer_space_labels": ["a", 1]}, "P1: 'answer_space_labels' is no list of texts"),
        ({"answer_space_ids": ["Q1"]}, "answer_space_ids and answer_space_labels differ in length"),
    ],
)
def test_wrong_metadata(folder: Path, change: dict[str, Any], message: str) -> None:
    metadata = json.loads((folder / METADATA).read_text())
    metadata["P1"] |= change
    (folder / METADATA).write_text(json.dumps(metadata))
    with pytest.raises(ConfigError, match=message):
        read_bear(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_idx": 4}, "P1.jsonl: row 1: answer_idx is 4; wanted a number from 0 to 3"),
        ({"answer_idx": -1}, "answer_idx is -1"),
        ({"answer_idx": True}, "answer_idx is True"),
        ({"answer_idx": None}, "answer_idx is None"),
        ({"answer_idx": 1}, "answer_idx 1 is 'Q91', but obj_id is 'Q90'"),
        ({"sub_label": 5}, "row 1: no text under 'sub_label'"),
    ],
)
def test_wrong_instances(folder: Path, change: dict[str, Any], message: str) -> None:
    row = row_of(1, "Flavia", TOWNS, 0) | change
    (folder / "P1.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=message):
        read_bear(folder)


def test_a_label_decides_where_answers_have_no_ids(folder: Path) -> None:
    row = row_of(1, "Strelsau", COUNTRIES, 0) | {"obj_label": "Genovia"}
    (folder / "P2.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(
        ConfigError, match="answer_idx 0 is 'Ruritania', but obj_label is 'Genovia'"
    ):
        read_bear(folder)


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    (folder / "P1.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="P1.jsonl: no instance in it"):
        read_bear(folder)
    for name in ("P1", "P2"):
        (folder / f"{name}.jsonl").unlink()
    with pytest.raises(ConfigError, match="no file PID.jsonl for any relation of metadata"):
        read_bear(folder)
    for text, message in (("{", "not JSON"), ("[1]", "not an object"), ('{"P1": 1}', "not an obj")):
        (folder / METADATA).write_text(text)
        with pytest.raises(ConfigError, match=f"{METADATA}: {message}"):
            read_bear(folder)
    (folder / METADATA).unlink()
    with pytest.raises(ConfigError, match="cannot read it .No such file"):
        read_bear(folder)
    # Nobody writes to it: not waited for.
    os.mkfifo(folder / METADATA)
    with pytest.raises(ConfigError, match="cannot read it .*a pipe or a device"):
        read_bear(folder)


def command_of(model_path: Path, folder: Path, *more: str) -> list[str]:
    return [
        "evaluate", "bear", "--model", str(model_path), "--device", "cpu", "--probes", str(folder), *more,
    ]  # fmt: skip


def test_the_command_and_its_rows(model_path: Path, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    command = command_of(model_path, folder, "--items", str(path), "--json")
    result = json.loads(CliRunner().invoke(cli, command, catch_exceptions=False).stdout)
    assert result == json.loads(json.dumps(probe(str(model_path), "cpu", folder)))
    assert result["num_instances"] == 10
    assert result["num_statements"] == 8 * 4 * 3 + 2 * 2 * 3
    assert "word-l2r" in result["scoring"]
    BEAR_ITEMS.check(pq.read_schema(path), str(path))

    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 10 * 3
    assert result["score"] == pytest.approx(sum(row["is_right"] for row in rows) / len(rows))
    for row in rows:
        assert row["is_right"] == (row["rank"] == 1) == (row["answer"] == row["obj_label"])
        assert row["score"] < 0
    first = rows[0]
    assert (first["relation"], first["template"]) == ("P1", TEMPLATES[0])
    assert (first["sub_label"], first["sub_qid"]) == ("Flavia", 0)
    assert (first["obj_label"], first["obj_qid"]) == ("Strelsau", 90)
    text = CliRunner().invoke(cli, command_of(model_path, folder), catch_exceptions=False).output
    assert "± " in text
    assert "10 instances, 108 statements" in text


def test_a_tied_answer_is_null_in_the_rows(model: MaskedLm, tokenizer: Any, folder: Path) -> None:
    read = read_bear(folder)
    rows = bear.bear_rows("zero", read, score_all(zeroed(model), tokenizer, read)).to_pylist()
    assert {row["answer"] for row in rows} == {None}
    assert {row["is_right"] for row in rows} == {False}


def test_an_interrupted_command_writes_nothing(
    model_path: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    num_calls = 0
    plain = bear.pseudo_log_likelihoods

    def interrupted(*arguments: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(bear, "pseudo_log_likelihoods", interrupted)
    path = tmp_path / "items.parquet"
    command = command_of(model_path, folder, "--items", str(path))
    assert call(lambda: cli.main(command, standalone_mode=False), PROGRAM) == INTERRUPTED
    assert num_calls == 2
    assert not path.exists()
    captured = capsys.readouterr()
    assert "interrupted; nothing was written" in captured.err
    assert captured.out == ""

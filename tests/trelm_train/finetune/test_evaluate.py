"""Both tasks from files to figures, with a tiny model: what can be learned is, what cannot is not."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError, TrelmError
from tests.trelm_train.finetune.conftest import relation_rows, typing_rows, write_list
from trelm_train.finetune.evaluate import Request, evaluate_relations, evaluate_typing, readable
from trelm_train.finetune.fit import Recipe, Setting
from trelm_train.finetune.grid import RESULTS_NAME, Grid

RECIPE = Recipe(batch=8, length=48, precision="float32")
LONG = Grid(settings=(Setting(rate=3e-3, epochs=40),), seeds=(0,))
SHORT = Grid(settings=(Setting(rate=3e-3, steps=2),), seeds=(0,))


def request(model: Path, files: dict[str, Path], out: Path, grid: Grid = LONG) -> Request:
    return Request(model=str(model), files=files, out=out, grid=grid, recipe=RECIPE)


def shuffled(path: Path, key: str) -> Path:
    """The same rows with each other's labels."""
    rows = json.loads(path.read_text())
    labels = [row[key] for row in rows]
    random.Random(0).shuffle(labels)
    for row, label in zip(rows, labels, strict=True):
        row[key] = label
    return write_list(path.with_name(f"shuffled-{path.name}"), rows)


def micro(result: dict[str, Any]) -> float:
    value: float = result["test"]["mean"]["micro_f1"]
    return value


def chance(result: dict[str, Any]) -> float:
    value: float = result["chance"]["best constant answer"]["micro_f1"]
    return value


def test_typing_is_learned_by_heart(
    model_path: Path, typing_files: dict[str, Path], tmp_path: Path
) -> None:
    files = typing_files | {"test": typing_files["train"]}
    asked = replace(request(model_path, files, tmp_path / "out"), recipe=replace(RECIPE, reads_marks=True))  # fmt: skip
    result = evaluate_typing(asked)
    assert micro(result) > 0.97
    assert chance(result) < 0.85
    assert result["data"]["parts"]["test"]["rows_whose_sentence_is_in_train"] == 40
    assert result["classes"] == ["being", "person", "place", "town"]
    assert json.loads((tmp_path / "out" / RESULTS_NAME).read_text()) == result


def test_relations_are_learned(
    model_path: Path, relation_files: dict[str, Path], tmp_path: Path
) -> None:
    learned = evaluate_relations(request(model_path, relation_files, tmp_path / "out"))
    assert learned["negative"] == "no_relation"
    assert micro(learned) > 0.9
    assert chance(learned) < 0.6


def test_shuffled_relations_are_not_learned(
    model_path: Path, relation_files: dict[str, Path], tmp_path: Path
) -> None:
    grid = Grid(settings=(Setting(rate=3e-3, epochs=15),), seeds=(0,))
    files = relation_files | {"train": shuffled(relation_files["train"], "relation")}
    result = evaluate_relations(request(model_path, files, tmp_path / "out", grid))
    assert micro(result) < chance(result) + 0.1


def test_shuffled_types_are_not_learned(
    model_path: Path, typing_files: dict[str, Path], tmp_path: Path
) -> None:
    files = typing_files | {"train": shuffled(typing_files["train"], "labels")}
    grid = Grid(settings=(Setting(rate=3e-3, epochs=20),), seeds=(0,))
    result = evaluate_typing(request(model_path, files, tmp_path / "out", grid))
    assert micro(result) < chance(result) + 0.1


def test_a_model_that_reads_nothing_is_no_better_than_chance(
    zeroed_path: Path,
    typing_files: dict[str, Path],
    relation_files: dict[str, Path],
    tmp_path: Path,
) -> None:
    grid = Grid(settings=(Setting(rate=3e-2, epochs=10),), seeds=(0,))
    typed = evaluate_typing(request(zeroed_path, typing_files, tmp_path / "a", grid))
    # It has learned which labels are frequent, and answers all rows alike.
    assert 0 < micro(typed) <= chance(typed) + 1e-9
    related = evaluate_relations(request(zeroed_path, relation_files, tmp_path / "b", grid))
    assert micro(related) <= chance(related) + 1e-9
    answers = json.loads(next((tmp_path / "b" / "cells").iterdir()).read_text())["test_answers"]
    assert len({tuple(answer) for answer in answers}) == 1


def test_chance_by_hand(model_path: Path, tmp_path: Path) -> None:
    files = {
        "train": write_list(tmp_path / "a.json", [*relation_rows(8, 0)]),
        "dev": write_list(tmp_path / "b.json", relation_rows(4, 1)),
        "test": write_list(
            tmp_path / "c.json",
            [
                row | {"relation": relation}
                for row, relation in zip(
                    relation_rows(4, 2),
                    ["lives in", "lives in", "country", "no_relation"],
                    strict=True,
                )
            ],
        ),
    }
    result = evaluate_relations(request(model_path, files, tmp_path / "out", SHORT))
    best = result["chance"]["best constant answer"]
    # Two of four answers are right, and two of three relations are found.
    assert best["answer"] == ["lives in"]
    assert best["micro_f1"] == pytest.approx(4 / 7)
    always_no = result["chance"]["always the negative class"]
    assert (always_no["micro_precision"], always_no["micro_f1"]) == (1, 0)


def test_labels_that_train_lacks_are_named_and_missed(
    model_path: Path, tmp_path: Path, typing_files: dict[str, Path]
) -> None:
    rows = [row | {"labels": ["ghost"]} for row in typing_rows(5, 9)]
    files = typing_files | {"test": write_list(tmp_path / "ghosts.json", rows)}
    result = evaluate_typing(request(model_path, files, tmp_path / "out", SHORT))
    assert result["test_labels_that_train_lacks"] == {"ghost": 5}
    assert micro(result) == 0
    assert "no training row has, all missed: ghost" in readable(result)


def test_a_negative_class_that_train_lacks_is_still_none(
    model_path: Path, tmp_path: Path, relation_files: dict[str, Path]
) -> None:
    rows = [row for row in relation_rows(60, 5) if row["relation"] != "no_relation"]
    files = relation_files | {"train": write_list(tmp_path / "related.json", rows)}
    result = evaluate_relations(request(model_path, files, tmp_path / "out", SHORT))
    assert result["negative"] == "no_relation"
    assert "no_relation" not in result["classes"]
    # Recall is that of the rows with a relation.
    gold = [row["relation"] for row in json.loads(relation_files["test"].read_text())]
    num_related = sum(relation != "no_relation" for relation in gold)
    assert result["test"]["mean"]["micro_recall"] == pytest.approx(
        result["test"]["mean"]["accuracy"] * len(gold) / num_related
    )
    assert result["chance"]["best constant answer"]["answer"] != ["no_relation"]
    assert "all missed" not in readable(result)


def test_rows_without_labels_are_trained_and_scored(
    model_path: Path, tmp_path: Path, typing_files: dict[str, Path]
) -> None:
    rows = [row | {"labels": []} for row in typing_rows(10, 9)]
    files = typing_files | {"test": write_list(tmp_path / "bare.json", rows)}
    result = evaluate_typing(request(model_path, files, tmp_path / "out", SHORT), or_best=True)
    # The best label is always predicted, and is always wrong.
    assert result["test"]["mean"]["strict_accuracy"] == 0
    assert result["data"]["parts"]["test"]["rows_without_label"] == 10


def test_types_in_markers(
    model_path: Path, relation_files: dict[str, Path], tmp_path: Path
) -> None:
    result = evaluate_relations(
        request(model_path, relation_files, tmp_path / "out", SHORT), is_typed=True
    )
    assert "that name their types" in result["protocol"]

    def changed(name: str, **types: str) -> dict[str, Path]:
        path = relation_files["train"]
        rows = [row | {key: value.format(**row) for key, value in types.items()} for row in json.loads(path.read_text())]  # fmt: skip
        return relation_files | {"train": write_list(tmp_path / name, rows)}

    roles = changed("roles.json", subj_type="role in {relation}")
    with pytest.raises(ConfigError, match="types alone tell the relation"):
        evaluate_relations(request(model_path, roles, tmp_path / "b", SHORT), is_typed=True)
    few = replace(request(model_path, roles, tmp_path / "b", SHORT), limit=4)
    with pytest.raises(ConfigError, match="types alone tell the relation"):
        evaluate_relations(few, is_typed=True)
    bare = changed("bare.json", subj_type="", obj_type="")
    with pytest.raises(ConfigError, match="the rows have no types"):
        evaluate_relations(request(model_path, bare, tmp_path / "b", SHORT), is_typed=True)
    with pytest.raises(ConfigError, match="give --negative 'no_relation'"):
        evaluate_relations(
            request(model_path, relation_files, tmp_path / "b", SHORT), negative="NA"
        )
    assert not (tmp_path / "b").exists()


def test_a_cut_row_is_scored(
    model_path: Path, typing_files: dict[str, Path], tmp_path: Path
) -> None:
    rows = [
        row | {"sent": "rain " * 100 + row["sent"], "start": row["start"] + 500, "end": row["end"] + 500}
        for row in typing_rows(6, 9)
    ]  # fmt: skip
    files = typing_files | {"test": write_list(tmp_path / "long.json", rows)}
    result = evaluate_typing(request(model_path, files, tmp_path / "out", SHORT))
    cut = result["truncation"]["test"]
    assert (cut["rows_cut"], cut["rows_with_a_span_cut"]) == (6, 0)
    assert cut["rows_that_a_cut_at_the_end_would_spoil"] == 6
    answers = json.loads(next((tmp_path / "out" / "cells").iterdir()).read_text())["test_answers"]
    assert len(answers) == 6


def test_options_that_do_not_fit(
    model_path: Path, typing_files: dict[str, Path], tmp_path: Path
) -> None:
    for names in (("train",), ("train", "dev"), ()):
        files = {name: typing_files[name] for name in names}
        with pytest.raises(ConfigError, match="give --data FILE"):
            evaluate_typing(request(model_path, files, tmp_path / "out"))
    one_label = write_list(tmp_path / "one.json", [row | {"labels": ["a"]} for row in typing_rows(5, 0)])  # fmt: skip
    with pytest.raises(ConfigError, match=r"have 1 label\(s\)"):
        evaluate_typing(request(model_path, typing_files | {"train": one_label}, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_rate_that_diverges_is_not_chosen(
    model_path: Path, relation_files: dict[str, Path], tmp_path: Path
) -> None:
    # Clipped or not: a step of this size makes every weight infinite.
    wild, mild = Setting(rate=1e38, steps=6), Setting(rate=1e-4, steps=6)
    grid = Grid(settings=(wild, mild), seeds=(0,))
    result = evaluate_relations(request(model_path, relation_files, tmp_path / "a", grid))
    assert result["chosen"]["rate"] == 1e-4
    assert result["grid"][0]["seeds"][0]["dev"] is None
    assert "diverged" in readable(result)
    only = Grid(settings=(wild,), seeds=(0,))
    with pytest.raises(TrelmError, match="training diverged in every setting"):
        evaluate_relations(request(model_path, relation_files, tmp_path / "b", only))

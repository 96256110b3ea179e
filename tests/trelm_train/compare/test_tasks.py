"""Tasks of an experiment: every model is fine-tuned and scored; wrong ones are refused early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError
from tests.trelm_train.compare.conftest import (
    PLAIN,
    WriteExperiment,
    relation_rows,
    toml_of,
    typing_rows,
)
from trelm_train.compare.compare import CompareRequest, compare
from trelm_train.compare.experiment import TaskSet, load_experiment
from trelm_train.compare.plan import inputs_of
from trelm_train.compare.tasks import task_scores


def with_task(path: Path, **task: Any) -> Path:
    path.write_text(path.read_text() + "\n" + toml_of("[[tasks]]", task))
    return path


def task_of(path: Path, **more: Any) -> dict[str, Any]:
    small = {"rate": 1e-3, "epochs": 4, "batch": 8, "length": 32}
    return {"name": "types", "kind": "typing", "data": str(path), **small, **more}


def test_a_task_is_scored_beside_chance(model_path: Path, tmp_path: Path) -> None:
    rows = typing_rows(tmp_path / "rows.jsonl")
    task = TaskSet(**task_of(rows))
    found = task_scores(task, str(model_path), tmp_path / "cells", "cpu")
    assert found["score"] == found["micro_f1"]
    assert 0 < found["chance"] < found["score"]
    assert not (tmp_path / "cells").exists()


@pytest.mark.slow
def test_every_arm_and_the_untrained_model_are_fine_tuned(
    write_experiment: WriteExperiment, tmp_path: Path
) -> None:
    rows = typing_rows(tmp_path / "rows.jsonl")
    path = write_experiment(arms={"mlm": PLAIN}, seeds=[0], budgets=[1], steps=2)
    # Tasks alone: no question is asked.
    text = path.read_text()
    path.write_text(text[: text.index("[[probes]]")] + text[text.index("[[arms]]") :])
    with_task(path, **task_of(rows, epochs=1))
    (page,) = compare(CompareRequest(configs=(path,), out=tmp_path / "out"))

    results = [json.loads(one.read_text()) for one in page.parent.rglob("result.json")]
    assert len(results) == 2
    assert all(0 <= one["measures"]["tasks/types"]["score"] <= 1 for one in results)
    summary = (page.parent / "summary.md").read_text()
    assert "## F1 of typing, types (%)" in summary
    assert "The best constant answer: " in summary
    assert not list(page.parent.rglob("cell-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ""}, "give data, or train and test"),
        ({"test": "ROWS"}, "give data, or train and test"),
        ({"data": "none.json"}, "none.json is not there"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"seeds": []}, "seeds is empty"),
        ({"kind": "parsing"}, "kind"),
        ({"name": "a b"}, "must be letters"),
    ],
)
def test_a_wrong_task_is_refused(
    write_experiment: WriteExperiment, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    rows = typing_rows(tmp_path / "rows.jsonl")
    change = {name: str(rows) if value == "ROWS" else value for name, value in change.items()}
    path = with_task(write_experiment(), **{**task_of(rows), **change})
    with pytest.raises(ConfigError, match=message):
        load_experiment(path)


@pytest.mark.parametrize(
    ("change", "text", "message"),
    [
        ({}, '{"sent": "He is Ada ."}\n', "tasks 'types': .*rows.jsonl:1: the row has no 'start'"),
        ({}, "[]", "tasks 'types': .*rows.jsonl"),
        ({"kind": "relation"}, None, "tasks 'types': .*rows.jsonl"),
        ({"limit": -3}, None, "tasks 'types': limit = -3 must be 0"),
    ],
)
def test_rows_are_read_before_any_training(
    write_experiment: WriteExperiment,
    tmp_path: Path,
    change: dict[str, Any],
    text: str | None,
    message: str,
) -> None:
    rows = typing_rows(tmp_path / "rows.jsonl")
    if text is not None:
        rows.write_text(text)
    path = with_task(write_experiment(), **{**task_of(rows), **change})
    with pytest.raises(ConfigError, match=message):
        load_experiment(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"markers": "typed"}, "tasks 'types': --markers typed: the rows have no types"),
        ({"negative": "none"}, "tasks 'types': --negative 'none': no row has this label"),
    ],
)
def test_a_relation_task_is_checked_as_evaluate_relation_does(
    write_experiment: WriteExperiment, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    rows = relation_rows(tmp_path / "rows.json")
    path = with_task(write_experiment(), **task_of(rows, kind="relation", **change))
    with pytest.raises(ConfigError, match=message):
        load_experiment(path)


def test_a_changed_row_is_another_input(write_experiment: WriteExperiment, tmp_path: Path) -> None:
    rows = typing_rows(tmp_path / "rows.jsonl")
    experiment = load_experiment(with_task(write_experiment(), **task_of(rows)))
    before = inputs_of(experiment)
    typing_rows(rows, 61)
    assert inputs_of(experiment) != before

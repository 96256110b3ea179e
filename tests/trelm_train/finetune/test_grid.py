"""The grid: what is done is kept, dev chooses, the same seed gives the same answers."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.errors import ConfigError
from tests.trelm_train.finetune.conftest import write_list
from trelm_train.finetune import fit as fit_module
from trelm_train.finetune import grid as grid_module
from trelm_train.finetune.evaluate import Request, evaluate_relations
from trelm_train.finetune.fit import Fitted, Recipe, Setting
from trelm_train.finetune.fit import fit as plain_fit
from trelm_train.finetune.grid import Grid, mean_and_std, summarise
from trelm_train.finetune.relation_file import read_relations
from trelm_train.finetune.task import RelationTask
from trelm_train.training.signals import InterruptedRun

SLOW, FAST = Setting(rate=1e-4, steps=3), Setting(rate=3e-3, epochs=6)
TWO = Grid(settings=(SLOW, FAST), seeds=(0, 1))


@pytest.fixture
def asked(model_path: Path, relation_files: dict[str, Path], tmp_path: Path) -> Request:
    recipe = Recipe(batch=8, length=48, precision="float32")
    return Request(model=str(model_path), files=relation_files, out=tmp_path / "out", grid=TWO, recipe=recipe)  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Setting, int]]:
    """The cells that are trained from now on."""
    made: list[tuple[Setting, int]] = []

    def counted(data: Any, setting: Setting, seed: int, *more: Any) -> Fitted:
        made.append((setting, seed))
        return plain_fit(data, setting, seed, *more)

    monkeypatch.setattr(grid_module, "fit", counted)
    return made


def without_seconds(result: dict[str, Any]) -> str:
    for row in result["grid"]:
        for cell in row["seeds"]:
            del cell["seconds"]
    return json.dumps(result, sort_keys=True)


def test_dev_chooses_and_test_is_scored_with_the_chosen_setting_alone(asked: Request) -> None:
    result = evaluate_relations(asked)
    means = [row["dev"]["mean"]["micro_f1"] for row in result["grid"]]
    assert means[1] > means[0]
    assert result["chosen"] == {"rate": 3e-3, "epochs": 6, "steps": 0}
    assert len(result["test"]["seeds"]) == 2
    for row, setting in zip(result["grid"], TWO.settings, strict=True):
        for cell in row["seeds"]:
            assert "test" not in cell
            assert "test_answers" not in cell
            assert cell["steps"] == (setting.steps or 30)
    figures = [seed["micro_f1"] for seed in result["test"]["seeds"]]
    assert result["test"]["mean"]["micro_f1"] == pytest.approx(sum(figures) / 2)
    assert result["test"]["std"]["micro_f1"] == pytest.approx(abs(figures[0] - figures[1]) / 2**0.5)


def test_finished_cells_are_kept(asked: Request, calls: list[tuple[Setting, int]]) -> None:
    first = without_seconds(evaluate_relations(asked))
    assert calls == TWO.cells
    calls.clear()
    assert without_seconds(evaluate_relations(asked)) == first
    assert calls == []

    # A larger grid trains what is new.
    larger = Grid(settings=TWO.settings, seeds=(0, 1, 2))
    evaluate_relations(replace(asked, grid=larger))
    assert calls == [(SLOW, 2), (FAST, 2)]


def test_a_torn_cell_is_made_again(
    asked: Request, calls: list[tuple[Setting, int]], caplog: pytest.LogCaptureFixture
) -> None:
    first = without_seconds(evaluate_relations(asked))
    calls.clear()
    torn, changed = sorted((asked.out / "cells").iterdir())[:2]
    torn.write_text(torn.read_text()[:100])
    changed.write_text(changed.read_text().replace("no_relation", "country", 1))
    with caplog.at_level(logging.WARNING):
        assert without_seconds(evaluate_relations(asked)) == first
    assert len(calls) == 2
    assert caplog.text.count("made again") == 2


def test_other_data_models_or_protocols_are_refused(
    asked: Request, zeroed_path: Path, relation_files: dict[str, Path]
) -> None:
    small = replace(asked, grid=Grid(settings=(SLOW,), seeds=(0,)))
    evaluate_relations(small)
    rows = json.loads(relation_files["dev"].read_text())
    rows[0]["relation"] = "country" if rows[0]["relation"] != "country" else "lives in"
    relabelled = write_list(asked.out.with_name("relabelled.json"), rows)
    others = {
        "dev": replace(small, files=relation_files | {"dev": relabelled}),
        "model": replace(small, model=str(zeroed_path)),
        "test": replace(small, files=relation_files | {"test": relation_files["dev"]}),
        "batch": replace(small, recipe=replace(small.recipe, batch=4)),
        "reads_marks": replace(small, recipe=replace(small.recipe, reads_marks=True)),
    }
    for name, other in others.items():
        with pytest.raises(ConfigError, match=f"results of another .*{name}.*give a new folder"):
            evaluate_relations(other)


def test_the_same_weights_with_another_configuration_are_refused(
    asked: Request, model_path: Path, tmp_path: Path
) -> None:
    small = replace(asked, grid=Grid(settings=(SLOW,), seeds=(0,)))
    evaluate_relations(small)
    other = tmp_path / "other"
    shutil.copytree(model_path, other)
    values = json.loads((other / "config.json").read_text())
    # Said in other words, or by another version, it is the same model.
    (other / "config.json").write_text(json.dumps(values | {"transformers_version": "1.0"}))
    evaluate_relations(replace(small, model=str(other)))
    (other / "config.json").write_text(json.dumps(values | {"hidden_dropout_prob": 0.5}))
    with pytest.raises(ConfigError, match="results of another configuration"):
        evaluate_relations(replace(small, model=str(other)))


def test_other_types_are_other_markers(asked: Request, relation_files: dict[str, Path]) -> None:
    small = replace(asked, grid=Grid(settings=(SLOW,), seeds=(0,)))
    evaluate_relations(small, is_typed=True)
    rows = json.loads(relation_files["train"].read_text())
    named = [row | {"obj_type": f"{row['obj_type']}S"} for row in rows]
    files = relation_files | {"train": write_list(asked.out.with_name("named.json"), named)}
    with pytest.raises(ConfigError, match="results of another .*train"):
        evaluate_relations(replace(small, files=files), is_typed=True)


def test_rates_that_differ_have_cells_of_their_own() -> None:
    rates = (3e-5, 3.0000001e-5, 0.001, 2)
    names = [Setting(rate=rate, epochs=1).name for rate in rates]
    assert len(set(names)) == len(rates)
    assert names[0] == "rate-3e-05-1-epochs"


def test_a_folder_with_something_else_is_refused(asked: Request, model_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(a model\), which are no results"):
        evaluate_relations(replace(asked, out=model_path))
    asked.out.mkdir()
    (asked.out / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.tex, which are no results"):
        evaluate_relations(asked)
    assert [path.name for path in asked.out.iterdir()] == ["thesis.tex"]


def test_a_signal_ends_it_and_the_same_command_goes_on(
    asked: Request, calls: list[tuple[Setting, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = without_seconds(evaluate_relations(replace(asked, out=asked.out.with_name("whole"))))
    calls.clear()

    def signalled(data: Any, setting: Setting, seed: int, recipe: Any, device: Any, stop: Any) -> Fitted:  # fmt: skip
        if (setting, seed) == (FAST, 0):
            stop.signum = 2
        return plain_fit(data, setting, seed, recipe, device, stop)

    with monkeypatch.context() as patch:
        patch.setattr(grid_module, "fit", signalled)
        with pytest.raises(InterruptedRun, match="the same command goes on") as caught:
            evaluate_relations(asked)
    assert caught.value.exit_code == 130
    assert len(list((asked.out / "cells").iterdir())) == 2
    assert without_seconds(evaluate_relations(asked)) == whole
    assert calls == [(FAST, 0), (FAST, 1)]


def test_early_stopping_takes_the_best_epoch(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: list[float] = []
    plain = fit_module._Run.evaluate

    def recorded(run: Any, part: str) -> dict[str, float]:
        found = plain(run, part)
        scores.append(found["micro_f1"])
        return found

    monkeypatch.setattr(fit_module._Run, "evaluate", recorded)
    long = Grid(settings=(Setting(rate=3e-3, epochs=60),), seeds=(0,))
    patient = replace(asked, grid=long, recipe=replace(asked.recipe, patience=2))
    (cell,) = evaluate_relations(patient)["grid"][0]["seeds"]

    *by_epoch, last = scores
    best = by_epoch.index(max(by_epoch))
    # Two epochs that were no better than the best one, whose weights answer.
    assert len(by_epoch) == cell["epochs"] == best + 3 < 60
    assert by_epoch[-1] < max(by_epoch)
    assert last == cell["dev"]["micro_f1"] == max(by_epoch)


def test_a_setting_with_a_diverged_seed_is_not_chosen(relation_files: dict[str, Path]) -> None:
    examples = read_relations(relation_files["train"]).examples
    task = RelationTask(examples, "no_relation")
    data: Any = SimpleNamespace(task=task, examples={"test": examples})
    answers = [example.labels for example in examples]

    def cell(f1: float | None) -> Fitted:
        scores = None if f1 is None else {"micro_f1": f1}
        return Fitted(dev=scores, test_answers=answers, steps=1, epochs=1, loss=0.5, seconds=1.0)

    # The better mean of the seeds that are left does not count.
    fitted = {
        (SLOW, 0): cell(0.5), (SLOW, 1): cell(0.5),
        (FAST, 0): cell(0.9), (FAST, 1): cell(None),
    }  # fmt: skip
    results = summarise(data, TWO, fitted)
    assert results.chosen == SLOW
    assert results.test["mean"]["micro_f1"] == 1
    # Of equal ones the first.
    equal = {key: cell(0.5) for key in fitted}
    assert summarise(data, Grid(settings=(FAST, SLOW), seeds=(0, 1)), equal).chosen == FAST


def test_mean_and_standard_deviation_by_hand() -> None:
    found = mean_and_std([{"f1": 0.1}, {"f1": 0.2}, {"f1": 0.6}])
    assert found["mean"]["f1"] == pytest.approx(0.3)
    # (.04 + .01 + .09) / 2
    assert found["std"]["f1"] == pytest.approx(0.07**0.5)
    assert mean_and_std([{"f1": 0.1}])["std"]["f1"] is None
    assert mean_and_std([]) == {"mean": {}, "std": {}}

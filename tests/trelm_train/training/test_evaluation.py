"""Evaluation while training goes on; the best checkpoint; the profiler; precision and layout
switches.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from schemas.errors import ConfigError, TrelmError
from tests.trelm_train import world
from tests.trelm_train.conftest import request_for
from tests.trelm_train.evaluate.broken import zeroed
from tests.trelm_train.training.test_train import StopAfter, metrics_of, same_files
from trelm_train.checkpoints.checkpoint import best_checkpoint, list_checkpoints
from trelm_train.config import EvaluationConfig, profiled_steps
from trelm_train.model.precision import number_format, products
from trelm_train.training.evaluation import Evaluator, write_evaluation
from trelm_train.training.session import prepare_run
from trelm_train.training.signals import InterruptedRun
from trelm_train.training.step import train_step
from trelm_train.training.train import resume, run


def evaluations(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probes")
    rows = [
        {"sub_label": fact[0], "obj_label": fact[2]}
        for fact in world.facts()
        if fact[1] == world.COUNTRY
    ]
    (folder / "P1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "relations.jsonl").write_text(
        json.dumps({"relation": "P1", "template": "[X] is a town in [Y] ."}) + "\n"
    )
    return folder


def test_evaluations_and_the_best(
    shards_path: Path, model_path: Path, probes: Path, tmp_path: Path
) -> None:
    sets = (
        "evaluation.every=2", "evaluation.best=loss", "train.keep_checkpoints=1", "train.steps=8",
        f"evaluation.lama_probes={probes}", f"evaluation.lama_relations={probes / 'relations.jsonl'}",
        "train.learning_rate=0.02", "routing.policy=full",
    )  # fmt: skip
    request = request_for(shards_path, model_path, tmp_path / "out", *sets)
    summary = run(request)
    lines = evaluations(request.out)
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 8]
    assert all("lama_p_at_1" in line and "loss" in line for line in lines)
    measured = {line["step"]: line["loss"] for line in lines if line["step"]}
    best = min(measured, key=lambda step: measured[step])
    assert summary["best"] == {"measure": "loss", "value": measured[best], "step": best}
    found = best_checkpoint(request.out / "checkpoints")
    assert found is not None
    assert found.name == f"step-{best:08d}"
    assert {path.name for path in list_checkpoints(request.out / "checkpoints")} == {
        found.name,
        "step-00000008",
    }


def test_evaluations_change_nothing(shards_path: Path, model_path: Path, tmp_path: Path) -> None:
    for name, sets in (("with", ("evaluation.every=1",)), ("without", ("train.validate=false",))):
        run(request_for(shards_path, model_path, tmp_path / name, *sets))
    assert metrics_of(tmp_path / "with") == metrics_of(tmp_path / "without")
    same_files(
        tmp_path / "with/model/model.safetensors", tmp_path / "without/model/model.safetensors"
    )


def test_evaluations_after_a_stop(shards_path: Path, model_path: Path, tmp_path: Path) -> None:
    sets = ("evaluation.every=2", "evaluation.best=accuracy")
    run(request_for(shards_path, model_path, tmp_path / "whole", *sets))
    request = request_for(shards_path, model_path, tmp_path / "out", *sets)
    with pytest.raises(InterruptedRun):
        run(request, StopAfter(2))
    resume(request.out)
    assert evaluations(request.out) == evaluations(tmp_path / "whole")
    assert (
        json.loads((request.out / "summary.json").read_text())["best"]
        == json.loads((tmp_path / "whole" / "summary.json").read_text())["best"]
    )


def test_one_line_per_step(tmp_path: Path) -> None:
    for step, loss in (
        (0, 5.0),
        (2, 4.0),
        (4, 3.0),
        (2, 4.5),
    ):  # a run that was killed after 4 goes on from 1
        write_evaluation(tmp_path, step, {"loss": loss})
    assert [(line["step"], line["loss"]) for line in evaluations(tmp_path)] == [(0, 5.0), (2, 4.5)]


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        (
            ("evaluation.best=perplexity", "evaluation.every=1"),
            "evaluation.best = 'perplexity' must be one of loss",
        ),
        (
            ("evaluation.best=lama_p_at_1", "evaluation.every=1"),
            "must be one of loss, accuracy, entity_loss, cka_score$",
        ),
        (("evaluation.best=loss",), "evaluation.best needs evaluation.every"),
        (("evaluation.lama_probes=x",), "given together"),
        (("train.profile=5:",), "FIRST:LAST"),
        (("train.profile=7:3",), "FIRST:LAST"),
        (("train.dropout=1.5",), "-1 .the model's own., or lie from 0 to below 1"),
        (("train.attention=varlen",), "has no dropout of attention; add --set train.dropout=0"),
        (("train.schedule=sawtooth",), "must be one of linear, cosine, constant"),
        (("train.micro_batches=0",), "greater than 0"),
    ],
)
def test_settings_that_make_no_sense(
    sets: tuple[str, ...], match: str, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=match):
        run(request_for(shards_path, model_path, tmp_path / "out", "train.validate=false", *sets))


@pytest.mark.slow
def test_the_profiler(shards_path: Path, model_path: Path, tmp_path: Path) -> None:
    assert profiled_steps("11:15") == (11, 15)
    run(
        request_for(
            shards_path, model_path, tmp_path / "out", "train.profile=2:3", "train.validate=false"
        )
    )
    trace = json.loads((tmp_path / "out" / "profile" / "steps-2-3.json").read_text())
    assert trace["traceEvents"]
    assert "aten::mm" in (tmp_path / "out" / "profile" / "steps-2-3.txt").read_text()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_no_number_is_no_best(value: float | None) -> None:
    session: Any = SimpleNamespace(history={}, step=3)
    evaluator: Any = SimpleNamespace(config=EvaluationConfig(every=1, best="loss"), session=session)
    assert not Evaluator.improves(evaluator, {"loss": value})
    assert Evaluator.improves(evaluator, {"loss": 2.0})
    assert not Evaluator.improves(evaluator, {"loss": value})
    assert session.history["best"]["value"] == 2.0


def test_an_evaluation_of_a_broken_model_names_its_step(
    shards_path: Path, model_path: Path, probes: Path, tmp_path: Path
) -> None:
    sets = (
        "evaluation.every=1", "evaluation.best=lama_mrr",
        f"evaluation.lama_probes={probes}", f"evaluation.lama_relations={probes / 'relations.jsonl'}",
    )  # fmt: skip
    session = prepare_run(request_for(shards_path, model_path, tmp_path / "out", *sets))
    evaluator = Evaluator(session)
    assert evaluator.improves(evaluator.measure())
    best = dict(session.history["best"])

    session.step = 7
    with torch.no_grad():
        next(session.components.model.hf.parameters()).fill_(torch.nan)
    with pytest.raises(
        TrelmError, match=f"after step 7: {model_path}: NaN or infinite .*checkpoints"
    ):
        evaluator.measure()
    assert session.history["best"] == best


@pytest.mark.slow
def test_a_run_whose_weights_break_ends_and_is_not_resumed(
    shards_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoints before it stay; the broken one is refused by its tensor's name."""
    sets = ("evaluation.every=3", "evaluation.best=loss", "train.checkpoint_every=1")
    request = request_for(shards_path, model_path, tmp_path / "out", *sets)

    def poisoned(components: Any, inputs: Any, step: int) -> Any:
        outcome = train_step(components, inputs, step)
        if step == 1:  # the second one
            with torch.no_grad():
                components.model.hf.cls.predictions.transform.dense.bias[0] = torch.inf
        return outcome

    monkeypatch.setattr("trelm_train.training.train.train_step", poisoned)
    with pytest.raises(TrelmError, match="evaluation after step 3: .*: NaN or infinite logits"):
        run(request)
    assert [line["step"] for line in evaluations(request.out)] == [0]
    checkpoints = list_checkpoints(request.out / "checkpoints")
    assert checkpoints[-1].name == "step-00000002"
    assert best_checkpoint(request.out / "checkpoints") is None
    with pytest.raises(ConfigError, match="'model/cls.predictions.transform.dense.bias' hold NaN"):
        resume(request.out)

    monkeypatch.undo()
    shutil.rmtree(checkpoints[-1])
    assert resume(request.out)["steps"] == 6


def test_a_zeroed_model_is_no_better_than_chance_while_training(
    shards_path: Path, model_path: Path, probes: Path, tmp_path: Path
) -> None:
    sets = (
        "evaluation.every=1",
        f"evaluation.lama_probes={probes}", f"evaluation.lama_relations={probes / 'relations.jsonl'}",
    )  # fmt: skip
    session = prepare_run(request_for(shards_path, model_path, tmp_path / "out", *sets))
    zeroed(session.components.model)
    measures = Evaluator(session).measure()
    assert measures["accuracy"] == measures["lama_p_at_1"] == measures["lama_p_at_10"] == 0
    assert measures["cka_score"] == pytest.approx(1)
    assert measures["lama_mrr"] < 0.01


@pytest.mark.parametrize("damage", ["{", "[]", '{"loss": 1}', "\0", '{"step": null}', "[" * 10**5])
def test_a_damaged_line_is_left_out(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_evaluation(tmp_path, 2, {"loss": 3.0})
    path = tmp_path / "evaluations.jsonl"
    path.write_text(f"{damage}\n{path.read_text()}")
    write_evaluation(tmp_path, 4, {"loss": 2.0})
    assert evaluations(tmp_path) == [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 2.0}]
    assert "1 damaged line(s) left out" in caplog.text


def test_no_nan_in_the_file(tmp_path: Path) -> None:
    write_evaluation(tmp_path, 2, {"loss": 4.0, "cka_score": None})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_evaluation(tmp_path, 4, {"loss": float("nan")})
    assert evaluations(tmp_path) == [{"step": 2, "loss": 4.0, "cka_score": None}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sets",
    [
        ("train.precision=bfloat16",),
        ("train.layout=buckets",),
        ("train.attention=varlen", "train.dropout=0"),
        ("train.micro_batches=3", "train.schedule=cosine", "train.final_rate_share=0.1"),
        ("train.deterministic=true", "train.schedule=constant"),
        ("train.dropout=0.3",),
    ],
)
def test_switches_of_the_step(
    sets: tuple[str, ...], shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """Each goes on exactly after a stop."""
    run(request_for(shards_path, model_path, tmp_path / "whole", "train.validate=false", *sets))
    request = request_for(shards_path, model_path, tmp_path / "out", "train.validate=false", *sets)
    with pytest.raises(InterruptedRun):
        run(request, StopAfter(2))
    resume(request.out)
    assert metrics_of(request.out) == metrics_of(tmp_path / "whole")
    same_files(tmp_path / "whole/model/model.safetensors", request.out / "model/model.safetensors")


def test_number_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    from trelm_train.model import precision

    cpu = torch.device("cpu")
    for multiplies, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda known=multiplies: known)
        assert number_format("auto", cpu) == wanted
    assert number_format("float32", cpu) == torch.float32
    assert number_format("bfloat16", cpu) == torch.bfloat16
    with products(torch.bfloat16, cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with products(torch.float32, cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_bfloat16_is_near_float32(shards_path: Path, model_path: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        run(
            request_for(shards_path, model_path, tmp_path / precision, f"train.precision={precision}",
                        "train.validate=false", "train.dropout=0", "routing.policy=random")
        )  # fmt: skip
    exact, near = (metrics_of(tmp_path / name) for name in ("float32", "bfloat16"))
    for a, b in zip(exact, near, strict=True):
        assert a["mlm_loss"] == pytest.approx(b["mlm_loss"], rel=0.02)
        assert a["mlm_loss"] != b["mlm_loss"]

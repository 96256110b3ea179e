"""The routing benchmark: what it prints, that its peers compute what they claim, what it refuses."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import child, harness, routing, routing_attribution, routing_data, routing_step
from tests.benchmarks.test_dump_parse import DOCUMENTED
from trelm_train.routing.attribution import attribute, make_estimator

TINY = {"mini": (3, 64), "base": (4, 64)}


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> routing.Setup:
    """Small shapes in this process: quicker than a process each."""

    def in_this_process(variant: harness.Variant, scratch: Path) -> dict[str, Any]:
        request = {
            "target": variant.target,
            "arguments": dict(variant.arguments),
            "core": None,
            "scratch": str(scratch),
        }
        return child.run(request)

    monkeypatch.setattr(harness, "run_once", in_this_process)
    monkeypatch.setattr(routing, "run_once", in_this_process)
    monkeypatch.setattr(routing_data, "SHAPES", TINY)
    monkeypatch.setattr(routing_data, "VOCABULARY", 1100)
    return routing.Setup(
        folder=tmp_path, model="", facts=4, steps=1, rounds=1, dropout=0.0, quick=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["step_mini_512_float32", "step_base_512_bfloat16", "attribution_mini"]
)
def test_it_prints_the_documented_object(
    case: str,
    setup: routing.Setup,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routing, "LAYERS", {"mini": 3, "base": 4})
    (fields,) = routing.CASES[case](setup)
    harness.emit(fields)
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() >= DOCUMENTED
    assert (printed["case"], printed["lower_is_better"], printed["ok"]) == (case, True, True)
    if case.startswith("step"):
        assert {"full", "ffn", "masks", "forward", "ours_.25_half", "ours_.5_quarter"} <= set(
            printed["peers"]
        )
        assert printed["wall"]["full"] == 1.0
    else:
        assert {"midpoint_20", "published_20", "captum_20"} <= set(printed["peers"])


@pytest.mark.slow
@pytest.mark.kit
@pytest.mark.skipif("TRELM_KIT" not in os.environ, reason="needs the data kit")
def test_the_fidelity_table(setup: routing.Setup) -> None:
    (fields,) = routing.fidelity(setup)
    assert fields["table"].keys() == routing_attribution.METHODS.keys()
    assert fields["completeness_worst"] <= 0.02
    assert fields["captum_largest_difference"] <= 1e-5


def test_without_the_kit_it_is_skipped(
    setup: routing.Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRELM_KIT", raising=False)
    (fields,) = routing.fidelity(setup)
    assert "TRELM_KIT" in fields["skipped"]["fidelity"]


@pytest.mark.parametrize(("peer", "rule"), [("published", "left"), ("captum", "midpoint")])
def test_the_peers_compute_the_same_integral(peer: str, rule: str, setup: routing.Setup) -> None:
    """The published procedure is our left rule, by another way; captum's our midpoint."""
    model = routing_data.random_bert("mini", 0.0)
    with torch.no_grad():
        for parameter in model.hf.parameters():
            parameter.mul_(3)  # away from a flat softmax
    model.hf.eval()
    one: Callable[..., torch.Tensor] = getattr(routing_attribution, peer)
    for probe in routing_data.generated_probes(3):
        packed, targets = routing_data.probe_chunks(model, [probe])[0]
        ours = attribute(model, packed, targets, make_estimator(rule, 20))[0]
        assert float((one(model, packed, targets) - ours).abs().max() / ours.abs().max()) <= 1e-4


def test_masks_keep_the_chosen_gradients_alone(setup: routing.Setup) -> None:
    model = routing_data.random_bert("mini", 0.0)
    chosen = routing_step.choose(model, 0.1, 2)
    assert sum(map(len, chosen.values())) == round(0.1 * 2 * 256)
    assert not len(chosen[0])
    work = routing_data.generated_work(model, 256)
    before = model.family.ffn(2).w_in.weight.detach().clone()
    take = routing_step.masks(model, work, "float32", chosen)
    take()
    changed = (model.family.ffn(2).w_in.weight != before).any(1).nonzero()[:, 0]
    assert len(changed) > len(chosen[2]), (
        "AdamW's weight decay moves the others: masks are no sparse training"
    )


def test_limits_by_operations() -> None:
    assert routing.limit(0.1, 1.0) == pytest.approx(0.689, abs=1e-3)
    assert routing.limit(0.1, 0.5) == pytest.approx(0.511, abs=1e-3)


def test_it_refuses_nonsense(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["routing", "--facts", "0"])
    with pytest.raises(SystemExit):
        routing.main()
    assert "--facts: wanted 1 or more" in capsys.readouterr().err

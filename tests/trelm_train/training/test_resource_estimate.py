import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError
from tests.trelm_train.conftest import request_for
from trelm_train.training import resource_estimate
from trelm_train.training.resource_estimate import (
    ResourceEstimate,
    check_estimate,
    counted_activations,
    estimate_request,
    estimate_resources,
    readable_estimate,
)
from trelm_train.training.session import prepare_run


@pytest.fixture(scope="module")
def small(
    shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> ResourceEstimate:
    return estimate_request(
        request_for(shards_path, model_path, tmp_path_factory.mktemp("plan") / "out")
    )


def test_the_parts_by_hand(shards_path: Path, model_path: Path, tmp_path: Path) -> None:
    request = request_for(shards_path, model_path, tmp_path / "out", "routing.policy=full")
    session = prepare_run(request)
    found = estimate_resources(session)
    weights = (
        sum(p.numel() for p in session.components.model.hf.parameters()) + 2 * 32 * 32
    )  # W_q of CKA
    assert found.gradients_mb * 1e6 == pytest.approx(4 * weights)
    assert found.optimiser_mb * 1e6 == pytest.approx(8 * weights)
    assert found.bank_mb * 1e6 == pytest.approx(2 * 2 * session.knowledge.num_bank_rows * 32)
    assert found.peak_memory_mb > found.resident_mb + found.optimiser_mb
    assert not (tmp_path / "out").exists()  # a plan writes nothing


def test_logits_are_counted_on_the_runs_own_batches(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    def head_mb(*sets: str) -> float:
        return estimate_request(request_for(shards_path, model_path, tmp_path / "o", *sets)).head_mb

    masks = head_mb("facts.enabled=false", "cka.enabled=false")
    asked = head_mb("facts.enabled=true", "cka.enabled=false")
    both = head_mb("facts.enabled=true", "cka.enabled=true", "cka.form=head")
    projection = head_mb("facts.enabled=true", "cka.enabled=true", "cka.form=projection")
    assert masks < asked < both
    # A projection compares vectors, and no logits.
    assert projection == asked


def test_routing_needs_less(
    small: ResourceEstimate, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    full = estimate_request(
        request_for(shards_path, model_path, tmp_path / "out", "routing.policy=full")
    )
    assert small.optimiser_mb < 0.5 * full.optimiser_mb
    assert 0 < small.activations_mb < full.activations_mb
    assert small.checkpoint_mb < full.checkpoint_mb


def test_activations_grow_with_the_batch(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    # In bfloat16 rows are added to the last layer's, up to a multiple: small batches get more.
    one, four = (
        estimate_request(
            request_for(
                shards_path,
                model_path,
                tmp_path / "out",
                f"train.batch_tokens={tokens}",
                "train.precision=float32",
            )
        )
        for tokens in (480, 4800)
    )
    assert one.activations_mb > 0
    assert four.activations_mb == pytest.approx(10 * one.activations_mb, rel=0.05)
    assert four.head_mb == pytest.approx(10 * one.head_mb, rel=0.01)


def test_what_autograd_keeps_is_counted_once() -> None:
    import torch

    counts = [0]
    weight = torch.ones(100, 100, requires_grad=True)
    with counted_activations(counts):
        x = torch.ones(7, 100) @ weight  # keeps its input, 2,800 bytes; the weight is no activation
        y = torch.exp(x)  # keeps its output, 2,800 bytes
        (y * y).sum()  # keeps y, which is counted already
    assert counts[0] == 2 * 2800


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        (
            {"peak_memory_mb": 2000.0},
            "about 2,000 MB of memory, and 1,000 MB are free; lower train.batch_tokens",
        ),
        (
            {"disk_mb": 2000.0},
            "about 2,000 MB of disk, and 1,000 MB are free there; lower train.keep_checkpoints",
        ),
        ({}, ""),
    ],
)
def test_a_run_that_cannot_fit_is_refused(
    changed: dict[str, float],
    wanted: str,
    small: ResourceEstimate,
    shards_path: Path,
    model_path: Path,
    tmp_path: Path,
) -> None:
    fitting = {
        "peak_memory_mb": 500.0,
        "available_memory_mb": 1000.0,
        "disk_mb": 500.0,
        "available_disk_mb": 1000.0,
    }
    needed = replace(small, **{**fitting, **changed})
    request = request_for(shards_path, model_path, tmp_path / "out")
    if wanted:
        with pytest.raises(ConfigError, match=wanted):
            check_estimate(needed, request)
    else:
        check_estimate(needed, request)
    check_estimate(
        needed, request_for(shards_path, model_path, tmp_path / "out", "train.check_plan=false")
    )


def test_a_run_checks_its_plan_before_the_first_step(
    shards_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trelm_train.training.train import run

    monkeypatch.setattr(resource_estimate, "free_memory", lambda: -1e15)
    with pytest.raises(ConfigError, match="MB of memory"):
        run(request_for(shards_path, model_path, tmp_path / "out"))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_the_command(
    small: ResourceEstimate, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "trelm_train", "inspect", "plan", "--shards", str(shards_path), "--model",
         str(model_path), "--out", str(tmp_path / "out"), "--set", "train.batch_tokens=256", "--set",
         "train.max_tokens=48", "--set", "routing.share=0.25", "--set", "routing.policy=ig", "--set",
         "injection.enabled=true", "--set", "memory.enabled=true", "--set", "cka.enabled=true", "--set", "cka.form=projection",
         "--json"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(out)["checkpoint_mb"] == small.checkpoint_mb
    assert not (tmp_path / "out").exists()
    assert "peak memory" in readable_estimate(small)


@pytest.mark.parametrize("policy", ["full", "ig", "top_layers"])
def test_activations_are_those_of_a_training_step(
    policy: str, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """Counted in a real step of the same session, head and losses left out."""
    from tests.trelm_train.conftest import step_on
    from trelm_train.training.train import route

    session = prepare_run(
        request_for(shards_path, model_path, tmp_path / "out", f"routing.policy={policy}")
    )
    planned = estimate_resources(session).activations_mb
    assert (
        session.components.sparse is None or not session.components.sparse.rows
    )  # the stand-in is gone
    (tmp_path / "out").mkdir()
    route(session)
    counts, encode = [0], session.components.encode

    def counted(*args: Any) -> Any:
        with counted_activations(counts):
            return encode(*args)

    batch = next(session.stream.iterate(session.position))[0]
    step_on(replace(session, components=replace(session.components, encode=counted)), batch, 0)
    assert planned == pytest.approx(
        counts[0] / 1e6, rel=0.25
    )  # this batch is not quite full, nor its routes the same


def test_a_bank_in_a_file_is_planned_without_one(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    estimate_request(request_for(shards_path, model_path, tmp_path / "out", "memory.storage=file"))
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_needs_no_room_for_what_it_has(
    shards_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from tests.trelm_train.training.test_train import StopAfter
    from trelm_train.training.signals import InterruptedRun
    from trelm_train.training.train import resume, run

    request = request_for(
        shards_path,
        model_path,
        tmp_path / "out",
        "train.checkpoint_every=1",
        "train.keep_checkpoints=9",
    )
    needed = estimate_request(request).disk_mb
    with pytest.raises(InterruptedRun):
        run(request, StopAfter(4))
    has = sum(path.stat().st_size for path in request.out.rglob("*") if path.is_file()) / 1e6
    usage = shutil.disk_usage(tmp_path)._replace(free=int((needed - 0.9 * has) * 1e6))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    resume(request.out)

"""The check of the GPU paths: everything that a processor can run of it, and that it can fail."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import (
    gpu_check,
    gpu_check_facts,
    gpu_check_process,
    gpu_check_runs,
    gpu_check_speed,
    train_hf,
)
from benchmarks.gpu_check import NO_TIME, Report, run_checks
from benchmarks.gpu_check_plan import SIZES, Check, beside_ours, planned_checks
from benchmarks.gpu_check_process import in_fork, in_new_process
from benchmarks.gpu_check_verdict import (
    TOLERANCES,
    at_least,
    at_most,
    differences,
    loss_aims,
    verdict,
)
from benchmarks.harness import ROOT, Variant, VariantError
from trelm_train.model import encoder

torch.set_num_threads(1)
HERE = "tests.benchmarks.gpu_check_targets"
NAMES = [
    "environment", "attention", "losses", "injection", "device_bank", "contrast", "routing", "resume",
    "one_rank", "importance", "speed", "speed_trainer", "speed_limit", "memory", "facts", "compiled",
    "speed_compiled",
]  # fmt: skip
WAYS = pytest.mark.parametrize("way", [in_new_process, in_fork])


def check(name: str, target: str = f"{HERE}:good", **more: Any) -> Check:
    arguments = more.pop("arguments", {"value": 0.5} if target.endswith("good") else {})
    values = {"usual_s": 1.0, "limit_s": 60.0, **more}
    return Check(name=name, target=target, arguments=arguments, **values)


def answered(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"result": result, "cpu_seconds": 1.0, "rss_mb": 1.0}


def report(folder: Path, num_planned: int) -> Report:
    head = {"program": "gpu_check"}
    return Report(path=folder / "out.json", head=head, num_planned=num_planned)


def written(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def test_everything_that_a_processor_can_run(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [
        sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--quick", "--out", str(out),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    records = {record["check"]: record for record in found["checks"]}
    assert list(records) == NAMES
    assert found["summary"]["failed"] == []
    assert set(found["summary"]["skipped"]) <= {"speed_trainer", "speed_compiled"}
    for name, record in records.items():
        if record["ok"] is None:
            assert record["why"], name
        else:
            assert record["ok"] is True, record
    for name in ("losses", "injection", "device_bank", "contrast", "routing", "compiled"):
        for arm in records[name]["arms"].values():
            assert len(arm["losses"]) == SIZES["small"].steps
    # On a processor it is the same work: nothing may differ.
    assert records["losses"]["arms"]["float32"]["apart"] == [0.0] * SIZES["small"].steps
    assert max(records["losses"]["arms"]["bfloat16"]["apart"]) > 0
    assert records["resume"]["ways"]["deterministic"]["steps"] == SIZES["small"].steps // 2
    assert records["one_rank"]["wrong"] == 0
    assert "gloo" in records["one_rank"]["backend"]
    assert set(records["speed_limit"]["ours_over_it"]) == {"sdpa", "varlen"}
    assert records["facts"]["is_judged"] is False


def test_the_order_and_the_limits() -> None:
    for device, size in (("cuda", "full"), ("cpu", "small")):
        checks = planned_checks(device, SIZES[size], "data")
        assert [one.name for one in checks] == NAMES
        assert [one.name for one in checks if one.is_first] == ["environment"]
        assert all(one.limit_s > one.usual_s > 0 for one in checks)
    full = planned_checks("cuda", SIZES["full"], "data")
    assert sum(one.usual_s for one in full) <= 12 * 60
    assert full[-1].skip == ""
    assert SIZES["full"].facts["must_learn"]


STEPS: Sequence[Mapping[str, float]] = [
    {"loss": 3.0, "mlm_loss": 3.0}, {"loss": 2.5, "mlm_loss": 2.5, "fact_loss": 4.0},
]  # fmt: skip


def changed(**values: float) -> list[Mapping[str, float]]:
    return [STEPS[0], {**STEPS[1], **values}]


@pytest.mark.parametrize(
    ("losses", "is_ok"),
    [
        (STEPS, True),
        (changed(loss=2.5001), True),
        (changed(loss=2.51), False),
        (changed(fact_loss=4.1), False),
        (changed(loss=math.nan), False),
        (changed(cka_loss=1.0), False),  # a loss that the reference does not have
        (STEPS[:1], False),
        ([*STEPS, STEPS[1]], False),
        ([], False),
    ],
)
def test_losses_that_differ_are_a_failure(
    losses: Sequence[Mapping[str, float]],
    is_ok: bool,  # noqa: FBT001
) -> None:
    found = verdict(loss_aims("arm", STEPS, losses, TOLERANCES["float32"]))
    assert found["ok"] is is_ok
    assert bool(found["why"]) is not is_ok
    json.dumps(found, allow_nan=False)


def test_the_first_step_is_held_to_less() -> None:
    apart = [{"loss": 3.0003, "mlm_loss": 3.0}, STEPS[1]]
    found = verdict(loss_aims("arm", STEPS, apart, TOLERANCES["float32"]))
    assert found["why"].startswith("arm.first_step")
    assert found["aims"]["arm.any_step"]["met"]


def test_nothing_is_compared_with_nothing() -> None:
    assert differences([], []) == []
    assert not verdict(loss_aims("arm", [], [], TOLERANCES["bfloat16"]))["ok"]


def test_an_error_of_a_part_is_a_failure() -> None:
    found = verdict([at_most("value", 0.5, 1)], {"bfloat16": "RuntimeError: no kernel"}, a=1.0)
    assert not found["ok"]
    assert "no kernel" in found["why"]
    assert verdict([at_least("value", math.nan, 0)])["why"] == "value: nan, wanted at least 0"


SMALL = {**SIZES["small"].compared, "sentences": 60}
ARM = {"float32": ["facts.enabled=false", "cka.enabled=false"]}


def test_a_wrong_loss_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's run is given a loss that is .01 too high in its second step."""
    whole, calls = gpu_check_runs.losses_of, [0]

    def wrong(folder: Path) -> list[Mapping[str, float]]:
        calls[0] += 1
        losses = [dict(step) for step in whole(folder)]
        losses[1]["loss"] += 0.01 * (calls[0] - 1)
        return list(losses)

    monkeypatch.setattr(gpu_check_runs, "losses_of", wrong)
    # Another setting, so that the second run is made at all on this one device.
    arms = {"float32": [*ARM["float32"], "memory.storage=ram"]}
    found = gpu_check_runs.compare(tmp_path, "cpu", 2, arms, {**SMALL, "data": str(tmp_path)})
    assert not found["ok"]
    assert "float32.any_step" in found["why"]
    assert found["aims"]["float32.first_step"]["met"]


def test_an_arm_that_crashes_leaves_the_others(tmp_path: Path) -> None:
    arms = {"impossible": [*ARM["float32"], "train.schedule=never"], **ARM}
    found = gpu_check_runs.compare(tmp_path, "cpu", 2, arms, {**SMALL, "data": str(tmp_path)})
    assert not found["ok"]
    assert list(found["arms"]) == ["float32"]
    assert list(found["errors"]) == ["impossible"]


def test_attention_that_sees_a_neighbour_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_check_runs.attention(tmp_path, "cpu", 20)["ok"]
    whole = encoder.sentence_attention

    def shifted(q: Any, k: Any, v: Any, borders: torch.Tensor, longest: int) -> torch.Tensor:
        if q.dtype == torch.bfloat16:
            borders = borders.clone()
            borders[3] -= 1
        return whole(q, k, v, borders, longest)

    monkeypatch.setattr(encoder, "sentence_attention", shifted)
    found = gpu_check_runs.attention(tmp_path, "cpu", 20)
    assert "forward" in found["why"]
    assert "backward" in found["why"]


def test_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = gpu_check_speed.environment(tmp_path, "cuda")
    assert (found["ok"], found["why"]) == (False, "gpu: torch sees none")


@pytest.mark.parametrize(("precision", "is_ok"), [("highest", True), ("high", False)])
def test_a_gpu_is_described(
    precision: str,
    is_ok: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As far as that can be tried without one."""
    about = SimpleNamespace(
        name="H", major=9, minor=0, total_memory=80 * 10**9, multi_processor_count=132
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    found = gpu_check_speed.environment(tmp_path, "cuda")
    assert found["ok"] is is_ok
    assert (found["compute_capability"], found["memory_mb"]) == ("9.0", 80_000.0)


def test_what_of_a_plan_lies_on_the_device() -> None:
    plan = {
        "gradients_mb": 2.0, "optimiser_mb": 4.0, "activations_mb": 8.0, "head_mb": 16.0,
        "resident_mb": 500.0, "peak_memory_mb": 900.0,
    }  # fmt: skip
    assert gpu_check_speed.device_plan_mb(plan, weights_mb=1.0) == 31.0


def test_batches_that_are_too_large_for_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer(out: Path, batch_size: int, **_: Any) -> dict[str, Any]:
        if batch_size > 100:
            raise torch.OutOfMemoryError("too large")
        return {"tokens": 60, "seconds": 2.0}

    monkeypatch.setattr(train_hf, "trainer", trainer)
    monkeypatch.setattr(gpu_check_speed, "_data", lambda _: ("shards", "model"))
    found = gpu_check_speed.trainer(tmp_path, "cuda", 3, [50, 200], {})
    assert found["ok"]
    assert found["tokens_per_s"] == {"50": 30.0}
    assert list(found["too_large"]) == ["200"]
    assert not gpu_check_speed.trainer(tmp_path, "cuda", 3, [200], {})["ok"]


def test_without_a_device_nothing_else_is_run(tmp_path: Path) -> None:
    target = f"{HERE}:broken"
    checks = [check("environment", target, is_first=True), check("other")]
    found = report(tmp_path, len(checks))
    run_checks(checks, found, lambda variant, limit_s: _raise(), 1)
    assert [record["ok"] for record in found.records] == [False, None]
    assert found.records[1]["why"] == "environment failed"
    assert not found.summary()["ok"]


def _raise() -> Mapping[str, Any]:
    raise VariantError("no device")


@WAYS
def test_a_crash_and_a_hang_leave_the_others(
    way: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check_process, "IMPORTED", ("benchmarks.gpu_check_verdict",))
    started = tmp_path / "started"
    checks = [
        check("broken", f"{HERE}:broken"),
        check("killed", f"{HERE}:killed"),
        # Long enough to have started its child on a busy machine.
        check("slow", f"{HERE}:slow", limit_s=8.0, arguments={"started": str(started)}),
        check("good"),
        check("too_much", arguments={"value": 2.0}),
    ]
    found = report(tmp_path, len(checks))
    run_checks(
        checks, found, lambda variant, limit_s: way(variant, scratch=tmp_path, limit_s=limit_s), 10
    )
    records = {record["check"]: record for record in found.records}
    assert [record["ok"] for record in found.records] == [False, False, False, True, False]
    assert "this cannot work" in records["broken"]["why"]
    assert "took more than 8 s" in records["slow"]["why"]
    assert records["too_much"]["why"] == "value: 2, wanted at most 1"
    assert written(tmp_path)["summary"]["failed"] == ["broken", "killed", "slow", "too_much"]
    assert has_ended(int(started.read_text()))


def has_ended(process: int) -> bool:
    for _ in range(100):
        status = Path(f"/proc/{process}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.1)
    return False


def test_the_budget_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds: the first check takes four, the second does not fit, the third is cut off.

    What lacked time has not failed, but the whole is not ok: nobody has seen it work.
    """
    now, limits = [0.0], []
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: now[0])

    def run(variant: Variant, *, limit_s: float) -> Mapping[str, Any]:
        limits.append(limit_s)
        now[0] += min(limit_s, variant.arguments["value"])
        if variant.arguments["value"] > limit_s:
            raise gpu_check.TooSlowError("too slow")
        return answered(verdict([]))

    checks = [
        check("first", arguments={"value": 4.0}),
        check("large", usual_s=8.0, arguments={"value": 4.0}),
        check("cut", usual_s=4.0, arguments={"value": 50.0}),
        check("last", usual_s=1.0, arguments={"value": 1.0}),
    ]
    found = report(tmp_path, 4)
    run_checks(checks, found, run, minutes=10 / 60)
    assert [record["ok"] for record in found.records] == [True, None, None, None]
    assert [record["why"] for record in found.records[1:]] == [NO_TIME] * 3
    assert limits == pytest.approx([10.0, 6.0])
    assert now[0] == pytest.approx(10.0)
    summary = found.summary()
    assert summary["ok"] is False
    assert (summary["failed"], summary["lacked_time"]) == ([], ["large", "cut", "last"])


def test_a_hang_with_little_time_left_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own limit is longer than what is left, but it has had several times its usual time."""
    now = [0.0]
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: now[0])

    def run(variant: Variant, *, limit_s: float) -> Mapping[str, Any]:
        now[0] += limit_s
        raise gpu_check.TooSlowError(f"{variant.name} took more than {limit_s:g} s")

    found = report(tmp_path, 1)
    run_checks([check("hangs", usual_s=2.0, limit_s=500.0)], found, run, minutes=10 / 60)
    assert found.records[0]["ok"] is False
    assert "took more than 10 s" in found.records[0]["why"]


def test_a_file_of_a_run_that_was_stopped_says_so(tmp_path: Path) -> None:
    found = report(tmp_path, 2)
    found.add({"check": "first", "ok": True, "why": "", "seconds": 1.0})
    assert written(tmp_path)["summary"]["ok"] is None
    found.add({"check": "second", "ok": None, "why": "no such device", "seconds": 0.0})
    assert written(tmp_path)["summary"]["ok"] is True, "left out beforehand, with its reason"


def test_the_file_is_whole_after_every_check(tmp_path: Path) -> None:
    seen = []

    def run(variant: Variant, *, limit_s: float) -> Mapping[str, Any]:
        path = tmp_path / "out.json"
        seen.append(len(written(tmp_path)["checks"]) if path.exists() else 0)
        return answered(verdict([], name=variant.name))

    run_checks([check("a"), check("b"), check("c")], report(tmp_path, 3), run, 1)
    assert seen == [0, 1, 2]
    assert len(written(tmp_path)["checks"]) == 3


def test_slower_than_the_trainer_is_a_failure() -> None:
    ours = {"check": "speed", "tokens_per_s": {"sdpa": 50.0, "varlen": 90.0}}
    record = {"tokens_per_s": {"128": 30.0, "512": 100.0}}
    assert beside_ours(record, [ours], least=1.0)["ok"] is False
    # Whoever runs this check alone is told, and nothing is judged.
    alone = beside_ours(record, [], least=1.0)
    assert "ok" not in alone
    assert "did not run" in alone["why"]
    faster = beside_ours({"tokens_per_s": {"trainer": 45.0}}, [ours], least=1.0)
    assert faster == {"ours_over_it": {"sdpa": {"trainer": 50 / 45}, "varlen": {"trainer": 2.0}}}
    limit = {"tokens_per_s": {"products": 200.0}, "flops_per_token": 4.0, "peak_tflops": 1e-9}
    assert beside_ours(limit, [ours])["flops_utilisation"] == pytest.approx(
        {"sdpa": 0.2, "varlen": 0.36}
    )


@pytest.mark.parametrize(
    ("known", "rare", "default", "plain", "missed"),
    [
        (0.9, 0.1, 0.3, 0.1, []),
        (0.9, 0.1, 0.1, 0.1, ["default_over_plain", "default_over_before"]),
        (0.9, 0.1, 0.3, 0.3, ["default_over_plain"]),
        (0.2, 0.1, 0.3, 0.1, ["known_before"]),  # the start has learned nothing
        (0.9, 0.4, 0.5, 0.1, ["rare_before"]),
    ],
)
def test_learning_is_judged(
    known: float, rare: float, default: float, plain: float, missed: list[str]
) -> None:
    before, after = {"known": known, "rare": rare}, {"default": default, "plain": plain}
    aims = gpu_check_facts.learning_aims(before, after)
    assert [aim.name for aim in aims if not aim.is_met] == missed


def test_multiplications_of_a_step() -> None:
    """One layer of 2, one sentence of 3 tokens, a vocabulary of 5: counted by hand."""
    import numpy as np

    forward = 3 * 24 * 4 + 4 * 2 * 9 + 0.15 * 3 * 2 * (4 + 10)
    assert gpu_check_speed.step_flops(2, 1, 5, np.asarray([3])) == pytest.approx(3 * forward)


def test_an_unknown_check_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "out.json")
    monkeypatch.setattr(
        sys, "argv", ["gpu_check", "--device", "cpu", "--check", "no", "--out", out]
    )
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main()
    assert "wanted one of environment, attention" in capsys.readouterr().err

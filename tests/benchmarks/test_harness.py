"""What all benchmarks share: aims and their judgement, JSON, exit codes, times that are none."""

from __future__ import annotations

import argparse
import atexit
import importlib
import json
import math
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmarks
from benchmarks import child, harness
from benchmarks.harness import Aim, Measured, Variant, VariantError, judged, none_wrong

CHILD = "tests.benchmarks.test_harness"


@pytest.mark.parametrize(
    ("bounds", "value", "is_met"),
    [
        ({"at_least": 2.0}, 2.0, True),
        ({"at_least": 2.0}, 1.9, False),
        ({"at_most": 2.0}, 2.0, True),
        ({"at_most": 2.0}, 2.1, False),
        ({"at_least": 1.0, "at_most": 2.0}, 1.5, True),
        ({"at_least": 1.0, "at_most": 2.0}, 0.5, False),
        ({"at_least": 1.0}, math.nan, False),
        ({"at_most": 1.0}, math.nan, False),
        ({"at_most": 2.0}, None, False),
    ],
)
def test_bounds(bounds: dict[str, float], value: float | None, is_met: bool) -> None:  # noqa: FBT001
    aim = Aim(name="speed", value=value, **bounds)
    assert aim.is_met == is_met
    assert judged([aim], quick=False) == {
        "aims": {"speed": {"value": value, **bounds, "met": is_met}},
        "ok": is_met,
    }


def test_small_data_is_judged_by_correctness_alone() -> None:
    aims = [Aim(name="speed", value=1.0, at_least=2.0), none_wrong("lost", 0)]
    fields = judged(aims, quick=True)
    assert fields["ok"]
    assert fields["aims"]["speed"]["met"] is None
    assert "--quick" in fields["aims"]["speed"]["why"]
    assert fields["aims"]["lost"] == {"value": 0, "at_most": 0, "met": True}
    assert not judged([none_wrong("lost", 3)], quick=True)["ok"]


def test_a_figure_that_is_missing_for_a_reason_is_not_judged() -> None:
    aim = Aim(name="speed", value=None, at_least=2.0, missing="pip install peer")
    assert judged([aim], quick=False) == {
        "aims": {"speed": {"value": None, "at_least": 2.0, "met": None, "why": "pip install peer"}},
        "ok": True,
    }
    present = Aim(name="speed", value=1.0, at_least=2.0, missing="pip install peer")
    assert not judged([present], quick=False)["ok"], "the reason does not excuse a figure"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_nan(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        harness.emit({"nested": [{"ratio": value}]})


@pytest.mark.parametrize(("ours", "theirs"), [(1.0, None), (None, 1.0), (1.0, 0.0), (None, None)])
def test_a_ratio_needs_both_sides(ours: float | None, theirs: float | None) -> None:
    assert harness.ratio(ours, theirs) is None
    assert harness.ratio(1.0, 4.0) == 0.25


@pytest.mark.parametrize(
    ("seconds", "work"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0)]
)
def test_no_time_and_no_work_are_errors(seconds: float, work: float) -> None:
    variant = Variant(name="empty", target="none:none", arguments={}, work=work)
    measured = Measured(variant=variant, seconds=[seconds], cpu_seconds=[seconds])
    for rate in ("rate", "cpu_rate"):
        with pytest.raises(VariantError, match="empty .* measured nothing"):
            getattr(measured, rate)


def clocks(out: Path, **clocks: float) -> dict[str, Any]:
    """Return the times that a test wants."""
    return clocks


def test_a_variant_that_measured_no_time_is_an_error(tmp_path: Path) -> None:
    arguments = {"seconds": 1.0, "cpu_seconds": 0.0}
    variant = Variant(name="idle", target=f"{CHILD}:clocks", arguments=arguments, pinned=False)
    with pytest.raises(VariantError, match="idle .* measured no time: cpu_seconds"):
        harness.run_once(variant, tmp_path)


def aborts_at_its_end(out: Path) -> dict[str, Any]:
    """Do as a peer whose threads outlive the interpreter."""
    atexit.register(os.abort)
    return {"out": out.name}


def test_what_was_measured_counts_though_its_process_would_abort(tmp_path: Path) -> None:
    target = f"{CHILD}:aborts_at_its_end"
    variant = Variant(name="peer", target=target, arguments={}, pinned=False)
    assert harness.run_once(variant, tmp_path)["result"]["out"].startswith("out-")


def test_both_clocks_or_none(tmp_path: Path) -> None:
    request = {"target": f"{CHILD}:clocks", "core": None, "scratch": str(tmp_path)}
    with pytest.raises(ValueError, match="only one clock"):
        child.run({**request, "arguments": {"seconds": 1.0}})
    answer = child.run({**request, "arguments": {"seconds": 2.0, "cpu_seconds": 1.0}})
    assert (answer["seconds"], answer["cpu_seconds"]) == (2.0, 1.0)
    answer = child.run({**request, "arguments": {}})
    assert answer["seconds"] > 0
    assert answer["cpu_seconds"] > 0


@pytest.mark.parametrize(
    ("check", "is_met", "code"), [(False, False, 0), (True, False, 1), (True, True, 0)]
)
def test_the_exit_code_is_1_where_a_checked_aim_is_missed(
    check: bool,  # noqa: FBT001
    is_met: bool,  # noqa: FBT001
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def records() -> Iterator[dict[str, Any]]:
        for case, number in (("good", 0), ("other", 0 if is_met else 1)):
            yield {"case": case, **judged([none_wrong("lost", number)], quick=False)}

    given = argparse.Namespace(check=check, quick=False)
    assert harness.report("name", given, ["numpy"], records(), rows=5) == code
    captured = capsys.readouterr()
    machine, *printed = map(json.loads, captured.out.splitlines())
    assert (machine["benchmark"], machine["rows"]) == ("name", 5)
    assert [fields["ok"] for fields in printed] == [True, is_met]
    formats = machine["machine"]["bfloat16_instructions"]
    assert all(fields["bfloat16_instructions"] == formats for fields in printed)
    assert captured.err == ("aims are missed in: other\n" if code else "")


@pytest.mark.parametrize(
    ("cpu_info", "instructions"),
    [
        ([], None),
        (["model name : any", "flags\t: fpu sse avx2"], []),
        (
            ["flags\t: fpu amx_bf16 avx512f avx512_bf16", "flags\t: fpu"],
            ["amx_bf16", "avx512_bf16"],
        ),
    ],
)
def test_the_number_formats_of_the_processor(
    cpu_info: list[str], instructions: list[str] | None
) -> None:
    assert harness._bfloat16_instructions(cpu_info) == instructions


def programs() -> list[str]:
    """Return the benchmarks that can be run."""
    modules = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    texts = {name: Path(benchmarks.__path__[0], f"{name}.py").read_text() for name in modules}
    return [name for name, text in texts.items() if "run_program(main)" in text]


def test_all_programs_are_known() -> None:
    assert set(programs()) == {
        "alias_index", "buckets", "dump_parse", "gpu_check", "importance", "linking", "loader", "memory_bank", "routing",
        "shards", "statistics", "train_throughput", "wikipedia",
    }  # fmt: skip


@pytest.mark.parametrize("name", programs())
def test_every_benchmark_can_be_checked(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    assert "--check" in capsys.readouterr().out

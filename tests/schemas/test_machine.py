"""Cores and memory of a process: of the machine, of its affinity, of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from schemas import machine
from schemas.machine import free_memory, total_memory, usable_cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", 8),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 8),
        ("", 8),
        ("x y", 8),
    ],
)
def test_cores(text: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpu.max"
    if text:
        path.write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CPU_LIMIT", path)
    monkeypatch.setattr(machine, "OLD_CPU_LIMIT", ())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == cores


def test_cores_of_an_old_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota, period = tmp_path / "quota", tmp_path / "period"
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "none")
    monkeypatch.setattr(machine, "OLD_CPU_LIMIT", (quota, period))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    period.write_text("100000\n")
    for text, cores in (("-1", 8), ("300000", 3)):
        quota.write_text(f"{text}\n")
        assert usable_cores() == cores


def test_total_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = tmp_path / "limit"
    monkeypatch.setattr(machine, "MEMORY_LIMITS", (limit, tmp_path / "missing"))
    assert total_memory() == physical
    for text, total in (("max", physical), ("50000000", 50_000_000), (str(1 << 62), physical)):
        limit.write_text(f"{text}\n")
        assert total_memory() == total


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, limit, in_use, uses = (tmp_path / name for name in ("info", "limit", "use", "stat"))
    monkeypatch.setattr(machine, "MEMORY_INFO", info)
    monkeypatch.setattr(machine, "MEMORY_LIMITS", (limit,))
    monkeypatch.setattr(machine, "MEMORY_IN_USE", (in_use,))
    monkeypatch.setattr(machine, "MEMORY_USES", (uses,))
    assert math.isinf(free_memory()), "a system that does not say"
    info.write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    assert free_memory() == 4_096_000
    limit.write_text("3000000\n")
    in_use.write_text("2000000\n")
    assert free_memory() == 1_000_000
    uses.write_text("active_file 7\ninactive_file 500000\n")
    assert free_memory() == 1_500_000, "caches are given back"

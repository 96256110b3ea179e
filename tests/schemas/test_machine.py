"""Cores and memory of a process: of the machine, of its affinity, of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from schemas import machine
from schemas.machine import free_disk, free_memory, total_memory, usable_cores


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


def own_groups(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> Path:
    """Let control groups lie in a folder."""
    (folder / "own").write_text(lines)
    monkeypatch.setattr(machine, "OWN_GROUPS", folder / "own")
    monkeypatch.setattr(machine, "CONTROL_GROUPS", folder)
    for name in ("MEMORY_LIMITS", "MEMORY_IN_USE", "MEMORY_USES", "OLD_CPU_LIMIT"):
        moved = tuple(
            folder / path.relative_to("/sys/fs/cgroup") for path in getattr(machine, name)
        )
        monkeypatch.setattr(machine, name, moved)
    monkeypatch.setattr(machine, "CPU_LIMIT", folder / "cpu.max")
    return folder


@pytest.mark.parametrize(
    ("lines", "names", "groups"),
    [
        ("0::/a/b\n", ("memory.max", "memory.current", "memory.stat"), ("", "a", "a/b")),
        (
            "5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/\n",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
            ("memory", "memory/a", "memory/a/b"),
        ),
    ],
)
def test_memory_of_nested_control_groups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: str,
    names: tuple[str, ...],
    groups: tuple[str, ...],
) -> None:
    """The tightest group binds, be it the process's own or one above it."""
    root = own_groups(tmp_path, monkeypatch, lines)
    outer, middle, own = (root / group for group in groups)
    own.mkdir(parents=True)
    for folder, limit, in_use, cached in (
        (outer, "max", 9, 0),
        (middle, "3000000", 1000000, 200000),
        (own, "9000000", 500000, 0),
    ):
        for name, text in zip(names, (limit, in_use, f"inactive_file {cached}"), strict=True):
            (folder / name).write_text(f"{text}\n")
    assert total_memory() == 3_000_000
    assert free_memory() == 2_200_000
    (own / names[0]).write_text("1000000\n")
    assert total_memory() == 1_000_000
    assert free_memory() == 500_000


def test_cores_of_nested_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    root = own_groups(tmp_path, monkeypatch, "5:cpu,cpuacct:/x\n0::/a/b\n")
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "cpu.max").write_text("300000 100000\n")
    assert usable_cores() == 3
    (root / "a" / "b" / "cpu.max").write_text("200000 100000\n")
    assert usable_cores() == 2
    (root / "cpu" / "x").mkdir(parents=True)
    (root / "cpu" / "x" / "cpu.cfs_quota_us").write_text("100000\n")
    (root / "cpu" / "x" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores() == 1
    (root / "own").write_text("0::/../elsewhere\n")
    assert usable_cores() == 8


def test_free_disk(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "not" / "there") == pytest.approx(free_disk(tmp_path), rel=0.05)


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

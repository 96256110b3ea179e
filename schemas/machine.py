"""Ask the system how many cores and how much memory this process may use: one way for both programs.

Containers and batch systems confine a process by its affinity and by control groups (versions 1 and
2); the machine itself may have far more.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

MEMORY_INFO = Path("/proc/meminfo")
# Each holds a number of bytes, or a word that means "no limit".
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
MEMORY_IN_USE = (
    Path("/sys/fs/cgroup/memory.current"),
    Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
MEMORY_USES = (Path("/sys/fs/cgroup/memory.stat"), Path("/sys/fs/cgroup/memory/memory.stat"))
# Microseconds of processor time per period, or "max"; both in one file, or one in each of two.
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
OLD_CPU_LIMIT = (
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(min(cores, _core_limit()), 1)


def _core_limit() -> int:
    """Return the cores that the control group grants; more than any machine has where it is silent."""
    words = _words(CPU_LIMIT) or [word for path in OLD_CPU_LIMIT for word in _words(path)]
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return 1 << 20
    quota, period = map(int, words)
    # Part of a core still runs a thread.
    return math.ceil(quota / period) if period else 1 << 20


def total_memory() -> int:
    """Return the main memory of the machine, or of the control group that confines it, in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_numbers(MEMORY_LIMITS)])


def free_memory() -> float:
    """Return the bytes that the system would still give; infinite where it is silent."""
    free = math.inf
    if MEMORY_INFO.exists():
        text = MEMORY_INFO.read_text(encoding="utf-8")
        lines = dict(line.split(":", 1) for line in text.splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limits, in_use = _numbers(MEMORY_LIMITS), _numbers(MEMORY_IN_USE)
    if limits and in_use:
        # Old pages of files count as in use there, and are given back when memory is short.
        free = min(free, max(limits[0] - in_use[0] + _cached(), 0))
    return free


def _cached() -> int:
    """Return the bytes of the control group's memory that only cache files."""
    for path in MEMORY_USES:
        words = _words(path)
        values = dict(zip(words[::2], words[1::2], strict=False))
        for name in ("total_inactive_file", "inactive_file"):
            if values.get(name, "").isdecimal():
                return int(values[name])
    return 0


def _numbers(paths: tuple[Path, ...]) -> list[int]:
    """Return the numbers that some files hold."""
    return [int(words[0]) for words in map(_words, paths) if words and words[0].isdecimal()]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []

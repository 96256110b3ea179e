"""Ask the system how many cores and how much memory and disk there are: one way for both programs.

Containers and batch systems confine a process by its affinity and by control groups (versions 1 and
2); the machine itself may have far more.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

# Where the control groups lie, and where a process's own ones are named.
CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
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
    """Return the cores that the control groups grant; more than any machine has where they are silent."""
    levels = [[path] for path in _levels(CPU_LIMIT)]
    levels += [list(paths) for paths in zip(*map(_levels, OLD_CPU_LIMIT), strict=False)]
    limits = [1 << 20]
    for paths in levels:
        words = [word for path in paths for word in _words(path)]
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            quota, period = map(int, words)
            # Part of a core still runs a thread.
            limits.append(math.ceil(quota / period))
    return min(limits)


def total_memory() -> int:
    """Return the main memory of the machine, or of the control groups that confine it, in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    paths = [path for root in MEMORY_LIMITS for path in _levels(root)]
    return min([physical, *(limit for path in paths if (limit := _number(path)) is not None)])


def free_memory() -> float:
    """Return the bytes that the system would still give; infinite where it is silent."""
    free = math.inf
    if MEMORY_INFO.exists():
        text = MEMORY_INFO.read_text(encoding="utf-8")
        lines = dict(line.split(":", 1) for line in text.splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    for roots in zip(MEMORY_LIMITS, MEMORY_IN_USE, MEMORY_USES, strict=False):
        for limit_path, in_use_path, uses_path in zip(*map(_levels, roots), strict=False):
            limit, in_use = _number(limit_path), _number(in_use_path)
            if limit is not None and in_use is not None:
                # Old pages of files count as in use there, and are given back when memory is short.
                free = min(free, max(limit - in_use + _cached(uses_path), 0))
    return free


def free_disk(path: Path) -> int:
    """Return the free bytes of the disk on which a file or folder lies, or would lie."""
    there = next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _levels(path: Path) -> list[Path]:
    """Return a file of this process's own control group and of all groups above it.

    The file is given as the outermost group has it. A limit of any of them binds.
    """
    if not path.is_relative_to(CONTROL_GROUPS):
        return [path]
    # In version 1 each controller has a folder; version 2 has one for all, and no name.
    controller = path.parent.relative_to(CONTROL_GROUPS).as_posix().strip(".")
    group = _groups().get(controller, "/")
    parts = [part for part in group.split("/") if part]
    if ".." in parts:
        # Of another view of the groups: only the outermost one is seen from here.
        return [path]
    return [path.parent.joinpath(*parts[:count], path.name) for count in range(len(parts), -1, -1)]


def _groups() -> dict[str, str]:
    """Return this process's control group by controller; that of version 2 has no name."""
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    groups: dict[str, str] = {}
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), group)
    return groups


def _cached(path: Path) -> int:
    """Return the bytes of a control group's memory that only cache files."""
    words = _words(path)
    values = dict(zip(words[::2], words[1::2], strict=False))
    for name in ("total_inactive_file", "inactive_file"):
        if values.get(name, "").isdecimal():
            return int(values[name])
    return 0


def _number(path: Path) -> int | None:
    """Return the number that a file holds, if it holds one."""
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []

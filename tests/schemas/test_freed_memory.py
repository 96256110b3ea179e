"""Freed memory is kept: page faults are counted in processes of their own, with and without it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from schemas import freed_memory
from schemas.freed_memory import keep_freed_memory

# Arrays of 48 MB, above glibc's bound, each filled and freed; and smaller ones.
LOOP = """
import resource, threading
{before}
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
large, small = [], []
def turn():
    large = b"x" * (48 << 20)
    small = [b"y" * (3 << 20) for _ in range(4)]
def work():
    turn()
    start = count()
    for _ in range(8):
        turn()
    print(count() - start)
{run}
"""
KEEPING = "from schemas.freed_memory import keep_freed_memory; assert keep_freed_memory()"


IN_A_THREAD = "thread = threading.Thread(target=work); thread.start(); thread.join()"


def _page_faults(before: str, run: str) -> int:
    """Count the page faults of the loop after one turn of it."""
    program = [sys.executable, "-c", LOOP.format(before=before, run=run)]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
@pytest.mark.parametrize("run", ["work()", IN_A_THREAD])
def test_freed_memory_serves_again(run: str) -> None:
    """An order of magnitude fewer pages are made: none in truth, but for the interpreter's own."""
    assert _page_faults(KEEPING, run) * 10 < _page_faults("", run)


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without glibc nothing is called."""
    monkeypatch.setattr(freed_memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda _name: pytest.fail("called"))
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()

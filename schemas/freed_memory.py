"""Have the allocator keep freed memory, in large pages: both programs allocate large arrays all day.

glibc maps an array of more than 32 MB anew each time, and gives the memory of others back whenever
the end of its heap is free. The system then makes, clears and maps pages again, 4 kB at a time, for
every array of every step. The environment variable GLIBC_TUNABLES can forbid that, but is read before
a program runs; the function here can be called by the program itself. The memory in use at the peak
stays the same, since nothing is kept that was not needed once.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

# Numbers of glibc's malloc.h and of Linux's mman.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
WITHOUT_LIMIT = -1
MADVISE_LARGE_PAGES = 14
LARGE_PAGE_BYTES = 2 << 20
# How much the heap grows at a time.
GROWTH_BYTES = 64 << 20
# Of the machine's memory: addresses of the heap that get large pages.
LARGE_PAGES_SHARE = 0.5
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
# The system counts reserved addresses as memory in use.
STRICT = "2"


@cache
def keep_freed_memory() -> bool:
    """Keep the memory of freed arrays for the next ones, once per process; say whether it is kept.

    It concerns what is allocated from now on; call it before threads start. Without glibc nothing
    happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # Without mappings of their own, large arrays come from the heap, whatever their size; the
    # threshold for them could not be raised above 32 MB.
    settings = [(MMAP_MAX, 0), (TRIM_THRESHOLD, WITHOUT_LIMIT), (TOP_PAD, GROWTH_BYTES)]
    # Threads get no heaps of their own: such a heap holds 64 MB at most, and goes back as a whole.
    settings.append((ARENA_MAX, 1))
    # Each in turn, also after one that is refused.
    taken = [libc.mallopt(name, value) for name, value in settings]
    _use_large_pages(libc)
    return all(taken)


def _use_large_pages(libc: ctypes.CDLL) -> None:
    """Ask for large pages in the part of the heap that comes next.

    It is allocated and freed without being touched, so it takes addresses and no memory.
    """
    if not OVERCOMMIT.exists() or OVERCOMMIT.read_text(encoding="ascii").strip() == STRICT:
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    size = int(memory_bytes * LARGE_PAGES_SHARE)
    start = libc.malloc(size)
    # A limit of the process may be lower.
    if start is None:
        return
    first = -(-start // LARGE_PAGE_BYTES) * LARGE_PAGE_BYTES
    # Where the system has no large pages this fails, and small ones serve.
    libc.madvise(
        first, (start + size - first) // LARGE_PAGE_BYTES * LARGE_PAGE_BYTES, MADVISE_LARGE_PAGES
    )
    libc.free(start)

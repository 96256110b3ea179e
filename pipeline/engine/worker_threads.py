"""What a process may take of its machine."""

from __future__ import annotations

import os

LOCAL_WORKERS = "TRELM_LOCAL_WORKERS"  # environment variable that tells a worker how many it shares the machine with


def threads_of_a_worker() -> int:
    """Cores / local worker processes: two processes with all cores each get in each other's way, badly."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(cores // int(os.environ.get(LOCAL_WORKERS, "1")), 1)

"""Say how many threads a worker process may take of its machine."""

from __future__ import annotations

import os

# Environment variable by which a worker knows how many processes share the machine.
LOCAL_WORKERS = "TRELM_LOCAL_WORKERS"


def threads_of_a_worker() -> int:
    """Return cores / local worker processes, at least 1.

    Two processes that take all cores each slow each other down by much more than half.
    """
    # The affinity knows of a container's or a batch system's limit; not every system has one.
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(cores // int(os.environ.get(LOCAL_WORKERS, "1")), 1)

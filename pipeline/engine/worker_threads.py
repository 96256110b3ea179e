"""Say how many threads a worker process may take of its machine."""

from __future__ import annotations

import os

from schemas.machine import usable_cores

# Environment variable by which a worker knows how many processes share the machine.
LOCAL_WORKERS = "TRELM_LOCAL_WORKERS"


def threads_of_a_worker() -> int:
    """Return cores / local worker processes, at least 1.

    Two processes that take all cores each slow each other down by much more than half.
    """
    return max(usable_cores() // int(os.environ.get(LOCAL_WORKERS, "1")), 1)

"""End a worker when the program that started it has gone.

A program that is killed cannot stop its workers, and they would go on writing beside the one that
is started next.
"""

from __future__ import annotations

import os
import threading
import time

# How often the parent is looked for.
INTERVAL_S = 0.5
# As a process that was killed.
EXIT_CODE = 137
_watched = threading.Event()


def end_with_parent() -> None:
    """Watch the parent of this process from now on; end at once when it is another one.

    A second call does nothing.
    """
    if _watched.is_set():
        return
    _watched.set()
    thread = threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="trelm-parent")
    thread.start()


def _watch(parent: int) -> None:
    # An orphan gets another parent: the system's first process, or one that collects orphans.
    while os.getppid() == parent:
        time.sleep(INTERVAL_S)
    os._exit(EXIT_CODE)

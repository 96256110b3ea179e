"""A variant that says it has started, and then waits to be interrupted."""

from __future__ import annotations

import os
import time
from pathlib import Path


def sleep(out: Path, started: str) -> None:
    """Write the process id, whole at once, and wait."""
    (out / "pid").write_text(str(os.getpid()))
    (out / "pid").rename(started)
    time.sleep(60)

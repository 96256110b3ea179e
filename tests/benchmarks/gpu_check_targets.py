"""What runs in the processes of the tests of `gpu_check`: functions that are good, fail, crash or hang."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_check_verdict import at_most, verdict


def good(out: Path, value: float) -> dict[str, Any]:
    return verdict([at_most("value", value, 1)], value=value)


def broken(out: Path) -> dict[str, Any]:
    raise ValueError("this cannot work")


def killed(out: Path) -> dict[str, Any]:
    os.kill(os.getpid(), 9)
    raise AssertionError("never reached")


def slow(out: Path, started: str) -> dict[str, Any]:
    """Start a child and wait: both have to be ended."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(started).write_text(str(child.pid))
    time.sleep(60)
    return {}

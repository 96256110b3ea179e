"""One variant in a fresh process: `python -m benchmarks.child RESULT.json` with the request as JSON
on stdin.

Goes in: {"target": "module:function", "arguments": {…}, "core": int or null, "scratch": folder}.
The function is called with `out`, an empty folder that is removed afterwards, and the arguments; it
returns a JSON object and may say `seconds` itself where not all it does is to be timed. Comes out:
{"seconds", "cpu_seconds", "rss_mb", "result"}; the second counts this process and its children.
Imports are not timed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MEGABYTE = 1e6


def own_peak_rss_mb() -> float:
    """Peak resident memory of this process.

    Not ru_maxrss on Linux: that keeps the parent's peak over an exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / MEGABYTE
    import resource

    return _rusage_mb(resource.RUSAGE_SELF)


def children_peak_rss_mb() -> float:
    """Peak of the largest of the processes that this one, or a child of it, started and waited for."""
    import resource

    return _rusage_mb(resource.RUSAGE_CHILDREN)


def _rusage_mb(who: int) -> float:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / MEGABYTE


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Call the function, once, and say what it took."""
    if request["core"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {request["core"]})  # before numpy and Arrow count the cores
    module, name = request["target"].split(":")
    function = getattr(importlib.import_module(module), name)
    with tempfile.TemporaryDirectory(dir=request["scratch"], prefix="out-") as out:
        start, cpu_start = time.perf_counter(), _cpu_seconds()
        result = function(out=Path(out), **request["arguments"]) or {}
        seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - cpu_start
    rss_mb = max(own_peak_rss_mb(), children_peak_rss_mb(), result.get("rss_mb", 0.0))
    return {
        "seconds": result.get("seconds", seconds),
        "cpu_seconds": result.get("cpu_seconds", cpu_seconds),
        "rss_mb": rss_mb,
        "result": result,
    }


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(run(json.load(sys.stdin))), encoding="utf-8")

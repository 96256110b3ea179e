"""Run one variant in a fresh process: `python -m benchmarks.child RESULT.json`, the request on stdin.

Goes in, as JSON: {"target": "module:function", "arguments": {…}, "core": int or null, "scratch":
folder}. The function is called with `out`, an empty folder that is removed afterwards, and the
arguments; it returns a JSON object. Where not all that it does is to be timed, the object has the
`seconds` and `cpu_seconds` of the part that is. Comes out: {"seconds", "cpu_seconds", "rss_mb",
"result"}; the second counts this process and its children. Imports are not timed.
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
    """Return the peak resident memory of this process.

    Not ru_maxrss on Linux: that keeps the parent's peak over an exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / MEGABYTE
    import resource

    return _rusage_mb(resource.RUSAGE_SELF)


def children_peak_rss_mb() -> float:
    """Return the peak of the largest process that this one, or a child of it, started and waited
    for.
    """
    import resource

    return _rusage_mb(resource.RUSAGE_CHILDREN)


def _rusage_mb(who: int) -> float:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / MEGABYTE


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Call the function once and return what it took.

    Raises:
        ValueError: the function timed itself by one clock only: two different spans of time.
    """
    if request["core"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {request["core"]})  # before numpy and Arrow count the cores
    module, name = request["target"].split(":")
    function = getattr(importlib.import_module(module), name)
    with tempfile.TemporaryDirectory(dir=request["scratch"], prefix="out-") as out:
        start, cpu_start = time.perf_counter(), cpu_seconds_so_far()
        result = function(out=Path(out), **request["arguments"]) or {}
        clocks = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": cpu_seconds_so_far() - cpu_start,
        }

    timed = {clock: result[clock] for clock in clocks if clock in result}
    if len(timed) == 1:
        raise ValueError(f"{request['target']} returned only one clock: {timed}")
    rss_mb = max(own_peak_rss_mb(), children_peak_rss_mb(), result.get("rss_mb", 0.0))
    return {**clocks, **timed, "rss_mb": rss_mb, "result": result}


def cpu_seconds_so_far() -> float:
    """Return the processor time of this process and of its children that have ended.

    Not `os.times`: that counts in hundredths of a second, and a short variant would take none.
    """
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(
        json.dumps(run(json.load(sys.stdin)), allow_nan=False), encoding="utf-8"
    )
    sys.stdout.flush()
    sys.stderr.flush()
    # All is measured. While an interpreter ends, threads of a peer may still abort it: Arrow's do now and then
    # (apache/arrow issue 45214).
    os._exit(0)

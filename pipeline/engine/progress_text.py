"""Put progress into words: from counts to the text of a bar or a log line. Pure.

`counts` holds what workers reported: `done` (of the units' ranges), `records`, `rejects`, `units`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BYTE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Say what a run of a stage has to do."""

    stage: str
    # Sum of the units' sizes, in what `measure` says.
    total: int
    num_units: int
    # Bytes, rows or files; empty for a mixture.
    measure: str = "rows"
    # What the stage's records are called.
    noun: str = "rows"


def progress_line(work: Workload, counts: Mapping[str, int], elapsed_s: float) -> str:
    """Return a line for the log: share, amounts, speed, time left."""
    share = _share(work, counts)
    left = f"about {duration(elapsed_s * (1 - share) / share)} left" if share > 0 else "starting"
    return f"{work.stage}: {100 * share:.0f} %, {note(work, counts, elapsed_s)}, {left}"


def note(work: Workload, counts: Mapping[str, int], elapsed_s: float) -> str:
    """Return the text beside a bar: "12.3 of 36.0 GB, 41 of 120 units, 3,210 entities/s, 2
    rejects".
    """
    # A retried unit reports twice, so counts may exceed the total.
    done = min(counts.get("done", 0), work.total)
    units = min(counts.get("units", 0), work.num_units)
    rate = counts.get("records", 0) / max(elapsed_s, 0.001)

    texts = [
        f"{units:,} of {work.num_units:,} units",
        f"{_number(rate)} {work.noun}/s",
        rejects_of(counts),
    ]
    return ", ".join([_amount(work, done), *texts] if work.measure else texts)


def final_line(work: Workload, counts: Mapping[str, int], elapsed_s: float) -> str:
    """Return the line after the end.

    For example: "kb: 36.0 GB, 118,000,000 entities in 2 h 05 min (15,733 entities/s), 2 rejects".
    """
    records = counts.get("records", 0)
    rate = _number(records / max(elapsed_s, 0.001))

    size = ""
    if work.measure == "bytes":
        size = f"{_bytes(work.total, work.total)} {_byte_unit(work.total)[1]}, "
    return (
        f"{work.stage}: {size}{records:,} {work.noun} in {duration(elapsed_s)} "
        f"({rate} {work.noun}/s), {rejects_of(counts)}"
    )


def rejects_of(counts: Mapping[str, int]) -> str:
    """Return the number of rejects, in words."""
    rejects = counts.get("rejects", 0)
    return f"{rejects:,} reject" if rejects == 1 else f"{rejects:,} rejects"


def duration(seconds: float) -> str:
    """Return a time in the unit in which it is short: 42 s, 12 min, 2 h 05 min, 3 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def _share(work: Workload, counts: Mapping[str, int]) -> float:
    return min(counts.get("done", 0) / max(work.total, 1), 1.0)


def _amount(work: Workload, done: int) -> str:
    if work.measure != "bytes":
        return f"{done:,} of {work.total:,} {work.measure}"
    unit = _byte_unit(work.total)[1]
    return f"{_bytes(done, work.total)} of {_bytes(work.total, work.total)} {unit}"


def _byte_unit(total: int) -> tuple[float, str]:
    return next((unit for unit in BYTE_UNITS if total >= unit[0]), (1.0, "bytes"))


def _bytes(count: int, total: int) -> str:
    size = _byte_unit(total)[0]
    return f"{count / size:.1f}" if size > 1 else f"{count}"


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"

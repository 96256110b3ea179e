"""Print what `benchmarks.wikipedia` measured as Markdown tables: `python -m benchmarks.wikipedia_table FILE`.

Goes in: its JSON lines. Comes out: the unit costs with their check, and the full run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MICRO = 1e6
USAGE = "usage: python -m benchmarks.wikipedia_table FILE"


def unit_table(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the rows of the table of unit costs."""
    yield "| stage | unit | µs of a worker, 1 → 4 and 4 → 16 | last / first | of it alone, µs | s before and around | peak MB | expected / measured s at the largest size |"
    yield "|---|---|---|---|---|---|---|---|"
    for fields in records:
        if "points" not in fields:
            continue
        steps = ", ".join(_number(step * MICRO) for step in fields["steps"])
        ratio = fields["aims"]["last_step_over_first"]["value"]
        largest = list(fields["model"].values())[-1]
        yield (
            f"| {fields['case']} | {fields['unit'].removeprefix('s/')} | {steps} | "
            f"{'–' if ratio is None else f'{ratio:.2f}'} | {_number(fields['alone'] * MICRO)} | "
            f"{fields['start_s']:.1f} | {fields['rss_mb']:,.0f} | "
            f"{largest['expected']:,.0f} / {largest['seconds']:,.0f} |"
        )


def full_table(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rows of the table of the full run."""
    workers = list(fields["total"]["hours"])
    titles = " | ".join(f"{number} cores" for number in workers)
    yield f"| stage | units | core-hours | one core alone, h | {titles} | GB read | written | kept |"
    yield "|---" * (7 + len(workers)) + "|"
    for name, stage in fields["stages"].items():
        hours = " | ".join(_hours(stage["hours"][number]) for number in workers)
        yield (
            f"| {name} | {_amount(stage['units'])} | {stage['core_hours']:.1f} | {stage['alone_hours']:.2f} | {hours} | "
            f"{stage['read_gb']:,.0f} | {stage['written_gb']:,.0f} | {stage['stored_gb']:,.0f} |"
        )
    stages = fields["stages"].values()
    sums = {
        key: sum(stage[key] for stage in stages)
        for key in ("core_hours", "alone_hours", "read_gb", "written_gb", "stored_gb")
    }
    hours = " | ".join(f"**{_hours(fields['total']['hours'][number])}**" for number in workers)
    yield (
        f"| **all** | | {sums['core_hours']:.1f} | {sums['alone_hours']:.2f} | {hours} | "
        f"{sums['read_gb']:,.0f} | {sums['written_gb']:,.0f} | {sums['stored_gb']:,.0f} |"
    )
    dollars = " | ".join(f"${fields['total']['dollars'][number]:,.0f}" for number in workers)
    yield f"| Dataflow, list price | | | | {dollars} | | | |"


def _hours(value: float) -> str:
    return f"{value:.1f} h" if value >= 1 else f"{value * 60:.0f} min"


def _amount(value: float) -> str:
    for size, name in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:,.1f} {name}"
    return f"{value:,.0f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def tables(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of both tables."""
    records = [json.loads(line) for line in lines if line.strip()]
    yield from unit_table(records)
    for fields in records:
        if fields.get("case") == "full":
            yield ""
            yield from full_table(fields)


def main() -> int:
    """Print the tables of one file and return the exit code."""
    if len(sys.argv) != 2:
        print(USAGE, file=sys.stderr)
        return 2
    for line in tables(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Check every path that needs a GPU: `python -m benchmarks.gpu_check [--out FILE] [--device cpu]
[--quick] [--minutes 12] [--check NAME …]`.

Goes in: nothing; data and models are made (`gpu_check_data`), nothing is downloaded. Comes out: one
JSON file, written anew after every check, and a line per check on the screen. A check is a process of
its own with a time limit: one that crashes or hangs leaves the others. A check that fails makes the
exit code 1. `--device cpu` runs the same code at small size, where no GPU is.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.gpu_check_plan import SIZES, Check, planned_checks
from benchmarks.gpu_check_process import in_fork, in_new_process
from benchmarks.harness import (
    TooSlowError,
    Variant,
    VariantError,
    machine,
    run_program,
    scratch_folder,
)
from schemas.durable import write_durably

NAME = "gpu_check"
FORMAT = 1
PACKAGES = ("trelm", "torch", "transformers", "accelerate", "tokenizers", "numpy", "pyarrow")
NO_TIME = "no time left"
# So many times its usual time, and a check hangs.
SLOW = 2


class Run(Protocol):
    """Run a variant in a process with a time limit."""

    def __call__(self, variant: Variant, *, limit_s: float) -> Mapping[str, Any]:
        """Return its answer, see `benchmarks.child`."""


@dataclass(kw_only=True)
class Report:
    """Hold what is known so far, and keep the file up to date."""

    path: Path
    head: Mapping[str, Any]
    # How many checks there will be.
    num_planned: int
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        """Add the record of a check, write the file, and print a line."""
        self.records.append(record)
        self.write()
        state = {True: "ok", False: "FAILED", None: "skipped"}[record["ok"]]
        print(
            f"{record['check']:20} {state:8} {record['seconds']:6.1f} s  {record['why']}",
            flush=True,
        )

    def write(self) -> None:
        """Write the whole file; whoever reads it finds the old one or the new one."""
        fields = {**self.head, "summary": self.summary(), "checks": self.records}
        text = json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False)
        write_durably(self.path, text + "\n")

    def summary(self) -> dict[str, Any]:
        """Return the names of the checks by how they ended.

        `ok` says that none failed and none lacked time; null as long as some are to come.
        """
        states = {"passed": True, "failed": False, "skipped": None}
        names = {
            state: [record["check"] for record in self.records if record["ok"] is value]
            for state, value in states.items()
        }
        lacked_time = [record["check"] for record in self.records if record["why"] == NO_TIME]
        is_ok = bool(names["passed"]) and not names["failed"] and not lacked_time
        is_over = len(self.records) == self.num_planned
        return {"ok": is_ok if is_over else None, **names, "lacked_time": lacked_time}


def run_checks(checks: Sequence[Check], report: Report, run: Run, minutes: float) -> None:
    """Run checks one after the other, until the time is over; add a record of each to the report.

    A check whose usual time is not left is skipped. The first one says whether there is a device at
    all: where it fails, nothing else is run.
    """
    end = time.monotonic() + 60 * minutes
    why_no_more = ""
    for check in checks:
        left_s = end - time.monotonic()
        reason = check.skip or why_no_more
        if not reason and left_s < check.usual_s:
            reason = NO_TIME
        if reason:
            report.add({"check": check.name, "ok": None, "why": reason, "seconds": 0.0})
            continue
        record = run_check(check, run, left_s)
        if check.judge is not None and record["ok"]:
            record |= check.judge(record, report.records)
        report.add(record)
        if check.is_first and not record["ok"]:
            why_no_more = f"{check.name} failed"


def run_check(check: Check, run: Run, left_s: float) -> dict[str, Any]:
    """Run one check in its process and return its record; what goes wrong there is in it."""
    variant = Variant(name=check.name, target=check.target, arguments=check.arguments, pinned=False)
    limit_s = min(check.limit_s, left_s)
    start = time.monotonic()
    try:
        answer = run(variant, limit_s=limit_s)
        result = {**answer["result"], "cpu_s": answer["cpu_seconds"], "rss_mb": answer["rss_mb"]}
    except TooSlowError as error:
        # Its own limit is a fault of the check, and so is far more than its usual time; that the whole
        # time ended soon is none.
        is_own = limit_s == check.limit_s or limit_s >= SLOW * check.usual_s
        result = {"ok": False, "why": str(error)} if is_own else {"ok": None, "why": NO_TIME}
    except VariantError as error:
        lines = str(error).splitlines()
        # The last line of a traceback says what went wrong.
        result = {"ok": False, "why": f"{lines[0]} {lines[-1]}", "output": lines[-60:]}
    return {"check": check.name, **result, "seconds": time.monotonic() - start}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--out", metavar="FILE", default="gpu-check.json", help="(default: %(default)s)"
    )
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: cuda)")
    made.add_argument("--quick", action="store_true", help="small sizes on a GPU too")
    made.add_argument(
        "--minutes", type=float, default=12.0, help="that all checks may take (default: 12)"
    )
    made.add_argument(
        "--check", action="append", metavar="NAME", help="only this check; may be repeated"
    )
    made.add_argument(
        "--keep", metavar="FOLDER", help="keep generated data here, and use what is there"
    )
    return made


def main() -> int:
    """Run the checks and return the exit code."""
    arguments = parser()
    options = arguments.parse_args()
    # Nothing is asked of a network: everything lies in folders.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    size = "small" if options.quick or options.device == "cpu" else "full"
    if options.device == "cpu":
        # Small work is slower on several threads, and others may want the cores.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    with scratch_folder(options.keep) as folder:
        checks = planned_checks(options.device, SIZES[size], str(folder))
        known = [check.name for check in checks]
        unknown = [name for name in options.check or [] if name not in known]
        if unknown:
            arguments.error(f"--check {unknown[0]}: wanted one of {', '.join(known)}")
        wanted = [check for check in checks if check.name in (options.check or known)]
        head = {
            "program": NAME, "format": FORMAT, "device": options.device, "size": size,
            "minutes": options.minutes, "machine": machine(PACKAGES),
        }  # fmt: skip
        report = Report(path=Path(options.out), head=head, num_planned=len(wanted))
        way = in_new_process if options.device == "cuda" else in_fork
        run = functools.partial(way, scratch=folder)
        run_checks(wanted, report, run, options.minutes)

    summary = report.summary()
    counts = ", ".join(
        f"{len(summary[state])} {state}" for state in ("passed", "failed", "skipped")
    )
    print(f"{counts}; {options.out}")
    if summary["failed"]:
        print(f"failed: {', '.join(summary['failed'])}", file=sys.stderr)
    if summary["lacked_time"]:
        print(f"no time for {', '.join(summary['lacked_time'])}; give --minutes", file=sys.stderr)
    return 0 if summary["ok"] else 1


if __name__ == "__main__":
    run_program(main)

"""Run what all benchmarks share: variants in fresh processes, medians, aims, one JSON object a line.

Goes in: `Variant`s, each a function named by its module, and how often to run them. Comes out:
`Measured` per variant, then a record per case, and the exit code. A variant has a process of its
own, so its peak memory is its own and only the file cache is warm; rounds are interleaved
(A B C A B C …), so that a slow minute of the machine hits all variants alike. Pinned variants are
held on one core: their rate is one per core.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.processor import BFLOAT16_FLAGS, CPU_INFO

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 130
GRACE_S = 5.0
NOT_WITH_QUICK = "--quick: the aim is for full-size data"


class VariantError(RuntimeError):
    """Say that a variant's process failed or measured nothing; carry the end of its output."""


class TooSlowError(VariantError):
    """Say that a variant's process was ended because it took longer than its limit."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Name one way to do a case's work."""

    name: str
    # "module:function", see benchmarks.child
    target: str
    arguments: Mapping[str, Any]
    # In the case's unit times seconds: MB for MB/s.
    work: float = 1.0
    pinned: bool = True
    # The optional package without which the variant is skipped.
    needs: str = ""

    @property
    def is_missing(self) -> bool:
        """Say whether its optional package is not installed."""
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None

    def per_second(self, seconds: float) -> float:
        """Return the work per second.

        Raises:
            VariantError: there is no time or no work to divide; a rate of it would be noise.
        """
        if not (seconds > 0 and self.work > 0):
            raise VariantError(
                f"{self.name} ({self.target}) measured nothing: {self.work:g} of work in {seconds:g} s"
            )
        return self.work / seconds


@dataclass(kw_only=True)
class Measured:
    """Hold all runs of one variant."""

    variant: Variant
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    # Of the largest process of any run.
    rss_mb: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Return the work per second of each run."""
        return [self.variant.per_second(seconds) for seconds in self.seconds]

    @property
    def rate(self) -> float:
        """Return the median of the rates."""
        return statistics.median(self.rates)

    @property
    def cpu_rate(self) -> float:
        """Return the work per second of processor time, by the median run.

        It says what a variant costs even while others use the machine.
        """
        return self.variant.per_second(statistics.median(self.cpu_seconds))

    @property
    def median_s(self) -> float:
        """Return the median of the seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Hold a figure of a case beside the bound that it should keep.

    `value` is None where the figure could not be measured. Where that is no fault (a peer is not
    installed), `missing` says why, and the aim is not judged; without a reason it is missed.
    """

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None
    missing: str = ""
    # Small data says nothing about speed and memory; correctness is judged on any.
    needs_full_data: bool = True

    @property
    def is_met(self) -> bool:
        """Say whether the value keeps the bounds."""
        return (
            self.value is not None
            and (self.at_least is None or self.value >= self.at_least)
            and (self.at_most is None or self.value <= self.at_most)
        )

    def verdict(self, *, quick: bool) -> dict[str, Any]:
        """Return value, bounds and `met`; where it is null, `why` says why nothing was judged."""
        bounds = {"at_least": self.at_least, "at_most": self.at_most}
        fields = {
            "value": self.value,
            **{name: bound for name, bound in bounds.items() if bound is not None},
        }
        if quick and self.needs_full_data:
            return {**fields, "met": None, "why": NOT_WITH_QUICK}
        if self.value is None and self.missing:
            return {**fields, "met": None, "why": self.missing}
        return {**fields, "met": self.is_met}


def none_wrong(name: str, number: int) -> Aim:
    """Return the aim that this number of errors is 0, which is judged with --quick too."""
    return Aim(name=name, value=number, at_most=0, needs_full_data=False)


def judged(aims: Sequence[Aim], *, quick: bool) -> dict[str, Any]:
    """Return `aims` and `ok` of a record; `ok` is false where any aim is missed."""
    verdicts = {aim.name: aim.verdict(quick=quick) for aim in aims}
    assert len(verdicts) == len(aims), "two aims of a case have the same name"
    return {
        "aims": verdicts,
        "ok": all(verdict["met"] is not False for verdict in verdicts.values()),
    }


def measure(variants: Sequence[Variant], rounds: int, scratch: Path) -> dict[str, Measured]:
    """Run all variants `rounds` times, interleaved; leave out those whose package is missing.

    Raises:
        VariantError: a variant failed or measured no time.
    """
    by_name = {
        variant.name: Measured(variant=variant) for variant in variants if not variant.is_missing
    }
    for _ in range(rounds):
        for measured in by_name.values():
            answer = run_once(measured.variant, scratch)
            measured.seconds.append(answer["seconds"])
            measured.cpu_seconds.append(answer["cpu_seconds"])
            measured.rss_mb = max(measured.rss_mb, answer["rss_mb"])
            measured.results.append(answer["result"])
    return by_name


def run_once(variant: Variant, scratch: Path, limit_s: float | None = None) -> dict[str, Any]:
    """Run a variant in a fresh process; on an interruption end the process and its children.

    Raises:
        VariantError: the process failed, measured no time, or took longer than its limit.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="answer-") as folder:
        path = Path(folder) / "answer.json"
        core = (
            max(os.sched_getaffinity(0))
            if variant.pinned and hasattr(os, "sched_getaffinity")
            else None
        )
        request = {
            "target": variant.target,
            "arguments": dict(variant.arguments),
            "core": core,
            "scratch": str(scratch),
        }
        # A session of its own, so that its children can be ended with it.
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(json.dumps(request), timeout=limit_s)
        except subprocess.TimeoutExpired as late:
            _end_group(process)
            raise TooSlowError(
                f"{variant.name} ({variant.target}) took more than {limit_s:.0f} s"
            ) from late
        except BaseException:
            _end_group(process)
            raise
        if process.returncode != 0:
            raise VariantError(f"{variant.name} ({variant.target}) failed:\n{output[-4000:]}")
        answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))

    for clock in ("seconds", "cpu_seconds"):
        if not answer[clock] > 0:
            raise VariantError(
                f"{variant.name} ({variant.target}) measured no time: {clock} is {answer[clock]}"
            )
    return answer


def _end_group(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_S)
    # Not read to their ends: what the process has started may hold them open.
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def record(
    benchmark: str, case: str, unit: str, by_name: Mapping[str, Measured], limit: float | None
) -> dict[str, Any]:
    """Return the documented object of a case, all but its aims.

    It has the variant `ours`, its limit, and every other variant as a peer. Rates are medians;
    higher is better.
    """
    ours = by_name["ours"]
    peers = {name: measured for name, measured in by_name.items() if name != "ours"}
    return {
        "benchmark": benchmark,
        "case": case,
        "unit": unit,
        "ours": ours.rate,
        "ours_range": [min(ours.rates), max(ours.rates)],
        "limit": limit,
        "peers": {name: measured.rate for name, measured in peers.items()},
        "rss_mb": ours.rss_mb,
        "peer_rss_mb": {name: measured.rss_mb for name, measured in peers.items()},
        "cpu_rates": {name: measured.cpu_rate for name, measured in by_name.items()},
        "ratio_to_limit": ratio(ours.rate, limit),
        "ratio_to_peers": {name: ours.rate / measured.rate for name, measured in peers.items()},
        "runs": len(ours.seconds),
    }


def skipped(variants: Sequence[Variant]) -> dict[str, dict[str, str]]:
    """Return the variants that were left out, and how to get them; empty if none was."""
    names = {
        variant.name: f"pip install {variant.needs}" for variant in variants if variant.is_missing
    }
    return {"skipped": names} if names else {}


def harmonic(*rates: float) -> float:
    """Return the rate of steps that follow each other on one core."""
    return 1 / sum(1 / rate for rate in rates)


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Divide two figures; None where one of them is missing, or theirs is 0."""
    return None if ours is None or not theirs else ours / theirs


def emit(fields: Mapping[str, Any]) -> None:
    """Print one JSON object on a line, numbers to four digits.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    print(json.dumps(_rounded(fields), ensure_ascii=False, allow_nan=False), flush=True)


def report(
    benchmark: str,
    options: argparse.Namespace,
    packages: Sequence[str],
    records: Iterable[Mapping[str, Any]],
    **settings: Any,  # noqa: ANN401 - any JSON
) -> int:
    """Print the machine, then the record of every case as it comes; return the exit code.

    It is 1 if `--check` was given and a record is not ok. Every record names the processor's
    instructions for bfloat16, since they decide which number format is the fast one.
    """
    about = machine(packages)
    emit({"benchmark": benchmark, "machine": about, "quick": options.quick, **settings})
    missed = []
    for fields in records:
        emit({**fields, "bfloat16_instructions": about["bfloat16_instructions"]})
        if not fields["ok"]:
            missed.append(fields["case"])

    if not (missed and options.check):
        return 0
    print(f"aims are missed in: {', '.join(dict.fromkeys(missed))}", file=sys.stderr)
    return 1


def refuse_less_than_one(
    parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str
) -> None:
    """End with a usage error where one of these numbers is given and below 1."""
    for name in names:
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: wanted 1 or more")


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Return what the figures depend on: the machine, Python, and the versions of packages."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model, "bfloat16_instructions": _bfloat16_instructions(lines), "cores": cores,
        "system": platform.platform(), "python": platform.python_version(), "versions": versions,
    }  # fmt: skip


def _bfloat16_instructions(cpu_info: Sequence[str]) -> list[str] | None:
    """Return those that the processor has; None where the system does not say."""
    flags = next(
        (line.split(":")[1].split() for line in cpu_info if line.startswith("flags")), None
    )
    return None if flags is None else sorted(BFLOAT16_FLAGS & set(flags))


@contextlib.contextmanager
def scratch_folder(keep: str | None) -> Iterator[Path]:
    """Yield a folder for generated data: `keep`, which stays and is used again, or one that is
    removed.
    """
    if keep:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="trelm-benchmark-") as folder:
        yield Path(folder)


def common_arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the parser with what every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small data, one round: within 60 s on 2 cores"
    )
    parser.add_argument(
        "--rounds", type=int, help="runs of each variant (default: 5; 1 with --quick)"
    )
    parser.add_argument(
        "--keep", metavar="FOLDER", help="keep generated data here, and use what is there"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a case misses one of its aims"
    )
    return parser


def run_program(main: Callable[[], int]) -> None:
    """Run a benchmark's main function and exit with its code.

    Ctrl-C ends it without a traceback, and so does a variant that fails.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except VariantError as error:
        print(error, file=sys.stderr)
        code = 1
    sys.exit(code)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt

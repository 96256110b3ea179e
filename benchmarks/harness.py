"""What all benchmarks share: variants in fresh processes, interleaved; medians; one JSON object per
line.

Goes in: `Variant`s, each a function named by module, and how often to run them. Comes out:
`Measured` per variant. A variant has a process of its own, so its peak memory is its own and
nothing is warm but the file cache; rounds are interleaved (A B C A B C …), so that a slow minute of
the machine hits all variants alike. Pinned variants are held on one core: their rate is one per
core.
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

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 130
GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to do a case's work."""

    name: str
    target: str  # "module:function", see benchmarks.child
    arguments: Mapping[str, Any]
    work: float = 1.0  # in the case's unit times seconds: MB for MB/s
    pinned: bool = True
    needs: str = ""  # optional package without which it is skipped

    @property
    def is_missing(self) -> bool:
        """Whether its optional package is not installed."""
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None


@dataclass(kw_only=True)
class Measured:
    """All runs of one variant."""

    variant: Variant
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    rss_mb: float = 0.0  # the largest process of any run
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Work per second of each run."""
        return [self.variant.work / seconds for seconds in self.seconds]

    @property
    def rate(self) -> float:
        """Median of the rates."""
        return statistics.median(self.rates)

    @property
    def cpu_rate(self) -> float:
        """Work per second of processor time, median: what a variant costs, even while others use
        the machine.
        """
        return self.variant.work / max(statistics.median(self.cpu_seconds), 1e-9)

    @property
    def median_s(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


class VariantError(RuntimeError):
    """A variant's process failed; carries the end of what it wrote."""


def measure(variants: Sequence[Variant], rounds: int, scratch: Path) -> dict[str, Measured]:
    """Run all variants `rounds` times, interleaved; those whose package is missing are left out."""
    found = {
        variant.name: Measured(variant=variant) for variant in variants if not variant.is_missing
    }
    for _ in range(rounds):
        for measured in found.values():
            answer = run_once(measured.variant, scratch)
            measured.seconds.append(answer["seconds"])
            measured.cpu_seconds.append(answer["cpu_seconds"])
            measured.rss_mb = max(measured.rss_mb, answer["rss_mb"])
            measured.results.append(answer["result"])
    return found


def run_once(variant: Variant, scratch: Path) -> dict[str, Any]:
    """One run in a fresh process; on an interruption the process and all its children end first.

    Raises:
        VariantError: the process failed.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="answer-") as folder:
        answer = Path(folder) / "answer.json"
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
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", str(answer)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            start_new_session=True,  # so that its children can be ended with it
        )  # fmt: skip
        try:
            said, _ = process.communicate(json.dumps(request))
        except BaseException:
            _end_group(process)
            raise
        if process.returncode != 0:
            raise VariantError(f"{variant.name} ({variant.target}) failed:\n{said[-4000:]}")
        return json.loads(answer.read_text(encoding="utf-8"))


def _end_group(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_S)


def record(
    benchmark: str, case: str, unit: str, found: Mapping[str, Measured], limit: float | None
) -> dict[str, Any]:
    """The documented object of a case: the variant `ours`, its limit, and every other variant as a
    peer.

    Rates are medians; higher is better.
    """
    ours, peers = (
        found["ours"],
        {name: measured for name, measured in found.items() if name != "ours"},
    )
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
        "cpu_rates": {name: measured.cpu_rate for name, measured in found.items()},
        "ratio_to_limit": ours.rate / limit if limit else None,
        "ratio_to_peers": {name: ours.rate / measured.rate for name, measured in peers.items()},
        "runs": len(ours.seconds),
    }


def skipped(variants: Sequence[Variant]) -> dict[str, dict[str, str]]:
    """What was left out, and what would bring it in; empty if nothing was."""
    names = {
        variant.name: f"pip install {variant.needs}" for variant in variants if variant.is_missing
    }
    return {"skipped": names} if names else {}


def harmonic(*rates: float) -> float:
    """Rate of steps that follow each other on one core."""
    return 1 / sum(1 / rate for rate in rates)


def emit(fields: Mapping[str, Any]) -> None:
    """Print one JSON object on a line, numbers to four digits."""
    print(json.dumps(_rounded(fields), ensure_ascii=False), flush=True)


def emit_all(found: Iterable[Mapping[str, Any]]) -> int:
    """Print the object of every case as it comes; 1 if one says that it is not ok, the exit code of
    a benchmark.
    """
    failed = False
    for fields in found:
        emit(fields)
        failed = failed or not fields["ok"]
    return int(failed)


def refuse_less_than_one(
    parser: argparse.ArgumentParser, given: argparse.Namespace, *names: str
) -> None:
    """End with a usage error where one of these numbers is given and below 1."""
    for name in names:
        if getattr(given, name) is not None and getattr(given, name) < 1:
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
    """The machine, Python and the versions of packages: what the figures depend on."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
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
        "cpu": model, "cores": cores, "system": platform.platform(), "python": platform.python_version(),
        "versions": versions,
    }  # fmt: skip


@contextlib.contextmanager
def scratch_folder(keep: str | None) -> Iterator[Path]:
    """A folder for generated data: `keep`, which stays and is used again, or one that is removed."""
    if keep:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="trelm-benchmark-") as folder:
        yield Path(folder)


def common_arguments(description: str | None) -> argparse.ArgumentParser:
    """The parser with what every benchmark has."""
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
    return parser


def run_program(main: Callable[[], int]) -> None:
    """Run a benchmark's main function; Ctrl-C ends it without a traceback."""
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

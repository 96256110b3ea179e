"""Show the progress of long work, from any worker to the terminal or the log.

Workers count what they do (`ProgressSender`) in two ways: as Beam metrics, which every runner
carries, and on this machine as one UDP datagram per batch, because a local run gives its metrics
only at the end. The driver shows a bar on a terminal, a log line every ten seconds elsewhere
(`ProgressReceiver`), and for a remote job a line every 30 seconds (`MetricsPoller`). Lost datagrams
cost accuracy of the display, never rows.

Counts: `done` (of the units' ranges: bytes, rows or files), `records`, `rejects`, `units`.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Protocol, cast

from apache_beam.metrics import Metrics, MetricsFilter

from pipeline.engine.progress_text import Workload, note, progress_line

ProgressAddress = tuple[str, int]
NAMESPACE = "trelm"
LOG_EVERY_S = 10.0
POLL_EVERY_S = 30.0
JOIN_S = 5.0
logger = logging.getLogger("trelm")


class JobResult(Protocol):
    """Name what is used of the result of a Beam job, which has no types."""

    def metrics(self) -> Any:  # noqa: ANN401 - Beam's MetricResults, untyped
        """Return the job's metrics so far."""

    def wait_until_finish(self) -> object:
        """Wait for the end of the job."""


class ProgressSender:
    """Report counts from a worker."""

    def __init__(self, address: ProgressAddress | None) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM) if address else None

    def send(self, **counts: int) -> None:
        """Report increments, once per batch and not per row: a metric costs 0.3 µs, a datagram 10."""
        for name, count in counts.items():
            Metrics.counter(NAMESPACE, name).inc(count)
        if self._socket is None:
            return

        try:
            self._socket.sendto(json.dumps(counts).encode(), self._address)  # type: ignore[arg-type]
        except OSError:
            # Progress is a courtesy: the work goes on without it.
            return
        if "units" in counts:
            self.close()

    def close(self) -> None:
        """Send no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class ProgressReceiver:
    """Listen to the workers of this machine inside a context, and show what they report."""

    def __init__(self, work: Workload) -> None:
        self._work = work
        self._counts: Counter[str] = Counter()
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._started_s = time.monotonic()

    @property
    def address(self) -> ProgressAddress:
        """Return where workers send to."""
        host, port = self._socket.getsockname()
        return (host, port)

    def __enter__(self) -> ProgressReceiver:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        if sys.stderr.isatty():
            self._draw_bar()
        else:
            self._write_lines()

    def _receive(self) -> None:
        try:
            self._counts.update(json.loads(self._socket.recv(2048)))
        except TimeoutError:
            return

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _draw_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[note]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(self._work.stage, total=max(self._work.total, 1), note="")
            while not self._stop.is_set():
                self._receive()
                bar.update(
                    task,
                    completed=self._counts["done"],
                    note=note(self._work, self._counts, self._elapsed_s()),
                )

    def _write_lines(self) -> None:
        next_line_s = LOG_EVERY_S
        while not self._stop.is_set():
            self._receive()
            if self._elapsed_s() >= next_line_s:
                next_line_s += LOG_EVERY_S
                logger.info("%s", progress_line(self._work, self._counts, self._elapsed_s()))


class MetricsPoller:
    """Ask the runner of a job elsewhere for its counters inside a context, and log them."""

    def __init__(self, result: JobResult, work: Workload, every_s: float = POLL_EVERY_S) -> None:
        self._result = result
        self._work = work
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._started_s = time.monotonic()

    def __enter__(self) -> MetricsPoller:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        # A question to the service may hang, but the job has ended: do not wait for the answer.
        self._thread.join(JOIN_S)

    def _poll(self) -> None:
        while not self._stop.wait(self._every_s):
            counts = counts_in(self._result)
            if counts:
                logger.info(
                    "%s", progress_line(self._work, counts, time.monotonic() - self._started_s)
                )


def counts_in(result: JobResult) -> Counter[str]:
    """Return the counters of a Beam result, summed over its steps; empty where the runner gives
    none.
    """
    counts: Counter[str] = Counter()
    # A PortableRunner's result keeps its first answer and would repeat it for ever.
    if getattr(result, "_metrics", None) is not None:
        cast(Any, result)._metrics = None

    try:
        metrics = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
        for metric in metrics:
            counts[metric.key.metric.name] += metric.result or 0
    except Exception as error:  # noqa: BLE001
        # Each runner's service has errors of its own; the job goes on unwatched.
        logger.debug("no metrics: %s", error)
    return counts

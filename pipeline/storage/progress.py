"""Progress of long work, from any worker process to the terminal.

A worker sends one UDP datagram per batch to the driver on this machine; a thread there draws a bar, or writes a log
line every ten seconds where no terminal is. Lost datagrams cost accuracy, never correctness. On a cluster the address
is None.
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

ProgressAddress = tuple[str, int]
LOG_EVERY_S = 10.0
logger = logging.getLogger("trelm")


class ProgressSender:
    """The worker's end."""

    def __init__(self, address: ProgressAddress | None) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM) if address else None

    def send(self, **counts: int) -> None:
        """Report increments: `advance` (of the ranges), `unit`, `rejects`."""
        if self._socket is None:
            return
        try:
            self._socket.sendto(json.dumps(counts).encode(), self._address)  # type: ignore[arg-type]
        except OSError:
            return  # progress is a courtesy: the work goes on without it
        if "unit" in counts:
            self._socket.close()
            self._socket = None


class ProgressReceiver:
    """The driver's end: a context that listens and shows."""

    def __init__(self, stage: str, total: int, num_units: int) -> None:
        self._stage = stage
        self._total = max(total, 1)
        self._num_units = num_units
        self._counts: Counter[str] = Counter()
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._started_s = time.monotonic()

    @property
    def address(self) -> ProgressAddress:
        """Where workers send."""
        host, port = self._socket.getsockname()
        return (host, port)

    def __enter__(self) -> ProgressReceiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
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
            task = bar.add_task(self._stage, total=self._total, note="")
            while not self._stop.is_set():
                self._receive()
                bar.update(task, completed=self._counts["advance"], note=self._note())

    def _write_lines(self) -> None:
        next_line_s = self._started_s + LOG_EVERY_S
        while not self._stop.is_set():
            self._receive()
            if time.monotonic() >= next_line_s:
                next_line_s += LOG_EVERY_S
                share = min(self._counts["advance"] / self._total, 1.0)
                elapsed_s = time.monotonic() - self._started_s
                left = f"about {elapsed_s * (1 - share) / share:.0f} s left" if share > 0 else "starting"
                logger.info("%s: %.0f %%, %s, %s", self._stage, 100 * share, self._note(), left)

    def _note(self) -> str:
        return f"{self._counts['unit']}/{self._num_units} units, {self._counts['rejects']} rejects"

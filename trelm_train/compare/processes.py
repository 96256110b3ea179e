"""Run jobs in processes that find the trainer imported, some at a time, and stop them cleanly.

A server process imports torch and transformers once, and each job is a fork of it: a new
interpreter would take seconds. A signal lets every job save: it is passed on once.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from trelm_train.training.signals import Stop

PRELOADED = [
    "trelm_train.compare.run_one",
    "trelm_train.compare.measure",
    "trelm_train.training.train",
    "transformers.models.bert.modeling_bert",
]
# Between two looks at the signals.
POLL_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Name a function of a module, what it gets, and the number that tells it from other jobs."""

    number: int
    target: Callable[..., None]
    arguments: tuple[Any, ...]


def server() -> ForkServerContext:
    """Return the context whose server imports the trainer when its first process starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_jobs(jobs: Sequence[Job], workers: int, stop: Stop) -> Iterator[tuple[Job, int]]:
    """Run jobs, at most `workers` at a time; yield each with its exit code when it has ended.

    After a signal no further job starts, and those that run are asked to end.
    """
    context = server()
    waiting = deque(jobs)
    running: dict[int, tuple[Job, ForkServerProcess]] = {}
    is_told = False

    try:
        while running or (waiting and not stop.signum):
            while waiting and len(running) < workers and not stop.signum:
                job = waiting.popleft()
                process = context.Process(target=job.target, args=job.arguments)
                process.start()
                running[process.sentinel] = (job, process)

            if stop.signum and not is_told:
                is_told = True
                for _, process in running.values():
                    process.terminate()

            for ended in connection.wait(list(running), timeout=POLL_S):
                assert isinstance(ended, int)
                job, process = running.pop(ended)
                process.join()
                yield job, process.exitcode or 0
    finally:
        # A second signal, or an error of this program.
        for _, process in running.values():
            process.kill()
            process.join()

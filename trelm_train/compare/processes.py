"""Run jobs in processes that find the trainer imported, some at a time, and stop them cleanly.

A server process imports torch and transformers once, and each job is a fork of it: a new
interpreter would take seconds. A signal lets every job save: it is passed on once.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from trelm_train.training.signals import Stop

log = logging.getLogger(__name__)
PRELOADED = [
    "trelm_train.compare.run_one",
    "trelm_train.compare.timing",
    "trelm_train.training.train",
    "transformers.models.bert.modeling_bert",
]
# Held by the program, and by every job of it, in the experiment's folder.
PROGRAM_LOCK, JOBS_LOCK = "lock", "jobs.lock"
# Between two looks at the signals.
POLL_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Name a function of a module, what it gets, and its number among the jobs."""

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
    has_passed_on = False

    try:
        while running or (waiting and not stop.signum):
            while waiting and len(running) < workers and not stop.signum:
                job = waiting.popleft()
                process = context.Process(target=job.target, args=job.arguments)
                process.start()
                running[process.sentinel] = (job, process)

            if stop.signum and not has_passed_on:
                has_passed_on = True
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


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a second comparison out of a folder inside a `with` block.

    Jobs of a program that was killed end after their step; they are waited for.

    Raises:
        ConfigError: another program is at work there.
    """
    # Two locks: that of the program ends with it, that of the jobs with the last of them.
    with (root / PROGRAM_LOCK).open("w") as program, (root / JOBS_LOCK).open("w") as jobs:
        try:
            fcntl.flock(program, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{root}: another comparison is at work there; wait for it, or give another --out"
            ) from error
        try:
            fcntl.flock(jobs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.info("waiting for runs of a comparison that was killed: they save and end")
            fcntl.flock(jobs, fcntl.LOCK_EX)
        # Free again: the jobs to come share this lock among themselves.
        fcntl.flock(jobs, fcntl.LOCK_UN)
        yield


def become_job(root: Path) -> None:
    """Make this process one that ends with the program above it.

    It leaves the terminal's group: Ctrl-C reaches the program alone, which passes it on once,
    because a second signal would not let the step finish. A program that was killed passes nothing
    on, so its end counts as a signal.
    """
    os.setpgrp()
    # Open until the process ends.
    jobs = os.open(root / JOBS_LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(jobs, fcntl.LOCK_SH)
    parent = parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()

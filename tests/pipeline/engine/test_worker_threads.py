"""Threads of a worker: its share of the cores, by the workers of the stage that runs."""

from __future__ import annotations

import pytest

from pipeline.engine import worker_threads
from pipeline.engine.beam_runner import RunnerSettings, beam_options
from pipeline.engine.worker_threads import LOCAL_WORKERS, threads_of_a_worker


def test_a_stage_with_one_worker_after_one_with_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` does both in one process: the variable of the stage before must not stay."""
    monkeypatch.setattr(worker_threads, "usable_cores", lambda: 8)
    # Restored after the test, whatever is set in it.
    monkeypatch.setenv(LOCAL_WORKERS, "1")
    beam_options(RunnerSettings(workers=4))
    assert threads_of_a_worker() == 2
    beam_options(RunnerSettings(workers=1))
    assert threads_of_a_worker() == 8

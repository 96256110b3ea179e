"""One run on the sample for all tests that only read it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.pipeline.cases import program, sample_arguments


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, linked and counted."""
    # The processes that share the tests share the run: the first one to come makes it.
    is_shared = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if is_shared else base
    run, finished = folder / "sample" / "run", folder / "sample-is-finished"
    with (folder / "sample.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            done = program("run", *sample_arguments(run, "--until", "stats"))
            assert done.returncode == 0, done.stderr
            finished.touch()
    return run

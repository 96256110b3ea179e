"""One run on the sample for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.cases import program, sample_arguments


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, linked and counted."""
    run = tmp_path_factory.mktemp("sample") / "run"
    done = program("run", *sample_arguments(run, "--until", "stats"))
    assert done.returncode == 0, done.stderr
    return run

"""Settings for all tests: Beam's local runner is pinned, the data kit is optional, hypothesis has no deadline."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A deadline fails a right answer on a busy machine.
hypothesis.settings.register_profile(
    "trelm",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("trelm")

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "examples" / "tiny"


@pytest.fixture(scope="session")
def kit() -> Path:
    """The data kit; tests that need it are skipped where it is not there."""
    folder = os.environ.get("TRELM_KIT", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TRELM_KIT is not set: real dumps, corpora and the small BERT are not at hand")
    return Path(folder)


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, linked and counted: one run for all tests that only read it."""
    from tests.pipeline.cases import program, sample_arguments

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

"""Settings for all tests: Beam's local runner is pinned, the data kit is optional, hypothesis has no deadline."""

from __future__ import annotations

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

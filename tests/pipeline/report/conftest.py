"""The reports that the tests look at, and the browser that shows them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.report.build import write_report
from tests.pipeline.cases import GOLD
from tests.pipeline.report import browser as chromium
from tests.pipeline.report import runs


@dataclass(frozen=True, slots=True)
class Report:
    """A written report and the run that it is about."""

    run: Path
    path: Path
    hostile_qid: int = 0

    @property
    def text(self) -> str:
        """The page."""
        return self.path.read_text()


@pytest.fixture(scope="session")
def full(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Everything there is to show: importance, shards, gold, rejects, and an entity whose name is
    markup.
    """
    run = tmp_path_factory.mktemp("report") / "full"
    shutil.copytree(sample_run, run)
    runs.add_importance(run)
    runs.add_shards(run)
    qid = runs.make_hostile(run)
    return Report(run, Path(write_report(str(run), gold=str(GOLD)).path), qid)


@pytest.fixture(scope="session")
def bare(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run up to `stats`, and a search box that knows 40 entities."""
    path = tmp_path_factory.mktemp("report") / "bare.html"
    write_report(str(sample_run), str(path), num_entities=40)
    return Report(sample_run, path)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    """Chromium. Without it tests are skipped, but fail where TRELM_BROWSER says `required`."""
    missing = chromium.lacking()
    if missing:
        reason = f"not installed: {missing}"
        if os.environ.get("TRELM_BROWSER") == "required":
            pytest.fail(f"TRELM_BROWSER=required, but {reason}")
        pytest.skip(reason)
    with chromium.browser(tmp_path_factory.mktemp("profile")) as started:
        yield started

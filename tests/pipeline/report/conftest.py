"""The reports that the tests look at, and the browser that shows them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.report.build import write_report
from pipeline.report.training import TrainingSources
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
    """Everything there is to show: importance, shards, gold, rejects, two training runs, answers of
    two models, and an entity whose name is markup.
    """
    folder = tmp_path_factory.mktemp("report")
    run = folder / "full"
    shutil.copytree(sample_run, run)
    runs.add_importance(run)
    runs.add_shards(run)
    qid = runs.make_hostile(run)
    before = runs.add_answers(run, folder / "before.parquet", "b", wrong_every=2)
    after = runs.add_answers(run, folder / "after.parquet", "a")
    trained = (
        runs.add_training(folder, "facts", [4.0, 3.0, 2.5, 2.0]),
        runs.add_training(folder, runs.HOSTILE_NAME, [4.0, 3.5, 3.25]),
    )
    sources = TrainingSources(
        runs=tuple(map(str, trained)), items=(str(before), str(after)), before=""
    )
    return Report(run, Path(write_report(str(run), gold=str(GOLD), sources=sources).path), qid)


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

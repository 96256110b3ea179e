from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from trelm_train.compare.processes import Job, locked, run_jobs
from trelm_train.training.signals import Stop

pytestmark = pytest.mark.slow


def write_number(path: Path, number: int) -> None:
    (path / str(number)).touch()


def wait_for_a_signal(path: Path, number: int) -> None:
    write_number(path, number)
    while True:
        time.sleep(60)


class StopWhenThere(Stop):
    """Asks for a stop as soon as a file is there, as a signal would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def signum(self) -> int:  # type: ignore[override]
        return signal.SIGTERM if self.path.exists() else 0


def test_every_job_is_run(tmp_path: Path) -> None:
    jobs = [Job(number=n, target=write_number, arguments=(tmp_path, n)) for n in range(5)]
    codes = {job.number: code for job, code in run_jobs(jobs, 2, Stop())}
    assert codes == dict.fromkeys(range(5), 0)
    assert len(list(tmp_path.iterdir())) == 5


def test_after_a_signal_jobs_are_told_once_and_none_starts(tmp_path: Path) -> None:
    jobs = [Job(number=n, target=wait_for_a_signal, arguments=(tmp_path, n)) for n in range(3)]
    ended = list(run_jobs(jobs, 1, StopWhenThere(tmp_path / "0")))
    assert [(job.number, code) for job, code in ended] == [(0, -signal.SIGTERM)]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_two_comparisons_do_not_share_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another comparison"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass

"""Runners by name, and a dry run with Beam's own checks of a Dataflow job; test_dataflow_jobs.py has the jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.engine.beam_runner import RunnerSettings, beam_options
from tests.pipeline.cases import program

IMAGE = "registry.example/trelm-pipeline:0.1.0"
FLAGS = (
    "--job_name=trelm-link", "--project=trelm-proj", "--region=europe-west1", "--no_auth", "--dry_run=True",
    "--staging_location=gs://trelm-test/staging", "--temp_location=gs://trelm-test/temp",
    "--sdk_location=container", f"--sdk_container_image={IMAGE}",
)  # fmt: skip


@pytest.mark.slow
def test_command_builds_the_job_and_submits_nothing(sample_run: Path) -> None:
    done = program("link", "--run", str(sample_run), "--redo", "--runner=DataflowRunner", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "dry run: " in done.stderr
    assert "nothing submitted" in done.stderr
    assert (sample_run / "link" / "manifest.json").exists()


@pytest.mark.parametrize(
    "name", ["DirectRunner", "direct", "", "directrunner", "SwitchingDirectRunner"]
)
def test_direct_runner_is_the_in_process_one(name: str) -> None:
    options = beam_options(RunnerSettings(runner=name)).get_all_options()
    assert options["runner"] == "FnApiRunner"
    assert not options["save_main_session"]


def test_workers_are_processes() -> None:
    options = beam_options(RunnerSettings(workers=3)).get_all_options()
    assert (options["direct_running_mode"], options["direct_num_workers"]) == (
        "multi_processing",
        3,
    )

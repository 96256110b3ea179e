"""All stages by workers of an environment that has our code from the wheel alone: Beam's job server and worker pool."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.flow import STAGE_NAMES
from tests.pipeline import tiny_model
from tests.pipeline.cases import SAMPLE, in_process, num_linked, rows_of
from tests.pipeline.test_bucket_runs import TABLES
from tests.worker_environment import WorkerEnvironment, make_environment, sample_settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> WorkerEnvironment:
    return make_environment(tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="module")
def server(workers: WorkerEnvironment) -> Iterator[int]:
    with workers.job_server() as port:
        yield port


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model"))


def elsewhere(server: int, pool: int) -> list[str]:
    return [
        "--runner=PortableRunner", f"--job_endpoint=localhost:{server}",
        "--environment_type=EXTERNAL", f"--environment_config=localhost:{pool}",
    ]  # fmt: skip


def test_the_workers_have_our_code_from_the_wheel(workers: WorkerEnvironment) -> None:
    code = "import pipeline, trelm_train, schemas; print(pipeline.__file__, trelm_train.__file__, schemas.__file__)"
    done = subprocess.run(
        [str(workers.python), "-c", code], check=True, capture_output=True, text=True, cwd=workers.folder, env=workers.variables,
    )  # fmt: skip
    assert all(path.startswith(str(workers.folder)) for path in done.stdout.split())


def test_all_stages_give_the_rows_of_a_local_run(
    workers: WorkerEnvironment, server: int, model: Path, sample_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with workers.thread_pool() as pool:
        done = in_process("run", *sample_settings(run, SAMPLE, model), *elsewhere(server, pool))
    assert done.returncode == 0, done.stderr
    assert all((run / stage / "manifest.json").exists() for stage in STAGE_NAMES)
    for table in TABLES:
        assert rows_of(run, table) == rows_of(sample_run, table), table
    assert len(rows_of(run, "importance")) == num_linked(rows_of(run, "links")) > 0
    assert len(rows_of(run, "examples")) == len(rows_of(run, "sentences")) > 0


def test_a_pool_of_processes_as_the_docs_start_it(
    workers: WorkerEnvironment, server: int, model: Path, sample_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with workers.worker_pool() as pool:
        done = in_process("kb", *sample_settings(run, SAMPLE, model)[:-2], *elsewhere(server, pool))
    assert done.returncode == 0, done.stderr
    assert rows_of(run, "triples") == rows_of(sample_run, "triples")


def test_a_worker_without_our_code_says_what_is_missing(
    workers: WorkerEnvironment, server: int, model: Path, tmp_path: Path
) -> None:
    """An environment that has Beam alone, as Beam's own image."""
    package = next((workers.folder / "venv" / "lib").glob("python*/site-packages/pipeline"))
    hidden = package.with_name("hidden")
    package.rename(hidden)
    try:
        with workers.thread_pool() as pool:
            done = in_process(
                "kb",
                *sample_settings(tmp_path / "run", SAMPLE, model)[:-2],
                *elsewhere(server, pool),
            )
    finally:
        hidden.rename(package)
    assert done.returncode == 1, done.stderr
    assert "the workers lack this program" in done.stderr
    assert "Traceback" not in done.stderr

"""The sample on real clusters: `make cluster-test`. Each is skipped unless the machine has what it needs.

| variable | what it names | what is run |
|---|---|---|
| FLINK_JOB_SERVER_JAR | Beam's job server for Flink | Flink in one JVM, workers of a pool (EXTERNAL) and of a command (PROCESS) |
| FLINK_HOME, with the jar | a Flink of the jar's version | a session cluster of two task managers that it starts |
| SPARK_JOB_SERVER_JAR | Beam's job server for Spark 3 | Spark in one JVM, workers of a pool |
| PRISM_BINARY | Beam's Prism | Prism, workers of a pool and of this process (LOOPBACK) |

docs/runners.md says where each comes from.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.flow import STAGE_NAMES
from tests.conftest import SAMPLE
from tests.pausing import PATIENCE_S
from tests.pipeline.cases import program, rows_of
from tests.pipeline.test_bucket_runs import TABLES
from tests.worker_environment import (
    WorkerEnvironment,
    free_port,
    make_environment,
    sample_settings,
)

# Java 17 hides from libraries what Flink's and Spark's serializers need: as in Flink's own settings.
OPENED_PACKAGES = (
    "java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time", "java.util",
    "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch",
)  # fmt: skip
JAVA_OPTIONS = (
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED_PACKAGES),
)
TASK_MANAGERS = 2


@dataclass(frozen=True)
class Cluster:
    """What a cluster is called, the variables that it needs, and the options that reach it."""

    name: str
    needs: tuple[str, ...]
    options: Callable[[], list[str]]
    environment: str = "EXTERNAL"
    has_session: bool = False


def flink(*more: str) -> Callable[[], list[str]]:
    return lambda: [
        "--runner=FlinkRunner",
        f"--flink_job_server_jar={os.environ['FLINK_JOB_SERVER_JAR']}",
        *(f"--job_server_jvm_properties={option}" for option in JAVA_OPTIONS),
        *more,
    ]


def spark() -> list[str]:
    jar = os.environ["SPARK_JOB_SERVER_JAR"]
    return ["--runner=SparkRunner", f"--spark_job_server_jar={jar}", "--spark_master_url=local[2]"]


def prism() -> list[str]:
    return ["--runner=PrismRunner", f"--prism_location={os.environ['PRISM_BINARY']}"]


JAR = "FLINK_JOB_SERVER_JAR"
CLUSTERS = (
    Cluster("flink-external", (JAR,), flink("--flink_master=[local]", "--parallelism=2")),
    Cluster("flink-process", (JAR,), flink("--flink_master=[local]", "--parallelism=2"), "PROCESS"),
    Cluster("flink-two-task-managers", (JAR, "FLINK_HOME"), flink("--parallelism=2"), has_session=True),
    Cluster("flink-task-managers-process", (JAR, "FLINK_HOME"), flink("--parallelism=2"), "PROCESS", has_session=True),
    Cluster("spark-external", ("SPARK_JOB_SERVER_JAR",), spark),
    Cluster("prism-external", ("PRISM_BINARY",), prism),
    Cluster("prism-loopback", ("PRISM_BINARY",), prism, "LOOPBACK"),
)  # fmt: skip


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> WorkerEnvironment:
    return make_environment(tmp_path_factory.mktemp("workers"))


@contextmanager
def session_cluster(folder: Path, python_path: str) -> Iterator[int]:
    """Start a Flink of two task managers with one slot each, and stop it."""
    home = Path(os.environ["FLINK_HOME"])
    port, conf = free_port(), folder / "conf"
    conf.mkdir(parents=True)
    for path in (home / "conf").iterdir():
        if path.suffix in (".properties", ".xml"):
            (conf / path.name).write_bytes(path.read_bytes())
    settings = {
        "jobmanager.rpc.address": "localhost",
        "jobmanager.rpc.port": free_port(),
        "jobmanager.memory.process.size": "1g",
        "rest.address": "localhost",
        "rest.port": port,
        "blob.server.port": free_port(),
        "taskmanager.host": "localhost",
        "taskmanager.numberOfTaskSlots": 1,
        "taskmanager.memory.process.size": "1536m",
        "io.tmp.dirs": str(folder),
    }
    text = "".join(f"{name}: {value}\n" for name, value in settings.items())
    # Flink 1.19 and later read the first, older ones the second.
    for name in ("config.yaml", "flink-conf.yaml"):
        (conf / name).write_text(text)
    env = {
        **os.environ,
        "FLINK_CONF_DIR": str(conf),
        "FLINK_LOG_DIR": str(folder),
        "FLINK_PID_DIR": str(folder),
        "FLINK_ENV_JAVA_OPTS": " ".join(JAVA_OPTIONS),
        "PATH": f"{python_path}{os.pathsep}{os.environ['PATH']}",
    }

    def control(script: str, action: str) -> None:
        subprocess.run(
            [str(home / "bin" / script), action], check=True, env=env, timeout=PATIENCE_S
        )

    try:
        control("jobmanager.sh", "start")
        for _ in range(TASK_MANAGERS):
            control("taskmanager.sh", "start")
        _wait_for_task_managers(port)
        yield port
    finally:
        for script in ("taskmanager.sh", "jobmanager.sh"):
            subprocess.run([str(home / "bin" / script), "stop-all"], check=False, env=env)


def _wait_for_task_managers(port: int) -> None:
    address = f"http://localhost:{port}/overview"
    for _ in range(int(PATIENCE_S)):
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if json.load(answer)["taskmanagers"] == TASK_MANAGERS:
                    return
        except OSError:
            pass
        time.sleep(1)
    raise AssertionError(f"{address}: no {TASK_MANAGERS} task managers; look at the logs")


@contextmanager
def environment_options(kind: str, workers: WorkerEnvironment) -> Iterator[list[str]]:
    """Start what a kind of environment needs, and name it."""
    if kind == "LOOPBACK":
        yield ["--environment_type=LOOPBACK"]
    elif kind == "PROCESS":
        command = json.dumps({"command": str(workers.process_command())})
        yield ["--environment_type=PROCESS", f"--environment_config={command}"]
    else:
        with workers.worker_pool() as pool:
            yield ["--environment_type=EXTERNAL", f"--environment_config=localhost:{pool}"]


@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster.name)
def test_the_sample(
    cluster: Cluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:  # fmt: skip
    missing = [name for name in cluster.needs if not Path(os.environ.get(name, "-")).exists()]
    if missing:
        pytest.skip(f"{cluster.name}: {', '.join(missing)} names nothing that is there")
    from tests.pipeline import tiny_model

    sample_run: Path = request.getfixturevalue("sample_run")
    workers: WorkerEnvironment = request.getfixturevalue("workers")
    model, run = tiny_model.make(tmp_path / "model"), tmp_path / "run"
    session: AbstractContextManager[int] | None = (
        session_cluster(tmp_path_factory.mktemp("flink"), str(workers.python.parent))
        if cluster.has_session
        else None
    )
    with environment_options(cluster.environment, workers) as environment:
        options = [*cluster.options(), *environment]
        started_s = time.monotonic()
        if session is None:
            done = program("run", *sample_settings(run, SAMPLE, model), *options)
        else:
            with session as port:
                master = f"--flink_master=localhost:{port}"
                done = program("run", *sample_settings(run, SAMPLE, model), *options, master)
    assert done.returncode == 0, done.stderr
    print(f"{cluster.name}: {time.monotonic() - started_s:.0f} s\n{done.stderr}")  # noqa: T201 - with -s
    assert all((run / stage / "manifest.json").exists() for stage in STAGE_NAMES)
    for table in TABLES:
        assert rows_of(run, table) == rows_of(sample_run, table), table

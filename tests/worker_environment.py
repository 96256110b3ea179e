"""An environment for workers, apart from that of the tests: our code comes from the built wheel alone.

Third-party packages are borrowed from the environment of the tests, since a whole new one takes minutes: Python looks
for packages in their folder, and ignores there what an editable install has left. The checkout is nowhere on its path.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.pausing import PATIENCE_S

# The pool of Beam, with workers in threads of one process: what they import is imported once.
THREAD_POOL = (
    "import sys, time; from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer as P; "
    "running = P.start(port=int(sys.argv[1])); time.sleep(1e6)"
)
# What a PROCESS environment starts on each machine: as docs/runners.md shows it.
PROCESS_COMMAND = """#!{python}
import argparse
from apache_beam.runners.worker.sdk_worker import SdkHarness
parser = argparse.ArgumentParser()
parser.add_argument("--id")
parser.add_argument("--control_endpoint")
known, _ = parser.parse_known_args()
SdkHarness(known.control_endpoint, worker_id=known.id).run()
"""


@dataclass(frozen=True)
class WorkerEnvironment:
    """A virtual environment with our wheel, and the processes that it runs."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**kept, "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"}

    @contextmanager
    def running(self, *arguments: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
        """Run its Python inside a `with` block, once it answers on a port."""
        with (self.folder / f"{port}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(self.python), *arguments], cwd=self.folder, env=self.variables,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(port, process)
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE_S)

    @contextmanager
    def worker_pool(self) -> Iterator[int]:
        """Run Beam's worker pool as the docs say: a process per worker."""
        port = free_port()
        module = "apache_beam.runners.worker.worker_pool_main"
        with self.running("-m", module, f"--service_port={port}", port=port):
            yield port

    @contextmanager
    def thread_pool(self) -> Iterator[int]:
        """Run Beam's worker pool with workers in threads."""
        port = free_port()
        with self.running("-c", THREAD_POOL, str(port), port=port):
            yield port

    @contextmanager
    def job_server(self) -> Iterator[int]:
        """Run Beam's own job server, in Python."""
        port = free_port()
        module = "apache_beam.runners.portability.local_job_service_main"
        with self.running("-m", module, "--port", str(port), port=port):
            yield port

    def process_command(self) -> Path:
        """A program that a runner starts for each worker."""
        path = self.folder / "trelm-worker"
        path.write_text(PROCESS_COMMAND.format(python=self.python))
        path.chmod(0o755)
        return path


def make_environment(folder: Path) -> WorkerEnvironment:
    """Make the environment: a wheel, an empty virtual environment, and a path to borrowed packages."""
    quiet = {"check": True, "capture_output": True}
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], **quiet)  # type: ignore[call-overload]
    made = WorkerEnvironment(folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], **quiet)  # type: ignore[call-overload]
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (wheel,) = folder.glob("trelm-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "borrowed.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return made


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process answers on a port."""
    for _ in range(int(PATIENCE_S / 0.05)):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, f"{process.args} has ended"
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nobody answers on port {port}")


def sample_settings(run: Path, sample: Path, model: Path) -> Sequence[str]:
    """The sample's settings with paths from the root on: workers start in another folder."""
    names = {
        "kb.dumps": ["entities.json"],
        "kb.redirects": ["wikidatawiki-redirect.sql.gz", "wikidatawiki-page.sql.gz"],
        "documents.inputs": ["documents.jsonl", "pages.xml"],
    }
    words = ["--config", str(sample / "pipeline.toml"), "--run", str(run)]
    for name, files in names.items():
        listed = ", ".join(f'"{sample / file}"' for file in files)
        words += ["--set", f"{name}=[{listed}]"]
    return [*words, "--set", f"importance.model={model}"]

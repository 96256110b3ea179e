"""A stand-in for Dataflow on loopback: it takes jobs as the service does, and runs what was staged in a process of its
own, with nothing of the process that submitted it.

with fake_dataflow() as service:
    program("kb", "--runner=DataflowRunner", f"--dataflow_endpoint={service.endpoint}", …)
    service.jobs[0].posted["environment"]
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.conftest import ROOT

DONE, FAILED = "JOB_STATE_DONE", "JOB_STATE_FAILED"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it was submitted, and how it ended."""

    posted: dict[str, Any]
    state: str
    # What the workers said where it failed.
    message: str
    # Counters of its steps, by name.
    counters: dict[str, int]

    @property
    def options(self) -> dict[str, Any]:
        return self.posted["environment"]["sdkPipelineOptions"]["options"]

    @property
    def pool(self) -> dict[str, Any]:
        return self.posted["environment"]["workerPools"][0]


@dataclass(kw_only=True)
class FakeDataflow:
    """A running service."""

    endpoint: str = ""
    jobs: list[Job] = field(default_factory=list)
    # Answers the next submission with an error of the service: its code and text.
    refusal: tuple[int, str] | None = None


@contextmanager
def fake_dataflow(environment: dict[str, str]) -> Iterator[FakeDataflow]:
    """Run the service inside a `with` block; its worker process begins with the first job."""
    service = FakeDataflow()
    worker = _Worker(environment)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if service.refusal is not None:
                code, text = service.refusal
                service.refusal = None
                self._answer({"error": {"code": code, "message": text, "status": "ANY"}}, code)
                return
            url = posted["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
            message, counters = worker.run(url)
            state = FAILED if message else DONE
            service.jobs.append(Job(posted=posted, state=state, message=message, counters=counters))
            self._answer({**_named(len(service.jobs) - 1), "name": posted["name"]})

        def do_GET(self) -> None:
            parts = urlsplit(self.path).path.split("/")
            number = int(parts[parts.index("jobs") + 1].removeprefix("job-"))
            job = service.jobs[number]
            if parts[-1] == "messages":
                failed = {
                    "id": "1",
                    "time": "2026-01-01T00:00:00Z",
                    "messageText": job.message,
                    "messageImportance": "JOB_MESSAGE_ERROR",
                }
                self._answer({"jobMessages": [failed] if job.message else []})
            elif parts[-1] == "metrics":
                self._answer({"metrics": []})
            else:
                self._answer({**_named(number), "currentState": job.state})

        def _answer(self, content: dict[str, Any], code: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.endpoint = f"http://localhost:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
        worker.stop()


def _named(number: int) -> dict[str, str]:
    return {"id": f"job-{number}", "projectId": "trelm-proj", "location": "europe-west1"}


class _Worker:
    """A process that runs what was staged."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def run(self, url: str) -> tuple[str, dict[str, int]]:
        """Run a job: what went wrong, and its counters."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.dataflow_worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self._environment,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{url}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["message"], answer["counters"]

    def stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

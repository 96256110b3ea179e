"""Servers that stand in for object stores, on this machine's loopback, in memory: moto for s3://, gcp-storage-emulator
for gs://.

with bucket_server("s3") as server:
    program("kb", "--run", "s3://trelm-test/run", env=server.environment)
    server.num_requests["PUT"]
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import HTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from schemas import buckets

BUCKET = "trelm-test"
# What each server needs, as in the extra `dev`.
NEEDED = {
    "s3": ("s3fs", "moto", "flask", "flask_cors", "py_partiql_parser"),
    "gs": ("gcsfs", "gcp_storage_emulator"),
}


def missing(scheme: str) -> str:
    """Why a server cannot be started here; nothing where it can."""
    names = [name for name in NEEDED[scheme] if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(names)} (pip install '.[gcp,aws,dev]')" if names else ""


@dataclass(frozen=True, kw_only=True)
class BucketServer:
    """A running server with one empty bucket."""

    scheme: str
    # What a program needs to find it.
    environment: dict[str, str]
    # Requests that it has answered, by method.
    num_requests: Counter[str] = field(default_factory=Counter)

    @property
    def root(self) -> str:
        return f"{self.scheme}://{BUCKET}"


@contextmanager
def connected(scheme: str) -> Iterator[BucketServer]:
    """Run a server inside a `with` block, with this process as its client; skip where it is missing."""
    reason = missing(scheme)
    if reason:
        pytest.skip(reason)
    with bucket_server(scheme) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        # A client of a server that has gone would be used again.
        buckets.file_system(running.root).clear_instance_cache()
        yield running


@contextmanager
def bucket_server(scheme: str) -> Iterator[BucketServer]:
    """Start a server in threads of this process; its objects go with it."""
    num_requests: Counter[str] = Counter()
    httpd = (_s3 if scheme == "s3" else _gs)(num_requests)
    address = f"http://127.0.0.1:{httpd.server_port}"
    environment = {
        "s3": {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        },
        "gs": {"STORAGE_EMULATOR_HOST": address, "NO_GCE_CHECK": "true"},
    }[scheme]
    # Whatever the machine is set to use, loopback is reached directly.
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield BucketServer(scheme=scheme, environment=environment, num_requests=num_requests)
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def _s3(num_requests: Counter[str]) -> Any:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server
    from werkzeug.test import Client

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)

    def counted(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        num_requests[environ["REQUEST_METHOD"]] += 1
        return application(environ, start)

    # moto keeps its objects as long as the process lives.
    client = Client(application)
    assert client.post("/moto-api/reset").status_code == HTTPStatus.OK
    assert client.put(f"/{BUCKET}").status_code == HTTPStatus.OK

    class Handler(WSGIRequestHandler):
        """Answer at once."""

        # Else the end of an answer waits until its beginning is confirmed, 40 ms.
        disable_nagle_algorithm = True

    return make_server("127.0.0.1", 0, counted, threaded=True, request_handler=Handler)


def _gs(num_requests: Counter[str]) -> Any:
    from gcp_storage_emulator.handlers import buckets

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    storage = _remembering_storage()
    buckets.create_bucket(BUCKET, storage)

    class Server(HTTPServer):
        """Say nothing where a program that was killed does not wait for its answer."""

        def handle_error(self, *_: object) -> None:
            pass

    return Server(("127.0.0.1", 0), partial(_gs_handler(storage, num_requests), storage))


def _remembering_storage() -> Any:
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.storage import RESUMABLE_DIR, Storage

    class Remembering(Storage):  # type: ignore[misc]
        """Take a part of an upload twice, as the service does where a client has lost the answer: it ignores
        bytes that it has. Know which uploads have ended, and what they became: the emulator forgets them at once.
        """

        def __init__(self) -> None:
            super().__init__(use_memory_fs=True)
            self.ended: dict[str, dict[str, Any]] = {}

        def delete_resumable_file_obj(self, file_id: str) -> None:
            name = self.resumable[file_id]["name"]
            self.ended[file_id] = dict(self.get_file_obj(BUCKET, name))
            super().delete_resumable_file_obj(file_id)

        def add_to_resumable_upload(
            self,
            file_id: str,
            content: bytes,
            total_size: int | None = None,
            expected_start: int | None = None,
        ) -> bytes | None:
            num_bytes = 0
            with contextlib.suppress(NotFound):
                num_bytes = len(self.get_file(RESUMABLE_DIR, self.safe_id(file_id), False))
            if expected_start is not None and expected_start < num_bytes:
                content, expected_start = content[num_bytes - expected_start :], num_bytes
            whole = super().add_to_resumable_upload(file_id, content, total_size, expected_start)
            return cast("bytes | None", whole)

    return Remembering()


def _gs_handler(storage: Any, num_requests: Counter[str]) -> type[Any]:
    from gcp_storage_emulator.server import RequestHandler

    class Handler(RequestHandler):
        """Do what the emulator does not: count requests, refuse a write whose condition does not hold, and say
        again what an upload has become to a client that has lost the answer.
        """

        # Else the end of an answer waits until its beginning is confirmed, 40 ms.
        disable_nagle_algorithm = True

        def parse_request(self) -> bool:
            is_whole = super().parse_request()
            if is_whole:
                num_requests[self.command] += 1
            return is_whole

        def do_POST(self) -> None:
            if _has_said_again(self, storage):
                return
            wanted, name = _wanted(self)
            if wanted and name is not None and _generation(storage, name) != wanted:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                _answer(self, HTTPStatus.PRECONDITION_FAILED)
                return
            super().do_POST()

        def do_PUT(self) -> None:
            if not _has_said_again(self, storage):
                super().do_PUT()

        def do_DELETE(self) -> None:
            if "upload_id=" in self.path:
                # An upload in parts is given up; the emulator cannot, and forgets it with the process.
                _answer(self, 499)
                return
            super().do_DELETE()

    return Handler


def _has_said_again(handler: Any, storage: Any) -> bool:
    """Answer a part of an upload that has ended, and say whether it was one."""
    upload = parse_qs(urlsplit(handler.path).query).get("upload_id", [""])[0]
    if upload not in storage.ended:
        return False
    handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    _answer(handler, HTTPStatus.OK, json.dumps(storage.ended[upload]).encode())
    return True


def _answer(handler: Any, status: int, content: bytes = b"") -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _wanted(handler: Any) -> tuple[str, str | None]:
    """The generation under whose condition an object is written, and its name."""
    query = parse_qs(urlsplit(handler.path).query)
    wanted = query.get("ifGenerationMatch", [""])[0]
    if not wanted or "name" in query:
        return wanted, query.get("name", [""])[0]
    body = handler.rfile.read(int(handler.headers["Content-Length"]))
    handler.rfile = io.BufferedReader(io.BytesIO(body))
    described = re.search(rb"\{.*?\}\n?--", body, re.DOTALL)
    assert described, body[:300]
    return wanted, json.loads(described[0].rstrip(b"-\n"))["name"]


def _generation(storage: Any, name: str) -> str:
    """The generation of an object; 0 where there is none."""
    from gcp_storage_emulator.exceptions import NotFound

    try:
        return str(storage.get_file_obj(BUCKET, name)["generation"])
    except NotFound:
        return "0"

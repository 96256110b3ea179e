"""Stand between a program and a storage server, and let requests fail, in five ways:

    429, 503     the proxy answers so, and the server never sees the request
    cut before   the connection ends, and the server never sees the request
    cut after    the server does what was asked; the connection ends before its answer
    cut within   the server does what was asked; the connection ends within its answer

with fault_proxy("http://127.0.0.1:5000", drawn(share=0.05, seed=1)) as proxy:
    … the program talks to proxy.address …
    proxy.num_failed["503"]
"""

from __future__ import annotations

import http.client
import io
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KINDS = ("429", "503", "cut before", "cut after", "cut within")
# Of one hop alone, so they are not passed on.
OWN_HEADERS = frozenset(("connection", "keep-alive", "transfer-encoding", "content-length"))


@dataclass(frozen=True, kw_only=True)
class FaultProxy:
    """A running proxy."""

    address: str
    num_failed: Counter[str]
    num_passed: Counter[str]


def drawn(*, share: float, seed: int) -> Callable[[int], str]:
    """Let a share of the requests fail; which ones is drawn from the seed, in their order."""
    draw = random.Random(seed)
    return lambda _: draw.choice(KINDS) if draw.random() < share else ""


@contextmanager
def fault_proxy(server: str, fault_of: Callable[[int], str]) -> Iterator[FaultProxy]:
    """Run a proxy inside a `with` block.

    Args:
        server: the address to which requests are passed on.
        fault_of: from the number of a request, counted from 1, how it fails; empty if it passes.
    """
    httpd = _Server(server, fault_of)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield FaultProxy(
            address=f"http://127.0.0.1:{httpd.server_port}",
            num_failed=httpd.num_failed,
            num_passed=httpd.num_passed,
        )
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str, fault_of: Callable[[int], str]) -> None:
        self.upstream = urlsplit(upstream)
        self.num_failed: Counter[str] = Counter()
        self.num_passed: Counter[str] = Counter()
        self._fault_of, self._num_requests, self._guard = fault_of, 0, threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def fault(self, method: str) -> str:
        """Say how a request fails; empty if it passes."""
        with self._guard:
            self._num_requests += 1
            kind = self._fault_of(self._num_requests)
            (self.num_failed if kind else self.num_passed)[kind or method] += 1
            return kind

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that has gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else the end of an answer waits until its beginning is confirmed, 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def answer(self) -> None:
        body = self._body()
        kind = self.server.fault(self.command)
        if kind in ("429", "503"):
            self.send_response(int(kind))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        answered = None if kind == "cut before" else self._ask(body)
        if answered is not None and kind == "":
            self._pass_on(*answered)
        elif answered is not None and kind == "cut within":
            self._begin(*answered)
        if kind:
            # Both sides at once: the client sees an end where an answer should be.
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def __getattr__(self, name: str) -> object:
        """Answer every method alike: the base class looks for do_GET, do_PUT and so on."""
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def _begin(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        """Give a part of an answer: half of its body, or half of all where it has no body."""
        client, self.wfile = self.wfile, io.BytesIO()
        self._pass_on(status, headers, content)
        whole, self.wfile = self.wfile.getvalue(), client
        num_missing = len(content) // 2 if self.command != "HEAD" else 0
        client.write(whole[: -(num_missing or len(whole) // 2)])

    def _pass_on(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() not in OWN_HEADERS:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", lengths[0] if is_head and lengths else str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = self.server.upstream
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in OWN_HEADERS
        }
        headers["Content-Length"] = str(len(body))
        headers.pop("Expect", None)
        try:
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def log_message(self, *_: object) -> None:
        pass

"""Start `trelm-pipeline` and `trelm-train` with a fault that comes at a chosen change of their files.

starter = Starter.begin(tmp_path)
running = starter.start("trelm-pipeline", words, folder, Fault(kind="kill all", at=17))
done = running.wait()
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.starter import HOOK
from tests.pausing import PATIENCE_S

ROOT = Path(__file__).parents[2]
TRACEBACK = "Traceback (most recent call last)"
_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to a program, and when."""

    # "kill all" processes of it, "kill one", "full" (the disk), "stop" until it is let go on.
    kind: str = "count"
    # The number of the change, among those whose path matches; 0 is never.
    at: int = 0
    path: str = "(run|out)/"
    # No file can be larger than this: another way for a disk to be full. 0 stands for no limit.
    max_file_bytes: int = 0
    clock_back_s: float = 0.0


NO_FAULT = Fault()


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a program ended."""

    # Negative for a signal.
    code: int
    stdout: str
    stderr: str
    # The changes of files that it made, in order.
    moments: tuple[str, ...]
    # Processor time.
    seconds: float

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


@dataclass(kw_only=True)
class Running:
    """A program at work."""

    pid: int
    folder: Path
    _connection: socket.socket
    _text: str = ""

    def wait(self, patience_s: float = PATIENCE_S) -> Done:
        """Wait until it has ended; what does not end is killed, and an error."""
        if not select.select([self._connection], [], [], patience_s)[0]:
            self.kill()
            raise TimeoutError(f"it hangs: {(self.folder / 'stderr').read_text()}")
        code, seconds = self._answer().split()
        self._connection.close()
        count = self.folder / "count"
        records = count.read_bytes() if count.exists() else b""
        moments = [records[at : at + 256].decode().strip() for at in range(0, len(records), 256)]
        return Done(
            code=int(code),
            stdout=(self.folder / "stdout").read_text(),
            stderr=(self.folder / "stderr").read_text(),
            moments=tuple(moments),
            seconds=float(seconds),
        )

    def has_ended(self) -> bool:
        return bool(select.select([self._connection], [], [], 0)[0])

    def reach(self) -> bool:
        """Wait until it stands still at its moment; false where it ended before."""
        reached = self.folder / "count.reached"
        deadline = time.monotonic() + PATIENCE_S
        while not reached.exists():
            if self.has_ended():
                return reached.exists()
            assert time.monotonic() < deadline, "the program never came to its moment"
            time.sleep(0.01)
        return True

    def release(self) -> None:
        """Let it go on."""
        (self.folder / "count.release").touch()

    def kill(self) -> None:
        """Kill it and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def kill_one(self) -> None:
        """Kill the program alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _answer(self) -> str:
        self._connection.settimeout(PATIENCE_S)
        while "\n" not in self._text:
            received = self._connection.recv(4096).decode()
            assert received, "the process that starts programs has gone"
            self._text += received
        line, _, self._text = self._text.partition("\n")
        return line


@dataclass(kw_only=True)
class Starter:
    """The process whose forks are the programs."""

    folder: Path
    process: subprocess.Popen[str]
    # Processor time of all programs that have ended.
    seconds: float = field(default=0.0)

    @classmethod
    @contextlib.contextmanager
    def begun(cls, folder: Path) -> Iterator[Starter]:
        """Start it, and end it at the end."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.starter", "address"],
            cwd=folder, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield cls(folder=folder, process=process)
        finally:
            process.kill()
            process.communicate()

    def start(
        self,
        program: str,
        words: Sequence[str],
        cwd: Path,
        fault: Fault = NO_FAULT,
        environment: dict[str, str] | None = None,
    ) -> Running:
        """Start a program in a folder."""
        folder = self.folder / f"call-{next(_numbers)}"
        folder.mkdir()
        settings = {
            "kind": fault.kind, "at": fault.at, "path": f"^{re.escape(str(cwd))}/(?:{fault.path})",
            "count": str(folder / "count"), "clock_back_s": fault.clock_back_s,
        }  # fmt: skip
        python_path = os.pathsep.join([str(HOOK), str(ROOT), os.environ.get("PYTHONPATH", "")])
        order = {
            "program": program,
            "words": list(words),
            "cwd": str(cwd),
            "stdout": str(folder / "stdout"),
            "stderr": str(folder / "stderr"),
            "max_file_bytes": fault.max_file_bytes,
            "environment": {
                "TRELM_TEST_FAULT": json.dumps(settings),
                "PYTHONPATH": python_path.strip(os.pathsep),
                **(environment or {}),
            },
        }
        connection = socket.socket(socket.AF_UNIX)
        here = Path.cwd()
        # An address may have 100 characters, and folders of tests are longer.
        os.chdir(self.folder)
        try:
            connection.connect("address")
        finally:
            os.chdir(here)
        connection.sendall(json.dumps(order).encode() + b"\n")
        running = Running(pid=0, folder=folder, _connection=connection)
        running.pid = int(running._answer())
        return running

    def call(self, program: str, words: Sequence[str], cwd: Path, fault: Fault = NO_FAULT) -> Done:
        """Run a program to its end."""
        done = self.start(program, words, cwd, fault).wait()
        self.seconds += done.seconds
        return done

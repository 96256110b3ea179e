"""Stop a program at a named call and not at a moment: what is tested does not depend on how long anything takes.

pause = Pause.at("pipeline.engine.units:UnitWriter.finish", call=3, folder=tmp_path / "pause")
running = subprocess.Popen([...], env=pause.environment())
pause.wait(running)      # the third unit, over all processes, has been finished; that process stands still
running.kill()           # or send_signal(…), then pause.release()
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

HOOK = Path(__file__).parent / "pauses"
# Only a program that hangs waits so long: nothing is concluded from the time.
PATIENCE_S = 1200.0
Running = subprocess.Popen[str] | subprocess.Popen[bytes] | BaseProcess


@dataclass(frozen=True, kw_only=True)
class Pause:
    """A call at which a program stands still."""

    target: str
    call: int
    folder: Path
    after: bool

    @classmethod
    def at(cls, target: str, *, call: int, folder: Path, after: bool = True) -> Pause:
        """Prepare a pause at the n-th call of `module:function` or `module:Class.method`."""
        (folder / "calls").mkdir(parents=True)
        for name in ("reached", "release"):
            os.mkfifo(folder / name)
        return cls(target=target, call=call, folder=folder, after=after)

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a program that shall pause."""
        paths = [str(HOOK), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(path for path in paths if path)
        return {**os.environ, "PYTHONPATH": path, **self.settings(), **more}

    def settings(self) -> dict[str, str]:
        """The variable that the program's process reads."""
        module, _, function = self.target.partition(":")
        settings = {"module": module, "function": function, "call": self.call}
        settings |= {"folder": str(self.folder), "after": self.after}
        return {"TRELM_TEST_PAUSE": json.dumps(settings)}

    def wait(self, *processes: Running) -> None:
        """Wait until the program has come to the call; fails where it ends before that."""
        reader = os.open(self.folder / "reached", os.O_RDONLY | os.O_NONBLOCK)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not select.select([reader], [], [], 0.2)[0]:
                ended = [code for code in map(exit_code, processes) if code is not None]
                assert not ended, f"the program ended before the pause, with {ended}"
                assert time.monotonic() < deadline, f"the program never came to {self.target}"
        finally:
            os.close(reader)

    def release(self, *processes: Running) -> None:
        """Let the program go on; fails where it has ended."""
        wait_until(self._is_released, *processes)

    def _is_released(self) -> bool:
        try:
            descriptor = os.open(self.folder / "release", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False  # nobody reads yet
        os.write(descriptor, b"go on")
        os.close(descriptor)
        return True


def exit_code(process: Running) -> int | None:
    """The code of a process that has ended."""
    return process.exitcode if isinstance(process, BaseProcess) else process.poll()


def wait_until(condition: Callable[[], object], *processes: Running) -> None:
    """Wait until something has happened in another thread or process."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert all(exit_code(process) is None for process in processes), "the program ended first"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)

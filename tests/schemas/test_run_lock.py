"""One writer per folder of a run, and workers that end with their program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from schemas.run_lock import LOCK_NAME, LOST_AFTER_S, LockedError, hold
from tests.pausing import PATIENCE_S, wait_until

HOLDER = """
import sys
from pathlib import Path
from schemas.run_lock import hold
with hold(Path(sys.argv[1]), "trelm-train"):
    print("held", flush=True)
    sys.stdin.read()
"""
PARENT = """
import subprocess, sys
child = "import time\\nfrom schemas.parent import end_with_parent\\nend_with_parent()\\nprint('watching', flush=True)\\ntime.sleep(3600)"
worker = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
print(worker.stdout.readline().strip(), worker.pid, flush=True)
sys.stdin.read()
"""


def start(code: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    running = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    return running, running.stdout.readline().strip()


def test_a_second_program_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    running, said = start(HOLDER, str(tmp_path))
    assert said == "held"
    refusal = rf"trelm-train \(process {running.pid} on .*\) writes there; wait until"
    with pytest.raises(LockedError, match=refusal), hold(tmp_path, "trelm-pipeline"):
        pass
    assert (tmp_path / LOCK_NAME).exists(), "who is refused takes nothing away"

    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=PATIENCE_S)
    with hold(tmp_path, "trelm-pipeline"):
        owner = json.loads((tmp_path / LOCK_NAME).read_text())
        assert (owner["program"], owner["pid"]) == ("trelm-pipeline", os.getpid())
    assert not list(tmp_path.iterdir())


def test_a_process_may_hold_a_folder_again(tmp_path: Path) -> None:
    with hold(tmp_path, "run"):
        with hold(tmp_path, "stage"):
            pass
        assert json.loads((tmp_path / LOCK_NAME).read_text())["program"] == "run"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("age_s", [LOST_AFTER_S + 5, -10 * 365 * 86_400.0])
def test_another_machine_holds_it_while_its_heart_beats(
    age_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock may not be seen here, but its file is. The clock may have been set back since."""
    monkeypatch.setattr("schemas.run_lock.HEARTBEAT_S", 0.5)
    path = tmp_path / LOCK_NAME
    path.write_text(json.dumps({"program": "trelm-train", "pid": 7, "host": "elsewhere"}))
    with (
        pytest.raises(LockedError, match=r"trelm-train \(process 7 on elsewhere\)"),
        hold(tmp_path, "trelm-train"),
    ):
        pass
    assert json.loads(path.read_text())["host"] == "elsewhere"

    other_time = time.time() - age_s
    stop = threading.Event()

    def beat() -> None:
        # The other machine's clock differs by as much.
        for number in range(1000):
            os.utime(path, (other_time + number, other_time + number))
            if stop.wait(0.02):
                return

    beating = threading.Thread(target=beat)
    beating.start()
    with pytest.raises(LockedError, match="on elsewhere"), hold(tmp_path, "trelm-train"):
        pass
    stop.set()
    beating.join()

    os.utime(path, (other_time, other_time))
    with hold(tmp_path, "trelm-train"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("left", ["", '{"program": "tre', "[1]"])
def test_a_torn_file_is_nobodys(tmp_path: Path, left: str) -> None:
    (tmp_path / LOCK_NAME).write_text(left)
    with hold(tmp_path, "trelm-train"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_stays_empty_is_not_left(tmp_path: Path) -> None:
    new = tmp_path / "a" / "run"
    with pytest.raises(ValueError, match="refused"), hold(new, "trelm-train"):
        raise ValueError("refused")
    assert not new.exists()
    with hold(new, "trelm-train"):
        (new / "file").touch()
    assert [path.name for path in new.iterdir()] == ["file"]


def test_a_worker_ends_with_its_program() -> None:
    running, said = start(PARENT)
    word, pid = said.split()
    assert word == "watching"
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=PATIENCE_S)

    def is_gone() -> bool:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True
        # Ended, but nobody has asked for its exit code.
        return status.rpartition(")")[2].split()[0] == "Z"

    wait_until(is_gone)

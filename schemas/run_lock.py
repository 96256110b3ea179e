"""Let one program write in a run's folder, and refuse a second one with a clear message.

The lock is the file `.lock` in the folder, with who holds it. The system's own lock on that file
ends with the process that holds it, however it ends. Other machines may not see that lock (network
file systems), so the holder also touches the file every few seconds: a file of another machine that
was touched lately is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import TrelmError

LOCK_NAME = ".lock"
# How often the holder touches the file, and from when on an untouched one is held by nobody.
HEARTBEAT_S = 10.0
LOST_AFTER_S = 60.0
# Folders that this process holds, with how often: commands hold what their stages hold.
_held: Counter[str] = Counter()
_guard = threading.Lock()


class LockedError(TrelmError):
    """Say that another program writes in the folder. Exit code 1."""


@contextlib.contextmanager
def hold(folder: Path, program: str) -> Iterator[None]:
    """Hold a run's folder inside a `with` block.

    A missing folder is made with those above it, and they are removed again if nothing has come
    into them. A process may hold a folder several times.

    Raises:
        LockedError: another program holds it; names the program, its process and its machine.
        OSError: the folder cannot be made or written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        _remove_empty(made)
        raise
    name = str(folder.resolve())
    with _guard:
        _held[name] += 1
        is_first = _held[name] == 1
    try:
        if not is_first:
            yield
            return
        with _locked(folder / LOCK_NAME, folder, program):
            yield
    finally:
        with _guard:
            _held[name] -= 1
        _remove_empty(made)


def is_held(folder: Path) -> bool:
    """Say whether this process holds a folder."""
    with _guard:
        return _held[str(folder.resolve())] > 0


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders that this program has made, the deepest first, as far as they are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def _locked(path: Path, folder: Path, program: str) -> Iterator[None]:
    handle = _acquire(path, folder)
    stop = threading.Event()
    try:
        owner = {"program": program, "pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, (json.dumps(owner) + "\n").encode(), 0)
        beat = threading.Thread(target=_beat, args=(handle, stop), daemon=True, name="trelm-lock")
        beat.start()
        yield
        stop.set()
        beat.join()
    finally:
        stop.set()
        # Removed while it is held: who opened it before finds that the name has gone, and opens
        # the next one.
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, folder: Path) -> int:
    """Open the file and lock it.

    Raises:
        LockedError: another program holds it.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(handle)
            os.close(handle)
            raise _refusal(folder, owner) from None
        except OSError:
            # A file system without locks: the heartbeat alone must do.
            pass

        owner = _owner(handle)
        is_foreign = owner.get("host") not in (None, socket.gethostname())
        if is_foreign and _is_beating(handle):
            os.close(handle)
            raise _refusal(folder, owner)
        if _is_still(path, handle):
            return handle
        # The holder removed the file between our two calls.
        os.close(handle)


def _is_beating(handle: int) -> bool:
    """Say whether a file of another machine is touched there.

    Where its time is long ago or in the future, the clocks may differ, or have been set back: then
    only waiting for the next touch can tell.
    """
    touched = os.fstat(handle).st_mtime_ns
    if 0 <= time.time() - touched / 1e9 < LOST_AFTER_S:
        return True
    until = time.monotonic() + 1.5 * HEARTBEAT_S
    while time.monotonic() < until:
        time.sleep(HEARTBEAT_S / 10)
        if os.fstat(handle).st_mtime_ns != touched:
            return True
    return False


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _owner(handle: int) -> dict[str, object]:
    """Return who wrote the file; empty where nobody has, or only half."""
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _refusal(folder: Path, owner: dict[str, object]) -> LockedError:
    program, pid, host = (owner.get(name, "?") for name in ("program", "pid", "host"))
    return LockedError(
        f"{folder}: {program} (process {pid} on {host}) writes there; wait until it has ended, stop "
        "it, or give another folder"
    )


def _beat(handle: int, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(handle)

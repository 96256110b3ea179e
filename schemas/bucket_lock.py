"""Let one program write in a run's folder of a bucket: `schemas.run_lock` for object stores.

The lock is the object `.lock`, which is created under the condition that there is none. The holder
writes it again every few seconds, under the condition that it is still its own. Who finds one waits
to see whether it is written again: if not, its holder has died, and it is taken over, again under a
condition, so that one of several succeeds. No clocks are compared.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from schemas import buckets
from schemas.buckets import BucketError
from schemas.run_lock import LOCK_NAME, LockedError

# How often the holder writes, and how long a lock is looked at before it counts as left behind.
HEARTBEAT_S = 10.0
LEFT_AFTER_S = 35.0
# Which start of which system this is, and which of its spaces of process numbers.
_BOOT_ID, _PID_SPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
# What this process holds or waits for, by the lock's path.
_held: dict[str, _Holding] = {}
_guard = threading.Lock()
logger = logging.getLogger("trelm")


@contextlib.contextmanager
def hold(folder: str, program: str) -> Iterator[None]:
    """Hold a run's folder inside a `with` block; a process may hold it several times.

    Raises:
        LockedError: another program holds it.
        BucketError: the bucket cannot be written.
    """
    path = _path_of(folder)
    with _guard:
        holding = _held.setdefault(path, _Holding())
    # A second thread waits here for the answer that the first one gets, and asks itself after a refusal.
    with holding.changing:
        if holding.num_inside == 0:
            holding.lock = holding.exits.enter_context(_locked(path, program))
        holding.num_inside += 1
    try:
        yield
    finally:
        with holding.changing:
            holding.num_inside -= 1
            if holding.num_inside == 0:
                holding.lock = None
                holding.exits.close()


@contextlib.contextmanager
def _locked(path: str, program: str) -> Iterator[_Lock]:
    lock = _Lock(path=path, program=program)
    lock.version = _acquire(lock)
    try:
        with lock.beating():
            yield lock
    finally:
        lock.release()


def _path_of(folder: str) -> str:
    return f"{folder.rstrip('/')}/{LOCK_NAME}"


def is_held(folder: str) -> bool:
    """Say whether this process holds a folder."""
    return _lock_of(_path_of(folder)) is not None


def _lock_of(path: str) -> _Lock | None:
    with _guard:
        holding = _held.get(path)
    return holding.lock if holding is not None else None


def refuse_if_lost(folder: str) -> None:
    """Ask the bucket whether a folder is still held by this process. Two requests.

    For what is published without a condition of its own, after the network may have been away.

    Raises:
        LockedError: another program has taken it over.
    """
    path = _path_of(folder)
    lock = _lock_of(path)
    if lock is not None and not lock.own_version():
        raise _refusal(path, _owner(path))


@dataclass(kw_only=True)
class _Holding:
    """Count who in this process is inside of a folder's block: the last one out releases the lock."""

    num_inside: int = 0
    lock: _Lock | None = None
    exits: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    # Held by who takes or releases the lock, or asks whether to.
    changing: threading.Lock = field(default_factory=threading.Lock)


@dataclass(kw_only=True)
class _Lock:
    """Hold what this program knows of its lock."""

    path: str
    program: str
    # Of this holding, so that no two objects are alike.
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    version: str = ""
    num_beats: int = 0

    def content(self) -> bytes:
        """Return who holds it, other bytes each time."""
        self.num_beats += 1
        owner = {
            "program": self.program,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "place": _place(),
            "mark": self.mark,
            "beat": self.num_beats,
        }
        return json.dumps(owner).encode()

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Write it again every few seconds inside a `with` block."""
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop,), daemon=True, name="trelm-lock")
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                version = self.take(self.version)
            except BucketError as error:
                # The next one may come through; the manifest is written under a condition anyway.
                logger.warning("the lock could not be renewed: %s", error.message)
                continue
            if not version:
                logger.error(
                    "%s: another program has taken the run over, since this one was not heard of; its stage "
                    "will end without a result here",
                    self.path,
                )
                return
            self.version = version

    def take(self, version: str) -> str:
        """Write it in the place of a version; return the new one, or nothing."""
        return buckets.replace(self.path, self.content(), version) or self.own_version()

    def own_version(self) -> str:
        """Return its version, if it is this program's: an answer that was lost is asked for again."""
        found = buckets.look(self.path)
        is_own = found is not None and _owner(self.path).get("mark") == self.mark
        return found.version if found is not None and is_own else ""

    def release(self) -> None:
        """Remove it, if it is still this program's."""
        with contextlib.suppress(BucketError):
            if self.own_version():
                buckets.remove(self.path)


def _acquire(lock: _Lock) -> str:
    """Create the lock, or take over one that was left behind; return its version.

    Raises:
        LockedError: another program holds it.
    """
    while True:
        version = buckets.create(lock.path, lock.content()) or lock.own_version()
        if version:
            return version
        found = buckets.look(lock.path)
        if found is None:
            # Its holder has ended between our two requests.
            continue
        owner = _owner(lock.path)
        if not _has_died_here(owner):
            _watch(lock.path, found.version, owner)
        # Another one may be faster: then the next look finds its lock, or none.
        version = lock.take(found.version)
        if version:
            return version


def _place() -> str:
    """Say among which processes this one has its number; nothing where the system does not tell it.

    Containers and cloned machines may share a host name, and have other processes of the same number.
    """
    try:
        return f"{_BOOT_ID.read_text().strip()} {_PID_SPACE.readlink()}"
    except OSError:
        return ""


def _has_died_here(owner: dict[str, object]) -> bool:
    """Say whether the holder was a process of this place that is no more.

    What cannot be told, as of the locks of older versions, is a no: waiting will tell.
    """
    pid, place = owner.get("pid"), _place()
    is_of_here = owner.get("host") == socket.gethostname() and owner.get("place") == place
    if not place or not is_of_here or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _watch(path: str, version: str, owner: dict[str, object]) -> None:
    """Wait until it is certain that a lock was left behind.

    Raises:
        LockedError: it is written again.
    """
    logger.info(
        "%s: held by process %s on %s; looking for %.0f s whether it is alive",
        path,
        owner.get("pid", "?"),
        owner.get("host", "?"),
        LEFT_AFTER_S,
    )
    until = time.monotonic() + LEFT_AFTER_S
    while time.monotonic() < until:
        time.sleep(min(HEARTBEAT_S / 4, max(until - time.monotonic(), 0)))
        found = buckets.look(path)
        if found is None:
            return
        if found.version != version:
            raise _refusal(path, owner)


def _owner(path: str) -> dict[str, object]:
    """Return who wrote the lock; empty where nobody did."""
    try:
        owner = json.loads(buckets.read(path))
    except (BucketError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _refusal(path: str, owner: dict[str, object]) -> LockedError:
    program, pid, host = (owner.get(name, "?") for name in ("program", "pid", "host"))
    folder = path.removesuffix(f"/{LOCK_NAME}")
    return LockedError(
        f"{folder}: {program} (process {pid} on {host}) writes there; wait until it has ended, stop "
        "it, or give another folder"
    )

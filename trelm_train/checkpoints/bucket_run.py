"""Keep the folder of a run in a bucket: the trainer writes on this machine, and this sends it there.

A run counts there with its `run.json`, a checkpoint with its `state.json`, a model with its
`config.json`: each is sent after all that it stands for, so a kill at any moment leaves the last
whole checkpoint. What was sent by half has no such mark, and its `checksums.json`, which was sent
first, names what is removed later; nothing else is ever removed, but what lies in a new run's
`initial/`. Sending goes on in a thread beside
the training, one checkpoint at a time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from schemas import buckets
from schemas.bucket_cache import copy_of, link_into, work_folder
from schemas.bucket_copies import send_folder
from schemas.bucket_fetch import folder_files
from schemas.bucket_lock import refuse_if_lost
from schemas.buckets import BucketError, Location
from schemas.checksums import CHECKSUMS_NAME, RUN_NAME, unsealed
from schemas.errors import ConfigError, TrelmError
from schemas.run_lock import LOCK_NAME
from trelm_train.checkpoints.checkpoint import (
    BEST_NAME,
    CHECKPOINTS,
    STATE_NAME,
    name_of,
    step_of_name,
)
from trelm_train.checkpoints.export import CONFIG_FILE, INITIAL
from trelm_train.checkpoints.new_run import refuse_foreign

MODEL = "model"
# Folders that are sent by themselves, in an order of their own.
_APART = (CHECKPOINTS, INITIAL, MODEL)
# Before what failed is tried again, beside the client's own retries.
PAUSES_S = (2.0, 10.0, 30.0)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """Say where a run's folder is: on this machine, and in a bucket if it was asked for there."""

    folder: Path
    bucket: BucketRun | None = None

    @property
    def location(self) -> Location:
        """Return what the user calls it."""
        return self.folder if self.bucket is None else self.bucket.address


@contextmanager
def opened(out: Location) -> Iterator[RunFolder]:
    """Give the folder of a run for a `with` block; errors name the place that the user gave.

    Raises:
        BucketError: there is no room for it on this machine.
    """
    if isinstance(out, Path):
        yield RunFolder(folder=out)
        return
    address = out.rstrip("/")
    with work_folder() as work:
        # Some loggers name a run by its folder.
        folder = work / address.rpartition("/")[2]
        folder.mkdir()
        bucket = BucketRun(address, folder)
        try:
            yield RunFolder(folder=folder, bucket=bucket)
        except TrelmError as error:
            error.args = tuple(
                arg.replace(str(folder), address) if isinstance(arg, str) else arg
                for arg in error.args
            )
            raise
        finally:
            bucket.close()


class BucketRun:
    """Send the files of a run to a bucket, and fetch those of one that goes on."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="trelm-upload")
        self._job: Future[None] | None = None
        # Of the files that were sent: length and time of change.
        self._sent: dict[Path, tuple[int, int]] = {}
        # Names the best checkpoint that the bucket knows of.
        self._best = ""

    def check_new(self, own: Sequence[str], settings: str) -> None:
        """Refuse a place in which a new run would overwrite something.

        Args:
            own: names of what a run has there before it has a description.
            settings: name of the file of a run's settings.

        Raises:
            ConfigError: it holds a run with a checkpoint or a model, or what is no run's.
        """
        root = f"{self.address}/"
        names = [entry.path.removeprefix(root) for entry in buckets.below(self.address, deep=True)]
        if RUN_NAME in names:
            if f"{MODEL}/{CONFIG_FILE}" in names or self.latest_step() >= 0:
                raise ConfigError(
                    f"{self.address}: holds a run already; continue it with `trelm-train resume --out "
                    f"{self.address}`, or give another --out"
                )
            return
        tops = {name.partition("/")[0] for name in names}
        content = buckets.read(f"{self.address}/{settings}") if settings in names else b""
        refuse_foreign(self.address, tops, own, (settings, content.decode(errors="replace")))

    def latest_step(self) -> int:
        """Return the step of the newest whole checkpoint; -1 where there is none. One request."""
        return max(_steps(self._checkpoint_names()), default=-1)

    def _checkpoint_names(self) -> list[str]:
        """Return the names of all objects of checkpoints, `step-…/file`."""
        folder = f"{self.address}/{CHECKPOINTS}"
        return [entry.path.removeprefix(f"{folder}/") for entry in buckets.below(folder, deep=True)]

    def fetch_description(self) -> None:
        """Fetch what lies directly in the run's folder: settings, metrics, and what it is.

        Raises:
            ConfigError: there is no run.
        """
        found = [file for file in folder_files(self.address, deep=False) if file.name != LOCK_NAME]
        if RUN_NAME not in {file.name for file in found}:
            raise ConfigError(
                f"{self.address}: no run there; start one with `trelm-train run --out {self.address} …`"
            )
        for file in found:
            buckets.download(file.address, self.folder / file.name)
            self._sent[self.folder / file.name] = _stamp(self.folder / file.name)

    def fetch(self, step: int) -> Path | None:
        """Fetch the initial model and a checkpoint; return its folder, or None for the step -1.

        All processes of a machine share one copy of the bytes.

        Raises:
            BucketError: one of them is damaged, or there is no room for it.
        """
        self._copy(INITIAL)
        content = buckets.read_if_there(f"{self.address}/{CHECKPOINTS}/{BEST_NAME}")
        if content is not None:
            path = self.folder / CHECKPOINTS / BEST_NAME
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            self._best = _best_of(content)
        return None if step < 0 else self._copy(f"{CHECKPOINTS}/{name_of(step)}")

    def _copy(self, name: str) -> Path:
        address = f"{self.address}/{name}"
        link_into(copy_of(address, folder_files(address, deep=True)), self.folder / name)
        return self.folder / name

    def publish_start(self) -> None:
        """Send what a run begins with, its description last.

        Raises:
            BucketError: it cannot be sent.
        """
        _patiently(self._clear_initial)
        _patiently(lambda: self._send_folder(self.folder / INITIAL))
        _patiently(lambda: self._send_changed(last=RUN_NAME))

    def _clear_initial(self) -> None:
        """Remove what a run that was killed, or somebody else, has left among the initial model.

        It would be loaded with the model, as a local folder of that name is made anew.
        """
        folder = f"{self.address}/{INITIAL}"
        local = self.folder / INITIAL
        left = [entry.path for entry in buckets.below(folder, deep=True)]
        buckets.remove_objects(
            [path for path in left if not (local / path.removeprefix(f"{folder}/")).is_file()]
        )

    def checkpoint_saved(self, folder: Path, keep: int) -> None:
        """Send a checkpoint in the background, then remove older ones than the newest `keep`.

        One whose sending fails is said, and the training goes on: the next one is tried.
        """

        def send() -> None:
            # Another program goes on with the run if this one was not heard of for a while.
            refuse_if_lost(self.address)
            self._send_changed()
            self._send_folder(folder, first=CHECKSUMS_NAME, last=STATE_NAME)
            self._remove_old(keep)

        self._begin(send)

    def best_marked(self, mark: Path, keep: int) -> None:
        """Send the mark of the best checkpoint in the background."""
        content = mark.read_bytes()

        def send() -> None:
            if _best_of(content) != self._best:
                buckets.write(f"{self.address}/{CHECKPOINTS}/{BEST_NAME}", content)
                self._best = _best_of(content)
            self._remove_old(keep)

        self._begin(send)

    def publish_end(self) -> None:
        """Send the exported model and the reports, after all that is under way.

        Raises:
            BucketError: it cannot be sent.
        LockedError: another program has taken the run over.
        """
        self.wait()
        refuse_if_lost(self.address)
        _patiently(lambda: self._send_folder(self.folder / MODEL, last=CONFIG_FILE))
        _patiently(self._send_changed)

    def wait(self) -> None:
        """Wait until what is under way has been sent.

        Raises:
            BucketError: it could not be.
        """
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """End the thread; what is under way is sent before."""
        self._pool.shutdown()

    def _begin(self, send: Callable[[], None]) -> None:
        try:
            self.wait()
        except BucketError as error:
            log.warning("%s; the training goes on, and the next checkpoint is tried", error.message)
        self._job = self._pool.submit(_patiently, send)

    def _send_changed(self, last: str = "") -> None:
        """Send the files of the run that have changed, those of checkpoints and models apart."""
        # Not the whole folder: the training may be removing a checkpoint in it.
        tops = [path for path in self.folder.iterdir() if not _is_apart(path.name)]
        paths = [path for top in tops for path in (top, *top.rglob("*")) if path.is_file()]
        for path in sorted(paths, key=lambda path: (path.name == last, path)):
            stamp = _stamp(path)
            if self._sent.get(path) != stamp:
                # As it is now: the training may add a line meanwhile.
                buckets.write(self._address_of(path), path.read_bytes())
                self._sent[path] = stamp

    def _address_of(self, path: Path) -> str:
        return f"{self.address}/{path.relative_to(self.folder).as_posix()}"

    def _send_folder(self, folder: Path, *, first: str = "", last: str = "") -> None:
        send_folder(folder, self._address_of(folder), first=first, last=last)

    def _remove_old(self, keep: int) -> None:
        """Remove old checkpoints, and what was sent of others by half, as their checksums name them."""
        names = self._checkpoint_names()
        whole = sorted(_steps(names))
        kept = {name_of(step) for step in whole[-keep:]} | {self._best}
        for old in sorted({name.partition("/")[0] for name in names if "/" in name} - kept):
            listed = f"{old}/{CHECKSUMS_NAME}"
            if step_of_name(old) < 0 or listed not in names:
                continue
            own = _listed_in(buckets.read(f"{self.address}/{CHECKPOINTS}/{listed}"))
            there = [name for name in names if name.removeprefix(f"{old}/") in own]
            # The mark first: half removed, it is no checkpoint any more. What names the rest last.
            state = f"{old}/{STATE_NAME}"
            order = [[state] if state in there else [], sorted(set(there) - {state}), [listed]]
            for group in order:
                buckets.remove_objects([f"{self.address}/{CHECKPOINTS}/{name}" for name in group])


def _patiently(send: Callable[[], None]) -> None:
    """Send something, and again after a while where that fails.

    Raises:
        BucketError: it has failed each time.
    """
    for pause_s in PAUSES_S:
        try:
            return send()
        except BucketError as error:
            log.warning("%s (trying again in %.0f s)", error.message, pause_s)
        time.sleep(pause_s)
    return send()


def _steps(names: Sequence[str]) -> list[int]:
    """Return the steps of the whole checkpoints among names of objects."""
    parts = (name.split("/") for name in names)
    steps = [step_of_name(two[0]) for two in parts if len(two) == 2 and two[1] == STATE_NAME]
    return [step for step in steps if step >= 0]


def _best_of(content: bytes) -> str:
    """Return the name in a mark of the best checkpoint; nothing where it is damaged."""
    try:
        name = json.loads(content)["checkpoint"]
    except (ValueError, KeyError, TypeError):
        # The trainer itself says so.
        return ""
    return name if isinstance(name, str) else ""


def _listed_in(content: bytes) -> set[str]:
    """Return the names that `checksums.json` lists; none where it is damaged."""
    try:
        names = unsealed(content.decode())["files"]
    except (ValueError, KeyError):
        return set()
    return {name for name in names if ".." not in PurePosixPath(name).parts}


def _is_apart(name: str) -> bool:
    # A hidden file has no final name yet.
    return name in _APART or name.startswith(".")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns

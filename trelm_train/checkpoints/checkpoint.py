"""Write and read checkpoints: a folder of safetensors and one JSON; nothing is pickled.

`torch.distributed.checkpoint` writes and reads the tensors, with its safetensors storage (its
default one pickles). A checkpoint is written under another name and renamed, so a folder that bears
its final name is whole: a process killed while it writes leaves only a partial folder, which
nothing reads and the next checkpoint removes. `checksums.json` says what each file held: a changed
byte would be another weight. Old ones are removed after a new one stands; the best
one stays. In the background a checkpoint costs the copy of its tensors in memory
(`CheckpointWriter`), and at most one is under way.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import async_save as dcp_async_save
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from schemas.checksums import (
    CHECKSUMS_NAME,
    HAS_CHECKSUMS,
    checksums_of,
    checksums_text,
    missing,
    sealed_damage,
)
from schemas.durable import sync, write_durably
from schemas.errors import ConfigError, TrelmError
from schemas.finite import not_finite
from trelm_train.checkpoints.uploads import Uploads

# The folder of a run that holds them.
CHECKPOINTS = "checkpoints"
STATE_NAME = "state.json"
BEST_NAME = "best.json"
TENSORS = "tensors"
_PREFIX = "step-"
# What the libraries raise for a full disk or a damaged file.
_FAULTS = (
    OSError,
    RuntimeError,
    AssertionError,
    SafetensorError,
    CheckpointException,
    ValueError,
    KeyError,
)
# Tensors by name, in named groups.
Groups = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Hold a saved state: named groups of tensors, and plain values."""

    path: Path
    tensors: Groups
    state: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pending:
    """Hold a checkpoint that has no final name yet."""

    step: int
    partial: Path
    # JSON, as it was at `save`.
    state: str
    # None if the tensors are written already.
    written: Future[Any] | None


def _no_files(_folder: Path) -> None:
    """Add nothing to tensors and state."""


class CheckpointWriter:
    """Write the checkpoints of a run, at most one at a time."""

    def __init__(
        self, folder: Path, *, keep: int, background: bool = False, uploads: Uploads | None = None
    ) -> None:
        self.folder, self.keep, self.background = folder, keep, background
        self._uploads = uploads
        self._pending: _Pending | None = None

    def save(
        self,
        step: int,
        tensors: Groups,
        state: dict[str, Any],
        files: Callable[[Path], None] = _no_files,
    ) -> None:
        """Write a checkpoint, and what `files` adds to its folder.

        A checkpoint of the same step that stands is left as it is. In the background the new one is
        whole only after `poll`, `save` or `finish` have found it written.

        Raises:
            TrelmError: this one, or the one that was under way, could not be written.
        """
        self.finish()
        self._remove_unfinished()
        if (self.folder / name_of(step) / STATE_NAME).is_file():
            # A process may have been killed after it had written this one.
            self._remove_old()
            return

        # A name with a dot: `list_checkpoints` cannot find it, and it is on the same filesystem as
        # the final name, so that the renaming is one act.
        partial = self.folder / f".{name_of(step)}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            files(partial)
            written = self._write(partial / TENSORS, tensors)
        except (*_FAULTS, TrelmError) as error:
            # Half a checkpoint would take the room that is missing.
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, TrelmError):
                raise
            raise _unwritable(self.folder / name_of(step), error) from error

        # The state becomes text at once: it may change before the tensors are written.
        self._pending = _Pending(
            step=step,
            partial=partial,
            state=json.dumps({**state, HAS_CHECKSUMS: True}, indent=1),
            written=written,
        )
        if not self.background:
            self.finish()

    def _write(self, folder: Path, groups: Groups) -> Future[Any] | None:
        """Write the tensors; return a future in the background, nothing otherwise."""
        flat = {
            f"{group}/{name}": value.detach().cpu().contiguous()
            for group, tensors in groups.items()
            for name, value in tensors.items()
        }
        # Tensors are copied off the model first: training goes on while the background thread
        # writes.
        storage = HuggingFaceStorageWriter(str(folder))

        _silence_library()
        if not self.background:
            dcp_save(flat, storage_writer=storage, no_dist=True)
            return None

        written = dcp_async_save(flat, storage_writer=storage, no_dist=True)
        assert isinstance(written, Future)
        return written

    def poll(self) -> None:
        """Finish the checkpoint under way if it is written.

        Raises:
            TrelmError: it could not be written.
        """
        if self._pending is None:
            return
        if self._pending.written is None or self._pending.written.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint under way, give it its final name, and remove old ones.

        Raises:
            TrelmError: it could not be written.
        """
        # Forgotten even if it fails: a second call must not try the same folder again.
        pending, self._pending = self._pending, None
        if pending is None:
            return

        final = self.folder / name_of(pending.step)
        try:
            if pending.written is not None:
                pending.written.result()
            _settle(pending, final)
            # What was sent before is there by then, so it may be removed here.
            if self._uploads is not None:
                self._uploads.checkpoint_saved(final, self.keep)
            self._remove_old()
        except _FAULTS as error:
            if pending.partial.exists():
                shutil.rmtree(pending.partial, ignore_errors=True)
            # It stands, and what is wrong beside it has been said.
            if isinstance(error, TrelmError):
                raise
            raise _unwritable(final, error) from error

    def mark_best(self, step: int, measure: str, value: float) -> None:
        """Mark a checkpoint as the best so far, so that it is kept."""
        self.finish()
        # By name and not by path: a run's folder may be moved.
        text = json.dumps({"checkpoint": name_of(step), "measure": measure, "value": value})
        write_durably(self.folder / BEST_NAME, text + "\n")
        if self._uploads is not None:
            self._uploads.best_marked(self.folder / BEST_NAME, self.keep)
        self._remove_old()

    def close(self) -> None:
        """Finish the checkpoint under way, and wait until it has been sent.

        Raises:
            TrelmError: it could not be.
        """
        self.finish()
        if self._uploads is not None:
            self._uploads.wait()

    def _remove_unfinished(self) -> None:
        """Remove what a killed process had written, or removed, by half."""
        if not self.folder.is_dir():
            return
        half_removed = [
            path
            for path in self.folder.glob(f"{_PREFIX}*")
            if path.is_dir() and not (path / STATE_NAME).is_file()
        ]
        for left_over in [*self.folder.glob(f".{_PREFIX}*.partial"), *half_removed]:
            shutil.rmtree(left_over, ignore_errors=True)

    def _remove_old(self) -> None:
        best = best_checkpoint(self.folder)
        # Oldest first, so the newest `keep` stay.
        for old in list_checkpoints(self.folder)[: -self.keep]:
            if old != best:
                # The state goes before the rest: half removed, it is no checkpoint any more.
                (old / STATE_NAME).unlink()
                shutil.rmtree(old)


def name_of(step: int) -> str:
    """Return the name of a step's checkpoint folder."""
    return f"{_PREFIX}{step:08d}"


def step_of_name(name: str) -> int:
    """Return the step in the name of a checkpoint's folder; -1 where it is none."""
    number = name.removeprefix(_PREFIX)
    return int(number) if name == f"{_PREFIX}{number}" and number.isdecimal() else -1


def _unwritable(final: Path, error: BaseException) -> TrelmError:
    # The library's own text has the tracebacks of its ranks.
    causes = error.failures.values() if isinstance(error, CheckpointException) else ()
    cause = next((cause for cause, _ in causes), error)
    return TrelmError(
        f"{final}: cannot write the checkpoint ({cause}); make room, and resume: the last one before "
        "it is whole"
    )


def _settle(pending: _Pending, final: Path) -> None:
    """Write the state, wait for the disk, and rename the folder to its final name."""
    (pending.partial / STATE_NAME).write_text(pending.state + "\n", encoding="utf-8")
    content = checksums_text(checksums_of(pending.partial))
    (pending.partial / CHECKSUMS_NAME).write_text(content, encoding="utf-8")
    # Files first, then the rename, then the folder: in any other order a crash of the machine could
    # leave an empty file under the final name.
    for path in pending.partial.rglob("*"):
        if path.is_file():
            sync(path)

    # A folder of this name is not whole: `save` leaves a whole one as it is.
    if final.exists():
        shutil.rmtree(final)
    pending.partial.rename(final)
    sync(final.parent)


def _silence_library() -> None:
    """Silence a warning of the library at every call that it runs without its ranks.

    One rank writes for all, and each reads for itself.
    """
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []

    return sorted(
        path
        for path in folder.iterdir()
        if path.name.startswith(_PREFIX) and (path / STATE_NAME).is_file()
    )


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None."""
    checkpoints = list_checkpoints(folder)
    return checkpoints[-1] if checkpoints else None


def best_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that was marked as the best, or None.

    Raises:
        ConfigError: the mark is damaged: the best checkpoint would be taken for an old one.
    """
    path = folder / BEST_NAME
    if not path.is_file():
        return None

    # The mark may name a checkpoint that someone has removed by hand.
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["checkpoint"]
        if not isinstance(name, str):
            raise TypeError("it names no checkpoint")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f'{path}: damaged ({error}); write {{"checkpoint": "{_PREFIX}…"}} with the name of the best '
            "one into it, or remove it, and the next evaluation that is better marks one again"
        ) from error
    checkpoint = folder / Path(name).name
    return checkpoint if (checkpoint / STATE_NAME).is_file() else None


def load_checkpoint(path: Path, groups: Sequence[str] = ()) -> Checkpoint:
    """Read a checkpoint, or some groups of it.

    Raises:
        ConfigError: this folder is not one, it is damaged, or a tensor in it is not finite.
    """
    state_path = path / STATE_NAME
    if not state_path.is_file():
        raise ConfigError(
            f"{path}: not a checkpoint (no {STATE_NAME}); they are in OUT/checkpoints/{_PREFIX}…"
        )

    damage = sealed_damage(path)
    try:
        if damage:
            raise ValueError(damage)
        state = json.loads(state_path.read_text(encoding="utf-8"))
        # Checkpoints of older versions have no checksums.
        if state.pop(HAS_CHECKSUMS, False) and not (path / CHECKSUMS_NAME).exists():
            raise ValueError(missing(str(path / CHECKSUMS_NAME)))
        tensors = _read(path / TENSORS, groups)
    except _FAULTS as error:
        raise ConfigError(
            f"{path}: damaged ({error}); remove this folder, and `trelm-train resume` continues "
            "from the previous checkpoint"
        ) from error

    wrong = not_finite(
        (f"{group}/{name}", tensor)
        for group, of_group in tensors.items()
        for name, tensor in of_group.items()
    )
    if wrong:
        raise ConfigError(
            f"{path}: {len(wrong)} tensor(s) such as {wrong[0]!r} hold NaN or infinite numbers; "
            "remove this folder, and `trelm-train resume` continues from the previous checkpoint"
        )
    return Checkpoint(path=path, tensors=tensors, state=state)


def _read(folder: Path, groups: Sequence[str]) -> Groups:
    """Read the tensors of some groups, or of all."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {TENSORS}")

    # The library fills tensors that are there already, so make them by the metadata.
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    flat = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.items()
        if isinstance(entry, TensorStorageMetadata)
        and (not groups or name.partition("/")[0] in groups)
    }

    _silence_library()
    dcp_load(flat, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)

    # Back from flat names to groups; a name may itself contain slashes.
    tensors: Groups = {}
    for full_name, value in flat.items():
        group, _, name = full_name.partition("/")
        tensors.setdefault(group, {})[name] = value
    return tensors

"""Checkpoints: a folder of safetensors and one JSON, written under another name and renamed; no pickle.

A folder that bears its final name is whole. Old ones are removed after a new one stands.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trelm_train.errors import ConfigError, TrelmError

STATE_NAME = "state.json"
_PREFIX = "step-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A saved state: named groups of tensors, and plain values."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], *, keep: int
) -> Path:
    """Write a checkpoint all at once and remove all but the newest `keep`.

    Raises:
        TrelmError: the disk is full or the folder is read-only.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    partial = folder / f".{final.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, group in tensors.items():
            group = {key: value.detach().cpu().contiguous() for key, value in group.items()}
            save_file(group, partial / f"{name}.safetensors")
        (partial / STATE_NAME).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        for path in partial.iterdir():
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync(folder)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        raise TrelmError(f"{final}: cannot write the checkpoint ({error}); the last one before it is whole") from error
    return final


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.startswith(_PREFIX) and (path / STATE_NAME).is_file())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ConfigError: this folder is not one.
    """
    state_path = path / STATE_NAME
    if not state_path.is_file():
        raise ConfigError(f"{path}: not a checkpoint (no {STATE_NAME}); they are in OUT/checkpoints/{_PREFIX}…")
    try:
        tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{path}: damaged ({error}); remove this folder, and resume goes on from the one before"
        ) from error
    return Checkpoint(
        path=path,
        tensors=tensors,
        state=json.loads(state_path.read_text(encoding="utf-8")),
    )


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    found = list_checkpoints(folder)
    return found[-1] if found else None

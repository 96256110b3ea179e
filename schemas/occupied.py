"""Say what a folder holds that one of the two programs, or a model's author, has written.

A command that is given the wrong folder to write to would mix its files with those, or write over
them. Goes in: a local folder. Comes out: what it is, in words. Looks at some names alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from schemas.manifest import MANIFEST_NAME
from schemas.settings import is_written_here

TRAINER, PIPELINE, MODEL = "a run of trelm-train", "a run of trelm-pipeline", "a model"
CHECKPOINT, BANK = "a checkpoint of trelm-train", "a memory bank of trelm-train"
_CONFIG = "config.toml"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def occupant(folder: Path) -> str:
    """Say what a folder holds; nothing where it is not there or holds nothing that is known."""
    try:
        is_folder = folder.is_dir()
    except OSError:
        # A name that no file can have, for example: whoever writes there says so.
        return ""
    if not is_folder:
        return ""
    kinds = {
        TRAINER: _is_trainers,
        CHECKPOINT: lambda path: (path / "state.json").is_file() and (path / "tensors").is_dir(),
        BANK: lambda path: (path / "bank.safetensors").is_file(),
        MODEL: _is_model,
        PIPELINE: _is_pipelines,
    }
    return next((kind for kind, is_one in kinds.items() if is_one(folder)), "")


def _is_trainers(folder: Path) -> bool:
    """Say whether a folder holds a trainer's run, or one that was killed as it was laid out."""
    if (folder / "run.json").is_file() or (folder / "checkpoints").is_dir():
        return True
    text = _text(folder / _CONFIG)
    return is_written_here(text) and "[train]" in text.splitlines()


def _is_model(folder: Path) -> bool:
    if any((folder / name).exists() for name in _WEIGHTS):
        return True
    try:
        settings = json.loads(_text(folder / "config.json"))
    except (ValueError, RecursionError):
        return False
    # Every model of transformers has one or both.
    return isinstance(settings, dict) and bool({"model_type", "architectures"} & settings.keys())


def _is_pipelines(folder: Path) -> bool:
    if any(folder.glob(f"*/{MANIFEST_NAME}")) or any(folder.glob("*/data-*/_units")):
        return True
    text = _text(folder / _CONFIG)
    return is_written_here(text) and "[kb]" in text.splitlines()


def _text(path: Path) -> str:
    """Return the text of a file; nothing where it is not there or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""

"""Say what a folder holds that one of the two programs, or a model's author, has written.

A command that is given the wrong folder to write to would mix its files with those, or write over
them. Goes in: a folder of this machine, or the address of one in a bucket. Comes out: what it is, in
words. Looks at some names alone; in a bucket it costs up to four requests.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

from schemas import buckets
from schemas.buckets import Location
from schemas.manifest import MANIFEST_NAME
from schemas.settings import is_written_here

TRAINER, PIPELINE, MODEL = "a run of trelm-train", "a run of trelm-pipeline", "a model"
CHECKPOINT, BANK = "a checkpoint of trelm-train", "a memory bank of trelm-train"
_CONFIG = "config.toml"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def occupant(place: Location) -> str:
    """Say what a folder holds; nothing where it is not there or holds nothing that is known.

    Raises:
        BucketError: a bucket cannot be read.
    """
    if isinstance(place, str):
        return _kind_of(_Bucket(place.rstrip("/")))
    try:
        is_folder = place.is_dir()
    except OSError:
        # A name that no file can have, for example: whoever writes there says so.
        return ""
    return _kind_of(_Folder(place)) if is_folder else ""


class _Folder:
    """Look at a folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has_file(self, name: str) -> bool:
        return (self._path / name).is_file()

    def has_folder(self, name: str) -> bool:
        return (self._path / name).is_dir()

    def has_stage(self) -> bool:
        found = self._path.glob
        return any(found(f"*/{MANIFEST_NAME}")) or any(found("*/data-*/_units"))

    def text(self, name: str) -> str:
        """Return the text of a file; nothing where it is not there or cannot be read."""
        path = self._path / name
        try:
            return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        except OSError:
            return ""


class _Bucket:
    """Look at a folder of a bucket: one listing, which is not deep, answers for all files."""

    def __init__(self, address: str) -> None:
        self._address = address
        found = buckets.below(address, deep=False)
        self._files = {entry.path.removeprefix(f"{address}/") for entry in found}
        self.text: Callable[[str], str] = functools.cache(self._read)

    def has_file(self, name: str) -> bool:
        return name in self._files

    def has_folder(self, name: str) -> bool:
        return buckets.exists(f"{self._address}/{name}")

    def has_stage(self) -> bool:
        # Each folder would cost a request; the pipeline's settings are there before a stage is.
        return False

    def _read(self, name: str) -> str:
        if not self.has_file(name):
            return ""
        content = buckets.read_if_there(f"{self._address}/{name}") or b""
        return content.decode(errors="replace")


def _kind_of(place: _Folder | _Bucket) -> str:
    if _is_trainers(place):
        return TRAINER
    if place.has_file("state.json") and place.has_folder("tensors"):
        return CHECKPOINT
    if place.has_file("bank.safetensors"):
        return BANK
    if _is_model(place):
        return MODEL
    return PIPELINE if _has_settings(place, "[kb]") or place.has_stage() else ""


def _is_trainers(place: _Folder | _Bucket) -> bool:
    """Say whether a folder holds a trainer's run, or one that was killed as it was laid out."""
    if place.has_file("run.json") or _has_settings(place, "[train]"):
        return True
    # A run of the pipeline is looked at before each stage: in a bucket it is known by fewer requests.
    return not _has_settings(place, "[kb]") and place.has_folder("checkpoints")


def _is_model(place: _Folder | _Bucket) -> bool:
    if any(place.has_file(name) for name in _WEIGHTS):
        return True
    try:
        settings = json.loads(place.text("config.json"))
    except (ValueError, RecursionError):
        return False
    # Every model of transformers has one or both.
    return isinstance(settings, dict) and bool({"model_type", "architectures"} & settings.keys())


def _has_settings(place: _Folder | _Bucket, section: str) -> bool:
    """Say whether a program has kept its settings there, with a section that only one of them has."""
    text = place.text(_CONFIG)
    return is_written_here(text) and section in text.splitlines()

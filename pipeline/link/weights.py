"""Weights of the linker by name: the shipped ones, those set by hand, or a file that `link train` wrote."""

from __future__ import annotations

import hashlib
from importlib import resources

from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.link.disambiguation import BY_HAND, Model
from schemas.errors import ConfigError

TRAINED, HAND = "trained", "by-hand"
SHIPPED = "trained_weights.json"


def load_weights(name: str) -> Model:
    """Weights by name.

    Raises:
        ConfigError: no such file, or not one of weights.
    """
    if name == HAND:
        return BY_HAND
    try:
        return Model.from_json(_text(name), name)
    except (StageError, OSError, ValueError) as error:
        reason = error.message if isinstance(error, StageError) else error
        raise ConfigError(
            f"link.weights {name!r}: {reason}; give {TRAINED}, {HAND} or a file that `trelm-pipeline link train` wrote"
        ) from error


def _text(name: str) -> str:
    if name == TRAINED:
        return (resources.files("pipeline.link") / SHIPPED).read_text(encoding="utf-8")
    return files.read_bytes(name).decode()


def weights_file(name: str) -> str:
    """The file that a name means; empty where it is no file."""
    return "" if name in (TRAINED, HAND) else name


def weights_stamp(name: str) -> str:
    """What changes when the weights do."""
    return hashlib.sha256(load_weights(name).to_json().encode()).hexdigest()[:16]

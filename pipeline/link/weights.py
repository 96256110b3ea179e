"""Load the linker's weights by name: shipped, set by hand, or a file that `link train` wrote."""

from __future__ import annotations

import hashlib
from importlib import resources

from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.link.disambiguation import BY_HAND, Model
from schemas.errors import ConfigError

TRAINED, HAND = "trained", "by-hand"
# The file that `trained` means, beside this module.
SHIPPED = "trained_weights.json"


def load_weights(name: str) -> Model:
    """Return the weights of this name.

    Raises:
        ConfigError: there is no such file, or it is no file of weights.
    """
    if name == HAND:
        return BY_HAND
    try:
        return Model.from_json(_text(name), name)
    except (StageError, OSError, ValueError) as error:
        reason = error.message if isinstance(error, StageError) else error
        raise ConfigError(
            f"link.weights {name!r}: {reason}; give {TRAINED}, {HAND} or a file "
            "that `trelm-pipeline link train` wrote"
        ) from error


def _text(name: str) -> str:
    # The shipped file is part of the package, so it is read as a resource.
    if name == TRAINED:
        return (resources.files("pipeline.link") / SHIPPED).read_text(encoding="utf-8")
    return files.read_bytes(name).decode()


def weights_file(name: str) -> str:
    """Return the file that a name means; empty where it means no file."""
    return "" if name in (TRAINED, HAND) else name


def weights_stamp(name: str) -> str:
    """Return a hash that changes when the weights of this name do."""
    return hashlib.sha256(load_weights(name).to_json().encode()).hexdigest()[:16]

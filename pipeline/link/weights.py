"""Load the linker's weights by name: shipped, set by hand, or a file that `link train` wrote.

`auto` means weights that stage `link` fits to the corpus's own links, and the shipped ones where it
fits none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.link.disambiguation import BY_HAND, Model
from schemas.errors import ConfigError

AUTO, TRAINED, HAND = "auto", "trained", "by-hand"
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
            f"link.weights {name!r}: {reason}; give {AUTO}, {TRAINED}, {HAND} or a file "
            "that `trelm-pipeline link train` wrote"
        ) from error


def _text(name: str) -> str:
    # The shipped file is part of the package, so it is read as a resource.
    if name in (AUTO, TRAINED):
        return (resources.files("pipeline.link") / SHIPPED).read_text(encoding="utf-8")
    return files.read_bytes(name).decode()


def weights_file(name: str) -> str:
    """Return the file that a name means; empty where it means no file."""
    return "" if name in (AUTO, TRAINED, HAND) else name


def fitted_in_words(about: Mapping[str, Any]) -> str:
    """Return what is known of the weights of a run, for the line that says what `link` wrote."""
    choice = about.get("choice")
    if choice is None:
        return ""
    links = f"{about['mentions']:,} links"
    what = (
        f"fitted to {links}"
        if choice == "fitted"
        else f"as shipped, since {links} gave none better"
    )
    held_out, shipped = about["held_out"], about["shipped"]
    return (
        f"weights {what} (held out by document: accuracy {held_out['accuracy']} fitted, "
        f"{shipped['accuracy']} shipped; calibration error {held_out['calibration_error']}, "
        f"{shipped['calibration_error']})"
    )


def weights_stamp(name: str) -> str:
    """Return a hash that changes when the weights of this name do."""
    return hashlib.sha256(load_weights(name).to_json().encode()).hexdigest()[:16]

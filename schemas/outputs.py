"""Refuse an output file in the place of an input, or of what a run or a model consists of.

A command writes its answer where a user says. A slip there must not cost what was read, nor what
hours of work have made. Goes in: a path, before any work. Looks at names and a few folders alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from schemas.errors import ConfigError
from schemas.manifest import MANIFEST_NAME
from schemas.occupied import BANK, CHECKPOINT, MODEL, PIPELINE, TRAINER, occupant

# Folder of one version of a stage's files; none of a user's has these units in it.
DATA_NAME, UNITS = re.compile(r"data-[0-9a-f]{16}"), "_units"
# What the folders of the programs consist of, beside what their users may put there.
_OWN = {
    PIPELINE: ("config.toml", "run.duckdb", ".lock"),
    TRAINER: (
        "config.toml", "run.json", ".lock", "metrics.jsonl", "summary.json", "entities.parquet",
        "routing.json", "best.json", "evaluations.jsonl",
    ),
}  # fmt: skip
# All files of these are theirs.
_WHOLE = (MODEL, BANK, CHECKPOINT)


def check_output(path: str | Path, option: str, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse an output that would be written over an input, or over a file of a run or a model.

    Args:
        path: of the output; what is no path of this machine is not looked at.
        option: that gave it, for the message.
        inputs: files that the command reads.

    Raises:
        ConfigError: says what would be lost.
    """
    if "://" in str(path):
        return
    target = Path(path).resolve()
    advice = "give another file"
    if any(_is_same(target, Path(entry)) for entry in inputs if str(entry)):
        raise ConfigError(f"{option} {str(path)!r}: is an input of this command; {advice}")

    for folder in target.parents:
        if DATA_NAME.fullmatch(folder.name) and (folder / UNITS).is_dir():
            raise ConfigError(
                f"{option} {str(path)!r}: lies in the files of a stage of a run; {advice}"
            )
    holds = occupant(target.parent)
    is_manifest = target.name == MANIFEST_NAME and occupant(target.parent.parent) == PIPELINE
    is_own = target.name in _OWN.get(holds, ()) or (holds in _WHOLE and target.is_file())
    if is_own or is_manifest:
        whose = PIPELINE if is_manifest else holds
        raise ConfigError(f"{option} {str(path)!r}: is a file of {whose}; {advice}")


def _is_same(target: Path, other: Path) -> bool:
    """Say whether two paths lead to one regular file; a link by another name counts."""
    try:
        return target.is_file() and target.samefile(other)
    except OSError:
        return False

"""Tell a file that is as it was written from one that was cut, changed or lost.

Two forms. `sealed` makes a small JSON text that carries its own checksum: manifests and reports of
units. `checksums_text` makes `checksums.json`, which says of every file of a folder how long it is
and what its SHA-256 is; the folder can be copied with it: index, checkpoints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from schemas.durable import is_partial, write_durably

CHECKSUMS_NAME = "checksums.json"
# The trainer's description of a run. With this key it, or the state of a checkpoint, says that
# checksums were written: then a missing file of them is damage.
RUN_NAME, HAS_CHECKSUMS = "run.json", "has_checksums"
# Files that are read side by side: hashing lets other threads run.
_THREADS = 4
# The key of a sealed text that holds its checksum.
_SEAL = "checksum"


class Checksum(NamedTuple):
    """Say how long a file is, and what its content is."""

    num_bytes: int
    sha256: str


def sealed(values: Mapping[str, Any]) -> str:
    """Return a JSON text, its keys sorted, that carries a checksum of its other keys."""
    return json.dumps({**values, _SEAL: _seal_of(values)}, indent=1, sort_keys=True) + "\n"


def unsealed(text: str) -> dict[str, Any]:
    """Parse a text of `sealed`. One without a checksum, of an older version, is taken as it is.

    Raises:
        ValueError: it is no JSON object, or it was changed.
    """
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is not as it was written: it is nested too deep") from error
    if not isinstance(values, dict) or values.get(_SEAL, "") not in ("", _seal_of(values)):
        raise ValueError("it is not as it was written: its checksum is another one")
    return {name: value for name, value in values.items() if name != _SEAL}


def _seal_of(values: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in values.items() if name != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def checksum_of(path: Path) -> Checksum:
    """Return length and SHA-256 of a local file. Takes .7 s per gigabyte."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Checksum(file.tell(), digest.hexdigest())


def checksums_text(checksums: Mapping[str, Checksum]) -> str:
    """Return the content of a folder's `checksums.json`; names count from the folder."""
    return sealed({"files": {name: list(checksum) for name, checksum in checksums.items()}})


def checksums_of(folder: Path) -> dict[str, Checksum]:
    """Return the checksums of all files of a local folder and of the folders below it.

    What a killed program has left half written is none of them: it goes with the next writing.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not is_partial(path))
    return {str(path.relative_to(folder).as_posix()): checksum_of(path) for path in paths}


def seal(folder: Path, *, apart: Sequence[str] = ()) -> None:
    """Write the `checksums.json` of a finished folder, in place of an older one.

    Args:
        folder: whose files are listed.
        apart: folders in it that have checksums of their own.
    """
    path = folder / CHECKSUMS_NAME
    # What it says of itself would never be true.
    path.unlink(missing_ok=True)
    listed = checksums_of(folder)
    own = {name: entry for name, entry in listed.items() if name.split("/")[0] not in apart}
    write_durably(path, checksums_text(own))


def sealed_damage(folder: Path, run: Path | None = None) -> str:
    """Say what is wrong with a folder that has, or should have, a `checksums.json`.

    Args:
        folder: whose files are compared; one of an older version has no checksums.
        run: the run that has written it, whose description says that there were checksums.
    """
    if (folder / CHECKSUMS_NAME).exists() or (run is not None and _has_checksums(run / RUN_NAME)):
        return damage_in(folder)
    return ""


def _has_checksums(description: Path) -> bool:
    try:
        values = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # Who needs the description says what is wrong with it.
        return False
    return isinstance(values, dict) and bool(values.get(HAS_CHECKSUMS))


def damage_in(folder: Path) -> str:
    """Say what is wrong with a local folder by its `checksums.json`; nothing where all is whole.

    Reads every file once, several at a time. Files that are not listed do not matter.
    """
    path = folder / CHECKSUMS_NAME
    try:
        listed = unsealed(path.read_text(encoding="utf-8"))["files"]
        checksums = {str(name): Checksum(*entry) for name, entry in listed.items()}
    except FileNotFoundError:
        return f"{path} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} cannot be read ({error})"

    return first_damage((folder / name, checksum) for name, checksum in checksums.items())


def first_damage(files: Iterable[tuple[Path, Checksum]]) -> str:
    """Say which of some local files is not as it was written, or nothing. Reads each once."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda entry: damage_of(*entry), list(files))
        return next(filter(None, found), "")


def damage_of(path: Path, expected: Checksum) -> str:
    """Say what is wrong with a local file; nothing where it is as it was written."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes != expected.num_bytes:
            return wrong_size(str(path), num_bytes, expected.num_bytes)
        return "" if checksum_of(path) == expected else changed(str(path))
    except FileNotFoundError:
        return missing(str(path))
    except OSError as error:
        return f"{path} cannot be read ({error})"


def missing(path: str) -> str:
    """Say that a file is not there."""
    return f"{path} is missing"


def wrong_size(path: str, found: int, expected: int) -> str:
    """Say that a file is too short or too long."""
    return f"{path} has {found:,} bytes where {expected:,} were written"


def changed(path: str) -> str:
    """Say that a file has other bytes."""
    return f"{path} was changed after it was written: its checksum is another one"

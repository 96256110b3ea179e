"""Fetch objects of a bucket into a folder of this machine, as they were listed.

Goes in: what a listing says of each object. Comes out: the folder, with lengths and checksums
compared. Costs a request for each object; where nobody has said its SHA-256, the versions are
listed again afterwards: what was replaced meanwhile must not be kept under the older version.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from schemas import buckets
from schemas.buckets import BucketError, ObjectEntry
from schemas.checksums import CHECKSUMS_NAME, Checksum, damage_in, damage_of

_THREADS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiedFile:
    """Say what a file of a copy is made from."""

    # In the copy, with `/` between its folders.
    name: str
    # In the bucket.
    address: str
    num_bytes: int
    # Another one means other content: of the object, or its SHA-256.
    version: str
    # Nothing where nobody has said it.
    sha256: str = ""


class ReplacedError(Exception):
    """Say that objects were written while they were copied, and what they are now."""

    def __init__(self, files: list[CopiedFile]) -> None:
        super().__init__(files)
        self.files = files


def folder_files(address: str, *, deep: bool) -> list[CopiedFile]:
    """List the objects of a folder as files of a copy. A request for a thousand.

    Args:
        address: the folder.
        deep: whether those of the folders in it are listed too.
    """
    root = address.rstrip("/") + "/"
    return [
        CopiedFile(
            name=entry.path.removeprefix(root),
            address=entry.path,
            num_bytes=entry.num_bytes,
            version=entry.version,
        )
        for entry in buckets.below(address.rstrip("/"), deep=deep)
        # Some tools write an empty object in the place of a folder.
        if entry.path != root and not entry.path.endswith("/")
    ]


def fetch(part: Path, files: Sequence[CopiedFile]) -> None:
    """Copy objects into a new folder, several at a time.

    Raises:
        BucketError: one is damaged, or there is no way to the bucket.
        ReplacedError: one has another version since it was listed.
    """
    part.mkdir()
    for file in files:
        (part / file.name).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_THREADS) as pool:
        # The first failure ends it.
        list(pool.map(lambda file: _fetch_file(file, part / file.name), files))
    files_now = listed_again(files)
    if files_now != list(files):
        raise ReplacedError(files_now)


def _fetch_file(file: CopiedFile, path: Path) -> None:
    """Copy an object and compare it with what is known of it; once more where it differs.

    Raises:
        BucketError: it differs again.
    """
    # What a cut connection has left of an object is fetched again by most clients, not by all.
    for _ in range(2):
        buckets.download(file.address, path)
        num_bytes = path.stat().st_size
        if num_bytes != file.num_bytes:
            damage = f"{num_bytes:,} bytes arrived of {file.num_bytes:,}"
        elif file.sha256 and damage_of(path, Checksum(num_bytes, file.sha256)):
            damage = "its checksum is another one than its manifest says"
        else:
            return
    raise BucketError(
        f"{file.address}: is damaged, or was written while it was copied ({damage}); copy it there "
        "again, or make it again"
    )


def verify(part: Path, address: str) -> None:
    """Compare a copy with its `checksums.json`, before it gets its name.

    Raises:
        BucketError: names the object that differs.
    """
    if (part / CHECKSUMS_NAME).exists() and (damage := damage_in(part)):
        raise BucketError(
            f"{address}: is damaged ({damage.replace(str(part), address)}); copy the folder there "
            f"again, or remove {CHECKSUMS_NAME} where its files were changed on purpose"
        )


def listed_again(files: Sequence[CopiedFile]) -> list[CopiedFile]:
    """Return files with the lengths and versions that their objects have now.

    Those whose SHA-256 is known stay as they are: it was compared.

    Raises:
        BucketError: one is no longer there.
    """
    entries = _entries_now([file.address for file in files if not file.sha256])
    return [
        file
        if file.sha256
        else dataclasses.replace(
            file,
            num_bytes=entries[file.address].num_bytes,
            version=entries[file.address].version,
        )
        for file in files
    ]


def _entries_now(addresses: Sequence[str]) -> dict[str, ObjectEntry]:
    """List what objects are now: a request for a thousand of a folder, or for one alone there."""
    folder_to_addresses: defaultdict[str, list[str]] = defaultdict(list)
    for address in addresses:
        folder_to_addresses[address.rpartition("/")[0]].append(address)
    entries: dict[str, ObjectEntry] = {}
    for folder, inside in folder_to_addresses.items():
        if len(inside) > 1:
            entries |= {entry.path: entry for entry in buckets.below(folder, deep=False)}
        for address in inside:
            # The folder of a single object may hold a million others.
            entry = entries.get(address) or buckets.look(address)
            if entry is None:
                raise BucketError(
                    f"{address}: was removed while it was copied; copy it there again"
                )
            entries[address] = entry
    return entries

"""Write local files so that they appear whole or not at all, after a kill or a power cut too.

A file is written under a temporary name beside its place, brought to the disk, and renamed; then
the folder, which holds the name, is brought to the disk. In any other order a crash of the machine
could leave an empty file under the final name. Both programs write through these functions what
they read again later: settings, descriptions of runs, manifests, reports of units.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from schemas.regular_files import is_special, open_special


def write_durably(path: Path, content: str | bytes) -> None:
    """Write a small file whole.

    A link stays, and the file that it leads to is written. What is no regular file, such as a
    device or a named pipe, is written to and never replaced.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_special(path):
        with open_special(path) as special:
            special.write(data)
        return

    # A rename would put the file in the place of the link.
    target = path.resolve() if path.is_symlink() else path
    partial = partial_of(target)
    try:
        with partial.open("wb") as file:
            file.write(data)
        publish(partial, target)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def publish(partial: Path, target: Path) -> None:
    """Bring a finished file to the disk and give it its final name.

    A link that bears this name is replaced, and the file that it leads to stays.

    Raises:
        OSError: it cannot be; what bears the name is a device, a named pipe or the like.
    """
    if is_special(target):
        raise FileExistsError(
            errno.EEXIST, "is no regular file, and only such a file is replaced", str(target)
        )
    sync(partial)
    partial.replace(target)
    sync(target.parent)


def publish_folder(partial: Path, target: Path, last: str) -> None:
    """Bring a finished folder to the disk and give it its final name.

    Where the target is there already, with other files or as a place where a disk is mounted, the
    files are renamed into it, that of the name `last` after all others: without it the folder must
    not count.

    Raises:
        OSError: it cannot be.
    """
    for path in partial.rglob("*"):
        sync(path)
    try:
        # An empty folder is replaced.
        partial.replace(target)
    except OSError:
        for path in sorted(partial.iterdir(), key=lambda path: (path.name == last, path.name)):
            shutil.move(path, target / path.name)
        partial.rmdir()
    sync(target.parent)


def partial_of(target: Path) -> Path:
    """Return the temporary name of a file; what a killed program left there is written over."""
    return target.with_name(f".{target.name}.part")


def is_partial(path: Path) -> bool:
    """Say whether a file has such a temporary name."""
    return path.name.startswith(".") and path.name.endswith(".part")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

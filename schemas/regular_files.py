"""Open what must be a file, and never wait for a named pipe: one that nobody serves blocks for ever.

Files are read whole, or twice, so a pipe or a device cannot stand for one. They may be written to.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import IO

NO_FILE = "is a pipe or a device, not a file; write its content to a file, and give that"
# How long to wait for a program that reads a named pipe, and how often to look.
READER_WAIT_S, LOOK_S = 5.0, 0.02


class NotAFileError(OSError):
    """Report a pipe or a device in the place of a file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(errno.EINVAL, NO_FILE, str(path))


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a regular file for reading, at once.

    Raises:
        NotAFileError: it is a pipe or a device.
        OSError: it cannot be opened, such as a folder.
    """
    # Without O_NONBLOCK a named pipe is waited for here.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise NotAFileError(path)
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def open_special(path: str | Path) -> IO[bytes]:
    """Open a device, or a pipe that somebody reads, for writing.

    Raises:
        OSError: it cannot be opened; nobody read the pipe for some seconds.
    """
    end_s = time.monotonic() + READER_WAIT_S
    while True:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > end_s:
                problem = "a pipe that no program reads"
                raise OSError(errno.ENXIO, problem, str(path)) from error
            time.sleep(LOOK_S)
    # From here on a full pipe is waited for, as usual.
    os.set_blocking(handle, True)
    return os.fdopen(handle, "wb")


def is_special(path: Path) -> bool:
    """Say whether something is there that is neither a regular file nor a folder."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def is_named_pipe(path: Path) -> bool:
    """Say whether a path leads to a named pipe; /dev/stdout and `>(…)` are pipes without a name."""
    try:
        return path.resolve().is_fifo()
    except (OSError, ValueError, RuntimeError):
        return False

"""Let one program at a time write in a folder of this machine: every command that writes there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.engine import files
from schemas.run_lock import hold


@contextlib.contextmanager
def sole_writer(folder: str) -> Iterator[None]:
    """Hold a folder, so that no second program writes there; a bucket is not held.

    Raises:
        LockedError: another program holds it.
        StageError: the folder cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        if files.is_local(folder):
            try:
                stack.enter_context(hold(Path(folder), "trelm-pipeline"))
            except OSError as error:
                raise files.unwritable(folder, error) from error
        yield

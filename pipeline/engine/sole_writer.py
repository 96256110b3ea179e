"""Let one program at a time write in a folder, here or in a bucket: every command that writes there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.engine import files
from pipeline.engine.kept_listings import forget_listings
from schemas import bucket_lock
from schemas.run_lock import hold, is_held


@contextlib.contextmanager
def sole_writer(folder: str) -> Iterator[None]:
    """Hold a folder, so that no second program writes there.

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
        else:
            was_held = holds(folder)
            stack.enter_context(bucket_lock.hold(folder, "trelm-pipeline"))
            if not was_held:
                # Until now another program may have written there.
                forget_listings()
        yield


def holds(folder: str) -> bool:
    """Say whether this program holds a folder already."""
    return is_held(Path(folder)) if files.is_local(folder) else bucket_lock.is_held(folder)

"""The error that a user can act on."""

from __future__ import annotations

import re

MARK = "TRELM-ERROR"
_SHOWN = re.compile(rf"{MARK}<<(.*?)>>", re.DOTALL)


class StageError(Exception):
    """What was wrong, where, and what to do. Its text survives the runner's wrapping, also between processes."""

    def __init__(self, message: str) -> None:
        if not message.startswith(MARK):  # runners rebuild an exception from its text
            message = f"{MARK}<<{message}>>"
        super().__init__(message)

    @property
    def message(self) -> str:
        """The text for the user."""
        return message_in(str(self)) or str(self)


def message_in(text: str) -> str | None:
    """The message of a `StageError` inside a runner's error text, if there is one."""
    found = _SHOWN.search(text)
    return found.group(1) if found else None

"""Carry the message of an error that a user can act on through the runner, which knows only text."""

from __future__ import annotations

import re

from schemas.errors import TrelmError

MARK = "TRELM-ERROR"
_MARKED = re.compile(rf"{MARK}<<(.*?)>>", re.DOTALL)


class StageError(TrelmError):
    """Say what was wrong, where, and what to do.

    The text survives the runner's wrapping, also between processes.
    """

    def __init__(self, message: str) -> None:
        # Runners make an exception again from its text, which then has the mark already.
        if not message.startswith(MARK):
            message = f"{MARK}<<{message}>>"
        super().__init__(message)

    @property
    def message(self) -> str:
        """Return the text for the user, without the mark."""
        return message_in(str(self)) or str(self)


def message_in(text: str) -> str | None:
    """Return the message of a `StageError` inside a runner's error text, or None where there is
    none.
    """
    marked = _MARKED.search(text)
    return marked.group(1) if marked else None

"""Name the errors that a user can act on: each says what was wrong, where, and what to do."""

from __future__ import annotations


class TrelmError(Exception):
    """Say that the work cannot be done. Exit code 1."""

    exit_code = 1

    @property
    def message(self) -> str:
        """Return the text for the user."""
        return str(self)


class ConfigError(TrelmError, ValueError):
    """Say that a setting, an option or a path is wrong. Exit code 2."""

    exit_code = 2

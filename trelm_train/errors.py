"""The two errors that a user can meet: each says what was wrong, where, and what to do."""

from __future__ import annotations


class TrelmError(Exception):
    """The work cannot be done: exit code 1."""

    exit_code = 1


class ConfigError(TrelmError):
    """The request is wrong (configuration, option or path): exit code 2."""

    exit_code = 2

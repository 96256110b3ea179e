"""Name the two errors of the trainer that a user can meet; both programs share them."""

from schemas.errors import ConfigError, TrelmError

__all__ = ["ConfigError", "TrelmError"]

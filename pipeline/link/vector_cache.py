"""Keep the vectors of candidates' texts on disk, so that no run of a re-ranker computes one twice.

One SQLite file per model, in the run's folder `link`. A key is a hash of the text, so a changed
knowledge base finds no old vector; the file is called after the model's files, so another model
finds none either. Several processes may use a file at once. 2 bytes per number: 0.8 kB per text of
384. Bounded: a full file takes nothing more. It is a courtesy: if it fails, the link goes on.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from schemas.array_types import F32

# Parameters of one query, below every build's limit.
QUERY_KEYS = 500
# Another process may be writing.
WAIT_S = 60.0
logger = logging.getLogger("trelm")


class VectorCache:
    """Read and write vectors by their texts."""

    def __init__(self, path: str, max_bytes: int) -> None:
        """Open a file, or make it.

        Args:
            path: local; empty keeps nothing.
            max_bytes: no vector is added to a larger file; 0 keeps nothing.
        """
        self._path, self._max_bytes = path, max_bytes
        self._connection: sqlite3.Connection | None = None
        if not path or not max_bytes:
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: every statement is a transaction of its own.
            connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) "
                "WITHOUT ROWID"
            )
            self._connection = connection
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def get(self, texts: Iterable[str]) -> dict[str, F32]:
        """Return the vectors of those texts that are there."""
        text_of_key = {_key(text): text for text in texts}
        keys = list(text_of_key)
        vectors: dict[str, F32] = {}
        if self._connection is None:
            return vectors
        try:
            for low in range(0, len(keys), QUERY_KEYS):
                some = keys[low : low + QUERY_KEYS]
                marks = ", ".join("?" * len(some))
                # Only question marks are put together here: the keys are bound.
                query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"
                for key, blob in self._connection.execute(query, some):
                    vector = np.frombuffer(blob, np.float16).astype(np.float32)
                    vectors[text_of_key[key]] = vector
        except (sqlite3.Error, ValueError) as error:
            self._give_up(error)
        return vectors

    def put(self, vectors: Mapping[str, F32]) -> None:
        """Keep vectors, rounded as `rounded` does."""
        if self._connection is None or not vectors:
            return
        if Path(self._path).stat().st_size >= self._max_bytes:
            return
        rows = [
            (_key(text), vector.astype(np.float16).tobytes()) for text, vector in vectors.items()
        ]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Go on without the file, and say so once."""
        logger.warning(
            "%s: the vectors of the re-ranker are not kept (%s); links are the same, and take "
            "longer. Remove the file if this happens again",
            self._path,
            error,
        )
        self._connection = None


def rounded(vectors: F32) -> F32:
    """Return vectors as the file gives them back: a vector must not depend on where it came from."""
    return vectors.astype(np.float16).astype(np.float32)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

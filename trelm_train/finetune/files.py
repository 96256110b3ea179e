"""Read files of labelled rows: a JSON list, JSON lines, a JSON object of lists, or plain text; gzip too.

The form is told from the content, since names of such files say little. A file is read whole.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.bounded_lines import bounded_lines
from schemas.errors import ConfigError
from schemas.regular_files import open_regular

GZIP_MAGIC = b"\x1f\x8b"
# FIGER's training rows, the largest of these files, are 1.2 GB.
MAX_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Hold the values of one row, and where it stands, for errors."""

    values: dict[str, Any]
    position: str
    # Of the list that it stands in, where the file is an object of lists.
    group: str = ""

    def get(self, key: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Return the value of a key.

        Raises:
            ConfigError: the row lacks it.
        """
        if key not in self.values:
            raise ConfigError(
                f"{self.position}: the row has no {key!r}; its keys are "
                f"{', '.join(map(repr, list(self.values)[:8])) or 'none'}"
            )
        return self.values[key]

    def text(self, key: str) -> str:
        """Return a text.

        Raises:
            ConfigError: it is missing, no text, or holds half of a surrogate pair.
        """
        return checked_text(self.get(key), key, self.position)

    def number(self, key: str) -> int:
        """Return a whole number.

        Raises:
            ConfigError: it is missing, or no whole number.
        """
        value = self.get(key)
        if type(value) is not int:
            raise ConfigError(
                f"{self.position}: {key!r} must be a whole number, but is {value!r:.80}"
            )
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts.

        Raises:
            ConfigError: it is missing, or no such list.
        """
        values = self.get(key)
        if not isinstance(values, list):
            raise ConfigError(f"{self.position}: {key!r} must be a list, but is {values!r:.80}")
        return [checked_text(value, key, self.position) for value in values]


def checked_text(value: object, key: str, position: str) -> str:
    """Return a value that is a text which can be encoded.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{position}: {key!r} must be a text, but is {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can write half of a surrogate pair, which is no character.
        raise ConfigError(
            f"{position}: {key!r} holds a broken character ({error.reason})"
        ) from error
    return value


def read_text(path: Path) -> str:
    """Read a file, which may be compressed by gzip, as UTF-8 text.

    Raises:
        ConfigError: it cannot be read, is damaged, too large or empty, or is no UTF-8 text.
    """
    try:
        with open_regular(path) as file:
            head = file.read(len(GZIP_MAGIC))
            file.seek(0)
            source: Any = gzip.GzipFile(fileobj=file) if head == GZIP_MAGIC else file
            content: bytes = source.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: damaged gzip ({error}); copy it again") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read it ({error.strerror or error}); check the path and its permissions"
        ) from error

    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: more than {MAX_BYTES >> 30} GB; give a part of it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty; give one with rows")
    return text


def is_json(text: str) -> bool:
    """Say whether a text looks like a JSON list or object, and not like plain text."""
    return text.lstrip()[:1] in ("[", "{")


def json_rows(text: str, name: str) -> list[Row]:
    """Return the rows of a JSON list, of JSON lines, or of an object of lists.

    Raises:
        ConfigError: it is none of them, or has no row; names file and row.
    """
    rows = list(_rows(text, name))
    if not rows:
        raise ConfigError(f"{name}: the file has no rows")
    return rows


def _rows(text: str, name: str) -> Iterator[Row]:
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{name}: not JSON: it is nested too deep") from error
    except ValueError as error:
        # More than one value: lines.
        if text.lstrip().startswith("{") and "Extra data" in str(error):
            yield from _lines(text, name)
            return
        raise ConfigError(f"{name}: not JSON ({error})") from error

    if isinstance(values, list):
        yield from _listed(values, name)
    elif all(isinstance(group, list) for group in values.values()):
        for group, members in values.items():
            label = checked_text(group, "a name of a list", name)
            yield from _listed(members, f"{name}: {label!r}", label)
    else:
        yield Row(values=values, position=f"{name}:1")


def _listed(values: list[Any], name: str, group: str = "") -> Iterator[Row]:
    for number, value in enumerate(values, 1):
        yield _row(value, f"{name}: row {number}", group)


def _lines(text: str, name: str) -> Iterator[Row]:
    for number, line in bounded_lines(io.BytesIO(text.encode()), name):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{name}:{number}: not JSON ({error}); write one JSON object per line"
            ) from error
        yield _row(value, f"{name}:{number}", "")


def _row(value: object, position: str, group: str) -> Row:
    if not isinstance(value, dict):
        raise ConfigError(f"{position}: must be a JSON object, but is {value!r:.80}")
    return Row(values=value, position=position, group=group)

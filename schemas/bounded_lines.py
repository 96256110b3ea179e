"""Read lines of a file that a person wrote, one at a time, each at most 64 MB.

A line of such a file is a record, so a longer one is a mistake, such as a file without line ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from schemas.errors import ConfigError

# The same for every input of lines, far above what a record of any of them needs.
MAX_LINE_BYTES = 64 << 20


def bounded_lines(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the number of each line, from 1 on, and the line; blank lines are passed over.

    Args:
        file: an open file.
        name: what the file is called in errors.

    Raises:
        ConfigError: a line is longer than 64 MB; names file and line.
    """
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        # Without its line end.
        if len(line) > MAX_LINE_BYTES and len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
            raise ConfigError(
                f"{name}:{number}: the line is longer than {MAX_LINE_BYTES >> 20} MB; write one record "
                "per line"
            )
        if line.strip():
            yield number, line

"""Read JSON that is indented: a file that is one document of several lines, not a record a line.

Special:EntityData, the web API and tools such as `jq` write so. Memory: the file, so it is bounded;
a dump has a record per line and is never read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from pipeline.engine import files
from pipeline.engine.tasks import ByteRange
from pipeline.kb.model import UNREADABLE
from pipeline.sources.chunks import SourceError, source_error
from pipeline.sources.opening import read_chunks
from pipeline.sources.ranges import peek
from schemas.bounded_lines import MAX_LINE_BYTES

MAX_BYTES = MAX_LINE_BYTES
# An object whose first line holds nothing but its brace, alone or in an array.
_INDENTED = re.compile(rb'\s*(?:\[\s*)?\{[ \t]*(?:"entities"[ \t]*:[ \t]*\{[ \t]*)?\r?\n')


def is_indented(path: str) -> bool:
    """Say, by its first bytes, whether a file is one indented document."""
    losses: list[SourceError] = []
    head = peek(path, losses=losses).removeprefix(b"\xef\xbb\xbf")
    return not losses and _INDENTED.match(head) is not None


def read_indented(path: str) -> Iterator[bytes]:
    """Yield the records of an indented document: the elements of an array, or the whole.

    Raises:
        SourceError: longer than 64 MB, damaged, or cut off.
    """
    content = bytearray()
    for chunk in read_chunks(ByteRange(path=path, start=0, end=files.size_of(path))):
        content += chunk.data
        if len(content) > MAX_BYTES:
            problem = f"an indented document of more than {MAX_BYTES >> 20} MB"
            advice = "write one entity per line, as in Wikidata's dumps, for example with jq -c"
            raise source_error(path, 0, problem, advice)

    if content.startswith(b"\xef\xbb\xbf"):
        del content[:3]
    try:
        if content.lstrip()[:1] == b"[":
            yield from map(bytes, msgspec.json.decode(content, type=list[msgspec.Raw]))
        else:
            msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            yield bytes(content).strip()
    except UNREADABLE as error:
        problem = f"an indented document that is not JSON ({error})"
        raise source_error(
            path, 0, problem, "download it again: it is cut off or damaged"
        ) from error

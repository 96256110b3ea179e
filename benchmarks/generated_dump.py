"""Generate a dump of any size from genuine Wikidata entities, in the form of the official files.

Goes in: two dump excerpts of the data kit (or any dumps), a size. Comes out: a `.json`, `.json.gz`
or `.json.bz2` file.

*Genuine*: every byte of every entity but the ones named below: claims with qualifiers and
references, terms in all languages, sitelinks, key order, escapes. *Varied*, per copy: the entity's
own id (Q or P with a running number of nine digits, as long as today's), and the names that reach
our tables (labels, descriptions and aliases in `en` and `mul`, the enwiki title), which end in that
number. So no two rows are equal, and dictionaries and Parquet's compression get nothing for free.
Claims stay as they are. The compressors cannot profit from the repeats either: a copy follows its
model by 11 MB (the length of all items once), far beyond the windows of gz (32 KB) and bz2 (900
KB).

*Proportions*: the kit has more properties than items, a dump has one property per 9,000 items; here
it is one per 84, so that small files have some. The items are longer than a dump's mean (27 KB; 14
KB in the full dump of 2026): they are well-known items.

*Form*: gz as the official generator makes it: a member for each batch of entities, and `[`, comma
and `]` with their newlines in members of their own. The official members have 70 MB; a file of 1 GB
would have two of them, so these have about 4 MB. bz2: the same bytes as one single stream with
blocks of 900 KB.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import multiprocessing
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bz2_stream import SingleStream

FIRST_NUMBER = 300_000_001  # nine digits, as today's ids have, and above all of them
ITEMS_PER_PROPERTY = 84
BATCH_ENTITIES = 1024  # of the kit's: 28 MB, or 4 MB in gz
GZ_LEVEL, BZ2_LEVEL = 6, 9
GZIP_WINDOW_BITS = 31
VARIED_LANGUAGES = ("en", "mul")
MARK = "@number@"
AROUND_ENTITY = b" \t\r\n,[]"
OPEN, COMMA, CLOSE = b"[\n", b",\n", b"\n]\n"


@dataclass(frozen=True, kw_only=True)
class Templates:
    """Hold genuine entities, each cut where its number goes."""

    items: tuple[tuple[bytes, ...], ...]
    properties: tuple[tuple[bytes, ...], ...]

    def parts(self, place: int) -> tuple[bytes, ...]:
        """Return the template of the entity at a position of the dump."""
        groups, rest = divmod(place, ITEMS_PER_PROPERTY + 1)
        if rest == ITEMS_PER_PROPERTY and self.properties:
            return self.properties[groups % len(self.properties)]
        return self.items[place % len(self.items)]

    def entity(self, place: int) -> bytes:
        """Return the line of the entity at a position, without comma and newline."""
        return str(FIRST_NUMBER + place).encode().join(self.parts(place))

    def num_bytes(self, place: int) -> int:
        """Return the length of `entity`."""
        parts = self.parts(place)
        return sum(map(len, parts)) + (len(parts) - 1) * len(str(FIRST_NUMBER))

    @property
    def digest(self) -> str:
        """Return a short hash of all templates: it names the files made from them."""
        text = repr((self.items, self.properties, FIRST_NUMBER, ITEMS_PER_PROPERTY)).encode()
        return hashlib.sha256(text).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class Dump:
    """Name a generated file and its sizes."""

    path: str
    raw_bytes: int  # of JSON
    stored_bytes: int
    num_entities: int

    @property
    def raw_mb(self) -> float:
        """Return the megabytes (10**6) of JSON."""
        return self.raw_bytes / 1e6


def kit_dumps() -> list[Path]:
    """Return the genuine excerpts, found through the environment variable TRELM_KIT.

    Raises:
        FileNotFoundError: the kit is not at hand.
    """
    folder = Path(os.environ.get("TRELM_KIT", "")) / "wikidata"
    found = [
        folder / f"{name}.json.bz2" for name in ("wikibrain-testDump", "qrank-twenty_entities")
    ]
    for path in found:
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: set TRELM_KIT to the folder of the data kit"
            )
    return found


def read_templates(paths: Sequence[Path]) -> Templates:
    """Cut all items and properties of some dumps."""
    items, properties = [], []
    for path in paths:
        opener = bz2.open if path.suffix == ".bz2" else open
        with opener(path, "rb") as file:
            for line in file:
                if record := line.strip(AROUND_ENTITY):
                    letter, parts = cut(record)
                    {"Q": items, "P": properties}[letter].append(parts)
    return Templates(items=tuple(items), properties=tuple(properties))


def cut(record: bytes) -> tuple[str, tuple[bytes, ...]]:
    """Return the letter of an entity's id, and its JSON cut where the number goes; other bytes stay
    as they are.
    """
    fields = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
    letter = json.loads(bytes(fields["id"]))[0]
    escape_slashes = b"\\/" in record  # as the official dumps are written
    pieces = []
    for key, raw in fields.items():
        value = json.loads(bytes(raw))
        if key == "id":
            text = f'"{letter}{MARK}"'.encode()
        elif (varied := _vary(key, value)) is not None:
            text = json.dumps(varied, separators=(",", ":"), ensure_ascii=record.isascii()).encode()
            text = text.replace(b"/", b"\\/") if escape_slashes else text
        else:
            text = bytes(raw)
        pieces.append(f'"{key}":'.encode() + text)
    return letter, tuple((b"{" + b",".join(pieces) + b"}").split(MARK.encode()))


def _vary(key: str, value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return the value with marks at the end of the names in it; None if none of its names reaches
    our tables.
    """
    if not isinstance(value, dict):
        return None
    if key in ("labels", "descriptions"):
        return {
            name: _marked(term, "value") if name in VARIED_LANGUAGES else term
            for name, term in value.items()
        }
    if key == "aliases":
        return {
            name: [_marked(term, "value") for term in terms] if name in VARIED_LANGUAGES else terms
            for name, terms in value.items()
        }
    if key == "sitelinks":
        return {
            site: _marked(page, "title") if site == "enwiki" else page
            for site, page in value.items()
        }
    return None


def _marked(term: dict[str, Any], key: str) -> dict[str, Any]:
    return {**term, key: f"{term[key]} {MARK}"}


def make_dump(
    templates: Templates,
    folder: Path,
    raw_mb: float,
    suffix: str,
    batch_entities: int = BATCH_ENTITIES,
) -> Dump:
    """Generate a dump of at least this many MB of JSON, with suffix "", ".gz" or ".bz2".

    A dump that was generated before is used again.
    """
    num_entities, raw_bytes = _size(templates, int(raw_mb * 1e6))
    name = f"dump-{templates.digest}-{num_entities}-{batch_entities}.json{suffix}"
    path = folder / name
    dump = Dump(path=str(path), raw_bytes=raw_bytes, stored_bytes=0, num_entities=num_entities)
    if not path.exists():
        partial = folder / f"{name}.partial"
        batches = [
            range(first, min(first + batch_entities, num_entities))
            for first in range(0, num_entities, batch_entities)
        ]
        _write(templates, batches, partial, suffix)
        partial.rename(path)
    return replace(dump, stored_bytes=path.stat().st_size)


def _size(templates: Templates, wanted: int) -> tuple[int, int]:
    """Return the number of entities and bytes of the smallest dump of at least this many bytes."""
    frame = len(OPEN) - len(COMMA) + len(CLOSE)
    lengths = accumulate(templates.num_bytes(place) + len(COMMA) for place in count())
    return next(
        (number, length + frame)
        for number, length in enumerate(lengths, 1)
        if length + frame >= wanted
    )


def _write(templates: Templates, batches: Sequence[range], path: Path, suffix: str) -> None:
    with path.open("wb") as file:
        if suffix == ".gz":
            for number, member in enumerate(_encoded(templates, batches, _gz_batch)):
                file.write(_gz(COMMA if number else OPEN) + member)
            file.write(_gz(CLOSE))
        elif suffix == ".bz2":
            stream = SingleStream(file, BZ2_LEVEL)
            for part in _encoded(templates, batches, _bz2_batch):
                stream.add(part)
            stream.add(bz2.compress(CLOSE, BZ2_LEVEL))
            stream.finish()
        else:
            for batch in batches:
                file.write((COMMA if batch.start else OPEN) + _joined(templates, batch))
            file.write(CLOSE)


def _encoded(templates: Templates, batches: Sequence[range], encode: Any) -> Iterator[bytes]:  # noqa: ANN401
    """Yield compressed batches, in order, made by all cores."""
    context = multiprocessing.get_context(
        "spawn"
    )  # fork would copy the threads' locks of whoever imported us
    with context.Pool(initializer=_remember, initargs=(templates,)) as pool:
        yield from pool.imap(encode, batches)


_templates: list[Templates] = []  # of a worker process


def _remember(templates: Templates) -> None:
    _templates[:] = [templates]


def _joined(templates: Templates, batch: range) -> bytes:
    return COMMA.join(map(templates.entity, batch))


def _gz_batch(batch: range) -> bytes:
    return _gz(_joined(_templates[0], batch))


def _bz2_batch(batch: range) -> bytes:
    return bz2.compress((COMMA if batch.start else OPEN) + _joined(_templates[0], batch), BZ2_LEVEL)


def _gz(data: bytes) -> bytes:
    compressor = zlib.compressobj(GZ_LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS)
    return compressor.compress(data) + compressor.flush()

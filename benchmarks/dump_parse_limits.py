"""Run the limits of `dump_parse`: decompression alone, typed decoding alone."""

from __future__ import annotations

import bz2
import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from isal import igzip

from pipeline.kb.model import ItemValue, entity_decoder

READ_BYTES = 1 << 20
BATCH_LINES = 4096


def open_stdlib(path: str) -> IO[bytes]:
    """Open a dump by its extension, by the standard library."""
    opener: Any = gzip.open if path.endswith(".gz") else bz2.open if path.endswith(".bz2") else open
    return opener(path, "rb")


def decompress(out: Path, path: str, library: str) -> dict[str, Any]:  # noqa: ARG001 - all variants have `out`
    """Decompress alone, by isal, gzip or bz2."""
    module: Any = {"isal": igzip, "gzip": gzip, "bz2": bz2}[library]
    buffer = bytearray(READ_BYTES)
    with module.open(path, "rb") as file:
        return {"bytes": sum(iter(lambda: file.readinto(buffer), 0))}


def decode_typed(out: Path, path: str) -> dict[str, Any]:  # noqa: ARG001
    """Decode the lines of a plain file by msgspec, typed; reading the lines is not timed."""
    decode = entity_decoder(("en", "mul"), ItemValue).decode
    seconds, cpu_seconds, num_bytes = 0.0, 0.0, 0
    for lines in _line_batches(path):
        start, cpu_start = time.perf_counter(), time.process_time()
        for line in lines:
            decode(line)
        seconds += time.perf_counter() - start
        cpu_seconds += time.process_time() - cpu_start
        num_bytes += sum(map(len, lines))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "bytes": num_bytes}


def _line_batches(path: str) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    with Path(path).open("rb") as file:
        for line in file:
            if record := line.strip(b"\n,[]"):
                batch.append(record)
            if len(batch) == BATCH_LINES:
                yield batch
                batch = []
    yield batch

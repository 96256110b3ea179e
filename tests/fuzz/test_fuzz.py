"""Changed bytes for every reader: what is read is right, or the error is one of the reader's own.

TRELM_FUZZ is the number of inputs for each reader (default 500); `make fuzz N=100000` sets it.
TRELM_FUZZ_SEED begins elsewhere.
"""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path

import pytest

from tests.fuzz.mutate import flipped, mutated
from tests.fuzz.readers import READERS, Reader

NUM_INPUTS = int(os.environ.get("TRELM_FUZZ", "500"))
SEED = int(os.environ.get("TRELM_FUZZ_SEED", "0"))
MAX_SECONDS = 5.0
MAX_MEMORY_KB = 500 * 1024


def outcome(reader: Reader, path: Path, content: bytes) -> object:
    """What is read; None for an error of the reader's own."""
    path.write_bytes(content)
    started = time.process_time()
    try:
        return reader.read(path)
    except reader.errors:
        return None
    finally:
        # Processor time: a busy machine slows nothing down by it.
        assert time.process_time() - started < MAX_SECONDS, content


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=[reader.name for reader in READERS])
def test_changed_bytes(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / f"input{reader.ending}"
    whole = outcome(reader, path, reader.content)
    assert whole is not None, "the sound input is read"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(SEED, SEED + NUM_INPUTS):
        rng = random.Random(f"{reader.name} {number}")
        content = mutated(reader.content, rng)
        try:
            outcome(reader, path, content)
        except Exception as error:
            error.add_note(f"{reader.name}, input {number}: {content[:300]!r}")
            raise
        if reader.is_sealed:
            found = outcome(reader, path, flipped(reader.content, rng))
            assert found is None or found == whole, f"{reader.name}, input {number}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_MEMORY_KB


def test_a_fault_would_be_found(tmp_path: Path) -> None:
    """A reader with an error that is not its own, and one that takes a changed bit for sound."""
    content = b"0123456789" * 5
    careless = Reader(name="careless", content=content, read=lambda path: path.read_bytes().decode(), errors=(KeyError,))  # fmt: skip
    faults = 0
    for number in range(200):
        try:
            outcome(careless, tmp_path / "a", mutated(content, random.Random(number)))
        except UnicodeDecodeError:
            faults += 1
    assert faults > 10
    unsealed = Reader(name="unsealed", content=content, read=Path.read_bytes, is_sealed=True)
    assert outcome(unsealed, tmp_path / "b", flipped(content, random.Random(0))) != content

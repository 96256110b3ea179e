"""Measure what it takes to add entities to a finished index, and to open it with them."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.engine.tables import RunPaths
from pipeline.index.added import change_added
from pipeline.index.extended_index import IndexFolders, open_index

# How many entities are added in a case.
NUMBERS = (1, 1_000, 20_000)


def entity(number: int) -> dict[str, Any]:
    """Return an entity with names of its own, a description and two facts."""
    return {
        "id": f"U{number}",
        "label": f"Brookworks {number}",
        "aliases": [f"BW {number}", f"Company of Brook number {number}"],
        "description": f"maker of the boats of harbour {number}",
        "facts": {"P31": ["Q4830453"], "P17": ["Q142"]},
    }


def add(run: str, num_entities: int) -> dict[str, float]:
    """Add entities to a run that has none; return seconds on the clock and of the processor."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "own.jsonl"
        lines = (json.dumps(entity(number)) for number in range(1, num_entities + 1))
        path.write_text("\n".join(lines))
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        changes = change_added(run, [str(path)], [])
        seconds = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    assert changes.total == num_entities, changes
    return dict(zip(("s", "cpu_s"), seconds, strict=True))


def opened(run: str) -> dict[str, float]:
    """Open index and store with what was added; return seconds on the clock and of the processor."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    names, _ = open_index(IndexFolders.of(RunPaths(root=run)))
    seconds = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    assert len(names.postings("brookworks 1").qids) == 1
    return dict(zip(("s", "cpu_s"), seconds, strict=True))

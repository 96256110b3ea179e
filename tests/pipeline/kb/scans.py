"""Read lines by the scanner and by the decoder, which says what is right."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from typing import Any

import pyarrow as pa

from pipeline.kb.entity_rows import KbBuilder, KbRules, RecordOutcome
from pipeline.kb.fast import open_scanner

HAS_NUMBA = importlib.util.find_spec("numba") is not None
Answer = tuple[dict[str, pa.Table], list[RecordOutcome], Counter[str], list[Any]]


def read_both(lines: list[bytes], rules: KbRules) -> tuple[Answer, Answer, int]:
    """What the scanner's builder and the decoder's make of lines; how many records were scanned."""
    scanner = open_scanner(rules)
    assert scanner is not None
    num_scanned, scan = 0, scanner.scan

    def counted(record: bytes) -> Any:
        nonlocal num_scanned
        scanned = scan(record)
        num_scanned += scanned is not None
        return scanned

    scanner.scan = counted  # type: ignore[method-assign]
    fast = _read(KbBuilder(rules, scanner=scanner), lines)
    return fast, _read(KbBuilder(rules), lines), num_scanned


def _read(builder: KbBuilder, lines: list[bytes]) -> Answer:
    """Rows, outcomes, counts and ids; rows are taken twice, as a unit's batches are."""
    outcomes = [outcome for line in lines[:3] for outcome in builder.add_line(line)]
    tables = [dict(_named(builder))]
    outcomes += [outcome for line in lines[3:] for outcome in builder.add_line(line)]
    tables.append(dict(_named(builder)))
    names = {name for batch in tables for name in batch}
    rows = {
        name: pa.concat_tables(batch[name] for batch in tables if name in batch) for name in names
    }
    return rows, outcomes, builder.counts, [builder.excluded, builder.repeated]


def _named(builder: KbBuilder) -> list[tuple[str, pa.Table]]:
    return [(table.name, rows) for table, rows in builder.take()]


def check_scan(lines: list[bytes], rules: KbRules) -> int:
    """Assert that both make the same of lines; return how many records were scanned."""
    fast, plain, num_scanned = read_both(lines, rules)
    assert fast == plain
    return num_scanned


def compact(line: bytes) -> bytes:
    """Write the JSON of a line as dumps have it, without spaces; leave what is no JSON."""
    try:
        value = json.loads(line.strip(b", \r\n"))
        return json.dumps(value, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return line

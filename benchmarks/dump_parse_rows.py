"""Say whether ours and the peers make the same rows: counts and an order-independent hash per
table.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from schemas import ALIASES, ENTITIES, PROPERTIES, TRIPLES
from schemas.table import Table

COMPARED = (ENTITIES, ALIASES, PROPERTIES, TRIPLES)  # all their columns


def table_facts(out: Path, table: Table) -> dict[str, Any]:
    """Count the rows of a table below a folder, and sum their hashes."""
    total, num_rows = 0, 0
    for path in sorted(out.glob(f"**/{table.name}/part-*")):
        for row in pq.read_table(path, columns=list(table.column_names)).to_pylist():
            text = repr([row[name] for name in table.column_names])
            total += int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
            num_rows += 1
    return {"rows": num_rows, "hash": f"{total % 2**64:016x}"}


def compare(out: Path, targets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Run variants, by name: {"target": "module:function", "arguments": {…}}; return the counts and
    hashes of each.
    """
    facts = {}
    for name, variant in targets.items():
        folder = out / name
        folder.mkdir()
        module, function = variant["target"].split(":")
        getattr(importlib.import_module(module), function)(out=folder, **variant["arguments"])
        facts[name] = {table.name: table_facts(folder, table) for table in COMPARED}
    ours = facts["ours"]
    return {
        "tables": facts,
        "same": {name: found == ours for name, found in facts.items() if name != "ours"},
    }

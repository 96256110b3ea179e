"""Look up rows of a run's tables by their keys.

These are merged items, triples that point to an item, and rows of some documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database.connection import add_triples, working_database
from pipeline.engine.tables import RunPaths, read_batches
from schemas import REDIRECTS
from schemas.ids import MAX_HOPS
from schemas.table import Table


def matching(
    paths: Iterable[str], table: Table, columns: Sequence[str], keys: Sequence[object]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows whose first column is one of the keys. Memory: one batch.

    Args:
        paths: part files of the table.
        table: the table.
        columns: the columns to read; the first holds the keys.
        keys: the values to look for.
    """
    key_set = pa.array(keys, table.schema.field(columns[0]).type)
    for path in paths:
        for batch in read_batches(path, table, columns):
            # Filtered batch by batch: only the matches stay in memory.
            rows = batch.filter(pc.is_in(batch.column(columns[0]), value_set=key_set))
            if rows.num_rows:
                yield rows


def redirects_of(paths: RunPaths, qids: set[int]) -> dict[int, int]:
    """Return the present QID of each item: itself, or the item it was merged into, through chains."""
    # An item that was not merged stays itself.
    present = {qid: qid for qid in qids}
    for _ in range(MAX_HOPS):
        target_of = _targets_of(paths, set(present.values()))
        if not target_of:
            break
        present = {qid: target_of.get(current, current) for qid, current in present.items()}
    return present


def _targets_of(paths: RunPaths, qids: set[int]) -> dict[int, int]:
    """Return where the merged ones among some items lead in one step."""
    # Ids are written like Q42 in this table.
    sources = sorted(f"Q{qid}" for qid in qids)
    target_of: dict[int, int] = {}
    for rows in matching(paths.files("kb", REDIRECTS), REDIRECTS, ("source", "target"), sources):
        pairs = zip(
            rows.column("source").to_pylist(), rows.column("target").to_pylist(), strict=True
        )
        target_of |= {
            int(source[1:]): int(target[1:])
            for source, target in pairs
            if target[:1] == "Q" and target[1:].isdecimal()
        }
    return target_of


def in_degrees(paths: RunPaths, items: Iterable[int]) -> dict[int, int]:
    """Count the triples that point to each item, with redirects followed.

    Items without such a triple are left out.
    """
    # A join instead of a list in the query: there may be many items.
    requested = pa.table({"qid": pa.array(sorted(items), pa.uint32())})
    with working_database() as connection:
        add_triples(connection, paths)
        connection.register("requested", requested)
        counts = connection.execute(
            "SELECT object, count(*) FROM triples "
            "SEMI JOIN requested ON triples.object = requested.qid GROUP BY object"
        )
        return dict(counts.fetchall())

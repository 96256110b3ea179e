"""Look up rows of a run's tables by their keys: merged items, links that point to an item, rows of some documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database.connection import add_triples, connect
from pipeline.engine.tables import RunPaths, read_batches
from schemas import REDIRECTS
from schemas.table import Table


def matching(
    paths: Iterable[str], table: Table, columns: Sequence[str], wanted: Sequence[object]
) -> Iterator[pa.RecordBatch]:
    """Rows whose first column is one of the wanted values. Memory: one batch."""
    values = pa.array(wanted, table.schema.field(columns[0]).type)
    for path in paths:
        for batch in read_batches(path, table, columns):
            kept = batch.filter(pc.is_in(batch.column(columns[0]), value_set=values))
            if kept.num_rows:
                yield kept


def redirects_of(paths: RunPaths, qids: set[int]) -> dict[int, int]:
    """What each item is called now: itself, or the item it was merged into."""
    moved = {qid: qid for qid in qids}
    sources = sorted(f"Q{qid}" for qid in qids)
    for rows in matching(paths.files("kb", REDIRECTS), REDIRECTS, ("source", "target"), sources):
        for source, target in zip(
            rows.column("source").to_pylist(), rows.column("target").to_pylist(), strict=True
        ):
            moved[int(source[1:])] = int(target[1:])
    return moved


def in_degrees(paths: RunPaths, items: Iterable[int]) -> dict[int, int]:
    """Triples that point to each of the items, redirects followed; items without one are left out."""
    wanted = pa.table({"qid": pa.array(sorted(items), pa.uint32())})
    with connect() as connection:
        add_triples(connection, paths)
        connection.register("wanted", wanted)
        counted = connection.execute(
            "SELECT object, count(*) FROM triples SEMI JOIN wanted ON triples.object = wanted.qid GROUP BY object"
        )
        return dict(counted.fetchall())

"""Store what the units of `shards` look up of the knowledge: flat arrays in files.

The arrays are memory-mapped, so the processes of a machine share them. They take 20 bytes per
linked entity, and 12 per fact between two of them. Beside them lie the corpus-wide limits of the
policies.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays.mapped_files import load_array, local_folder, save_array
from pipeline.engine import files
from pipeline.shards.facts import FactIndex, pair_keys
from pipeline.shards.policies import PolicyLimits
from schemas.array_types import I64, U32, U64, Array, Ints

LIMITS_NAME = "limits.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnowledgeLookup:
    """Hold what is known of the linked entities, which have the rows 0 to n - 1 of `knowledge`."""

    # Shape (n,): the items, ascending, and the row of each.
    qids: U32
    rows: U32
    # Shape (n,): the item of each row.
    by_row: U32
    # Shape (n,), by row: mentions in the corpus.
    frequency: U32
    # Shape (n,), by row: entities within two hops, up to klt_r_max; 0 without a usable triple.
    reach: U32
    # Shape (facts,): head row << 32 | tail row, ascending.
    pairs: U64
    # Shape (facts,): row of the relation, ascending within a pair.
    relations: U32

    def rows_of(self, qids: Ints) -> I64:
        """Return the row of each item, same shape; -1 where it has none."""
        if not len(self.qids):
            return np.full(len(qids), -1, np.int64)

        index = np.minimum(np.searchsorted(self.qids, qids), len(self.qids) - 1)
        return np.where(self.qids[index] == qids, self.rows[index].astype(np.int64), -1)

    @property
    def facts(self) -> FactIndex:
        """Return the facts, for the spans of a window."""
        return FactIndex(pairs=self.pairs, relations=self.relations, qids=self.by_row)


def make_lookup(
    by_row: Array, frequency: Array, reach: Array, facts: Sequence[tuple[Array, Array, Array]]
) -> KnowledgeLookup:
    """Build the lookup.

    Args:
        by_row: the item of each row.
        frequency: its mentions.
        reach: entities within two hops of it.
        facts: batches of (head rows, relation rows, tail rows), heads ascending from batch to
            batch.
    """
    order = np.argsort(by_row, kind="stable").astype(np.uint32)

    # Heads ascend from batch to batch: sorted batches, joined, are sorted.
    pairs, relations = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    for heads, relation, tails in facts:
        keys = pair_keys(heads, tails)
        by_pair = np.lexsort((relation, keys))
        pairs.append(keys[by_pair])
        relations.append(relation[by_pair].astype(np.uint32))

    return KnowledgeLookup(
        qids=by_row[order].astype(np.uint32),
        rows=order,
        by_row=by_row.astype(np.uint32),
        frequency=frequency.astype(np.uint32),
        reach=reach.astype(np.uint32),
        pairs=np.concatenate(pairs),
        relations=np.concatenate(relations),
    )


def save_lookup(folder: str, lookup: KnowledgeLookup, limits: PolicyLimits) -> None:
    """Write the arrays and the limits to a folder."""
    for field in dataclasses.fields(lookup):
        save_array(files.join(folder, f"{field.name}.npy"), getattr(lookup, field.name))
    files.write_bytes(
        files.join(folder, LIMITS_NAME), json.dumps(dataclasses.asdict(limits)).encode()
    )


def open_lookup(folder: str) -> tuple[KnowledgeLookup, PolicyLimits]:
    """Map what `save_lookup` wrote; files of a bucket are copied once per machine."""
    limits = PolicyLimits(**json.loads(files.read_bytes(files.join(folder, LIMITS_NAME))))

    local = local_folder(folder)
    names = [field.name for field in dataclasses.fields(KnowledgeLookup)]
    arrays = {name: load_array(files.join(local, f"{name}.npy")) for name in names}
    return KnowledgeLookup(**arrays), limits

"""What the units of `shards` look up of the knowledge: flat arrays in files, memory-mapped, shared by a machine's processes.

20 bytes per linked entity, and 12 per fact between two of them. Beside them lie the corpus-wide limits of the policies.
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
from schemas.array_types import Array

LIMITS_NAME = "limits.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnowledgeLookup:
    """Linked entities have the rows 0 to n - 1 of `knowledge`."""

    qids: Array  # uint32 (n,), ascending
    rows: Array  # uint32 (n,): row of each of them
    by_row: Array  # uint32 (n,): item of each row
    frequency: Array  # uint32 (n,), by row: mentions in the corpus
    reach: Array  # uint32 (n,), by row: entities within two hops, up to klt_r_max; 0 without a usable triple
    pairs: Array  # uint64 (facts,): head row << 32 | tail row, ascending
    relations: Array  # uint32 (facts,): row of the relation, ascending within a pair

    def rows_of(self, qids: Array) -> Array:
        """Row of each item, int64; -1 where it has none."""
        if not len(self.qids):
            return np.full(len(qids), -1, np.int64)
        place = np.minimum(np.searchsorted(self.qids, qids), len(self.qids) - 1)
        return np.where(self.qids[place] == qids, self.rows[place].astype(np.int64), -1)

    @property
    def facts(self) -> FactIndex:
        """The facts, for the spans of a window."""
        return FactIndex(pairs=self.pairs, relations=self.relations, qids=self.by_row)


def make_lookup(
    by_row: Array, frequency: Array, reach: Array, facts: Sequence[tuple[Array, Array, Array]]
) -> KnowledgeLookup:
    """From columns by row, and facts as (head rows, relation rows, tail rows), heads ascending from part to part."""
    order = np.argsort(by_row, kind="stable").astype(np.uint32)
    pairs, relations = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    for heads, relation, tails in facts:
        keys = pair_keys(heads, tails)
        place = np.lexsort((relation, keys))
        pairs.append(keys[place])
        relations.append(relation[place].astype(np.uint32))
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
    """Write the arrays and the limits."""
    for field in dataclasses.fields(lookup):
        save_array(files.join(folder, f"{field.name}.npy"), getattr(lookup, field.name))
    files.write_bytes(
        files.join(folder, LIMITS_NAME), json.dumps(dataclasses.asdict(limits)).encode()
    )


def open_lookup(folder: str) -> tuple[KnowledgeLookup, PolicyLimits]:
    """Map what `save_lookup` wrote; files of a bucket are copied once per machine."""
    limits = PolicyLimits(**json.loads(files.read_bytes(files.join(folder, LIMITS_NAME))))
    local = local_folder(folder)
    names = (field.name for field in dataclasses.fields(KnowledgeLookup))
    return KnowledgeLookup(
        **{name: load_array(files.join(local, f"{name}.npy")) for name in names}
    ), limits

"""The `knowledge` table in memory: entities and relations of the shards, by row number.

Costs 8 bytes per list element; labels stay in Arrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.array_types import I64, Bools
from schemas.shards import ENTITY, KNOWLEDGE
from trelm_train.data.arrays import Ragged, from_lengths
from trelm_train.data.shards import Shards
from trelm_train.errors import TrelmError


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """Rows of `knowledge` as flat arrays; a triple, true tail or tail row is a row number again."""

    ids: I64
    is_entity: Bools
    labels: pa.Array
    label_ids: Ragged
    bank_row: I64  # -1: none
    triple_relation: Ragged
    triple_other: Ragged
    triple_is_head: Ragged
    true_tail_relation: Ragged
    true_tail: Ragged
    tails: Ragged
    name: I64  # equal where the labels have the same tokens: such entities cannot be told apart by a label

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_bank_rows(self) -> int:
        """Rows that the memory bank needs."""
        return int(self.bank_row.max(initial=-1)) + 1

    def label(self, row: int) -> str:
        """Label of a row."""
        return str(self.labels[row].as_py())

    def without_namesakes(self, candidates: I64, of: I64) -> I64:
        """Candidates whose label differs from that of all the others."""
        kept: I64 = candidates[~np.isin(self.name[candidates], self.name[of])]
        return kept

    def true_tails(self, row: int, relation: int) -> I64:
        """Every tail of (this entity, relation, ·)."""
        tails: I64 = self.true_tail.of(row)[self.true_tail_relation.of(row) == relation]
        return tails


def ragged(column: pa.ChunkedArray) -> Ragged:
    """A list column as values and offsets."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        return from_lengths(np.zeros(0, np.int64), np.zeros(0, np.int64))
    values = np.array(
        array.flatten().to_numpy(zero_copy_only=False), np.int64
    )  # a copy: Arrow's memory is read-only
    lengths = array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return from_lengths(values, lengths)


def _names(label_ids: Ragged) -> I64:
    numbers: dict[bytes, int] = {}
    keys = (label_ids.of(row).tobytes() for row in range(len(label_ids.offsets) - 1))
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64)


def load_knowledge(shards: Shards) -> Knowledge:
    """Read every row.

    Raises:
        TrelmError: rows are not numbered 0, 1, 2, … or point outside the table.
    """
    tables = [pq.read_table(path, partitioning=None) for path in shards.knowledge_files]
    table = pa.concat_tables(tables) if tables else KNOWLEDGE.empty()
    rows = table["row"].to_numpy()
    if not np.array_equal(rows, np.arange(len(rows))):
        raise TrelmError(
            f"{shards.path}: rows of `knowledge` are not 0, 1, 2, … in file order; make the shards again"
        )
    label_ids = ragged(table["label_ids"])
    knowledge = Knowledge(
        ids=table["id"].to_numpy().astype(np.int64),
        is_entity=pc.equal(table["kind"], ENTITY).to_numpy(),
        labels=pa.array(table["label"].to_pylist(), pa.string()),
        label_ids=label_ids,
        bank_row=np.array(pc.fill_null(pc.cast(table["bank_row"], pa.int64()), -1), np.int64),
        triple_relation=ragged(table["triple_relation_row"]),
        triple_other=ragged(table["triple_other_row"]),
        triple_is_head=ragged(table["triple_is_head"]),
        true_tail_relation=ragged(table["true_tail_relation_row"]),
        true_tail=ragged(table["true_tail_tail_row"]),
        tails=ragged(table["tail_rows"]),
        name=_names(label_ids),
    )
    _check(knowledge, shards)
    return knowledge


def _check(knowledge: Knowledge, shards: Shards) -> None:
    for name in ("triple_relation", "triple_other", "true_tail_relation", "true_tail", "tails"):
        largest = int(getattr(knowledge, name).values.max(initial=-1))
        if largest >= len(knowledge):
            raise TrelmError(
                f"{shards.path}: `knowledge`.{name} points to row {largest} of {len(knowledge)}; make the shards again"
            )

"""Hold the `knowledge` table in memory: entities and relations of the shards, by row number.

It costs 8 bytes per list element; labels stay in Arrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.array_types import I64, Bools
from schemas.errors import TrelmError
from schemas.shards import ENTITY, KNOWLEDGE
from trelm_train.data.arrays import Ragged, from_lengths
from trelm_train.data.shards import Shards


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """Hold rows of `knowledge` as flat arrays.

    A triple, a true tail and a tail row are row numbers of the same table.
    """

    ids: I64
    is_entity: Bools
    labels: pa.Array
    label_ids: Ragged
    # -1 where an entity has no row in the memory bank.
    bank_row: I64
    triple_relation: Ragged
    triple_other: Ragged
    triple_is_head: Ragged
    true_tail_relation: Ragged
    true_tail: Ragged
    tails: Ragged
    # A number per label, equal where labels have the same tokens: such entities look alike here.
    name: I64

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_bank_rows(self) -> int:
        """Return the number of rows that the memory bank needs."""
        return int(self.bank_row.max(initial=-1)) + 1

    def label(self, row: int) -> str:
        """Return the label of a row."""
        return str(self.labels[row].as_py())

    def without_names_of(self, candidates: I64, rows: I64) -> I64:
        """Return the candidates whose label differs from the labels of all these rows."""
        # By name, not by row: entities of one name have one label vector, so no label could
        # separate them.
        is_different = ~np.isin(self.name[candidates], self.name[rows])
        different: I64 = candidates[is_different]
        return different

    def true_tails(self, row: int, relation: int) -> I64:
        """Return every tail of (this entity, relation, ·)."""
        tails: I64 = self.true_tail.of(row)[self.true_tail_relation.of(row) == relation]
        return tails


def ragged(column: pa.ChunkedArray) -> Ragged:
    """Return a list column as values and offsets."""
    array = column.combine_chunks()
    # Without any chunk Arrow returns the chunked array itself.
    if isinstance(array, pa.ChunkedArray):
        return from_lengths(np.zeros(0, np.int64), np.zeros(0, np.int64))

    # A copy: the memory of Arrow is read-only.
    values = np.array(array.flatten().to_numpy(zero_copy_only=False), np.int64)
    lengths = array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return from_lengths(values, lengths)


def _names(label_ids: Ragged) -> I64:
    """Give each label a number; labels with the same tokens get the same one."""
    # The bytes of the token ids are the key; numbers follow the first appearance of a label.
    numbers: dict[bytes, int] = {}
    keys = (label_ids.of(row).tobytes() for row in range(len(label_ids.offsets) - 1))
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64)


def load_knowledge(shards: Shards) -> Knowledge:
    """Read every row of the table.

    Raises:
        TrelmError: rows are not numbered 0, 1, 2, … or point outside the table.
    """
    tables = [pq.read_table(path, partitioning=None) for path in shards.knowledge_files]
    table = pa.concat_tables(tables) if tables else KNOWLEDGE.empty()

    # Everything else points to rows by number, so the numbers must be the positions.
    rows = table["row"].to_numpy()
    if not np.array_equal(rows, np.arange(len(rows))):
        raise TrelmError(
            f"{shards.path}: rows of `knowledge` are not 0, 1, 2, … in file order; "
            "make the shards again"
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
    _check_rows(knowledge, shards)
    return knowledge


def _check_rows(knowledge: Knowledge, shards: Shards) -> None:
    """Refuse lists that point outside the table.

    Raises:
        TrelmError: names the column and the row.
    """
    for name in ("triple_relation", "triple_other", "true_tail_relation", "true_tail", "tails"):
        # Checked once here: no later look-up can then leave the arrays.
        largest = int(getattr(knowledge, name).values.max(initial=-1))
        if largest >= len(knowledge):
            raise TrelmError(
                f"{shards.path}: `knowledge`.{name} points to row {largest} of {len(knowledge)}; "
                "make the shards again"
            )

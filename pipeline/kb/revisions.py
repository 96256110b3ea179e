"""Store the revisions of items, memory-mapped: an update compares a newer dump with them.

Goes in: (QID, revision) of the `entities` of an older run. Comes out: blocks of 65,536 QIDs in flat
arrays, shared by the processes of a machine. 32 bits of a revision are enough to distinguish two
revisions of one item. Memory while the arrays
are built: 256 KB per block in use, 0.6 GB for a full Wikidata.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.arrays.mapped_files import load_array, local_folder, save_array
from pipeline.engine import files
from schemas.array_types import I64, U32

BLOCK_IDS = 1 << 16
BLOCKS_PER_FILE = 256
REVISION_BITS = (1 << 32) - 1


def write_revisions(folder: str, batches: Iterable[pa.RecordBatch]) -> int:
    """Write the revisions of items to a folder; return how many items have one.

    Args:
        folder: receives `slots.npy` (where the block of each range of QIDs is stored) and the
            blocks.
        batches: the columns qid and revision; items without a revision are left out.
    """
    blocks: dict[int, U32] = {}
    num_items = 0
    for batch in batches:
        with_revision = batch.filter(batch.column("revision").is_valid())
        qids = with_revision.column("qid").to_numpy().astype(np.int64)
        revisions = with_revision.column("revision").to_numpy() & REVISION_BITS
        num_items += len(qids)
        _fill_blocks(blocks, qids, revisions)

    # int32, one entry per possible block: the number of the block in the files, -1 for an unused
    # one.
    slots = np.full(BLOCK_IDS, -1, np.int32)
    for slot, number in enumerate(blocks):
        slots[number] = slot

    # Few large files instead of one per block: a full Wikidata uses about 2,000 blocks.
    values_of_blocks = list(blocks.values())
    for low in range(0, len(values_of_blocks), BLOCKS_PER_FILE):
        values = np.concatenate(values_of_blocks[low : low + BLOCKS_PER_FILE])
        save_array(files.join(folder, f"revisions-{low // BLOCKS_PER_FILE:04d}.npy"), values)
    save_array(files.join(folder, "slots.npy"), slots)
    return num_items


def _fill_blocks(blocks: dict[int, U32], qids: I64, revisions: I64) -> None:
    """Put revisions into the blocks of their items; of a repeated item the later one counts."""
    order = np.argsort(qids, kind="stable")
    qids, revisions = qids[order], revisions[order]

    # The first piece of a split lies before the first start: it is empty.
    starts = np.flatnonzero(np.diff(qids // BLOCK_IDS, prepend=-1))
    pieces = zip(np.split(qids, starts)[1:], np.split(revisions, starts)[1:], strict=True)
    for ids, values in pieces:
        block = blocks.setdefault(int(ids[0]) // BLOCK_IDS, np.zeros(BLOCK_IDS, np.uint32))
        block[ids % BLOCK_IDS] = values


class Revisions:
    """Look up the revisions that `write_revisions` wrote."""

    def __init__(self, folder: str) -> None:
        local = local_folder(folder)
        self._slots: list[int] = load_array(files.join(local, "slots.npy")).tolist()
        num_files = -(-(max(self._slots) + 1) // BLOCKS_PER_FILE)
        # A memoryview gives Python numbers: a look-up costs less than one in a numpy array.
        self._files = [
            memoryview(load_array(files.join(local, f"revisions-{number:04d}.npy")).data)
            for number in range(num_files)
        ]

    def is_unchanged(self, qid: int, revision: int) -> bool:
        """Say whether the item had this revision. Costs 0.3 µs."""
        number, offset = divmod(qid, BLOCK_IDS)
        slot = self._slots[number]
        if slot < 0:
            return False

        # 0 stands for an item without a stored revision.
        file, block = divmod(slot, BLOCKS_PER_FILE)
        stored: int = self._files[file][block * BLOCK_IDS + offset]
        return stored != 0 and stored == revision & REVISION_BITS

"""Look into a run: nearest neighbours in the memory bank, and the knowledge path by layer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from schemas import buckets
from schemas.bucket_copies import joined as join_location
from schemas.bucket_copies import local_file
from schemas.buckets import Location
from schemas.checksums import sealed_damage
from schemas.errors import ConfigError
from schemas.ids import item_id, parse_item_id
from trelm_train.checkpoints.description import CONFIG_NAME
from trelm_train.checkpoints.export import BANK_FILE, ENTITIES_FILE, find_bank
from trelm_train.config import load_config
from trelm_train.memory.bank_file import check_bank
from trelm_train.memory.memory_bank import NoteRows

# Legend: T written rows, n rows of a piece, H hidden size; the 2 are the local and the global note.

# Rows in memory at once: few enough to stay in the cache.
PIECE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """Hold an entity of the bank, and how similar its note is."""

    id: str
    label: str
    cosine: float
    count: int


def nearest(run: Location, entity: str, *, top: int) -> tuple[Neighbour, list[Neighbour]]:
    """Find an entity (by id or label) and those whose notes are nearest by cosine.

    The written rows are read once, `PIECE` at a time.

    Raises:
        ConfigError: no bank, nothing in it about such an entity, or notes that are not finite.
    """
    folder = find_bank(run)
    if damage := sealed_damage(folder, run if isinstance(run, Path) else None):
        raise ConfigError(
            f"{folder}: damaged ({damage}); export it again: `trelm-train export --checkpoint …`"
        )
    check_bank(folder / BANK_FILE)
    # An exported model has no settings beside it; then the default weight mixes the notes.
    config = load_config(_file_of(run, CONFIG_NAME))

    entities = pq.read_table(folder / ENTITIES_FILE)
    row = _row_of(entities, entity, folder)
    with safe_open(folder / BANK_FILE, framework="pt") as bank:
        count_T = bank.get_tensor("count")
        note_T2H = bank.get_slice("note")
        cosine_T = _cosines(note_T2H, row, len(count_T), config.memory.global_share)

    def neighbour(number: int) -> Neighbour:
        return Neighbour(
            id=item_id(entities["id"][number].as_py()),
            label=entities["label"][number].as_py(),
            cosine=float(cosine_T[number]),
            count=int(count_T[number]),
        )

    # A NaN would come before every number.
    if not bool(cosine_T.isfinite().all()):
        raise ConfigError(
            f"{folder / BANK_FILE}: some of its notes hold NaN or infinite numbers; "
            "inspect an earlier checkpoint, exported by `trelm-train export`"
        )

    # The entity is its own nearest neighbour: leave it out.
    itself = neighbour(row)
    cosine_T[row] = -torch.inf
    # No more neighbours than there are other rows.
    best = cosine_T.topk(max(0, min(top, len(cosine_T) - 1))).indices
    return itself, [neighbour(number) for number in best.tolist()]


def _file_of(run: Location, name: str) -> Path | None:
    """Return a file of a run, from a bucket a copy; None where there is none."""
    path = join_location(run, name)
    is_there = path.is_file() if isinstance(path, Path) else buckets.exists(path)
    return local_file(path) if is_there else None


def _cosines(note_T2H: NoteRows, row: int, num_rows: int, global_share: float) -> Tensor:
    """Compute the cosine of the mixed note of a row with those of all rows, as T."""

    def mixed(start: int, end: int) -> Tensor:
        note_n2H = note_T2H[start:end].float()
        return torch.lerp(note_n2H[:, 0], note_n2H[:, 1], global_share)

    unit_H = F.normalize(mixed(row, row + 1)[0], dim=0)
    smallest = torch.finfo(torch.float32).tiny

    # One piece of the file at a time, so that memory does not depend on the number of rows.
    cosine_T = torch.empty(num_rows)
    for start in range(0, num_rows, PIECE):
        note_nH = mixed(start, min(start + PIECE, num_rows))
        norm_n = torch.linalg.vector_norm(note_nH, dim=1).clamp_min(smallest)
        cosine_T[start : start + PIECE] = (note_nH @ unit_H) / norm_n
    return cosine_T


def _row_of(entities: pa.Table, entity: str, folder: Path) -> int:
    """Find the row of an entity by its id, or else by its label.

    Raises:
        ConfigError: there is none.
    """
    name = entity.strip()
    by_label = pc.equal(pc.utf8_lower(entities["label"]), pc.utf8_lower(pa.scalar(name)))
    rows = np.flatnonzero(np.array(by_label))

    # An id comes before a label that looks like one.
    number = parse_item_id(name)
    if number is not None:
        rows = np.append(np.flatnonzero(np.array(entities["id"]) == number), rows)
    if not len(rows):
        raise ConfigError(
            f"{entity}: no sentence has written it into the memory bank {folder}; "
            f"{ENTITIES_FILE} in that folder lists the entities that it holds"
        )
    return int(rows[0])


def knowledge_path(run: Location) -> dict[str, Any]:
    """Read the selected neurons of each layer.

    Raises:
        ConfigError: no finished run there, or its file is damaged.
    """
    path = _file_of(run, "routing.json")
    if path is None:
        raise ConfigError(
            f"{run}: no routing.json there; give the --out folder of a `trelm-train run`"
        )

    try:
        neurons = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(neurons, dict):
            raise TypeError("it is no JSON object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: damaged ({error}); `trelm-train resume --out {run}` writes it again"
        ) from error
    return neurons

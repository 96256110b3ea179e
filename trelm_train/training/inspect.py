"""Looking into a run: nearest neighbours in the memory bank, and the knowledge path by layer."""

from __future__ import annotations

import json
import re
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

from trelm_train.checkpoints.export import BANK_FILE, ENTITIES_FILE, find_bank
from trelm_train.config import load_config
from trelm_train.errors import ConfigError
from trelm_train.training.session import CONFIG_NAME

# Legend: T written rows, n rows of a piece, H hidden size; the 2 are the local and the global note.

PIECE = 1024  # rows in memory at once: so few stay in the cache


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """An entity of the bank and how similar its note is."""

    id: str
    label: str
    cosine: float
    count: int


def nearest(run: Path, entity: str, *, top: int) -> tuple[Neighbour, list[Neighbour]]:
    """An entity (id or label) and those whose notes are nearest by cosine.

    Reads the written rows once, `PIECE` at a time.

    Raises:
        ConfigError: no bank, or nothing in it about such an entity.
    """
    folder = find_bank(run)
    global_share = load_config(
        run / CONFIG_NAME if (run / CONFIG_NAME).is_file() else None
    ).memory.global_share
    entities = pq.read_table(folder / ENTITIES_FILE)
    place = _place_of(entities, entity, folder)
    with safe_open(folder / BANK_FILE, framework="pt") as bank:
        count_T = bank.get_tensor("count")
        cosine_T = _cosines(bank.get_slice("note"), place, len(count_T), global_share)

    def neighbour(number: int) -> Neighbour:
        return Neighbour(
            id=f"Q{entities['id'][number].as_py()}",
            label=entities["label"][number].as_py(),
            cosine=float(cosine_T[number]),
            count=int(count_T[number]),
        )

    asked = neighbour(place)
    cosine_T[place] = -torch.inf
    best = cosine_T.topk(max(0, min(top, len(cosine_T) - 1))).indices
    return asked, [neighbour(number) for number in best.tolist()]


def _cosines(note_T2H: Any, place: int, num_rows: int, global_share: float) -> Tensor:  # noqa: ANN401 - a slice of a file
    def mixed(first: int, end: int) -> Tensor:
        note_n2H = note_T2H[first:end].float()
        return torch.lerp(note_n2H[:, 0], note_n2H[:, 1], global_share)

    own_H = F.normalize(mixed(place, place + 1)[0], dim=0)
    cosine_T = torch.empty(num_rows)
    for first in range(0, num_rows, PIECE):
        note_nH = mixed(first, min(first + PIECE, num_rows))
        norm_n = torch.linalg.vector_norm(note_nH, dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        cosine_T[first : first + PIECE] = (note_nH @ own_H) / norm_n
    return cosine_T


def _place_of(entities: pa.Table, entity: str, folder: Path) -> int:
    asked = entity.strip()
    by_label = pc.equal(pc.utf8_lower(entities["label"]), pc.utf8_lower(pa.scalar(asked)))
    found = np.flatnonzero(np.array(by_label))
    if re.fullmatch(r"[Qq]\d+", asked):
        found = np.append(np.flatnonzero(np.array(entities["id"]) == int(asked[1:])), found)
    if not len(found):
        raise ConfigError(
            f"{entity}: no sentence has written it into the memory bank {folder}; what is there stands in {ENTITIES_FILE}"
        )
    return int(found[0])


def knowledge_path(run: Path) -> dict[str, Any]:
    """The selected neurons of each layer.

    Raises:
        ConfigError: no finished run there.
    """
    path = run / "routing.json"
    if not path.is_file():
        raise ConfigError(
            f"{run}: no routing.json there; give the --out folder of a `trelm-train run`"
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found

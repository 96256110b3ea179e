"""Looking into a run: nearest neighbours in the memory bank, and the knowledge path by layer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open

from trelm_train.config import load_config
from trelm_train.errors import ConfigError
from trelm_train.export import BANK_FILE, ENTITIES_FILE, find_bank
from trelm_train.session import CONFIG_NAME


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """An entity of the bank and how similar its note is."""

    id: str
    label: str
    cosine: float
    count: int


def nearest(run: Path, entity: str, *, top: int) -> tuple[Neighbour, list[Neighbour]]:
    """An entity (id or label) and those whose notes are nearest by cosine.

    Raises:
        ConfigError: no bank, no such entity, or nothing written about it.
    """
    folder = find_bank(run)
    global_share = load_config(run / CONFIG_NAME if (run / CONFIG_NAME).is_file() else None).memory.global_share
    entities = json.loads((folder / ENTITIES_FILE).read_text(encoding="utf-8"))
    row = _row_of(entities, entity, folder)
    with safe_open(folder / BANK_FILE, framework="pt") as bank:
        count_B = bank.get_tensor("count")
        notes_BH = global_share * bank.get_tensor("global").float()
        notes_BH += (1 - global_share) * bank.get_tensor("local").float()
    if not int(count_B[row]):
        raise ConfigError(f"{entity}: has a row in the memory bank, but no sentence has written it")
    cosine_B = F.cosine_similarity(notes_BH, notes_BH[row : row + 1])
    cosine_B[count_B == 0] = -torch.inf
    order = [number for number in cosine_B.argsort(descending=True).tolist() if number != row and count_B[number]]

    def neighbour(number: int) -> Neighbour:
        return Neighbour(**entities[number], cosine=float(cosine_B[number]), count=int(count_B[number]))

    return neighbour(row), [neighbour(number) for number in order[:top]]


def _row_of(entities: list[dict[str, str]], entity: str, folder: Path) -> int:
    for row, known in enumerate(entities):
        if known and entity.casefold() in (known["id"].casefold(), known["label"].casefold()):
            return row
    raise ConfigError(f"{entity}: not in the memory bank {folder}; its entities are listed in {ENTITIES_FILE}")


def knowledge_path(run: Path) -> dict[str, Any]:
    """The selected neurons of each layer.

    Raises:
        ConfigError: no finished run there.
    """
    path = run / "routing.json"
    if not path.is_file():
        raise ConfigError(f"{run}: no routing.json there; give the --out folder of a `trelm-train run`")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found

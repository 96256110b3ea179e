"""Say which entities are rare: those with fewer mentions in the corpus than a limit."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from pipeline.engine.tables import RunPaths, open_table, read_table
from schemas import ENTITY_FREQUENCY, TAIL_SUMMARY
from schemas.array_types import U32

MIN_R_FREQ = 3.0


def default_r_freq(num_linked: int, num_entities: int) -> float:
    """Return max(3, mean mentions per entity).

    With the mean alone, only entities with one mention would pass on a small corpus.
    """
    return max(MIN_R_FREQ, num_linked / max(num_entities, 1))


def rare_below(paths: RunPaths, setting: float | None) -> float:
    """Return the number of mentions below which an entity is rare.

    Args:
        paths: a run whose stage `stats` is finished.
        setting: what the user asks for; None takes what follows from the corpus.
    """
    if setting is not None:
        return setting
    summary = read_table(paths.files("stats", TAIL_SUMMARY), TAIL_SUMMARY).to_pylist()[0]
    return default_r_freq(summary["num_linked"], summary["num_entities"])


def rare_items(paths: RunPaths, r_freq: float) -> U32:
    """Return the QIDs of the rare entities, in order: 4 bytes each."""
    found = [np.empty(0, np.uint32)]
    for path in paths.files("stats", ENTITY_FREQUENCY):
        with open_table(path, ENTITY_FREQUENCY) as file:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=["qid", "num_mentions"])
                # Not `<` on the numbers as they are: Arrow compares an integer with the limit cut to one.
                is_rare = pc.less(rows["num_mentions"].cast("float64"), r_freq)
                found.append(rows["qid"].filter(is_rare).to_numpy())
    return np.sort(np.concatenate(found))

"""Split the masked-LM measures by how frequent the entities are: in mentions, near them, elsewhere.

Goes in: every entity's band (`schemas.stats.BANDS`), and the losses at the masked tokens of
batches. Comes out: number, loss and accuracy by group. A masked token is in one group: inside a
mention by the band of its entity, near a mention of a rare entity, or elsewhere; the groups add up to
all masked tokens. Costs a few additions per batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from schemas.array_types import F64, I64, Bools
from schemas.stats import BANDS
from trelm_train.data.arrays import expand
from trelm_train.data.loader import Batch
from trelm_train.data.shards import Shards

# Legend: M masked tokens, G groups.

# An entity that the statistics do not list.
NO_BAND = "none"
BAND_GROUPS = (*BANDS, NO_BAND)
NEAR_RARE, OTHER = "near_rare", "other"
GROUPS = (*BAND_GROUPS, NEAR_RARE, OTHER)


def read_bands(shards: Shards) -> I64:
    """Return the band of every row of `knowledge`: its place in BAND_GROUPS."""
    place_of = {band: place for place, band in enumerate(BANDS)}
    bands = [
        band
        for path in shards.knowledge_files
        for band in pq.read_table(path, columns=["band"], partitioning=None)["band"].to_pylist()
    ]
    return np.asarray([place_of.get(band, len(BANDS)) for band in bands], np.int64)


class GroupTotals:
    """Add up the losses at masked tokens by group."""

    def __init__(self, band_of_row: I64) -> None:
        self.band_of_row = band_of_row
        self.num_G = np.zeros(len(GROUPS), np.int64)
        self.right_G = np.zeros(len(GROUPS), np.int64)
        self.loss_G = np.zeros(len(GROUPS))

    def add(
        self, batch: Batch, is_near_rare: Bools, target_M: I64, loss_M: F64, is_right_M: Bools
    ) -> None:
        """Add the masked tokens of a batch.

        Args:
            batch: that they stand in.
            is_near_rare: by flat position.
            target_M: flat positions of the masked tokens.
            loss_M: their losses.
            is_right_M: whether the right token was the likeliest.
        """
        group = np.where(is_near_rare, GROUPS.index(NEAR_RARE), GROUPS.index(OTHER))
        length_P = batch.span_end_P - batch.span_start_P
        band_P = self.band_of_row[batch.span_entity_P]
        group[expand(batch.span_start_P, length_P)] = np.repeat(band_P, length_P)

        group_M = group[target_M]
        self.num_G += np.bincount(group_M, minlength=len(GROUPS))
        self.right_G += np.bincount(group_M[is_right_M], minlength=len(GROUPS))
        self.loss_G += np.bincount(group_M, weights=loss_M, minlength=len(GROUPS))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return number, mean loss and accuracy by group; None where nothing was masked."""
        return {
            name: {
                "n": num,
                "loss": loss / num if num else None,
                "accuracy": right / num if num else None,
            }
            for name, num, loss, right in zip(
                GROUPS,
                self.num_G.tolist(),
                self.loss_G.tolist(),
                self.right_G.tolist(),
                strict=True,
            )
        }


def facts_by_band(
    band_of_row: I64, facts: Iterable[tuple[int, float]]
) -> dict[str, dict[str, Any]]:
    """Average knowledge scores by the band of one end of the facts: pairs of row and score."""
    scores: dict[str, list[float]] = {name: [] for name in BAND_GROUPS}
    for row, score in facts:
        scores[BAND_GROUPS[band_of_row[row]]].append(score)
    return {
        name: {"n": len(values), "cka_score": float(np.mean(values)) if values else None}
        for name, values in scores.items()
    }

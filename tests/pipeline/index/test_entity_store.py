"""The entity store that the sample's index holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.engine.tables import RunPaths
from pipeline.index.entity_store import EntityStore
from pipeline.index.words import text_terms


def test_entity_store_of_the_sample(sample_run: Path) -> None:
    store = EntityStore(RunPaths(root=str(sample_run)).artefact("index", "entities"))
    rows = store.rows(np.array([90, 4_294_967_295, 142], np.uint32))
    assert (rows[1], len(store)) == (-1, 358)
    paris, france = int(rows[0]), int(rows[2])
    assert (store.label(paris), store.label(france)) == ("Paris", "France")
    assert 142 in store.neighbours(paris).tolist()
    assert store.popularity(np.array([france]))[0] > 10
    assert set(store.terms(paris).tolist()) & text_terms("France")
    assert not set(store.terms(paris).tolist()) & text_terms("Paris")  # its own name tells nothing
    assert store.types(np.array([paris]))[0] == 4  # a place
    # Q4000000001 was merged into France: what points at it points at France
    assert store.rows(np.array([4_000_000_001], np.uint32))[0] == -1

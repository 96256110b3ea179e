"""Redirects, which the JSON dump lacks, and a look whether every known oddity of dumps has its
test.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import DocumentsConfig, KbConfig, RunConfig
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.engine.tables import RunPaths
from pipeline.index.alias_index import AliasIndex
from pipeline.index.entity_store import EntityStore
from pipeline.index.name_keys import normalise
from pipeline.run_stage import run_stage
from schemas import REDIRECTS
from tests.conftest import SAMPLE
from tests.pipeline.inputs_run import rows_of

SQL = tuple(str(SAMPLE / f"wikidatawiki-{table}.sql.gz") for table in ("redirect", "page"))
MERGED, FRANCE, NUM_GOTCHAS = 4_000_000_001, 142, 23


@pytest.mark.slow
def test_gotcha_13_redirects_lead_on(tmp_path: Path) -> None:
    """A claim to a merged item counts for the item that it became; redirects of articles are names
    of their item.
    """
    claim = {
        "mainsnak": {"datavalue": {"type": "wikibase-entityid", "value": {"id": f"Q{MERGED}"}}}
    }
    more = tmp_path / "more.json"
    more.write_text(json.dumps({"id": "Q4000000009", "claims": {"P17": [claim]}}))
    popularity = []
    for redirects in ((), SQL):
        run = str(tmp_path / f"run-{len(redirects)}")
        kb = KbConfig(dumps=(str(SAMPLE / "entities.json"), str(more)), redirects=redirects)
        documents = DocumentsConfig(inputs=(str(SAMPLE / "pages.xml"),))
        for stage in ("kb", "titles", "documents", "index"):
            run_stage(stage, RunConfig(run=run, kb=kb, documents=documents), RunnerSettings())
        paths = RunPaths(root=run)
        store = EntityStore(paths.artefact("index", "entities"))
        popularity.append(int(store.popularity(store.rows(np.array([FRANCE], np.uint32)))[0]))
    assert popularity[1] >= popularity[0] + 1
    index = AliasIndex(paths.artefact("index", "aliases"))
    titles = rows_of(paths, "titles", REDIRECTS)
    assert titles
    for row in titles:
        found, wanted = (index.postings(normalise(row[name])).qids for name in ("source", "target"))
        assert set(wanted.tolist()) & set(found.tolist()), row


def test_every_gotcha_has_a_test() -> None:
    files = (Path(__file__).parents[1]).glob("*/test_*.py")
    numbers = {
        int(found)
        for path in files
        for found in re.findall(r"def test_gotcha_(\d\d)_", path.read_text())
    }
    assert numbers == set(range(1, NUM_GOTCHAS + 1))

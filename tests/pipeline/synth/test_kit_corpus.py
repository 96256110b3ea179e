"""A corpus of the kit's real items with the kit's tokenizer: large enough in every class."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import KbConfig
from pipeline.engine.tables import RunPaths
from pipeline.kb import stage as kb
from pipeline.synth.settings import SynthConfig
from pipeline.synth.synth import synthesise
from tests.pipeline.inputs_run import run_plan


@pytest.mark.kit
@pytest.mark.slow
def test_a_corpus_of_real_items(kit: Path, tmp_path: Path) -> None:
    dump = kit / "wikidata" / "assembled-subset-A.json.gz"
    paths = RunPaths(root=str(tmp_path / "run"))
    run_plan(kb.plan(KbConfig(dumps=(str(dump),)), paths), paths)
    model = str(kit / "model" / "splade-tiny-msmarco-mlm")
    config = SynthConfig(
        model=model, general=str(kit / "text" / "wikitext-2"), corrupt_links=0.1, corrupt_facts=0.1
    )
    totals = synthesise(paths.root, str(tmp_path / "corpus"), config)

    assert totals["probes"]["test"]["stated-rare"] > 200
    assert min(totals["probes"]["test"].values()) > 20
    assert totals["corrupted_links"] == 400
    assert totals["corrupted_facts"] == 160
    assert totals["general_words"] / totals["words"] == pytest.approx(0.5, abs=0.01)
    relations = json.loads((tmp_path / "corpus" / "truth.json").read_text())["relations"]
    assert len(relations) >= 20
    large = [row for row in relations.values() if row["facts_stated"] >= 50]
    assert large
    assert max(row["best_guess"] for row in large) < 0.4, "guessing pays little"

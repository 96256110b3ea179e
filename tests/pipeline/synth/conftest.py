"""The sample's knowledge base, and small corpora of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import KbConfig
from pipeline.engine.tables import RunPaths
from pipeline.kb import stage as kb
from pipeline.synth.settings import SynthConfig
from pipeline.synth.synth import synthesise
from tests.conftest import SAMPLE
from tests.pipeline.inputs_run import run_plan

SMALL = SynthConfig(sentences=240, subjects=90, nowhere=40, frequent_min=6, seed=3)
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def kb_run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run that has stage `kb` of the sample, and no other."""
    paths = RunPaths(root=str(tmp_path_factory.mktemp("kb") / "run"))
    run_plan(kb.plan(KbConfig(dumps=(str(SAMPLE / "entities.json"),)), paths), paths)
    return paths


@pytest.fixture(scope="session")
def make(kb_run: RunPaths, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make the small corpus, with some settings changed; each one is made once."""
    made: dict[SynthConfig, Path] = {}

    def corpus(**changes: Any) -> Path:
        config = replace(SMALL, **changes)
        if config not in made:
            folder = tmp_path_factory.mktemp("synth") / "corpus"
            synthesise(kb_run.root, str(folder), config)
            made[config] = folder
        return made[config]

    return corpus


def truth(corpus: Path, table: str) -> list[dict[str, Any]]:
    """Rows of a table of the truth."""
    return pq.read_table(corpus / "truth" / f"{table}.parquet").to_pylist()


def totals(corpus: Path) -> dict[str, Any]:
    """Totals of the truth."""
    return json.loads((corpus / "truth.json").read_text())["totals"]


def jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def texts(corpus: Path) -> dict[str, str]:
    """Text of each document."""
    return {row["id"]: row["text"] for row in jsonl(corpus / "documents.jsonl")}


def sentence_texts(corpus: Path) -> list[str]:
    """Text of each sentence of the truth."""
    text_of = texts(corpus)
    return [text_of[row["doc_id"]][row["start"] : row["end"]] for row in truth(corpus, "sentences")]

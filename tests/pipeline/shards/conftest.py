"""Models, and the sample with importance, for the tests of stage `shards`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config import ImportanceConfig
from pipeline.engine.tables import RunPaths
from pipeline.importance import stage as importance
from tests.pipeline import tiny_model
from tests.pipeline.inputs_run import run_plan
from tests.pipeline.linked_run import cut_links, one_file_of_documents


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model.make_byte_level(tmp_path_factory.mktemp("byte-level"))
    (folder / "config.json").write_text(
        '{"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}'
    )
    return folder


@pytest.fixture(scope="session")
def scored(sample_run: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with importance, as one unit of `link`."""
    run = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(sample_run, run)
    paths = RunPaths(root=str(run))
    one_file_of_documents(paths)
    cut_links(paths, 1)
    run_plan(importance.plan(ImportanceConfig(model=str(model)), paths), paths)
    return run


@pytest.fixture
def run(scored: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(scored, tmp_path / "run"))

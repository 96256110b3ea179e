"""Messages list a few things, and say how many more there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import DocumentsConfig
from pipeline.documents import stage as documents
from pipeline.engine.errors import StageError
from pipeline.engine.stage import why_needed
from pipeline.engine.tables import RunPaths
from schemas.listing import a_few
from tests.pipeline.inputs_run import run_plan


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2, 3"), (5, "0, 1, 2 and 2 more"), (3003, "0, 1, 2 and 3,000 more")],
)  # fmt: skip
def test_a_few(number: int, text: str) -> None:
    assert a_few(range(number)) == text


def texts(folder: Path, content: str) -> DocumentsConfig:
    folder.mkdir(exist_ok=True)
    for number in range(303):
        (folder / f"{number:03d}.txt").write_text(content)
    return DocumentsConfig(inputs=(str(folder),))


def test_errors_about_many_files_name_a_few(tmp_path: Path) -> None:
    paths = RunPaths(root=str(tmp_path / "run"))
    empty = texts(tmp_path / "empty", "")
    with pytest.raises(StageError, match="002.txt and 300 more: the corpus is empty") as error:
        documents.plan(empty, paths)
    assert len(error.value.message) < 500

    with pytest.raises(
        StageError, match="002.txt and 300 more: the corpus is empty: no document"
    ) as error:
        run_plan(documents.plan(texts(tmp_path / "blank", " \n"), paths), paths)
    assert len(error.value.message) < 500


def test_why_a_stage_runs_names_a_few(tmp_path: Path) -> None:
    paths = RunPaths(root=str(tmp_path / "run"))
    run_plan(documents.plan(texts(tmp_path / "in", "a"), paths), paths)
    reason = why_needed(documents.plan(texts(tmp_path / "in", "bc"), paths), paths)
    assert reason.endswith("002.txt and 300 more were changed or made again")
    assert reason.count(".txt") == 3

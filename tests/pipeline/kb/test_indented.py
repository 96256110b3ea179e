"""Indented JSON: the same entities as with a record a line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pipeline.config import KbConfig
from pipeline.engine.tables import RunPaths
from pipeline.kb import stage as kb
from pipeline.kb.indented import is_indented
from pipeline.sources import SourceError
from schemas import ALIASES, ENTITIES
from tests.conftest import SAMPLE
from tests.pipeline.inputs_run import rows_of, run_plan


def entity(number: int) -> dict[str, object]:
    terms = {"en": {"language": "en", "value": f"Thing {number}"}}
    return {"type": "item", "id": f"Q{number}", "labels": terms, "aliases": {}, "claims": {}}


ENTITIES_3 = [entity(number) for number in (1, 2, 3)]
DOCUMENTS = {
    "document": {"entities": {f"Q{number}": entity(number) for number in (1, 2, 3)}},
    "array": ENTITIES_3,
}


def built(folder: Path, *dumps: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    paths = RunPaths(root=str(folder))
    manifest = run_plan(kb.plan(KbConfig(dumps=tuple(map(str, dumps))), paths), paths)
    assert "rejects" not in manifest.counters
    return rows_of(paths, "kb", ENTITIES), rows_of(paths, "kb", ALIASES)


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_same_entities(tmp_path: Path, kind: str, ending: str) -> None:
    """It was called cut off, in the middle of its first line."""
    lines = tmp_path / "lines.json"
    lines.write_text("[\n" + ",\n".join(map(json.dumps, ENTITIES_3)) + "\n]\n")
    indented = tmp_path / f"indented.json{ending}"
    content = ("\ufeff" + json.dumps(DOCUMENTS[kind], indent=2)).encode()
    indented.write_bytes(gzip.compress(content) if ending else content)
    assert is_indented(str(indented))
    assert built(tmp_path / "b", indented) == built(tmp_path / "a", lines)


def test_one_entity(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(entity(7), indent=1))
    assert [row["qid"] for row in built(tmp_path / "run", path)[0]] == [7]


def test_a_document_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(DOCUMENTS["document"], indent=2)[:-9])
    with pytest.raises(SourceError, match=r"cut.json.*not JSON.*download it again"):
        built(tmp_path / "run", path)


def test_a_dump_is_not_indented(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    for text in ('[\n{"id": "Q1"},\n', '{"entities": {"Q1": {}}}\n', '{"id": "Q1"}\n', "[\n]\n"):
        path.write_text(text)
        assert not is_indented(str(path))
    assert not is_indented(str(SAMPLE / "entities.json"))

"""Templates of a synthetic corpus: our own file, a file, files that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.synth.template_file import load_templates
from schemas.errors import ConfigError

BORN = {"relation": "P19", "template": "The life of [X] began in [Y]."}
HELD = {"relation": "P19", "template": "The birthplace of [X] was [Y].", "held": True}


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_our_own_templates() -> None:
    templates = load_templates("", ())
    assert len(templates.relations) >= 20
    for relation in templates.relations.values():
        assert len(relation.known) + len(relation.held) >= 5, relation.predicate
        assert relation.held, relation.predicate
        assert relation.kind in ("1-1", "N-1", "N-M"), relation.predicate
        assert not any("a [" in text or "an [" in text for text in relation.known + relation.held)
    assert len(templates.distractors) >= 5
    assert list(load_templates("", ("P36", "P19")).relations) == [36, 19]


def test_templates_of_a_file(tmp_path: Path) -> None:
    named = {**BORN, "template": "[Y] saw the birth of [X].", "label": "birth", "type": "N-1"}
    templates = load_templates(write(tmp_path / "t.jsonl", BORN, named, HELD), ())
    relation = templates.relations[19]
    assert relation.known == (BORN["template"], named["template"])
    assert (relation.held, relation.label, relation.kind) == ((HELD["template"],), "birth", "N-1")
    assert templates.distractors, "our own, where the file has none"

    # Without one that is marked, the last is held out.
    unmarked = load_templates(write(tmp_path / "u.jsonl", BORN, named), ())
    assert unmarked.relations[19].held == (named["template"],)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["no object"], "not a relation and a template"),
        ([{"relation": "P19"}], "not a relation and a template"),
        ([{**BORN, "relation": "19"}], "'19' is not the id of a property"),
        ([{**BORN, "template": "[X] was born."}], r"must have \[X\] and \[Y\] once"),
        ([{**BORN, "template": "[X]. He was born in [Y]."}], "a full stop only at its end"),
        ([BORN], "P19 has [01] templates? "),
        ([BORN, HELD, {**HELD, "relation": "P20", "held": False}, {**BORN, "relation": "P20", "held": True}],
         "is also one of the corpus"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused(tmp_path: Path, rows: list[object], message: str) -> None:
    path = write(tmp_path / "t.jsonl", *rows)
    with pytest.raises(ConfigError, match=message) as raised:
        load_templates(path, ())
    assert path in str(raised.value)


def test_a_relation_without_templates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no template for P999"):
        load_templates("", ("P19", "P999"))
    (tmp_path / "t.jsonl").write_text("{")
    with pytest.raises(ConfigError, match="t.jsonl:1: not JSON"):
        load_templates(str(tmp_path / "t.jsonl"), ())

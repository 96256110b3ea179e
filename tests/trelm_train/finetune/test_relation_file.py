import json
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from trelm_train.finetune.examples import Example
from trelm_train.finetune.relation_file import FEWREL, SEMEVAL, TACRED_FORMAT, read_relations

TACRED = {
    "token": ["Mona", "Monzano", "-LRB-", "poet", "-RRB-", "left", "Zenda", "."], "relation": "left",
    "subj_start": 6, "subj_end": 6, "obj_start": 0, "obj_end": 1, "subj_type": "CITY", "obj_type": "PERSON",
}  # fmt: skip
SEMEVAL_TEXT = """\
1\t"The <e1>rain</e1> flooded the "old" <e2>river bed</e2>."
Cause-Effect(e1,e2)
Comment: written for this test

2\t"A <e2>king</e2> met the <e1>town</e1>."\r
Other\r
Comment:\r
"""
FEWREL_ROWS = {
    "P17": [{"tokens": ["Zenda", "is", "in", "Ruritania"], "h": ["zenda", "Q1", [[0], [2]]], "t": ["x", "Q2", [[3]]]}],
    "P26": [{"tokens": ["Mona", "Lisa", "wed", "Joe"], "h": ["joe", "Q3", [[3]]], "t": ["m", "Q4", [[0, 1]]]}],
}  # fmt: skip


def seen(example: Example) -> tuple[str, ...]:
    names = [example.text[span.start : span.end] for span in example.spans]
    assert [span.kind for span in example.spans] == ["subject", "object"]
    return (example.text, *names, *example.labels)


def test_tacreds_form(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([TACRED]))
    file = read_relations(path)
    assert file.format == TACRED_FORMAT
    assert seen(file.examples[0]) == ("Mona Monzano ( poet ) left Zenda .", "Zenda", "Mona Monzano", "left")  # fmt: skip
    assert [span.type for span in file.examples[0].spans] == ["CITY", "PERSON"]


def test_semevals_form(tmp_path: Path) -> None:
    path = tmp_path / "TRAIN_FILE.TXT"
    path.write_text(SEMEVAL_TEXT, newline="")
    file = read_relations(path)
    assert file.format == SEMEVAL
    assert [seen(example) for example in file.examples] == [
        ('The rain flooded the "old" river bed.', "rain", "river bed", "Cause-Effect(e1,e2)"),
        ("A king met the town.", "town", "king", "Other"),
    ]


def test_fewrel_as_plain_classification(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(FEWREL_ROWS))
    file = read_relations(path)
    assert file.format == FEWREL
    assert "stand-in" in file.format
    assert [seen(example) for example in file.examples] == [
        ("Zenda is in Ruritania", "Zenda", "Ruritania", "P17"),
        ("Mona Lisa wed Joe", "Joe", "Mona Lisa", "P26"),
    ]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (json.dumps([TACRED | {"subj_end": 8}]), "the subject is tokens 6 to 8, but there are 8"),
        (json.dumps([TACRED | {"obj_start": 2}]), "the object is tokens 2 to 1"),
        (json.dumps([TACRED | {"obj_start": "0"}]), "'obj_start' must be a whole number"),
        (json.dumps([{**TACRED, "relation": None}]), "'relation' must be a text"),
        (json.dumps([{"token": ["a"]}]), "no 'subj_start'; its keys are 'token'"),
        (json.dumps({"P1": [{"tokens": ["a"], "h": ["a", "Q1", []], "t": ["a", "Q1", [[0]]]}]}), "'P1': row 1: 'h' must be"),
        (SEMEVAL_TEXT.replace("</e1>", ""), ":1: must have <e1>"),
        (SEMEVAL_TEXT.replace("<e1>rain</e1>", "</e1>rain<e1>"), "ends before it begins"),
        (SEMEVAL_TEXT.replace("Cause-Effect(e1,e2)\n", ""), ":1: no relation on the next line"),
        (SEMEVAL_TEXT.replace('1\t"The', "The"), ":1: neither JSON nor SemEval's form"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "rows"
    path.write_text(content)
    with pytest.raises(ConfigError, match=part):
        read_relations(path)

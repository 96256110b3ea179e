"""Folders as LAMA was published: which files are found, what is named, which rows count."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from schemas.errors import ConfigError
from tests.trelm_train.evaluate.known import (
    fact,
    known_bert,
    known_model,
    tokenizer_of,
    write_jsonl,
)
from trelm_train.cli import cli
from trelm_train.evaluate.lama import Options, evaluate_lama
from trelm_train.evaluate.lama_files import find_files, has_mark, read_jsonl
from trelm_train.evaluate.lama_rows import right_objects, row_of, sentence_reason, skip_reason

TREX = [
    {"relation": "P19", "template": "[X] was born in [Y] .", "type": "N-1"},
    {"relation": "P36", "template": "The capital of [X] is [Y] .", "type": "1-1"},
]
WORDS = [
    "Ann",
    "Bob",
    "Rome",
    "Oslo",
    "1901",
    "was",
    "born",
    "in",
    ".",
    "(",
    ")",
    "died",
    "a",
    "is",
]
TABLE = {"Ann": {"Rome": 5.0, "1901": 2.0}, "Bob": {"Oslo": 5.0, "1901": 6.0}, "is": {"Rome": 3.0}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """All four corpora, one relation of T-REx missing, and one of Google-RE."""
    folder = tmp_path / "data"
    write_jsonl(folder / "relations.jsonl", TREX)
    write_jsonl(folder / "TREx" / "P19.jsonl", [fact("Ann", "Rome"), fact("Bob", "Rome")])
    write_jsonl(folder / "Google_RE" / "place_of_birth_test.jsonl", [fact("Bob", "Oslo")])
    write_jsonl(folder / "Google_RE" / "date_of_birth_test.jsonl", [fact("Bob", 1901)])
    sentences = [
        {"masked_sentences": ["Ann is in [MASK] ."], "obj_label": "Rome", "sub_label": "Squad"},
        {"masked_sentences": ["[MASK] is a [MASK] ."], "obj_label": "Rome", "sub_label": "Squad"},
        {"masked_sentences": ["Ann is in [MASK] ."], "obj_label": "Rome", "sub_label": "Squad"},
        {"masked_sentences": ["no mask"], "obj_label": "Rome"},
        {"obj_label": "Rome"},
        {"masked_sentences": ["a " * 100 + "[MASK]"], "obj_label": "Rome"},
        {"masked_sentences": ["[MASK]"], "obj_label": None},
    ]
    write_jsonl(folder / "Squad" / "test.jsonl", sentences)
    write_jsonl(folder / "ConceptNet" / "test.jsonl", sentences[:1])
    return folder


def test_the_whole_of_lama(root: Path) -> None:
    tokenizer = tokenizer_of(WORDS)
    result = evaluate_lama(known_model(tokenizer, TABLE), tokenizer, Options(probes=root))
    assert {name: row["n"] for name, row in result["relations"].items()} == {
        "P19": 2, "place_of_birth": 1, "date_of_birth": 1, "ConceptNet": 1, "Squad": 3,
    }  # fmt: skip
    assert result["relations"]["P19"]["type"] == "N-1"
    p_at_1 = {name: row["p_at_1"] for name, row in result["relations"].items()}
    # Of Bob the table answers 1901 before Oslo.
    assert p_at_1 == {
        "P19": 0.5, "place_of_birth": 0.0, "date_of_birth": 1.0, "ConceptNet": 1.0, "Squad": 1.0,
    }  # fmt: skip
    assert {name: corpus["macro"]["p_at_1"] for name, corpus in result["corpora"].items()} == {
        "TREx": 0.5, "Google_RE": 0.5, "ConceptNet": 1.0, "Squad": 1.0,
    }  # fmt: skip
    assert result["corpora"]["Google_RE"]["num_items"] == 2
    assert result["missing_relations"] == ["P36", "place_of_death"]
    assert result["missing_corpora"] == []
    # LAMA asks a sentence as often as it stands there; of several masks it asks the first.
    assert result["notes"] == {"sentences_asked_at_the_first_of_several_masks": 1}
    assert result["excluded"] == {
        "no_masked_sentence": 1, "not_one_mask": 1, "null_label": 1, "over_100_words": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("corpus", "found", "missing"),
    [
        # The relations' file lies above.
        ("TREx", ["P19"], ["P36"]),
        # Nothing needs that file here, and none of its relations is missed.
        ("Google_RE", ["place_of_birth", "date_of_birth"], ["place_of_death"]),
        ("Squad", ["Squad"], []),
        ("ConceptNet", ["ConceptNet"], []),
    ],
)
def test_one_corpus(root: Path, corpus: str, found: list[str], missing: list[str]) -> None:
    files = find_files(root / corpus, None)
    assert [file.relation for file in files.files] == found
    assert {file.corpus for file in files.files} == {corpus}
    assert files.missing_relations == missing
    assert files.missing_corpora == []
    assert (files.relations is not None) == (corpus == "TREx")


def test_a_copy_bears_the_name_that_was_given(root: Path) -> None:
    copy = root.parent / "0123-45"
    (root / "Squad").rename(copy)
    assert [file.relation for file in find_files(copy, None, "Squad").files] == ["Squad"]


def test_what_is_not_there_is_named(root: Path) -> None:
    for path in (root / "Squad", root / "Google_RE"):
        for file in path.iterdir():
            file.unlink()
    (root / "ConceptNet" / "test.jsonl").unlink()
    (root / "ConceptNet").rmdir()
    write_jsonl(root / "TREx" / "P999.jsonl", [fact("Ann", "Rome")])
    files = find_files(root, None)
    assert files.missing_relations == [
        "P36", "place_of_birth", "date_of_birth", "place_of_death", "Squad",
    ]  # fmt: skip
    assert files.missing_corpora == ["ConceptNet"]
    assert files.without_template == ["P999"]


def test_templates_of_the_relations_file_come_first(root: Path) -> None:
    own = [{"relation": "place_of_birth", "template": "[X] is in [Y] ."}]
    relations = write_jsonl(root / "own.jsonl", own)
    found = {file.relation: file for file in find_files(root / "Google_RE", relations).files}
    assert found["place_of_birth"].template == "[X] is in [Y] ."
    assert found["place_of_birth"].path.name == "place_of_birth_test.jsonl"
    assert found["date_of_birth"].template == "[X] (born [Y])."


def test_files_that_need_templates_are_refused_without(root: Path, tmp_path: Path) -> None:
    (root / "relations.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"P19.jsonl needs a template.* give --relations"):
        find_files(root, None)
    with pytest.raises(ConfigError, match="no such folder"):
        find_files(tmp_path / "empty", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no file P….jsonl for Google-RE.* and no test.jsonl"):
        find_files(tmp_path / "empty", None)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "probes"
    write_jsonl(folder / "relations.jsonl", TREX[:1], mark=True)
    write_jsonl(folder / "P19.jsonl", [fact("Ann", "Rome"), fact("Bob", "Rome")], mark=True)
    words = tmp_path / "words.txt"
    words.write_text("Rome\nOslo\n", encoding="utf-8-sig")
    assert has_mark(words)
    assert read_jsonl(folder / "P19.jsonl")[0] == fact("Ann", "Rome")
    tokenizer = tokenizer_of(WORDS)
    options = Options(probes=folder, common_vocab=words)
    result = evaluate_lama(known_model(tokenizer, TABLE), tokenizer, options)
    assert result["num_items"] == 2
    assert result["candidates"] == 2
    assert result["notes"]["files_with_byte_order_mark"] == 3
    # A file of a mark alone holds no row.
    (folder / "P19.jsonl").write_bytes(b"\xef\xbb\xbf\n")
    assert read_jsonl(folder / "P19.jsonl") == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"obj_label": "b"}, "no_label"),
        (fact("a", None), "null_label"),
        (fact(None, "b"), "null_label"),
        (fact("a", " "), "label_no_text"),
        (fact("a", ["b"]), "label_no_text"),
        (fact("a", True), "label_no_text"),
        (fact("a", 1901), ""),
        (fact("a", "b"), ""),
    ],
)
def test_labels_that_are_none(row: dict[str, Any], reason: str) -> None:
    assert skip_reason(row, set(), uhn=False) == reason


def test_case_duplicates() -> None:
    rows = [
        fact("Ann", "Rome"), fact("Ann", "rome"), fact("Ann", "Rome"), fact("ann", "rome"),
        fact("ANN", "ROME"), fact("Ann", "Oslo"),
    ]  # fmt: skip
    cased: set[tuple[str, str]] = set()
    assert [skip_reason(row, cased, uhn=False) for row in rows] == [
        "", "", "duplicate", "", "", "",
    ]  # fmt: skip
    uncased: set[tuple[str, str]] = set()
    assert [skip_reason(row, uncased, uhn=False, uncased=True) for row in rows] == [
        "", "case_duplicate", "duplicate", "case_duplicate", "case_duplicate", "",
    ]  # fmt: skip


def test_case_duplicates_of_models(tmp_path: Path) -> None:
    folder = tmp_path / "probes"
    write_jsonl(folder / "relations.jsonl", TREX[:1])
    write_jsonl(folder / "P19.jsonl", [fact("Ann", "Rome"), fact("ann", "rome")])
    words = tmp_path / "words.txt"
    words.write_text("Rome\nrome\nOslo\nnone\n")
    options = Options(probes=folder, common_vocab=words)
    lower = tokenizer_of(["ann", "rome", "oslo", "was", "born", "in", "."], lowercase=True)
    result = evaluate_lama(known_model(lower, {}), lower, options)
    assert result["num_items"] == 1
    assert result["excluded"] == {"case_duplicate": 1}
    # Rome and rome are one candidate of two.
    assert result["candidates"] == 2
    assert result["notes"] == {
        "common_vocab_words": 4,
        "common_vocab_words_not_one_token": 1,
        "common_vocab_words_that_are_one_candidate": 1,
    }
    cased = tokenizer_of(["ann", "rome", *WORDS])
    result = evaluate_lama(known_model(cased, {}), cased, options)
    assert result["num_items"] == 2
    assert result["candidates"] == 3
    assert result["notes"]["items_that_differ_from_another_in_case_alone"] == 1


def test_what_a_row_asks() -> None:
    row = {
        "sub_label": " Ann ", "obj_label": "Rome", "sub_w": "Q7", "obj_w": None, "sub": "/m/1",
        "uuid": 5, "masked_sentences": ["Ann: [MASK] ."],
    }  # fmt: skip
    asked = row_of(" [X] was born in [Y] . ", row)
    assert (asked.sentence, asked.template) == ("Ann was born in [Y] .", "[X] was born in [Y] .")
    assert (asked.sub_qid, asked.obj_qid, asked.uuid, asked.subject) == (7, None, "5", "Q7")
    own = row_of(None, {"obj_label": "Rome", "masked_sentences": ["One .", "It is [MASK] ."]})
    assert own.sentence == own.template == "One . It is [Y] ."
    assert own.has_own_sentence
    assert sentence_reason({"obj_label": "a", "masked_sentences": "b [MASK]"}) == ""
    assert sentence_reason({"obj_label": "a", "masked_sentences": [5]}) == "no_masked_sentence"


def test_right_objects_are_those_of_sound_rows() -> None:
    rows = [
        fact("Ann", "Rome", sub_uri="Q1"), fact("Ann", "Oslo", sub_uri="Q2"),
        fact("Anne", "Bern", sub_uri="Q1"), fact("Bob", "Rome"), fact("Bob", "Rome"),
        fact("Bob", "Oslo", judgments=[{"judgment": "no"}]), fact("Bob", None),
        # What the name gives away is right all the same.
        fact("Bob", "Bob"),
    ]  # fmt: skip
    assert right_objects(rows) == {"Q1": ["Rome", "Bern"], "Q2": ["Oslo"], "Bob": ["Rome", "Bob"]}


def test_the_command_needs_no_relations_where_nothing_does(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of(WORDS)
    known_bert(tokenizer, TABLE).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    command = [
        "evaluate",
        "lama",
        "--model",
        str(tmp_path / "model"),
        "--device",
        "cpu",
        "--probes",
    ]
    shown = CliRunner().invoke(cli, [*command, str(root / "Google_RE")], catch_exceptions=False)
    assert "relations without a probe file: place_of_death" in shown.output
    assert "Google_RE macro" not in shown.output
    shown = CliRunner().invoke(cli, [*command, str(root)], catch_exceptions=False)
    assert "Google_RE macro" in shown.output
    shown = CliRunner().invoke(cli, [*command, str(root / "Squad"), "--uhn", "string", "--json"])
    result = json.loads(shown.stdout)
    assert result["relations_without_uhn"] == ["Squad"]
    assert result["uhn"] == "string match only"
    # A folder has its own name, wherever the command is run.
    monkeypatch.chdir(root / "Squad")
    shown = CliRunner().invoke(cli, [*command, ".", "--json"], catch_exceptions=False)
    assert list(json.loads(shown.stdout)["relations"]) == ["Squad"]


def test_a_folder_above_is_found_by_its_name_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = root / "Squad" / "notes"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert [file.relation for file in find_files(Path(".."), None).files] == ["Squad"]
    inner = root / "TREx" / "notes"
    inner.mkdir()
    monkeypatch.chdir(inner)
    found = find_files(Path(".."), None)
    assert found.relations == root / "relations.jsonl"

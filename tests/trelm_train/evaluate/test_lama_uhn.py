"""UHN: what a name gives away to a model whose answers are written down, and where they are kept."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from schemas.errors import ConfigError
from tests.trelm_train.evaluate.known import (
    Table,
    fact,
    known_bert,
    known_model,
    tokenizer_of,
    write_jsonl,
)
from trelm_train.cli import cli
from trelm_train.evaluate import lama_uhn
from trelm_train.evaluate.lama import Options, Prober, collect
from trelm_train.evaluate.lama_rows import row_of
from trelm_train.evaluate.lama_uhn import NameCloze, fingerprint_of, name_cloze_of, uhn_label

WORDS = [
    "Jean", "Marais", "Ann", "Bob", "French", "German", "Dutch", "Polish", "Rome", "Italy",
    "is", "a", "common", "name", "in", "the", "following", ":", ".", "city", "country", "language",
    "speaks", "was", "born", "and",
]  # fmt: skip
TABLE: Table = {
    "Jean": {"French": 9, "German": 7, "Dutch": 5, "Polish": 3},
    # The third is as good as the fourth.
    "Ann": {"French": 9, "German": 7, "Dutch": 5, "Polish": 5},
    "city": {"Rome": 8},
    "country": {"Italy": 8},
}
TEMPLATE = "[X] speaks [Y] ."
NAMES = ("P103", "P19", "P27", "P36", "place_of_birth", "place_of_death", "date_of_birth")


def cloze(path: Path | None = None) -> NameCloze:
    tokenizer = tokenizer_of(WORDS)
    return NameCloze(known_model(tokenizer, TABLE), tokenizer, path)


@pytest.mark.parametrize(
    ("relation", "subject", "answer", "is_given_away"),
    [
        ("P103", "Jean Marais", "French", True),
        ("P1412", "Jean Marais", "Dutch", True),
        ("P103", "Marais Jean", "German", True),  # any word of the name
        ("P103", "Jean Marais", "Polish", False),  # the fourth answer
        ("P103", "Ann", "German", True),
        ("P103", "Ann", "Dutch", False),  # as good as the fourth
        ("P103", "Bob", "French", False),  # nothing is known of Bob: all are equal
        ("P103", "Jean", "of French", False),  # not one token
        ("P19", "Bob", "Rome", True),  # a city is asked for
        ("P20", "Bob", "Rome", True),
        ("P27", "Bob", "Rome", False),  # a country
        ("P27", "Bob", "Italy", True),
        ("place_of_birth", "Bob", "Rome", True),
        ("place_of_death", "Bob", "Rome", True),
        ("date_of_birth", "Bob", "Rome", False),
        ("P36", "Jean", "French", False),  # no relation of persons
        ("P103", "[MASK]", "French", False),
        ("P103", "a " * 80, "French", False),
        ("P103", "a" * 80 + " Jean", "French", True),
    ],
)
def test_what_names_give_away(
    relation: str, subject: str, answer: str, *, is_given_away: bool
) -> None:
    names = cloze()
    row = row_of(TEMPLATE, fact(subject, answer))
    names.prepare(relation, [row])
    assert names.gives_away(relation, row) == is_given_away


def test_the_question_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    names = cloze()
    plain = lama_uhn.ask

    def ask(model: Any, pad_id: int, candidates: Any, questions: Any, num_top: int) -> Any:
        asked.extend(names.prober.tokenizer.decode(question.ids) for question in questions)
        # The whole vocabulary, special tokens too.
        assert candidates.tolist() == list(range(len(names.prober.tokenizer)))
        return plain(model, pad_id, candidates, questions, num_top)

    monkeypatch.setattr(lama_uhn, "ask", ask)
    for relation in ("P27", "P27", "P36"):
        names.prepare(relation, [row_of(TEMPLATE, fact("Jean Ann Jean", "French"))])
    # Each word once.
    assert asked == [
        f"[CLS] {name} is a common name in the following country : [MASK]. [SEP]"
        for name in ("Ann", "Jean")
    ]


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    folder = tmp_path / "probes"
    relations = [{"relation": name, "template": TEMPLATE} for name in NAMES[:4]]
    write_jsonl(folder / "relations.jsonl", relations)
    write_jsonl(
        folder / "P103.jsonl",
        [
            fact("Jean Marais", "French"), fact("Jean Marais", "Polish"), fact("Bob", "French"),
            fact("French Bob", "French"), fact("FRENCH Bob", "French"), fact("Jean Marais", "French"),
        ],
    )  # fmt: skip
    write_jsonl(folder / "P36.jsonl", [fact("Jean", "French")])
    return folder


def test_uhn_drops_items_and_says_why(probes: Path) -> None:
    tokenizer = tokenizer_of(WORDS)
    prober = Prober(known_model(tokenizer, TABLE), tokenizer, None)
    counts = {}
    for uhn, names in (("", None), ("string", None), ("model", cloze())):
        questions = collect(prober, Options(probes=probes, uhn=uhn), names)
        counts[uhn] = (
            len(questions.items["P103"]),
            len(questions.items["P36"]),
            questions.excluded,
        )
    assert counts == {
        "": (5, 1, {"duplicate": 1}),
        "string": (3, 1, {"duplicate": 1, "uhn_string": 2}),
        "model": (2, 1, {"duplicate": 1, "uhn_string": 2, "uhn_name": 1}),
    }


def test_names_are_asked_in_lower_case_of_a_model_that_lower_cases() -> None:
    tokenizer = tokenizer_of([word.lower() for word in WORDS], lowercase=True)
    table = {"jean": {"french": 5.0}}
    names = NameCloze(known_model(tokenizer, table), tokenizer, None)
    row = row_of(TEMPLATE, fact("JEAN Marais", "French"))
    names.prepare("P103", [row])
    assert names.gives_away("P103", row)
    assert names.named["language"].keys() == {"jean", "marais"}


def no_more(*_: object) -> None:
    raise AssertionError("asked again")


def test_answers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache" / "names.json"
    row = row_of(TEMPLATE, fact("Jean Marais", "German"))
    cloze(path).prepare("P103", [row])
    # Another process has asked about another noun meanwhile.
    first, second = cloze(path), cloze(path)
    first.prepare("P19", [row])
    second.prepare("P27", [row])
    kept = json.loads(path.read_text())["named"]
    assert kept.keys() == {"language", "city", "country"}
    assert [item.name for item in path.parent.iterdir()] == ["names.json"]

    monkeypatch.setattr(lama_uhn, "ask", no_more)
    again = cloze(path)
    for relation in ("P103", "P19", "P27"):
        again.prepare(relation, [row])
    assert again.gives_away("P103", row)
    assert again.gives_away("P19", row_of(TEMPLATE, fact("Marais", "Rome")))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"\xff", b'{"named": []}', b'{"named": {"city": 5}}', b"[" * 10**5,
        b'{"named": {"language": {"Jean": "French"}}}', b'{"named": {"language": {"Jean": [true]}}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_made_again(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "names.json"
    path.write_bytes(content)
    names = cloze(path)
    assert "asked again" in caplog.text
    row = row_of(TEMPLATE, fact("Jean", "French"))
    names.prepare("P103", [row])
    assert names.gives_away("P103", row)
    assert json.loads(path.read_text())["named"]["language"].keys() == {"Jean"}


def test_answers_that_cannot_be_kept_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    names = cloze(tmp_path / "file" / "names.json")
    row = row_of(TEMPLATE, fact("Jean", "French"))
    names.prepare("P103", [row])
    assert names.gives_away("P103", row)
    assert "cannot keep the answers" in caplog.text


def test_a_pipe_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "names.json")
    names = cloze(tmp_path / "names.json")
    names.prepare("P103", [row_of(TEMPLATE, fact("Jean", "French"))])
    assert "cannot keep the answers" in caplog.text


def test_fingerprints_tell_models_apart() -> None:
    tokenizer = tokenizer_of(WORDS)
    lower = tokenizer_of(WORDS, lowercase=True)
    other: Table = {**TABLE, "Jean": {"French": 9.5}}
    models = [(TABLE, tokenizer), (TABLE, tokenizer), (other, tokenizer), (TABLE, lower)]
    prints = [fingerprint_of(known_model(tok, table), tok) for table, tok in models]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    # The same weights answer otherwise with another function between them.
    changed = known_model(tokenizer, TABLE)
    changed.config.hidden_act = "relu"
    assert fingerprint_of(changed, tokenizer) not in prints


def test_labels() -> None:
    assert uhn_label("") == "off"
    assert uhn_label("string") == "string match only"
    assert uhn_label("bert-base-cased") == "string match, and name cloze with bert-base-cased"
    assert (
        name_cloze_of("", torch.device("cpu"))
        is name_cloze_of("string", torch.device("cpu"))
        is None
    )


def test_the_command(probes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRELM_CACHE", str(tmp_path / "cache"))
    tokenizer, folder = tokenizer_of(WORDS), tmp_path / "model"
    known_bert(tokenizer, TABLE).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    command = [
        "evaluate",
        "lama",
        "--model",
        str(folder),
        "--device",
        "cpu",
        "--probes",
        str(probes),
    ]
    results = [
        json.loads(CliRunner().invoke(cli, [*command, "--uhn", uhn, "--json"]).stdout)
        for uhn in ("string", str(folder), str(folder))
    ]
    assert [result["num_items"] for result in results] == [4, 3, 3]
    assert results[1]["uhn"] == f"string match, and name cloze with {folder}"
    assert results[1] == results[2]
    assert [path.name[:11] for path in (tmp_path / "cache").iterdir()] == ["name-cloze-"]
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        CliRunner().invoke(
            cli, [*command, "--uhn", str(tmp_path / "nowhere")], catch_exceptions=False
        )

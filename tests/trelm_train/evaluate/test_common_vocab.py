"""The words that are one token of every model, by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from schemas.errors import ConfigError, TrelmError
from tests.trelm_train.evaluate.known import (
    fact,
    known_bert,
    known_model,
    tokenizer_of,
    write_jsonl,
)
from trelm_train.cli import cli
from trelm_train.evaluate.common_vocab import common_vocab, make_common_vocab, own_words
from trelm_train.evaluate.lama import Options, Prober, evaluate_lama
from trelm_train.model.masked_lm import MaskedLm

CASED = ["Rome", "rome", "Oslo", "Bern", "york", ".", "##town", "(", "ö1"]
OTHER = ["Rome", "Oslo", "oslo", "##town", "Kyiv", ".", "ö1"]
UNCASED = ["rome", "oslo", "kyiv", ".", "york"]


def prober(words: list[str], *, lowercase: bool = False) -> Prober:
    tokenizer = tokenizer_of(words, lowercase=lowercase)
    return Prober(known_model(tokenizer, {}), tokenizer, None)


def test_words_of_a_vocabulary() -> None:
    """A piece inside of words is none, and special tokens are none."""
    assert sorted(own_words(prober(CASED))) == sorted(set(CASED) - {"##town"})


def test_cased_models() -> None:
    vocab = common_vocab([prober(CASED), prober(OTHER)])
    # Sorted by code point; a full stop is no word.
    assert vocab.words == ("Oslo", "Rome", "ö1")
    assert vocab.num_case_duplicates == 0
    assert vocab.uncased_models == ()


def test_models_that_lower_case() -> None:
    lower = [prober(UNCASED, lowercase=True), prober(UNCASED[:3], lowercase=True)]
    assert common_vocab(lower).words == ("kyiv", "oslo", "rome")
    # Rome and rome are one word; whatever is no word of a model does not count.
    vocab = common_vocab(lower, ["Rome", "rome", "OSLO", "York", "YORK", "none", "kyiv oslo", " "])
    assert vocab.words == ("oslo", "rome")
    assert vocab.num_case_duplicates == 1


def test_both_kinds_together() -> None:
    """Objects with and without a capital stay: a model with capitals has one token for each."""
    vocab = common_vocab([prober(CASED), prober(UNCASED, lowercase=True)])
    assert vocab.words == ("Oslo", "Rome", "rome", "york")
    assert vocab.num_case_duplicates == 1
    assert len(vocab.uncased_models) == 1


def test_words_after_a_space(roberta: MaskedLm) -> None:
    """In RoBERTa the token of a word in running text counts, not that at the start of a text."""

    class Spaced:
        all_special_ids: tuple[int, ...] = ()
        unk_token_id = 0
        texts = ("?", "Rome", " Rome", " Oslo", "Bern")

        def __len__(self) -> int:
            return len(self.texts)

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": [self.texts.index(text)] if text in self.texts else [0]}

        def decode(self, ids: list[int]) -> str:
            return self.texts[ids[0]]

        def get_vocab(self) -> dict[str, int]:
            return {text: number for number, text in enumerate(self.texts)}

    tokenizer: Any = Spaced()
    assert own_words(Prober(roberta, tokenizer, None)) == ["Rome", "Oslo"]


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    folders = []
    for name, words in (("one", CASED), ("two", OTHER)):
        tokenizer, folder = tokenizer_of(words), tmp_path / name
        known_bert(tokenizer, {}).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(str(folder))
    return folders


def test_the_command(models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "common.txt"
    command = ["evaluate", "common-vocab"] + [word for name in models for word in ("--model", name)]
    shown = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert shown.output == "Oslo\nRome\nö1\n"
    shown = CliRunner().invoke(cli, [*command, "--out", str(out)], catch_exceptions=False)
    assert "3 words that are one token of every model" in shown.output
    assert out.read_text(encoding="utf-8") == "Oslo\nRome\nö1\n"
    assert not list(tmp_path.glob(".*"))

    (tmp_path / "words.txt").write_text("Rome\nBern\n", encoding="utf-8-sig")
    words = ["--words", str(tmp_path / "words.txt")]
    shown = CliRunner().invoke(cli, [*command, *words, "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout) == {
        "num_words": 1,
        "num_case_duplicates": 0,
        "num_of_model": {models[0]: 2, models[1]: 1},
        "uncased_models": [],
        "words": ["Rome"],
    }


def test_models_are_ranked_over_the_same_words(models: list[str], tmp_path: Path) -> None:
    make_common_vocab(models, None, tmp_path / "common.txt")
    write_jsonl(
        tmp_path / "probes" / "relations.jsonl", [{"relation": "P1", "template": "[X] : [Y]"}]
    )
    write_jsonl(tmp_path / "probes" / "P1.jsonl", [fact("Ann", "Rome"), fact("Ann", "Bern")])
    options = Options(probes=tmp_path / "probes", common_vocab=tmp_path / "common.txt")
    for words in (CASED, OTHER):
        tokenizer = tokenizer_of(words)
        result = evaluate_lama(known_model(tokenizer, {}), tokenizer, options)
        assert (result["candidates"], result["num_items"]) == (3, 1)


def test_what_is_refused(models: list[str], tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Rome\n")
    with pytest.raises(ConfigError, match="is an input of this command"):
        make_common_vocab(models, words, words)
    with pytest.raises(ConfigError, match="a file of a model"):
        make_common_vocab(models, words, Path(models[0]) / "config.json")
    with pytest.raises(TrelmError, match="cannot write it"):
        make_common_vocab(models, words, tmp_path / "nowhere" / "common.txt")
    words.write_text("Timbuktu\n")
    with pytest.raises(ConfigError, match="no word is one token of each of them"):
        make_common_vocab(models, words, tmp_path / "common.txt")
    assert not (tmp_path / "common.txt").exists()

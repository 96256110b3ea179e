"""Make the common vocabulary of several models: the words over which all of them can be ranked.

LAMA compares models over the words that all their vocabularies hold (Petroni et al. 2019). A word
counts here if it is one token of every model in running text (after a space, in RoBERTa), and has a
letter or a digit. LAMA's published lists also leave out stop words and what a tagger calls
punctuation or a symbol; a list of words can be given instead of the models' own.

Models that lower-case cannot tell Paris from paris. If all do, words are lower-cased, and of such
words one is kept. If some do, both words are kept, since a model with capitals has an object in one
of them alone; they are one candidate to the others, and their number is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.durable import write_durably
from schemas.errors import ConfigError, TrelmError
from schemas.outputs import check_output
from trelm_train.evaluate.prober import Prober, read_words
from trelm_train.model.masked_lm import load_pretrained, load_tokenizer, pick_device


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonVocab:
    """Hold the words that are one token of every model, sorted by code point."""

    words: tuple[str, ...]
    # Words that differ from another one in case alone, where a model lower-cases.
    num_case_duplicates: int
    # Listed words, or words of all the models' vocabularies, that are one token of each model.
    num_of_model: dict[str, int]
    uncased_models: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return counts as plain values, for JSON."""
        return {
            "num_words": len(self.words),
            "num_case_duplicates": self.num_case_duplicates,
            "num_of_model": self.num_of_model,
            "uncased_models": list(self.uncased_models),
        }


def common_vocab(probers: Sequence[Prober], words: Iterable[str] | None = None) -> CommonVocab:
    """Return the common vocabulary of some models.

    Args:
        probers: one per model.
        words: that may be in it; None takes the models' own vocabularies.
    """
    uncased = [prober for prober in probers if prober.is_uncased]
    if words is None:
        listed = {word for prober in probers for word in own_words(prober)}
    else:
        listed = {word.strip() for word in words}
    listed = {word for word in listed if _is_word(word)}
    # A capital says nothing where no model sees it.
    fold: Callable[[str], str] = str.lower if len(uncased) == len(probers) else str

    kept, num_of_model = {fold(word) for word in listed}, dict[str, int]()
    for prober in probers:
        single = {fold(word) for word in listed if prober.single_token(word) is not None}
        num_of_model[prober.model.name] = len(single)
        kept = kept & single
    spellings = {word for word in listed if fold(word) in kept}
    return CommonVocab(
        words=tuple(sorted(kept)),
        num_case_duplicates=len(spellings) - len({word.lower() for word in spellings})
        if uncased
        else 0,
        num_of_model=num_of_model,
        uncased_models=tuple(prober.model.name for prober in uncased),
    )


def own_words(prober: Prober) -> list[str]:
    """Return the words of a model's vocabulary; pieces inside of words are none."""
    texts = [prober.tokenizer.decode([token]).strip() for token in prober.candidates.tolist()]
    return [
        text
        for token, text in zip(prober.candidates.tolist(), texts, strict=True)
        if text and prober.single_token(text) == token
    ]


def _is_word(text: str) -> bool:
    return len(text.split()) == 1 and any(character.isalnum() for character in text)


def make_common_vocab(
    model_names: Sequence[str], words: Path | None, out: Path | None
) -> CommonVocab:
    """Load models, find their common words, and write them where a file is named, one a line.

    Raises:
        ConfigError: a model or a file cannot be read, models have no word in common, or the file
            must not be written over.
        TrelmError: the file cannot be written.
    """
    if out is not None:
        check_output(out, "--out", [] if words is None else [words])
    device = pick_device("cpu")
    probers = []
    for name in model_names:
        model = load_pretrained(name, device)
        probers.append(Prober(model, load_tokenizer(name, model), None))
    vocab = common_vocab(probers, None if words is None else read_words(words))
    if not vocab.words:
        raise ConfigError(
            f"{', '.join(model_names)}: no word is one token of each of them; give other --words"
        )
    if out is not None:
        try:
            write_durably(out, "".join(f"{word}\n" for word in vocab.words))
        except OSError as error:
            raise TrelmError(
                f"--out {out}: cannot write it ({error}); give another file"
            ) from error
    return vocab

"""Make the texts of `linking`: misspelt names, names of nothing, streams of new words.

All from seeded generators.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.index.name_keys import normalise, query_keys

EDITS = ("insert", "delete", "substitute", "transpose")
MIN_CHARACTERS = 5
MAX_WORDS = 3
MAX_DRAWS = 100
SENTENCES = (
    "We read about {} on our way home.",
    "Nothing new was said about {} this week.",
    "They had often heard of {} before that day.",
    "Somebody asked what {} had to do with it.",
    "It was not clear whether {} would be mentioned again.",
)
WORD_LENGTHS = (3, 10)
CAPITALISED = 0.15
SENTENCE_WORDS, DOCUMENT_SENTENCES = 19, 25  # and a full stop: 500 tokens a document


class Misspelt(NamedTuple):
    """Hold a name with one edit."""

    name: str
    edit: str
    qid: int


class Placed(NamedTuple):
    """Hold a name in a sentence: a line of a gold file."""

    doc_id: str
    text: str
    start: int
    end: int

    def line(self, qid: int | None) -> dict[str, object]:
        """Return the sentence as gold files have it."""
        return {
            "doc_id": self.doc_id,
            "text": self.text,
            "mentions": [{"start": self.start, "end": self.end, "qid": qid}],
        }


def place(names: Sequence[str]) -> list[Placed]:
    """Put each name into a short sentence that says nothing about it."""
    placed = []
    for number, name in enumerate(names):
        before, after = SENTENCES[number % len(SENTENCES)].split("{}")
        placed.append(
            Placed(f"name:{number}", f"{before}{name}{after}", len(before), len(before) + len(name))
        )
    return placed


def misspelt(
    labels: Mapping[str, int], names: Collection[str], count: int, seed: int = 1
) -> list[Misspelt]:
    """Misspell labels by one edit each, the four kinds in turn; an edit that gives a known name is
    drawn again.
    """
    rng = random.Random(seed)
    fit = sorted(
        label for label in labels if len(normalise(label)) >= MIN_CHARACTERS and not label.isdigit()
    )
    made: list[Misspelt] = []
    for label in rng.sample(fit, len(fit)):
        kind = EDITS[len(made) % len(EDITS)]
        drawn = (_edited(label, kind, rng) for _ in range(MAX_DRAWS))
        known = {normalise(label)}
        fresh = (
            name for name in drawn if normalise(name) not in known and normalise(name) not in names
        )
        if (name := next(fresh, None)) is not None:
            made.append(Misspelt(name, kind, labels[label]))
        if len(made) == count:
            break
    return made


def _edited(label: str, kind: str, rng: random.Random) -> str:
    letters = [number for number, char in enumerate(label) if char.isalnum()]
    at = rng.choice(letters)
    if kind == "insert":
        return label[: at + 1] + rng.choice(string.ascii_lowercase) + label[at + 1 :]
    if kind == "delete":
        return label[:at] + label[at + 1 :]
    if kind == "substitute":
        return label[:at] + _cased(rng.choice(string.ascii_lowercase), label[at]) + label[at + 1 :]
    pairs = [number for number in letters if label[number + 1 : number + 2].isalnum()]
    at = rng.choice(pairs) if pairs else at
    first, second = label[at : at + 1], label[at + 1 : at + 2]
    return label[:at] + _cased(second, first) + _cased(first, second) + label[at + 2 :]


def _cased(char: str, like: str) -> str:
    return char.upper() if like.isupper() else char.lower()


def unrelated(
    texts: Sequence[str], is_name: Callable[[str], bool], count: int, seed: int = 2
) -> list[str]:
    """Shuffle capitalised words of the texts (not those that begin a sentence) into names of 1 to 3
    words that name nothing.
    """
    rng = random.Random(seed)
    words = sorted({word for text in texts for word in _capitalised(text)})
    made: dict[str, None] = {}
    for _ in range(count * MAX_DRAWS):
        name = " ".join(rng.sample(words, min(1 + len(made) % MAX_WORDS, len(words))))
        if not any(is_name(key) for key in query_keys(name)):
            made[name] = None
        if len(made) == count:
            break
    return list(made)


def _capitalised(text: str) -> Iterator[str]:
    before = "."
    for word in text.split():
        if (
            before[-1] not in ".!?:"
            and word.isalpha()
            and word.istitle()
            and len(word) >= MIN_CHARACTERS
        ):
            yield word
        before = word


def new_words(num_tokens: int, seed: int = 3) -> Iterator[tuple[str, str]]:
    """Yield documents of 500 tokens of random letters, nearly all of them new; capitals now and
    then, one to three in a row.
    """
    rng = random.Random(seed)
    for number in range(num_tokens // ((SENTENCE_WORDS + 1) * DOCUMENT_SENTENCES)):
        yield f"words:{number}", " ".join(_sentence(rng) for _ in range(DOCUMENT_SENTENCES))


def _sentence(rng: random.Random) -> str:
    words = [
        "".join(rng.choices(string.ascii_lowercase, k=rng.randint(*WORD_LENGTHS)))
        for _ in range(SENTENCE_WORDS)
    ]
    for first in range(SENTENCE_WORDS):
        if first == 0 or rng.random() < CAPITALISED / 2:
            for at in range(first, min(first + rng.randint(1, MAX_WORDS), SENTENCE_WORDS)):
                words[at] = words[at].capitalize()
    return " ".join(words) + "."

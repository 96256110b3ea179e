"""Words: their hashes, and a bounded table of what the linker must know of each distinct word of running text.

Goes in: words as written. Comes out: 22-bit term hashes (words that say something of an entity), 32-bit word hashes and
64-bit hashes of pairs (does a name begin with these two?), flags. A word is looked at once; the rest is array work.
"""

from __future__ import annotations

import functools
import zlib
from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from pipeline.index.name_keys import normalise
from schemas.array_types import Array

STOP_WORDS = frozenset(
    "a an and are as at be by for from has he her his in is it its of on or she that the their they this to was were "
    "which who with".split()
)
# In lower case these may stand within a name.
INNER_WORDS = STOP_WORDS | frozenset(
    "de la le du des van von der den di da del el al y e & - – ' ’ . , : /".split()
)
JOINERS = frozenset("- – ' ’".split())
TERM_BITS = 22
MIN_LISTED_CHARACTERS = 2
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
OPENS, INNER, STOP, ALPHA, EDGED, JOINS, UPPER, LOWER, EMPTY, OWNS, SHORT, ENDS, GENERIC = (
    1 << bit for bit in range(13)
)
SENTENCE_ENDS = frozenset("! . ? … 。 ！ ？ ։ ؟ ۔ । ॥ ።".split())
POSSESSIVES = frozenset(("'s", "’s"))


# Words that articles link now and then, in a sense of their own: never mentions in lower case.
GENERIC_WORDS = frozenset(
    "above action active addition age amount area areas available back base based beginning book books bottom call called "
    "cause causes center central certain change changes character characters class classes common complete condition "
    "conditions course current date dates day days death different direct early effect element elements end ends event "
    "events example examples face fact family feature features final following force forces foot feet form forms free full "
    "function general good great group groups half hand hands head heads high higher home house human idea ideas individual "
    "interest issue issues kind kinds large late law left level levels life light line lines list local long longer low lower "
    "main major man means member members men method methods middle minor model models modern month months name names natural "
    "nature new news normal number numbers object objects office old open opening order orders original outside page part "
    "parts party past people period periods person persons place places point points position positions possible power "
    "practice present private problem problems process product products program property public range rate real reason "
    "record reports result results right role rule rules school second section self sense series service services set sets "
    "short side sign simple single size small social sound source sources special stage standard start state states step steps "
    "story structure study style subject subjects system systems table term terms test text texts theme thing things third "
    "time times title titles today top total turn type types unit units use users value values version view views war way ways "
    "week weeks west white whole wide woman women word words work works world writing year years young".split()
)


def word_hash(word: str) -> int:
    """The 32-bit hash of a normalised word."""
    return zlib.crc32(word.encode())


@functools.lru_cache(maxsize=1 << 16)
def term_hash(word: str) -> int:
    """The hash of a normalised word as a term of an entity."""
    return zlib.crc32(word.encode()) & ((1 << TERM_BITS) - 1)


def is_term(word: str) -> bool:
    """Whether a normalised word says something of an entity."""
    return len(word) > 2 and word not in STOP_WORDS


def text_terms(text: str) -> set[int]:
    """Hashed content words of a short text."""
    return {term_hash(word) for word in normalise(text).split() if is_term(word)}


def pair_hashes(first: Array, second: Array) -> Array:
    """64-bit hashes of pairs of word hashes, their upper bits well mixed. uint32 in, uint64 out, shape (n,)."""
    mixed = first.astype(np.uint64) * _FIRST + second.astype(np.uint64) * _SECOND
    return (mixed ^ (mixed >> np.uint64(29))) * _FIRST


def is_listed(word: str) -> bool:
    """Whether a name is listed under this word of it."""
    return len(word) >= MIN_LISTED_CHARACTERS and word not in STOP_WORDS


def singular(word: str) -> str:
    """A word without the plural's ending, by the commonest rules of English; the word itself where none fits."""
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


class WordTable:
    """Distinct words and, by number, their keys, flags and hashes. Never above `limit` words: then it starts anew."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self.clear()

    def __len__(self) -> int:
        """Number of words."""
        return len(self.keys)

    def clear(self) -> None:
        """Forget all; numbers given before mean nothing any more."""
        self._numbers: dict[Hashable, int] = {}
        self._arrays: dict[str, Array] = {}
        self.keys: list[str] = []  # normalised; empty for punctuation
        self._flags = array("H")
        self._terms, self._hashes, self._singulars = array("I"), array("I"), array("I")

    def make_room(self) -> None:
        """Start anew if the table is full. Call it between batches, not within one."""
        if len(self.keys) >= self._limit:
            self.clear()

    def numbers(self, names: Sequence[Hashable], text_of: Callable[[Any], str] = str) -> list[int]:
        """The number of each word; words go by any name, `text_of` gives the text of one that is new."""
        known = self._numbers
        return [known[name] if name in known else self._add(name, text_of(name)) for name in names]

    @property
    def flags(self) -> Array:
        """By number: OPENS, INNER, … united."""
        return self._array("flags", self._flags)

    @property
    def terms(self) -> Array:
        """By number: hash as a term; 0 where the word says nothing."""
        return self._array("terms", self._terms)

    @property
    def hashes(self) -> tuple[Array, Array]:
        """By number: hash of the key, and of its singular."""
        return self._array("hashes", self._hashes), self._array("singulars", self._singulars)

    def _array(self, name: str, values: array[int]) -> Array:
        """A copy, since a view would keep the table from growing; made anew only where words came in between."""
        held = self._arrays.get(name)
        if held is None or len(held) != len(values):
            held = self._arrays[name] = np.array(values, f"u{values.itemsize}")
        return held

    def _add(self, name: Hashable, word: str) -> int:
        number = self._numbers[name] = len(self.keys)
        key = normalise(word)
        longest = max(key.split(), key=len, default="")
        self.keys.append(key)
        self._flags.append(_flags_of(word, key))
        self._terms.append(term_hash(longest) if is_term(longest) else 0)
        self._hashes.append(word_hash(key))
        self._singulars.append(word_hash(singular(key)))
        return number


def _flags_of(word: str, key: str) -> int:
    lower = word.lower()
    return (
        OPENS * (word[:1].isupper() or word[:1].isdigit())
        | INNER * (lower in INNER_WORDS)
        | STOP * (key in STOP_WORDS or key in MORE_STOP_WORDS)
        | ALPHA * any(map(str.isalpha, word))
        | EDGED * (not word[-1:].isalnum())
        | JOINS * (word in JOINERS)
        | UPPER * (word.isupper() and sum(map(str.isalpha, word)) > 1)
        | LOWER * word[:1].islower()
        | EMPTY * (not key)
        | OWNS * (lower in POSSESSIVES)
        | SHORT * (len(key) < 2)
        | ENDS * (word in SENTENCE_ENDS)
        | GENERIC * (key in GENERIC_WORDS)
    )


# Words that, alone, are no mention although some index lists them as names.
MORE_STOP_WORDS = frozenset(
    "about after all also although am another any because been before being between both but can could did do does during "
    "each either even every few first had have having hence here him how however i if into itself just last later least "
    "less like made make many may me might more most much must my neither never next no nor not now off often once one "
    "only other our out over own per perhaps rather same see several should since so some still such than them then there "
    "these those though through thus till together too two under unless until up upon us use used very we well what when "
    "where whether while whom whose why will within without would yet you your three four five six seven eight nine ten "
    "s t d ll m re ve".split()
)

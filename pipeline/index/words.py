"""Hash words, and keep a bounded table of what the linker must know of each distinct word.

Goes in: words as written. Comes out: 22-bit term hashes (of words that describe an entity), 32-bit
word hashes, 64-bit hashes of pairs (does a name begin with these two?), and flags. A word is looked
at once; all further steps are array work.
"""

from __future__ import annotations

import functools
import zlib
from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from pipeline.index.name_keys import normalise
from schemas.array_types import U16, U32, U64, Array

STOP_WORDS = frozenset(
    "a an and are as at be by for from has he her his in is it its of on or she that the their "
    "they this to was were which who with".split()
)
# In lower case these may stand within a name.
INNER_WORDS = STOP_WORDS | frozenset(
    "de la le du des van von der den di da del el al y e & - – ' ’ . , : /".split()
)
JOINERS = frozenset("- – ' ’".split())
SENTENCE_ENDS = frozenset("! . ? … 。 ！ ？ ։ ؟ ۔ । ॥ ።".split())
POSSESSIVES = frozenset(("'s", "’s"))

# Words that articles link now and then, in a special sense: never mentions in lower case.
GENERIC_WORDS = frozenset(
    "above action active addition age amount area areas available back base based beginning book "
    "books bottom call called cause causes center central certain change changes character "
    "characters class classes common complete condition conditions course current date dates day "
    "days death different direct early effect element elements end ends event events example "
    "examples face fact family feature features final following force forces foot feet form "
    "forms free full function general good great group groups half hand hands head heads high "
    "higher home house human idea ideas individual interest issue issues kind kinds large late "
    "law left level levels life light line lines list local long longer low lower main major man "
    "means member members men method methods middle minor model models modern month months name "
    "names natural nature new news normal number numbers object objects office old open opening "
    "order orders original outside page part parts party past people period periods person "
    "persons place places point points position positions possible power practice present "
    "private problem problems process product products program property public range rate real "
    "reason record reports result results right role rule rules school second section self sense "
    "series service services set sets short side sign simple single size small social sound "
    "source sources special stage standard start state states step steps story structure study "
    "style subject subjects system systems table term terms test text texts theme thing things "
    "third time times title titles today top total turn type types unit units use users value "
    "values version view views war way ways week weeks west white whole wide woman women word "
    "words work works world writing year years young".split()
)

# Words that, alone, are no mention although some index lists them as names.
MORE_STOP_WORDS = frozenset(
    "about after all also although am another any because been before being between both but can "
    "could did do does during each either even every few first had have having hence here him "
    "how however i if into itself just last later least less like made make many may me might "
    "more most much must my neither never next no nor not now off often once one only other our "
    "out over own per perhaps rather same see several should since so some still such than them "
    "then there these those though through thus till together too two under unless until up upon "
    "us use used very we well what when where whether while whom whose why will within without "
    "would yet you your three four five six seven eight nine ten s t d ll m re ve".split()
)

# Days and months: parts of dates, and no mention inside one.
CALENDAR_WORDS = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june "
    "july august september october november december mon tue tues wed thu thurs fri sat sun jan feb "
    "mar apr jun jul aug sep sept oct nov dec".split()
)

TERM_BITS = 22
MIN_LISTED_CHARACTERS = 2
# Odd constants whose products mix two hashes into one.
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)

# Flags of a word, one bit each. Begins with a capital or a digit: a name may open or end here.
OPENS = 1 << 0
# May stand inside a name in lower case.
INNER = 1 << 1
# Names nothing alone: a function word.
STOP = 1 << 2
# Has a letter.
ALPHA = 1 << 3
# Ends in a character that is no letter or digit.
EDGED = 1 << 4
# Joins the words on both sides: a hyphen or an apostrophe.
JOINS = 1 << 5
# Has two letters or more, all capitals.
UPPER = 1 << 6
# Begins with a small letter.
LOWER = 1 << 7
# Has no key: punctuation.
EMPTY = 1 << 8
# Is a possessive ending that the tokenizer split off.
POSSESSIVE = 1 << 9
# Has a key of fewer than two characters.
SHORT = 1 << 10
# Ends a sentence.
ENDS = 1 << 11
# Is no mention in lower case, although articles link it.
GENERIC = 1 << 12


def word_hash(word: str) -> int:
    """Return the 32-bit hash of a normalised word."""
    return zlib.crc32(word.encode())


@functools.lru_cache(maxsize=1 << 16)
def term_hash(word: str) -> int:
    """Return the hash of a normalised word as a term of an entity."""
    return zlib.crc32(word.encode()) & ((1 << TERM_BITS) - 1)


def is_term(word: str) -> bool:
    """Say whether a normalised word describes an entity."""
    return len(word) > 2 and word not in STOP_WORDS


def text_terms(text: str) -> set[int]:
    """Return the hashes of the content words of a short text."""
    return {term_hash(word) for word in normalise(text).split() if is_term(word)}


def pair_hashes(hashes: U32, next_hashes: U32) -> U64:
    """Return 64-bit hashes of pairs of word hashes, their upper bits well mixed. Shape (n,)."""
    mixed = hashes.astype(np.uint64) * _FIRST + next_hashes.astype(np.uint64) * _SECOND
    return (mixed ^ (mixed >> np.uint64(29))) * _FIRST


def is_listed(word: str) -> bool:
    """Say whether names are listed under this word of theirs."""
    return len(word) >= MIN_LISTED_CHARACTERS and word not in STOP_WORDS


def singular(word: str) -> str:
    """Return a word without its plural ending, by the most common rules of English.

    It is the word itself where no rule fits.
    """
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


class WordTable:
    """Number distinct words, and hold their keys, flags and hashes by number.

    It never has more than `limit` words for long: then `make_room` empties it.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self.clear()

    def __len__(self) -> int:
        """Return the number of words."""
        return len(self.keys)

    def clear(self) -> None:
        """Forget all words; earlier numbers mean nothing after this."""
        self._numbers: dict[Hashable, int] = {}
        self._arrays: dict[str, Array] = {}
        # Normalised; empty for punctuation.
        self.keys: list[str] = []
        self._flags = array("H")
        self._terms, self._hashes, self._singulars = array("I"), array("I"), array("I")

    def make_room(self) -> None:
        """Empty the table if it is full. Call it between batches, never within one."""
        if len(self.keys) >= self._limit:
            self.clear()

    def numbers(self, names: Sequence[Hashable], text_of: Callable[[Any], str] = str) -> list[int]:
        """Return the number of each word; a new word gets the next number.

        Args:
            names: what identifies each word: its text, or for example a number of spaCy's.
            text_of: returns the text of a word by this name; called for new words only.
        """
        numbers = self._numbers
        return [
            numbers[name] if name in numbers else self._add(name, text_of(name)) for name in names
        ]

    @property
    def flags(self) -> U16:
        """Return the flags by number: OPENS, INNER, … united."""
        return self._array("flags", self._flags)

    @property
    def terms(self) -> U32:
        """Return the hashes as terms, by number; 0 where a word describes nothing."""
        return self._array("terms", self._terms)

    @property
    def hashes(self) -> tuple[U32, U32]:
        """Return, by number, the hash of the key and the hash of its singular."""
        return self._array("hashes", self._hashes), self._array("singulars", self._singulars)

    def _array(self, name: str, values: array[int]) -> Array:
        """Return a numpy copy of a column; copied again only after new words.

        It is a copy because a Python array cannot grow while a view of it exists.
        """
        copied = self._arrays.get(name)
        if copied is None or len(copied) != len(values):
            copied = self._arrays[name] = np.array(values, f"u{values.itemsize}")
        return copied

    def _add(self, name: Hashable, word: str) -> int:
        """Add a word and return its number."""
        number = self._numbers[name] = len(self.keys)
        key = normalise(word)
        # A token like "half-moon" has several words: its longest one stands for it as a term.
        longest = max(key.split(), key=len, default="")

        self.keys.append(key)
        self._flags.append(_flags_of(word, key))
        self._terms.append(term_hash(longest) if is_term(longest) else 0)
        self._hashes.append(word_hash(key))
        self._singulars.append(word_hash(singular(key)))
        return number


def _flags_of(word: str, key: str) -> int:
    """Return the flags of a word as written and of its key, united."""
    lower = word.lower()
    # A condition counts as 0 or 1, so it keeps its flag or drops it.
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
        | POSSESSIVE * (lower in POSSESSIVES)
        | SHORT * (len(key) < 2)
        | ENDS * (word in SENTENCE_ENDS)
        | GENERIC * (key in GENERIC_WORDS)
    )

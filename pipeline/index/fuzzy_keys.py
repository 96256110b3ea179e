"""Which keys a misspelt key may have meant: blocks that both share, then edits. Never a scan.

Goes in: a key. Comes out: 32-bit hashes of its blocks, 0.7 µs each; of the keys in them those that it may be a slip of.

A key of n characters is listed under two blocks, "n and first half" and "n and last half": one edit leaves a half whole,
except for two letters changed round where the halves meet: so that is undone too when one looks. A misspelt key is looked
for under all lengths that differ by at most REACH: one edit needs one, more are found where they are in one half. The length
keeps blocks short where 100 million keys are listed. Words in another order: names of up to MAX_REORDERED words are looked
up in every order, longer ones have a third block, their sorted words.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

MIN_LISTED_CHARACTERS = (
    4  # a query has 5 or more (candidates.MIN_FUZZY_CHARACTERS), so its right key 4 or more
)
REACH = 2
MAX_REORDERED = 4
MAX_ALIKE = 64  # keys that are looked at more closely
SHORT_WORD = 7  # a word below it is one letter from too many others
REORDERED_WEIGHT = 0.95
ROMAN = frozenset("ivx")


class Similar(NamedTuple):
    """A key that may have been meant."""

    key: str
    edits: int  # letters put in, left out, replaced, neighbours changed round; words in another order are none
    similarity: float  # 0 to 1: edits for the length, a little less for words in another order


def block_hashes(key: str) -> list[int]:
    """Blocks that list a key; none for keys that are too short."""
    length = len(key)
    if length < MIN_LISTED_CHARACTERS:
        return []
    return [*_halves(key, length), *_sorted_words(key)]


def query_hashes(key: str) -> list[int]:
    """Blocks in which a misspelt key is looked for: as if it had up to REACH characters less or more."""
    lengths = range(max(len(key) - REACH, MIN_LISTED_CHARACTERS), len(key) + REACH + 1)
    halves = [value for length in lengths for value in _halves(key, length)]
    return [*halves, *_halves(_middle_changed_round(key), len(key))[:1], *_sorted_words(key)]


def reorderings(key: str) -> Iterator[str]:
    """The same words in every other order."""
    words = key.split()
    if 1 < len(words) <= MAX_REORDERED:
        yield from (
            " ".join(order) for order in itertools.permutations(words) if list(order) != words
        )


def _middle_changed_round(key: str) -> str:
    middle = len(key) // 2
    return f"{key[: middle - 1]}{key[middle : middle + 1]}{key[middle - 1 : middle]}{key[middle + 1 :]}"


def _halves(key: str, length: int) -> tuple[int, int]:
    half = length // 2
    return zlib.crc32(f"<{length} {key[:half]}".encode()), zlib.crc32(
        f">{length} {key[-half:]}".encode()
    )


def _sorted_words(key: str) -> list[int]:
    if key.count(" ") < MAX_REORDERED:
        return []
    return [zlib.crc32(f"={' '.join(sorted(key.split()))}".encode())]


def similar(key: str, choices: Sequence[str], cutoff: float) -> list[Similar]:
    """Keys one edit away; if there are none, those with a `ratio` of at least the cutoff (0 to 100), in any order of words."""
    near = _alike(key, choices, OSA.distance, 1)
    if not near:
        near = _alike(key, choices, fuzz.ratio, cutoff)
        if (
            " " in key and cutoff <= 100 * REORDERED_WEIGHT
        ):  # above it no other order is alike enough
            near += _alike(key, choices, fuzz.token_sort_ratio, min(cutoff / REORDERED_WEIGHT, 100))
    return [_compared(key, other) for other in dict.fromkeys(near) if may_mean(key, other)]


def _alike(
    key: str, choices: Sequence[str], scorer: Callable[..., float], cutoff: float
) -> list[str]:
    found = process.extract(key, choices, scorer=scorer, score_cutoff=cutoff, limit=MAX_ALIKE)
    return [other for other, _, _ in found]


def _compared(key: str, other: str) -> Similar:
    as_sorted = [" ".join(sorted(name.split())) for name in (key, other)]
    return Similar(
        other,
        min(OSA.distance(key, other), OSA.distance(*as_sorted)),
        max(
            OSA.normalized_similarity(key, other),
            REORDERED_WEIGHT * OSA.normalized_similarity(*as_sorted),
        ),
    )


def nearest(found: Sequence[Similar]) -> list[Similar]:
    """Those with the fewest edits, the most similar first."""
    fewest = min((one.edits for one in found), default=0)
    return sorted(
        (one for one in found if one.edits == fewest), key=lambda one: (-one.similarity, one.key)
    )


def differing(key: str, other: str) -> tuple[list[str], list[str]]:
    """Words that only the first has, and only the second."""
    words, others = key.split(), other.split()
    return [word for word in words if word not in others], [
        word for word in others if word not in words
    ]


def may_mean(key: str, other: str) -> bool:
    """Whether a difference may be a slip.

    Another number or another initial makes another name. A single short word keeps its first letter and no letter is replaced.
    """
    lost, gained = differing(key, other)
    if any(map(_is_number, [*lost, *gained])):
        return False
    if min(map(len, lost), default=0) == min(map(len, gained), default=0) == 1:
        return False
    if " " in key or len(key) >= SHORT_WORD:
        return True
    return key[0] == other[0] and (len(key) != len(other) or sorted(key) == sorted(other))


def _is_number(word: str) -> bool:
    return any(map(str.isdigit, word)) or ROMAN.issuperset(word)

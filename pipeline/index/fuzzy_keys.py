"""Find the keys that a misspelt key may mean: by shared blocks, then by edits. Never a scan.

Goes in: a key. Comes out: 32-bit hashes of its blocks, 0.7 µs each; and of the keys in these blocks
those of which it may be a misspelling.

A key of n characters is listed under two blocks, "n and first half" and "n and last half". One edit
leaves one half whole, except where two letters are swapped across the middle: so the query also
undoes such a swap. A misspelt key is looked up under all lengths that differ by at most REACH: one
edit needs a difference of one; several edits are found where all are in one half. The length in the
block keeps blocks short where 100 million keys are listed.

Words in another order: names of up to MAX_REORDERED words are looked up in every order; longer
names have a third block, their sorted words.
"""

from __future__ import annotations

import itertools
import os.path
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

# A query has 5 or more (candidates.MIN_FUZZY_CHARACTERS), so the key it means has 4 or more.
MIN_LISTED_CHARACTERS = 4
REACH = 2
MAX_REORDERED = 4
# Keys that are compared word by word.
MAX_ALIKE = 64
# A shorter word is one letter away from too many others.
SHORT_WORD = 7
# A name below this length is one letter away from another one by chance.
MIN_SLIP_CHARACTERS = 9
VOWELS = frozenset("aeiouy")
REORDERED_WEIGHT = 0.95
ROMAN = frozenset("ivx")


class SimilarKey(NamedTuple):
    """Hold a key that may have been meant."""

    key: str
    # Letters put in, left out or replaced, and neighbours swapped. Another order of words is no
    # edit.
    edits: int
    # 0 to 1: by edits for the length, a little less for words in another order.
    similarity: float


def block_hashes(key: str) -> list[int]:
    """Return the blocks that list a key; none for a key that is too short."""
    length = len(key)
    if length < MIN_LISTED_CHARACTERS:
        return []
    return [*_halves(key, length), *_sorted_words(key)]


def query_hashes(key: str) -> list[int]:
    """Return the blocks in which to look for what a misspelt key means.

    They are those of the key as if it had up to REACH characters less or more.
    """
    lengths = range(max(len(key) - REACH, MIN_LISTED_CHARACTERS), len(key) + REACH + 1)
    halves = [block_hash for length in lengths for block_hash in _halves(key, length)]
    return [*halves, *_halves(_swap_middle(key), len(key))[:1], *_sorted_words(key)]


def reorderings(key: str) -> Iterator[str]:
    """Yield the key with its words in every other order; nothing for a long name."""
    words = key.split()
    if 1 < len(words) <= MAX_REORDERED:
        yield from (
            " ".join(order) for order in itertools.permutations(words) if list(order) != words
        )


def _swap_middle(key: str) -> str:
    """Return the key with the two letters swapped where its halves meet."""
    middle = len(key) // 2
    head, tail = key[: middle - 1], key[middle + 1 :]
    return f"{head}{key[middle : middle + 1]}{key[middle - 1 : middle]}{tail}"


def _halves(key: str, length: int) -> tuple[int, int]:
    """Return the hashes of both halves of a key, as if it had `length` characters."""
    half = length // 2
    opening, closing = f"<{length} {key[:half]}", f">{length} {key[-half:]}"
    return zlib.crc32(opening.encode()), zlib.crc32(closing.encode())


def _sorted_words(key: str) -> list[int]:
    """Return the hash of the sorted words of a name that `reorderings` leaves out."""
    if key.count(" ") < MAX_REORDERED:
        return []
    return [zlib.crc32(f"={' '.join(sorted(key.split()))}".encode())]


def similar_choices(key: str, choices: Sequence[str], cutoff: float) -> list[SimilarKey]:
    """Return the choices that a key may have meant.

    They are those one edit away. If there are none, they are those with a `ratio` of at least the
    cutoff (0 to 100), their words in any order.
    """
    alike = _extract(key, choices, OSA.distance, 1)
    if not alike:
        alike = _extract(key, choices, fuzz.ratio, cutoff)
        # Above this cutoff no other order of words is similar enough.
        if " " in key and cutoff <= 100 * REORDERED_WEIGHT:
            reordered_cutoff = min(cutoff / REORDERED_WEIGHT, 100)
            alike += _extract(key, choices, fuzz.token_sort_ratio, reordered_cutoff)
    return [_compare(key, choice) for choice in dict.fromkeys(alike) if may_mean(key, choice)]


def _extract(
    key: str, choices: Sequence[str], scorer: Callable[..., float], cutoff: float
) -> list[str]:
    matches = process.extract(key, choices, scorer=scorer, score_cutoff=cutoff, limit=MAX_ALIKE)
    return [choice for choice, _, _ in matches]


def _compare(key: str, choice: str) -> SimilarKey:
    """Count the edits between two keys, with their words in the best order."""
    with_sorted_words = [" ".join(sorted(name.split())) for name in (key, choice)]
    return SimilarKey(
        choice,
        min(OSA.distance(key, choice), OSA.distance(*with_sorted_words)),
        max(
            OSA.normalized_similarity(key, choice),
            REORDERED_WEIGHT * OSA.normalized_similarity(*with_sorted_words),
        ),
    )


def is_slip(key: str, choice: str) -> bool:
    """Say whether a key is a slip of the pen: so close to a long name that chance is no reason.

    Either the spaces between the words are lost ("sanfrancisco"), or one letter inside a word is
    doubled, left out, put in, swapped with its neighbour, or a vowel is another one. Short names
    and other letters are what other names have: "Gross" and "Cross", "Mandan" and "Madan".

    >>> is_slip("michele obama", "michelle obama")
    True
    >>> is_slip("david gross", "david cross")
    False
    """
    if " " in choice and " " not in key and key == choice.replace(" ", ""):
        return True
    if len(key) < MIN_SLIP_CHARACTERS or OSA.distance(key, choice) != 1:
        return False

    # The edit lies between what both have at the beginning and what both have at the end.
    start = len(os.path.commonprefix([key, choice]))
    if (
        start == 0
        or key[start - 1] == " "
        or " " in (key[start : start + 1], choice[start : start + 1])
    ):
        return False
    if len(key) != len(choice) or key[start + 1 :] != choice[start + 1 :]:
        return True
    return key[start] in VOWELS and choice[start] in VOWELS


def with_fewest_edits(similar: Sequence[SimilarKey]) -> list[SimilarKey]:
    """Return those with the fewest edits, the most similar first."""
    fewest = min((choice.edits for choice in similar), default=0)
    nearest = (choice for choice in similar if choice.edits == fewest)
    return sorted(nearest, key=lambda choice: (-choice.similarity, choice.key))


def differing_words(key: str, choice: str) -> tuple[list[str], list[str]]:
    """Return the words that only the first key has, and those that only the second has."""
    words, choice_words = key.split(), choice.split()
    lost = [word for word in words if word not in choice_words]
    gained = [word for word in choice_words if word not in words]
    return lost, gained


def may_mean(key: str, choice: str) -> bool:
    """Say whether the difference between two keys may be a slip.

    Another number or another initial makes another name. A single short word keeps its first letter
    and has no letter replaced.
    """
    lost, gained = differing_words(key, choice)
    if any(map(_is_number, [*lost, *gained])):
        return False
    # On both sides a word of one letter: another initial.
    if min(map(len, lost), default=0) == min(map(len, gained), default=0) == 1:
        return False

    if " " in key or len(key) >= SHORT_WORD:
        return True
    return key[0] == choice[0] and (len(key) != len(choice) or sorted(key) == sorted(choice))


def _is_number(word: str) -> bool:
    return any(map(str.isdigit, word)) or ROMAN.issuperset(word)

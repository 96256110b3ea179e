"""Say which mentions of a document are likely misspelt.

In clean text a name that no index lists is nearly always a name of its own, however close another
one is: "Schumer" is no "Sumner". So there must be evidence: the spelling occurs once, and the
document has the intended name too. Goes in: the keys of a document's mentions. Costs 0.1 µs per pair
of an unknown and a known name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rapidfuzz import process
from rapidfuzz.distance import OSA

# Characters of the shortest name that may be misspelt, and of one that may have two edits.
MIN_CHARACTERS, LONG_CHARACTERS = 5, 12


def likely_misspelt(keys: Sequence[str], are_known: Sequence[bool]) -> list[bool]:
    """Say of mentions whether each is likely a misspelling of another one of the document.

    Args:
        keys: of the mentions.
        are_known: whether the index lists each key.
    """
    known_keys = list(
        dict.fromkeys(key for key, known in zip(keys, are_known, strict=True) if known)
    )
    counts = Counter(keys)
    return [
        not is_known and counts[key] == 1 and _has_neighbour(key, known_keys)
        for key, is_known in zip(keys, are_known, strict=True)
    ]


def _has_neighbour(key: str, known_keys: Sequence[str]) -> bool:
    """Say whether a key is an edit or two away from a known one."""
    if len(key) < MIN_CHARACTERS:
        return False
    max_edits = 1 + (len(key) >= LONG_CHARACTERS)
    return (
        process.extractOne(key, known_keys, scorer=OSA.distance, score_cutoff=max_edits) is not None
    )

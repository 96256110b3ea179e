"""Compute the features of a surface and its candidates that are the same in every document.

Goes in: surfaces, and what the index and the store say of their candidates. Comes out: a row of
features per candidate. A linker keeps the rows of a surface, so the Python per label here runs once
per new surface.

Legend: n candidates of all surfaces, s static features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz

from pipeline.index.name_keys import SOURCE_BITS, normalise
from pipeline.index.words import STOP_WORDS, is_term, term_hash
from pipeline.link.candidates import FUZZY, INFLECTED, PARTIAL, REUSED, VARIANT
from pipeline.link.features import MAX_OTHERS, STATIC, below_best, log_prior
from schemas.array_types import F32, F64, I64, U32, Array, Bools

# A key of so few characters may be a code: "GA", "CEO".
MAX_CODE = 3
MIN_INITIALS = 2
# How far below the best a measure of popularity can lie, as a logarithm: a factor of 55. A new item
# is no more unlikely than one of ten years ago.
MOST_BELOW = -4.0
_TITLE = SOURCE_BITS["title"]
_MATCH_FEATURES = {
    "variant": VARIANT,
    "inflected": INFLECTED,
    "reused": REUSED,
    "partial": PARTIAL,
    "fuzzy": FUZZY,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """Hold what is known of candidates, each of length n."""

    qids: U32
    popularity: U32
    statements: U32
    is_primary: Bools
    labels: Sequence[str]
    # Whether the surface is short for a name that nobody bears.
    is_orphan: Bools


def static_features(
    surfaces: Sequence[str], owners: I64, described: Described, columns: F64
) -> F32:
    """Return the features of candidates that do not depend on the document.

    Args:
        surfaces: as written.
        owners: number of each candidate's surface, shape (n,).
        described: what the store says of each candidate.
        columns: fields of each `Candidate`.

    Returns:
        Shape (n, s).
    """
    counts, flags, matches, _ = columns.T
    is_whole = matches <= VARIANT
    popularity = described.popularity
    num_whole = np.bincount(owners, is_whole, len(surfaces))
    prior, linked = log_prior(owners, counts, popularity, is_whole)
    compared = {
        "popularity": np.log1p(popularity),
        "statements": np.log1p(described.statements),
        # Wikidata gave low numbers to what many Wikipedias wrote about when it began.
        "age": -np.log(np.maximum(described.qids.astype(np.float64), 1.0)),
    }
    static: dict[str, Array] = {
        "prior": prior,
        "linked": linked,
        **{
            name: np.maximum(below_best(owners, values, is_whole), MOST_BELOW)
            for name, values in compared.items()
        },
        "primary": described.is_primary,
        **{name: matches == match for name, match in _MATCH_FEATURES.items()},
        "orphan": described.is_orphan,
        "inexact": num_whole[owners] == 0,
        "title": (flags.astype(np.int64) & _TITLE) > 0,
        **_spelling(surfaces, owners, described.labels, columns),
    }
    return np.stack([np.asarray(static[name], np.float32) for name in STATIC], axis=1)


def _spelling(
    surfaces: Sequence[str], owners: I64, labels: Sequence[str], columns: F64
) -> dict[str, Array]:
    """Compare the surface with the name found and with the label. Each of shape (n,).

    `ending` and `opening`: the label ends or opens with the surface ("Jobs", "Miami"). `common`: a
    capital in the text, but none in the label, as in no proper name. `proper`: the opposite; a
    document that writes most of its mentions so is left out later. `initials`: the first letters
    of the label's words ("NFL"). `code`: two or three letters that are neither these nor the label.
    Letter case counts in `common` and `proper` alone, since a headline is in capitals.
    """
    _, _, matches, similarity = columns.T
    keys = [normalise(surface) for surface in surfaces]
    begins = [surface[:1].isupper() and not surface.isupper() for surface in surfaces]
    pairs = [
        (keys[owner], normalise(label))
        for owner, label in zip(owners.tolist(), labels, strict=True)
    ]
    ratio = np.fromiter((fuzz.ratio(*pair) for pair in pairs), np.float64, len(pairs)) / 100

    is_same = np.fromiter((key == label for key, label in pairs), bool, len(pairs))
    begins_lower = [surface[:1].islower() for surface in surfaces]
    is_lower = np.fromiter((label[:1].islower() for label in labels), bool, len(labels))
    is_upper = np.fromiter((label[:1].isupper() for label in labels), bool, len(labels))
    is_short = np.fromiter((len(key) <= MAX_CODE for key in keys), bool, len(keys))
    is_initials = np.fromiter((_is_initials(key, label) for key, label in pairs), bool, len(pairs))
    return {
        # Those found by no name of their own have the similarity of the label.
        "similarity": np.where((matches == REUSED) | (matches == PARTIAL), ratio, similarity),
        "label": ratio,
        "same": is_same,
        "ending": np.fromiter(
            (label.endswith(f" {key}") for key, label in pairs), bool, len(pairs)
        ),
        "opening": np.fromiter(
            (label.startswith(f"{key} ") for key, label in pairs), bool, len(pairs)
        ),
        "common": np.array(begins, bool)[owners] & is_lower,
        "proper": np.array(begins_lower, bool)[owners] & is_upper,
        "initials": is_initials,
        "code": is_short[owners] & ~is_same & ~is_initials & (matches <= VARIANT),
    }


def _is_initials(key: str, label: str) -> bool:
    """Say whether a key is the first letters of a label's words, function words counted or not.

    The last ones may be left out.

    >>> _is_initials("bbc", "british broadcasting corporation")
    True
    >>> _is_initials("us", "united states of america")
    True
    """
    letters = key.replace(" ", "")
    if len(letters) < MIN_INITIALS or letters[0] != label[:1]:
        return False
    words = label.split()
    first_letters = "".join(word[0] for word in words if word not in STOP_WORDS)
    return letters == "".join(word[0] for word in words) or first_letters.startswith(letters)


def other_words(surfaces: Sequence[str], owners: I64, labels: Sequence[str]) -> U32:
    """Return the first words of each label that its surface lacks, hashed as terms.

    Shape (n, MAX_OTHERS), 0 where there are fewer.
    """
    words_of = [set(normalise(surface).split()) for surface in surfaces]
    others = np.zeros((len(labels), MAX_OTHERS), np.uint32)
    for row, (owner, label) in enumerate(zip(owners.tolist(), labels, strict=True)):
        words = words_of[owner]
        lacking = [word for word in normalise(label).split() if word not in words and is_term(word)]
        for column, word in enumerate(lacking[:MAX_OTHERS]):
            others[row, column] = term_hash(word)
    return others

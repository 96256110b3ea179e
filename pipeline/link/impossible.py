"""Rule out candidates that a mention cannot mean: languages for nationalities, codes for names.

Goes in: mentions and candidates. Comes out: which candidates go. "Russian" is a country, a people or
a language: what follows says which. An alias of two or three letters is often a code of the item, and
no name of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.index.entity_types import GROUP, LANGUAGE, PLACE
from pipeline.index.name_keys import normalise
from pipeline.index.words import MORE_STOP_WORDS, STOP_WORDS
from pipeline.link.candidates import INFLECTED
from schemas.array_types import I64, U8, Bools

# Letters of the longest code: "he", "GA", "deu".
MAX_CODE = 3
# The recogniser's label for peoples, religions and parties.
NATIONALITY = "NORP"
# Words that may stand between a nationality and the word that says what it is.
NUM_FOLLOWING = 4
_FOLLOWING = re.compile(r"(?:[ -]\w+)+")
# What is in a language, or of one: before these an adjective may name the language.
_OF_LANGUAGE = frozenset(
    "language languages dialect dialects speaker speakers speaking alphabet script grammar word words "
    "name names term text texts translation translations version versions title edition literature "
    "poem poems poetry novel novels book books newspaper newspapers magazine film films movie movies "
    "song songs album albums lyrics manuscript manuscripts inscription inscriptions television "
    "series drama comedy sitcom wikipedia teacher lessons".split()
)


def is_nationality(text: str, end: int, ner_type: str | None) -> bool:
    """Say whether a mention is a nationality before a noun, and no language.

    So it is in "Russian ballet dancer", but not in "Russian, Polish and Czech", where nothing
    follows, and not in "Russian film", which may be in Russian.

    Args:
        text: of the document.
        end: one past the last code point of the mention.
        ner_type: the recogniser's label.
    """
    if ner_type != NATIONALITY:
        return False
    match = _FOLLOWING.match(text, end)
    words = match.group().replace("-", " ").lower().split()[:NUM_FOLLOWING] if match else []
    if not words or words[0] in STOP_WORDS or words[0] in MORE_STOP_WORDS:
        return False
    return words[0].isalpha() and not any(word in _OF_LANGUAGE for word in words)


def misread_as_language(are_nationalities: Bools, mention_of: I64, matches: U8, types: U8) -> Bools:
    """Say of candidates whether they are languages of a mention that is a nationality.

    A language stays where no country and no people has the name.

    Args:
        are_nationalities: of the mentions, shape (m,).
        mention_of: number of each candidate's mention, ascending, shape (c,).
        matches: how each candidate was found, shape (c,).
        types: coarse type bits of each candidate, shape (c,).
    """
    if not are_nationalities.any():
        return np.zeros(len(types), bool)
    of_nationality = are_nationalities[mention_of]
    is_other = of_nationality & (matches <= INFLECTED) & (types & (PLACE | GROUP) > 0)
    has_other = np.bincount(mention_of, is_other, len(are_nationalities)) > 0
    is_language: Bools = of_nationality & (types == LANGUAGE) & has_other[mention_of]
    return is_language


def are_codes(
    surfaces: Sequence[str], owners: I64, label_of: Callable[[int], str], types: U8
) -> Bools:
    """Say of candidates whether a short surface is but a code of theirs.

    "He" is no Hebrew, "Fo" no Faroe Islands, and "GA" no Irish: an abbreviation is in capitals, and
    no language is called by its code.

    Args:
        surfaces: as written.
        owners: number of each candidate's surface, shape (c,).
        label_of: returns the label of a candidate by its position.
        types: coarse type bits of each candidate, shape (c,).
    """
    may_be_code = np.array([_may_be_code(surface) for surface in surfaces], bool)
    are_codes = np.zeros(len(owners), bool)
    for position in np.flatnonzero(may_be_code[owners]).tolist():
        surface = surfaces[owners[position]]
        if normalise(surface) not in normalise(label_of(position)).split():
            is_in_one_case = surface.isupper() or surface.islower()
            are_codes[position] = int(types[position]) == LANGUAGE or not is_in_one_case
    return are_codes


def _may_be_code(surface: str) -> bool:
    return len(surface) <= MAX_CODE and surface.isalpha()

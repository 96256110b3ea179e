"""Rule out candidates that a mention cannot mean: languages for nationalities, codes for names.

Goes in: mentions and candidates. Comes out: which candidates go. "Russian" is a country, a people or
a language: the words around say which. An alias of two or three letters is often a code of the item, and
no name of it.
"""

from __future__ import annotations

import itertools
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
# What such a mention can be.
NATION, LANGUAGE_READING = "nation", "language"
# Words that may stand between a nationality and the word that says what it is.
NUM_FOLLOWING = 4
_FOLLOWING = re.compile(rf"(?:[ -]\w+){{1,{NUM_FOLLOWING}}}")
# Code points on each side, in the same sentence, in which a language is spoken of.
CLAUSE = 60
_SENTENCE_BEFORE = re.compile(r"[^.!?;\n]*\Z")
_SENTENCE_AFTER = re.compile(r"[^.!?;\n]*")
_WORD = re.compile(r"[a-z]+")
# "(Swedish: ort)", "from Greek: νεῦρον", "the Greek ἄβαξ".
_TRANSLATED = re.compile(r":\s?\S")
_NEXT_WORD = re.compile(r"\s([^\W\d_]+)")
# Where the letters of the Latin script end.
LATIN_END = 0x370
# "the French and German troops": what follows the last of several says what all of them are.
_ANOTHER = re.compile(r"(?:, (?:and |or )?| and | or |/)[A-Z][\w-]+")
MAX_OTHERS = 6
# After these an adjective that stands alone says who is meant, or where somebody is from.
_BEFORE_NATION = frozenset(
    "the be been being is are was were am became become becomes remain remained mostly mainly half ethnic "
    "ethnically culturally originally".split()
)
# What is said, written or read, right after the language.
_IN_LANGUAGE = frozenset(
    "adjective alphabet dialect dialects dub dubs dubbing grammar language languages lyrics name names "
    "noun prefix root roots script speaker speakers speaking subtitles suffix term terms translation "
    "translations verb verbs word words".split()
)
_ABOUT_LANGUAGE = frozenset(
    "language languages dialect dialects bilingual fluent fluently speak speaks spoke spoken speaking "
    "speaker speakers translate translated translates translation translations pronounced".split()
)
# What is in a language, or of one: before these an adjective may name the language.
_OF_LANGUAGE = frozenset(
    "language languages dialect dialects speaker speakers speaking alphabet script grammar word words "
    "name names term text texts translation translations version versions title edition literature "
    "poem poems poetry novel novels book books newspaper newspapers magazine film films movie movies "
    "song songs album albums lyrics manuscript manuscripts inscription inscriptions television "
    "series drama comedy sitcom wikipedia teacher lessons".split()
)


def reading_of(text: str, start: int, end: int, ner_type: str | None) -> str:
    """Say whether a mention that may be either is a NATION or a LANGUAGE; empty if nothing tells.

    A LANGUAGE is spoken of as one, as in "wrote in Russian", "Russian is spoken". Before a noun, as
    in "Russian ballet dancer", after "the" and after a form of "be", it is a NATION. Nothing
    tells in "Russian film", which may be in Russian, nor where no noun follows: "and Russian (3 %)".

    Args:
        text: of the document.
        start: first code point of the mention.
        end: one past its last code point.
        ner_type: the recogniser's label.
    """
    if ner_type != NATIONALITY:
        return ""
    next_word = _NEXT_WORD.match(text, end)
    if _TRANSLATED.match(text, end) or (next_word and ord(next_word.group(1)[0]) >= LATIN_END):
        return LANGUAGE_READING
    phrase = _phrase_after(text, end)
    if phrase:
        return LANGUAGE_READING if phrase[0] in _IN_LANGUAGE else _reading_before(phrase)

    before = _SENTENCE_BEFORE.search(text, max(start - CLAUSE, 0), start)
    after = _SENTENCE_AFTER.match(text, end, end + CLAUSE)
    preceding = _WORD.findall(before.group().lower()) if before else []
    around = {*preceding, *_WORD.findall(after.group().lower() if after else "")}
    if preceding[-1:] == ["in"] or around & _ABOUT_LANGUAGE:
        return LANGUAGE_READING
    if preceding and preceding[-1] in _BEFORE_NATION:
        return NATION
    # "the French and German troops": the noun after the last of several is that of all.
    phrase = _phrase_after(text, _end_of_others(text, end))
    return _reading_before(phrase) if phrase else ""


def _phrase_after(text: str, end: int) -> list[str]:
    """Return the words of the noun phrase that a nationality begins: "film director" of "film
    director and".
    """
    match = _FOLLOWING.match(text, end)
    following = match.group().replace("-", " ").lower().split()[:NUM_FOLLOWING] if match else []
    return list(itertools.takewhile(_is_of_phrase, following))


def _reading_before(phrase: Sequence[str]) -> str:
    """Return what a nationality is before some words; the last one says what is meant."""
    return "" if phrase[-1] in _OF_LANGUAGE else NATION


def _end_of_others(text: str, end: int) -> int:
    """Return where the last of several names ends that follow each other; `end` where there is one."""
    for _ in range(MAX_OTHERS):
        other = _ANOTHER.match(text, end)
        if other is None:
            break
        end = other.end()
    return end


def _is_of_phrase(word: str) -> bool:
    return word.isalpha() and word not in STOP_WORDS and word not in MORE_STOP_WORDS


def misread(readings: Sequence[str], mention_of: I64, matches: U8, types: U8) -> Bools:
    """Say of candidates whether they are languages of a NATION, or nations of a LANGUAGE.

    Nothing goes where a mention has no candidate of the right kind with this name.

    Args:
        readings: of the mentions, shape (m,).
        mention_of: number of each candidate's mention, ascending, shape (c,).
        matches: how each candidate was found, shape (c,).
        types: coarse type bits of each candidate, shape (c,).
    """
    gone = np.zeros(len(types), bool)
    reading_of_each = np.array(readings, str)
    is_language, is_nation = types == LANGUAGE, types & (PLACE | GROUP) > 0
    # A people whose language has its name is both: it stays.
    for reading, is_right, is_wrong in (
        (NATION, is_nation, is_language),
        (LANGUAGE_READING, types & LANGUAGE > 0, is_nation & (types & LANGUAGE == 0)),
    ):
        concerned = reading_of_each == reading
        if not concerned.any():
            continue
        concerned_candidates = concerned[mention_of]
        found = concerned_candidates & (matches <= INFLECTED) & is_right
        has_right = np.bincount(mention_of, found, len(concerned)) > 0
        gone |= concerned_candidates & is_wrong & has_right[mention_of]
    return gone


def are_codes(
    surfaces: Sequence[str], owners: I64, label_of: Callable[[int], str], types: U8
) -> Bools:
    """Say of candidates whether a short surface is but a code of theirs.

    "He" is no Hebrew, "Fo" no Faroe Islands, and "GA" no Irish: an abbreviation is in capitals, and
    no language is called by its code. Three letters may be a name: "Met", "DoD".

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
            is_mixed = not is_in_one_case and len(surface) < MAX_CODE
            are_codes[position] = int(types[position]) == LANGUAGE or is_mixed
    return are_codes


def _may_be_code(surface: str) -> bool:
    letters = surface.removesuffix(".")
    return len(letters) <= MAX_CODE and letters.isalpha()

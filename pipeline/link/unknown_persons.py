"""Find surnames and first names of persons whom no index knows.

"Riley" after "Pat Riley" means this person and nobody else, even if the index lists a Riley. Goes
in: the mentions of a document. Comes out: which of them stand for an unknown person.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.index.name_keys import normalise
from pipeline.link.spans import PERSON_LABELS, Span

# Words of a person's name. A longer span of the recogniser is often more than one name.
MIN_WORDS, MAX_WORDS = 2, 3
SURNAME_LABELS = (*PERSON_LABELS, None)


def stand_for_unknown_persons(spans: Sequence[Span], surfaces: Sequence[str]) -> list[bool]:
    """Say of a document's mentions whether each is one name of a person who is unknown in full.

    Not where a known name of several words has the word too: it may be meant.

    Args:
        spans: of the document.
        surfaces: their texts.
    """
    keys = [normalise(surface) for surface in surfaces]
    first_names: set[str] = set()
    surnames: set[str] = set()
    for span, surface in zip(spans, surfaces, strict=True):
        if _is_unknown_person(span, surface):
            words = surface.split()
            first_names.add(normalise(words[0]))
            surnames.add(normalise(words[-1]))
    if not surnames:
        return [False] * len(spans)

    known_words = {
        word
        for span, key in zip(spans, keys, strict=True)
        if span.known and " " in key
        for word in key.split()
    }
    return [
        surface[:1].isupper()
        and key not in known_words
        # The recogniser takes a surname for a body now and then, and a place for a first name.
        and (
            (key in surnames and span.ner_type in SURNAME_LABELS)
            or (key in first_names and span.ner_type in PERSON_LABELS)
        )
        for span, surface, key in zip(spans, surfaces, keys, strict=True)
    ]


def _is_unknown_person(span: Span, surface: str) -> bool:
    """Say whether a mention is the full name of a person whom no index knows."""
    if span.known or span.ner_type not in PERSON_LABELS or "," in surface:
        return False
    words = surface.split()
    return MIN_WORDS <= len(words) <= MAX_WORDS and all(word[0].isupper() for word in words)

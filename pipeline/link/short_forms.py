"""Find longer names of a document that a mention may be short for.

"Bakunin" after "Mikhail Bakunin", "NHL" for its full name. Goes in: the surfaces of a document's
mentions, in order. Comes out: for each, up to MAX_LONGER longer surfaces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.index.name_keys import normalise
from pipeline.link.mentions import MIN_ACRONYM, initials_of

MAX_LONGER = 2
# Longer names compared per word: many have a word like "united".
MAX_PER_WORD = 8


def longer_names(surfaces: Sequence[str]) -> list[tuple[str, ...]]:
    """Return, for each mention, the longer names with all its words or its letters as initials.

    The whole document counts, its first names first: a person or a body is named in full at the
    beginning.
    """
    keys = {surface: normalise(surface) for surface in dict.fromkeys(surfaces)}
    by_word: dict[str, list[tuple[str, frozenset[str]]]] = defaultdict(list)
    by_initials: dict[str, list[str]] = defaultdict(list)
    # Only a name of several words can be longer than another. `keys` has the document's order, and
    # so have these lists.
    for surface in keys:
        # After a comma stands where something is, not what it is: "South Bend, Indiana".
        words = frozenset(normalise(surface.partition(",")[0]).split())
        if len(words) > 1:
            for word in words:
                by_word[word].append((surface, words))
            if len(initials := initials_of(surface)) >= MIN_ACRONYM:
                by_initials[initials].append(surface)

    longer_of = {
        surface: _longer(surface, key, by_word, by_initials) for surface, key in keys.items()
    }
    return [longer_of[surface] for surface in surfaces]


def _longer(
    surface: str,
    key: str,
    by_word: dict[str, list[tuple[str, frozenset[str]]]],
    by_initials: dict[str, list[str]],
) -> tuple[str, ...]:
    """Return the longer names of one surface.

    Args:
        surface: as written.
        key: its key.
        by_word: longer names, with their words, by each word.
        by_initials: longer names by their initials.
    """
    words = frozenset(key.split())
    if not words:
        return ()

    # In the order of the key: of equally rare words the first one. The order of a set would change
    # from process to process.
    rarest = min((by_word.get(word, []) for word in dict.fromkeys(key.split())), key=len)
    longer = [name for name, words_of_name in rarest[:MAX_PER_WORD] if words < words_of_name]
    if surface.isupper():
        longer += by_initials.get(key, ())[:MAX_PER_WORD]
    return tuple(longer[:MAX_LONGER])

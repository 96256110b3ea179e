"""Misspell names by one edit, to train and test fuzzy candidates on."""

from __future__ import annotations

import random
import string

EDITS = ("insert", "delete", "substitute", "transpose")
MIN_CHARACTERS = 5


def misspelt(name: str, chance: random.Random) -> str:
    """Return a name with one random edit after its first letter; a name that is too short as it is.

    >>> misspelt("Strasbourg", random.Random(1))
    'Strabsourg'
    """
    if len(name) < MIN_CHARACTERS:
        return name

    # All numbers are drawn in any case, so the next name's edit does not depend on this one's kind.
    edit = chance.choice(EDITS)
    position = chance.randrange(1, len(name) - 1)
    letter = chance.choice(string.ascii_lowercase)
    before, replaced, after = name[:position], name[position], name[position + 1 :]
    if edit == "insert":
        return f"{before}{letter}{replaced}{after}"
    if edit == "delete":
        return before + after
    if edit == "substitute":
        return before + letter + after
    return f"{before}{after[0]}{replaced}{after[1:]}"

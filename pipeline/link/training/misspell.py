"""Misspell names by one edit, to train and test fuzzy candidates on."""

from __future__ import annotations

import random
import string

# What people do by mistake, each equally often.
EDITS = ("insert", "delete", "substitute", "transpose")
# Shorter names are not looked up as misspellings either.
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
    head, character, tail = name[:position], name[position], name[position + 1 :]
    if edit == "insert":
        return f"{head}{letter}{character}{tail}"
    if edit == "delete":
        return head + tail
    if edit == "substitute":
        return head + letter + tail
    return f"{head}{tail[0]}{character}{tail[1:]}"

"""One-edit misspellings of names, to train and test fuzzy candidates on. Goes in: a name and a generator of chance."""

from __future__ import annotations

import random
import string

EDITS = ("insert", "delete", "substitute", "transpose")
MIN_CHARACTERS = 5


def misspelt(name: str, chance: random.Random) -> str:
    """A name with one random edit after its first letter; the name itself where it is too short.

    >>> misspelt("Strasbourg", random.Random(1))
    'Strabsourg'
    """
    if len(name) < MIN_CHARACTERS:
        return name
    edit = chance.choice(EDITS)
    place = chance.randrange(1, len(name) - 1)
    letter = chance.choice(string.ascii_lowercase)
    before, here, after = name[:place], name[place], name[place + 1 :]
    if edit == "insert":
        return f"{before}{letter}{here}{after}"
    if edit == "delete":
        return before + after
    if edit == "substitute":
        return before + letter + after
    return f"{before}{after[0]}{here}{after[1:]}"

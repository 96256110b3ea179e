"""List things in a message: the first few, and how many more there are."""

from __future__ import annotations

from collections.abc import Iterable

# Of a million paths the first ones say where to look.
SHOWN = 3


def a_few(things: Iterable[object], shown: int = SHOWN, between: str = ", ") -> str:
    """Return some things in words: at most `shown` of them, and the number of the others.

    >>> a_few(["a.txt", "b.txt"])
    'a.txt, b.txt'
    >>> a_few(range(303))
    '0, 1, 2 and 300 more'
    """
    texts = list(map(str, things))
    # One more takes no more room than its count.
    if len(texts) <= shown + 1:
        return between.join(texts)
    return f"{between.join(texts[:shown])} and {len(texts) - shown:,} more"

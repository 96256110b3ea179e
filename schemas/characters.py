"""Say which characters of a name show nothing, for those who write names and those who look them up."""

from __future__ import annotations

import unicodedata

# Invisible characters that stay: joiners change the meaning of Persian words and of emoji.
JOINERS = "\u200c\u200d"
# Invisible characters that stay: tags spell the region of a flag emoji.
TAGS = range(0xE0020, 0xE0080)


def without_invisible(text: str) -> str:
    """Return a text without controls, format characters and lone surrogates.

    White space stays, and so do joiners and the tags of flags.

    >>> without_invisible("Par\\u00adis\\ufeff")
    'Paris'
    """
    # Most names are plain ASCII and skip the loop over characters.
    if text.isascii() and text.isprintable():
        return text
    return "".join(filter(is_visible, text))


def is_visible(char: str) -> bool:
    """Say whether a character stays in a name."""
    if char.isprintable() or char.isspace() or char in JOINERS or ord(char) in TAGS:
        return True
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs")

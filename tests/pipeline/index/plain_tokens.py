"""Tokens without spaCy: words, possessives, abbreviations, single punctuation marks; sentences by
full stop and line.
"""

from __future__ import annotations

import re

import numpy as np

from pipeline.index.words import WordTable
from pipeline.link.probes import DocumentTokens

_TOKEN = re.compile(r"['’]s\b|(?:[^\W\d_]\.){2,}|(?:St|Mt|Dr|Jr|Mr)\.|[^\W_]+|[^\w\s]|_")


def tokenise(text: str, table: WordTable) -> DocumentTokens:
    """DocumentTokens of a text, their words in the table."""
    found = list(_TOKEN.finditer(text))
    opens, last = [], 0
    for place, match in enumerate(found):
        ended = (
            place == 0
            or found[place - 1].group() in set(".!?")
            or "\n" in text[last : match.start()]
        )
        opens.append(ended and match.group() not in set(".!?"))
        last = match.end()
    starts, ends = ([edge(match) for match in found] for edge in (re.Match.start, re.Match.end))
    words = table.numbers([match.group() for match in found])
    return DocumentTokens(
        *(np.array(column, np.int64) for column in (starts, ends, words)), np.array(opens, bool)
    )

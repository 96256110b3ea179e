"""Find out which tokens of a vocabulary read the same: with or without a space, in any letter case.

Byte-level and cased vocabularies have several tokens for one word: "Zenda", " Zenda", "ZENDA". Where
one of them is hidden, the others would give it away.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.array_types import I64

# What a decoder shows for a piece of a character.
PART = "\N{REPLACEMENT CHARACTER}"


def spellings_of(tokenizer: Any, size: int) -> I64:  # noqa: ANN401 - a tokenizer of transformers
    """Return a number for each token id, the same one for tokens that read the same; shape (size,).

    A piece inside a word ("##da") does not read as the word. Takes half a second for 50,000 tokens.
    """
    special = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens(list(range(size)))
    number_of: dict[str, int] = {}
    numbers = np.empty(size, np.int64)
    for token_id, piece in enumerate(pieces):
        text = piece if token_id in special or piece is None else _read(tokenizer, piece)
        numbers[token_id] = number_of.setdefault(text or f"token {token_id}", token_id)
    return numbers


def spelt(ids: I64, spelling: I64 | None) -> I64:
    """Return the spellings of token ids; the ids where spellings are not known."""
    return ids if spelling is None else spelling[ids]


def _read(tokenizer: Any, piece: str) -> str:  # noqa: ANN401 - a tokenizer of transformers
    text = tokenizer.convert_tokens_to_string([piece])
    # A part of a character reads like any other part: such a piece is its own spelling.
    return piece if PART in text else text.strip().casefold()

"""Turn rows of probes into questions for one model, ranked over one vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from schemas.array_types import I64
from schemas.errors import ConfigError
from trelm_train.evaluate.answers import Cloze
from trelm_train.evaluate.lama_files import has_mark, read_lines
from trelm_train.evaluate.lama_rows import ANSWER, ProbeRow, row_of
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.model.protocols import Tokenizer

# A token that lower-casing would have changed; markers such as "[E1]" are no words.
CAPITAL = re.compile(r"[^\[<]*[A-Z]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Hold one question, and the row that it comes from."""

    cloze: Cloze
    row: ProbeRow


class Prober:
    """Hold a model, its tokenizer and the vocabulary subset that answers are ranked over.

    Raises:
        ConfigError: the common vocabulary cannot be read, or holds no token of the model.
    """

    def __init__(self, model: MaskedLm, tokenizer: Tokenizer, common_vocab: Path | None) -> None:
        self.model, self.tokenizer = model, tokenizer
        # Word → its token, or None: objects repeat.
        self._token_of: dict[str, int | None] = {}
        # What was found in the common vocabulary, for the report.
        self.notes: dict[str, int] = {}
        ids = self._all_ids() if common_vocab is None else self._ids_of_words(common_vocab)
        self.candidates: I64 = np.unique(np.asarray(ids, np.int64))
        if not len(self.candidates):
            raise ConfigError(
                f"{common_vocab}: no word in it is a single token of this model; give another list"
            )
        self._is_candidate = frozenset(self.candidates.tolist())

    def _all_ids(self) -> list[int]:
        """Return all ids of the vocabulary that are not special."""
        # Mask and padding tokens are no answers.
        special = set(self.tokenizer.all_special_ids)
        # Some models have more rows than their tokenizer has tokens, others fewer.
        size = min(len(self.tokenizer), self.model.config.vocab_size)
        return [number for number in range(size) if number not in special]

    def _ids_of_words(self, common_vocab: Path) -> list[int]:
        """Return the ids of the words in a file that are one token.

        Raises:
            ConfigError: the file cannot be read.
        """
        words = read_words(common_vocab)
        ids = [token for word in words if (token := self.single_token(word)) is not None]
        self.notes = {
            "common_vocab_words": len(words),
            "common_vocab_words_not_one_token": len(words) - len(ids),
            # Such as Paris and paris, for a model that lower-cases.
            "common_vocab_words_that_are_one_candidate": len(ids) - len(set(ids)),
            "files_with_byte_order_mark": int(has_mark(common_vocab)),
        }
        return ids

    @cached_property
    def is_uncased(self) -> bool:
        """Say whether the tokenizer lower-cases: no word of its vocabulary has a capital."""
        special = set(self.tokenizer.all_special_ids)
        return not any(
            CAPITAL.match(token)
            for token, number in self.tokenizer.get_vocab().items()
            if number not in special
        )

    def tokens(self, word: str) -> list[int]:
        """Return the token ids of a word in running text."""
        # RoBERTa has different tokens for a word at the start of a text and inside of it.
        text = self.model.family.word_prefix + word
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def single_token(self, word: str) -> int | None:
        """Return the id of a word that is one token of the vocabulary in running text, or None."""
        if word not in self._token_of:
            ids = self.tokens(word)
            is_single = len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id
            self._token_of[word] = int(ids[0]) if is_single else None
        return self._token_of[word]

    def item(self, template: str | None, row: dict[str, Any]) -> Item | str:
        """Turn a row into a question, or return the reason why it does not count.

        Without a template the row has a sentence of its own.
        """
        return self.question(row_of(template, row))

    def question(self, row: ProbeRow, right: Iterable[str] = ()) -> Item | str:
        """Turn a row into a question, or return the reason why it does not count.

        `right` are the objects of the subject: all that would be a right answer.
        """
        gold = self.single_token(row.obj_label)
        if gold is None:
            return "object_not_one_token"
        # An object outside the ranked vocabulary could never be found.
        if gold not in self._is_candidate:
            return "object_not_in_common_vocab"

        asked = self.with_mask(row)
        if isinstance(asked, str):
            return asked
        ids, mask_position = asked
        if len(ids) > self.model.max_tokens:
            return "too_long"
        tokens = {token for word in right if (token := self.single_token(word)) is not None}
        others = tuple(sorted((tokens & self._is_candidate) - {gold}))
        cloze = Cloze(ids=ids, mask_position=mask_position, gold=gold, others=others)
        return Item(cloze=cloze, row=row)

    def with_mask(self, row: ProbeRow) -> tuple[list[int], int] | str:
        """Return the token ids of a row's sentence and the place of its mask, or why there is none."""
        ids = self.tokenizer(row.sentence.replace(ANSWER, self.tokenizer.mask_token))["input_ids"]
        num_masks = ids.count(self.tokenizer.mask_token_id)
        # A template without [Y], or with the mask token in the subject. Of several masks in a
        # sentence of its own LAMA scores the first.
        if num_masks == 0 or (num_masks > 1 and not row.has_own_sentence):
            return "not_one_mask"
        return ids, ids.index(self.tokenizer.mask_token_id)


def read_words(path: Path) -> list[str]:
    """Return the words of a file that has one in a line.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return [line.decode().rstrip("\r\n") for _, line in read_lines(path)]
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason}); is it compressed?") from error

"""The tokenizer, and what tells models apart: with `sentence_encoder.py` all that imports transformers, lazily.

Goes in: texts. Comes out: token ids with offsets, as numpy.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arrays.runs import offsets_of
from pipeline.engine.errors import StageError
from pipeline.engine.worker_threads import threads_of_a_worker

TOKENIZER_FILE = "tokenizer.json"
CHUNK_TEXTS, CHUNK_CHARACTERS = 2048, 1 << 20  # tokenized at once, at most (one text may have more)
TEXT_BITS = 32  # of a key, below the number of the text: code points


@dataclass(frozen=True, slots=True)
class Encoding:
    """Tokens of one text, no special tokens: ids, half-open code points, and the word each belongs to."""

    ids: np.ndarray  # int64 (n,)
    starts: np.ndarray  # int64 (n,)
    ends: np.ndarray  # int64 (n,)
    words: np.ndarray  # int64 (n,), the tokenizer's word numbers

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Tokens that touch the code points [start, end); empty where none does."""
        touching = np.flatnonzero((self.ends > start) & (self.starts < end))
        return (int(touching[0]), int(touching[-1]) + 1) if len(touching) else (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRuns:
    """Tokens of many texts laid end to end, no special tokens; code points of those texts only for which they were asked."""

    ids: np.ndarray  # uint32 (n,)
    offsets: np.ndarray  # int64 (texts + 1,): text i has the tokens offsets[i] to offsets[i + 1]
    starts_word: np.ndarray  # bool (n,)
    placed: np.ndarray  # int64 (texts + 1,): the same, counting only the p tokens with code points
    starts: np.ndarray  # int64 (p,): text << 32 | first code point, ascending
    ends: np.ndarray  # int64 (p,): text << 32 | one past the last one, ascending

    def spans(
        self, texts: np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that touch the code points [starts, ends) of texts, half-open; first >= last where none does."""
        shift = (self.offsets[:-1] - self.placed[:-1])[texts]
        first = np.searchsorted(self.ends, (texts << TEXT_BITS) + starts, side="right") + shift
        last = np.searchsorted(self.starts, (texts << TEXT_BITS) + ends, side="left") + shift
        return first, last

    def start_of(self, texts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """First code points of tokens of texts."""
        return self.starts[tokens - (self.offsets[:-1] - self.placed[:-1])[texts]] - (
            texts << TEXT_BITS
        )


class TextTokenizer:
    """A fast tokenizer with offsets, BERT or RoBERTa style. A special token's name in a text is text, not that token."""

    def __init__(self, model: str) -> None:
        """Load the tokenizer of a model.

        Raises:
            StageError: there is none, it is not a fast one, or it has no mask token.
        """
        from transformers import AutoTokenizer

        _set_tokenizer_threads()
        self.model = model
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise StageError(not_loaded("tokenizer", model, error)) from error
        if not getattr(self._tokenizer, "is_fast", False):
            raise StageError(
                f"{model}: has no fast tokenizer, and offsets need one; use a model with a {TOKENIZER_FILE}"
            )
        if self._tokenizer.mask_token_id is None:
            raise StageError(
                f"{model}: its tokenizer has no mask token; use a masked language model (BERT or RoBERTa family)"
            )
        # A copy that neither cuts nor pads, as some models' files ask for; what `save` writes stays as it was.
        self._bare: Any = copy.deepcopy(self._tokenizer.backend_tokenizer)
        self._bare.no_truncation()
        self._bare.no_padding()
        self._bare.encode_special_tokens = True

    @property
    def mask_id(self) -> int:
        """Id of the mask token."""
        return int(self._tokenizer.mask_token_id)

    @property
    def unk_id(self) -> int:
        """Id of the unknown token."""
        return int(self._tokenizer.unk_token_id)

    @property
    def frame(self) -> tuple[int, int]:
        """Ids of the opening and the closing special token."""
        opening, closing = self._tokenizer.build_inputs_with_special_tokens([]) if hasattr(
            self._tokenizer, "build_inputs_with_special_tokens"
        ) else self._tokenizer("")["input_ids"]  # fmt: skip
        return int(opening), int(closing)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokens of texts, without special tokens."""
        encodings = []
        for found in self._bare.encode_batch(list(texts), add_special_tokens=False):
            offsets = np.array(found.offsets, np.int64).reshape(-1, 2)
            words, ids = np.array(found.word_ids, np.int64), np.array(found.ids, np.int64)
            encodings.append(Encoding(ids, offsets[:, 0], offsets[:, 1], words))
        return encodings

    def encode_runs(
        self, texts: Sequence[str], wanted: np.ndarray | None = None, longest: int = 0
    ) -> TokenRuns:
        """Tokens of texts, without special tokens. Memory: 40 bytes per token.

        Args:
            texts: any number.
            wanted: texts whose code points are asked for, bool (texts,); none without.
            longest: those of texts with more tokens than this are added; 0 = no others.
        """
        bounds = _chunk_bounds(texts)
        chunks = [
            self._chunk(texts[low:high], low, wanted, longest)
            for low, high in itertools.pairwise(bounds)
        ]
        columns = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        ids, sizes, starts_word, num_placed, starts, ends = columns
        for points in (starts, ends):
            assert (points[1:] >= points[:-1]).all(), (
                f"{self.model}: its tokens are not in the order of the text"
            )
        return TokenRuns(
            ids=ids,
            offsets=offsets_of(sizes),
            starts_word=starts_word,
            placed=offsets_of(num_placed),
            starts=starts,
            ends=ends,
        )

    def _chunk(
        self, texts: Sequence[str], first: int, wanted: np.ndarray | None, longest: int
    ) -> tuple[np.ndarray, ...]:
        found = self._bare.encode_batch(list(texts), add_special_tokens=False)
        flat = itertools.chain.from_iterable
        sizes = np.fromiter(map(len, found), np.int64, len(found))
        total = int(sizes.sum())
        ids = np.fromiter(flat(encoding.ids for encoding in found), np.uint32, total)
        words = np.fromiter(flat(encoding.word_ids for encoding in found), np.int64, total)
        starts_word = np.diff(words, prepend=-1) != 0
        starts_word[offsets_of(sizes)[:-1][sizes > 0]] = True
        places = (
            np.zeros(len(found), np.bool_)
            if wanted is None
            else wanted[first : first + len(found)].copy()
        )
        places |= (sizes > longest) if longest else False
        num_placed = np.where(places, sizes, 0)
        pairs = flat(
            flat(encoding.offsets for encoding in itertools.compress(found, places.tolist()))
        )
        points = np.fromiter(pairs, np.int64, 2 * int(num_placed.sum())).reshape(-1, 2)
        owner = np.repeat(np.arange(first, first + len(found)), num_placed) << TEXT_BITS
        return ids, sizes, starts_word, num_placed, points[:, 0] + owner, points[:, 1] + owner

    def label_runs(self, labels: Sequence[str]) -> TokenRuns:
        """Tokens of names as they stand in running text: byte-level tokenizers see a space before them."""
        is_byte_level = "Ġ" in "".join(self._bare.encode(" a", add_special_tokens=False).tokens)
        return self.encode_runs([f" {label}" for label in labels] if is_byte_level else labels)

    def save(self, folder: str) -> str:
        """Write the tokenizer's files to a local folder; returns the sha256 of its tokenizer.json."""
        self._tokenizer.save_pretrained(folder)
        return hashlib.sha256((Path(folder) / TOKENIZER_FILE).read_bytes()).hexdigest()


def _chunk_bounds(texts: Sequence[str]) -> list[int]:
    """Where chunks of texts begin, and the end of the last: tokens take 200 bytes each until they are arrays."""
    bounds, size = [0], 0
    for number, text in enumerate(texts):
        size += len(text)
        if number - bounds[-1] == CHUNK_TEXTS or (size > CHUNK_CHARACTERS and number > bounds[-1]):
            bounds.append(number)
            size = len(text)
    return [*bounds, len(texts)]


def _set_tokenizer_threads() -> None:
    """Cores / local worker processes; said outright, so that a later fork of this process is no cause for a warning."""
    threads = threads_of_a_worker()
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")


def not_loaded(what: str, model: str, error: Exception) -> str:
    """What to say where a part of a model cannot be loaded."""
    cause = str(error).splitlines()[0]
    return f"{model}: its {what} cannot be loaded ({cause}); give a model's name, or a folder with its files"


def check_model(model: str) -> None:
    """Fail before any work where a local model folder is no masked language model (imports nothing).

    Raises:
        StageError: the folder has no config.json, or names another architecture.
    """
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise StageError(f"{model}: no such model folder; check --model")
        return
    import json

    if not (folder / "config.json").exists():
        raise StageError(
            f"{model}: no config.json in this folder, so it is no model; check --model"
        )
    architectures = json.loads((folder / "config.json").read_text()).get("architectures") or []
    if architectures and not any(
        name.endswith(("ForMaskedLM", "ForPreTraining")) for name in architectures
    ):
        raise StageError(
            f"{model}: is {', '.join(architectures)}, no masked language model; use a BertForMaskedLM or RobertaForMaskedLM"
        )


def model_stamp(model: str) -> str:
    """What tells one version of a model from another: its name, or name, size and time of a folder's files."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    found = [
        (path.name, path.stat().st_size, int(path.stat().st_mtime))
        for path in sorted(folder.iterdir())
    ]
    return f"{model}:{hashlib.sha256(repr(found).encode()).hexdigest()[:16]}"

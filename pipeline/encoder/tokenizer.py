"""Turn texts into token ids with offsets (numpy), and identify models.

Imports transformers, lazily.

Legend: n tokens, p tokens with code points (offsets into the text).
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.arrays.runs import offsets_of
from pipeline.encoder.model_copies import local_model, model_files_of
from pipeline.engine.errors import StageError
from pipeline.engine.kept_listings import once
from pipeline.engine.worker_threads import threads_of_a_worker
from schemas.array_types import I64, U32, Array, Bools
from schemas.buckets import is_bucket
from schemas.listing import a_few
from schemas.model_folder import (
    CONFIG,
    is_meant_as_path,
    longer_tokenizer,
    model_problem,
    sealed_problem,
)

TOKENIZER_FILE = "tokenizer.json"
# One opens a sequence, one closes it.
NUM_SPECIAL = 2
# Tokenized at once, at most; a single text may have more characters.
CHUNK_TEXTS, CHUNK_CHARACTERS = 2048, 1 << 20
# A masked language model, or an encoder of any kind: its head is never used.
ModelKind = Literal["masked", "encoder"]
# Some need the tokenizer of a masked language model alone.
NeededKind = Literal["masked", "encoder", "tokenizer"]
# A key is the number of a text above these bits, and a code point of that text in them.
TEXT_BITS = 32


@dataclass(frozen=True, slots=True)
class Encoding:
    """Hold the tokens of one text, without special tokens."""

    # Each of shape (n,). Starts and ends are half-open, in code points of the text.
    ids: I64
    starts: I64
    ends: I64
    # The tokenizer's number of the word that a token belongs to.
    words: I64

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the tokens that touch the code points [start, end): first, and one past the last.

        Both are 0 where no token does.
        """
        touching = np.flatnonzero((self.ends > start) & (self.starts < end))
        return (int(touching[0]), int(touching[-1]) + 1) if len(touching) else (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRuns:
    """Hold the tokens of many texts end to end, without special tokens.

    Code points are there only for the texts for which they were requested.
    """

    # Shape (n,).
    ids: U32
    # Shape (texts + 1,): text i has the tokens offsets[i] to offsets[i + 1].
    offsets: I64
    # Shape (n,): whether a word starts at this token.
    starts_word: Bools
    # Shape (texts + 1,): as `offsets`, but counts only the p tokens with code points.
    point_offsets: I64
    # Shape (p,), ascending: text << 32 | first code point.
    starts: I64
    # Shape (p,), ascending: text << 32 | one past the last code point.
    ends: I64

    def spans(self, texts: I64, starts: I64, ends: I64) -> tuple[I64, I64]:
        """Find the tokens that touch the code points [starts, ends) of texts.

        Returns:
            First token and one past the last of each. Where no token touches a span, the first is
            not below the last.
        """
        # Text number and code point in one key: one binary search serves all texts.
        shift = self._tokens_without_points(texts)
        low = np.searchsorted(self.ends, (texts << TEXT_BITS) + starts, side="right") + shift
        high = np.searchsorted(self.starts, (texts << TEXT_BITS) + ends, side="left") + shift
        return low, high

    def start_of(self, texts: I64, tokens: I64) -> I64:
        """Return the first code point of a token of each text."""
        rows = tokens - self._tokens_without_points(texts)
        return self.starts[rows] - (texts << TEXT_BITS)

    def _tokens_without_points(self, texts: I64) -> I64:
        """Return how many tokens before each text have no code points."""
        return (self.offsets[:-1] - self.point_offsets[:-1])[texts]


class TextTokenizer:
    """Tokenize texts with offsets: a fast tokenizer, BERT or RoBERTa style.

    A special token's name in a text is text, not that token.
    """

    def __init__(self, model: str, kind: ModelKind = "masked") -> None:
        """Load the tokenizer of a model.

        Args:
            model: name or folder.
            kind: only a masked language model needs a mask token.

        Raises:
            StageError: there is none, it is not a fast one, it has no mask token, or more tokens than
                the model has embeddings.
        """
        from transformers import AutoTokenizer

        _set_tokenizer_threads()
        self.model = model
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                local_model(model), trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise StageError(load_failure("tokenizer", model, error)) from error
        if not getattr(self._tokenizer, "is_fast", False):
            raise StageError(
                f"{model}: has no fast tokenizer, and offsets need one; "
                f"use a model with a {TOKENIZER_FILE}"
            )
        if kind == "masked" and self._tokenizer.mask_token_id is None:
            raise StageError(
                f"{model}: its tokenizer has no mask token; "
                "use a masked language model (BERT or RoBERTa family)"
            )

        # Of an encoder, which is loaded too, its embeddings are counted themselves.
        if kind == "masked":
            self.refuse_if_longer(_vocab_size(model))

        # Some models' files ask for truncation or padding. A copy does neither; `save` writes the
        # original unchanged.
        self._bare: Any = copy.deepcopy(self._tokenizer.backend_tokenizer)
        self._bare.no_truncation()
        self._bare.no_padding()
        self._bare.encode_special_tokens = True

    def refuse_if_longer(self, num_embeddings: int | None) -> None:
        """Refuse the tokenizer if it has more tokens than its model has embeddings.

        Raises:
            StageError: it has.
        """
        problem = longer_tokenizer(self.model, len(self._tokenizer), num_embeddings)
        if problem:
            raise StageError(problem)

    @property
    def mask_id(self) -> int:
        """Return the id of the mask token."""
        return int(self._tokenizer.mask_token_id)

    @property
    def pad_id(self) -> int:
        """Return the id that fills a batch; masked tokens have no influence, so any id would do."""
        return int(self._tokenizer.pad_token_id or 0)

    @property
    def unk_id(self) -> int:
        """Return the id of the unknown token."""
        return int(self._tokenizer.unk_token_id)

    @property
    def frame(self) -> tuple[int, int]:
        """Return the ids of the opening and the closing special token.

        Raises:
            StageError: the model has others, as decoders do.
        """
        # Not every tokenizer class of transformers has this method.
        if hasattr(self._tokenizer, "build_inputs_with_special_tokens"):
            special = self._tokenizer.build_inputs_with_special_tokens([])
        else:
            special = self._tokenizer("")["input_ids"]
        if len(special) != NUM_SPECIAL:
            raise StageError(
                f"{self.model}: puts {len(special)} special token(s) around a text instead of one "
                "before and one after it; use an encoder of the BERT or RoBERTa family"
            )
        return int(special[0]), int(special[1])

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Return the tokens of each text, without special tokens."""
        encodings = []
        for encoded in self._bare.encode_batch(list(texts), add_special_tokens=False):
            offsets = np.array(encoded.offsets, np.int64).reshape(-1, 2)
            words, ids = np.array(encoded.word_ids, np.int64), np.array(encoded.ids, np.int64)
            encodings.append(Encoding(ids, offsets[:, 0], offsets[:, 1], words))
        return encodings

    def encode_runs(
        self, texts: Sequence[str], needs_points: Bools | None = None, longest: int = 0
    ) -> TokenRuns:
        """Return the tokens of texts, without special tokens. Memory: 40 bytes per token.

        Args:
            texts: any number.
            needs_points: for which texts code points are requested, shape (texts,); None: for none.
            longest: also return the code points of texts with more tokens than this; 0 = do not.
        """
        chunks = [
            self._chunk(texts[low:high], low, needs_points, longest)
            for low, high in itertools.pairwise(_chunk_bounds(texts))
        ]
        columns = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
        ids, sizes, starts_word, num_points, starts, ends = columns

        # `spans` searches them, and searching what is not sorted would be silently wrong.
        for points in (starts, ends):
            assert (points[1:] >= points[:-1]).all(), (
                f"{self.model}: its tokens are not in the order of the text"
            )
        return TokenRuns(
            ids=ids,
            offsets=offsets_of(sizes),
            starts_word=starts_word,
            point_offsets=offsets_of(num_points),
            starts=starts,
            ends=ends,
        )

    def _chunk(
        self, texts: Sequence[str], first_text: int, needs_points: Bools | None, longest: int
    ) -> tuple[Array, ...]:
        """Return the columns of `encode_runs` for the texts from number `first_text` on."""
        encodings = self._bare.encode_batch(list(texts), add_special_tokens=False)
        flat = itertools.chain.from_iterable
        sizes = np.fromiter(map(len, encodings), np.int64, len(encodings))
        total = int(sizes.sum())
        ids = np.fromiter(flat(encoding.ids for encoding in encodings), np.uint32, total)
        words = np.fromiter(flat(encoding.word_ids for encoding in encodings), np.int64, total)

        # A word starts where the word number changes. Texts that follow each other may have the
        # same number at their border, so the first token of a text is set by hand.
        starts_word = np.diff(words, prepend=-1) != 0
        starts_word[offsets_of(sizes)[:-1][sizes > 0]] = True

        has_points = (
            np.zeros(len(encodings), np.bool_)
            if needs_points is None
            else needs_points[first_text : first_text + len(encodings)].copy()
        )
        has_points |= (sizes > longest) if longest else False

        # Only the offsets of these texts become Python objects: they cost more than all the rest.
        num_points = np.where(has_points, sizes, 0)
        pairs = flat(
            flat(
                encoding.offsets for encoding in itertools.compress(encodings, has_points.tolist())
            )
        )
        points = np.fromiter(pairs, np.int64, 2 * int(num_points.sum())).reshape(-1, 2)
        text_numbers = np.arange(first_text, first_text + len(encodings))
        text_keys = np.repeat(text_numbers, num_points) << TEXT_BITS
        starts, ends = points[:, 0] + text_keys, points[:, 1] + text_keys
        return ids, sizes, starts_word, num_points, starts, ends

    def label_runs(self, labels: Sequence[str]) -> TokenRuns:
        """Return the tokens of names as they are in running text.

        Byte-level tokenizers see the space before a word, so such a space is added for them.
        """
        is_byte_level = "Ġ" in "".join(self._bare.encode(" a", add_special_tokens=False).tokens)
        return self.encode_runs([f" {label}" for label in labels] if is_byte_level else labels)

    def save(self, folder: str) -> str:
        """Write the tokenizer's files to a local folder; return the sha256 of tokenizer.json."""
        self._tokenizer.save_pretrained(folder)
        return hashlib.sha256((Path(folder) / TOKENIZER_FILE).read_bytes()).hexdigest()


def _vocab_size(model: str) -> int | None:
    """Return the number of a model's embeddings; None where it has no config.json that says so."""
    from transformers.utils import cached_file

    path = cached_file(
        local_model(model),
        CONFIG,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        return int(settings["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _chunk_bounds(texts: Sequence[str]) -> list[int]:
    """Return the numbers of the texts at which chunks begin, and the number of all texts.

    Chunks bound the memory: a token takes 200 bytes until it is in an array.
    """
    bounds, size = [0], 0
    for number, text in enumerate(texts):
        size += len(text)
        if number - bounds[-1] == CHUNK_TEXTS or (size > CHUNK_CHARACTERS and number > bounds[-1]):
            bounds.append(number)
            size = len(text)
    return [*bounds, len(texts)]


def _set_tokenizer_threads() -> None:
    """Set the tokenizers' threads: cores / local worker processes.

    The variables are set explicitly, or a later fork of this process would cause a warning.
    """
    threads = threads_of_a_worker()
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")


def load_failure(component: str, model: str, error: Exception | str) -> str:
    """Return the message for a component of a model that cannot be loaded."""
    cause = str(error).splitlines()[0]
    return (
        f"{model}: its {component} cannot be loaded ({cause}); "
        "give a model's name, or a folder with its files"
    )


def check_model(model: str, kind: NeededKind = "masked", flag: str = "--model") -> None:
    """Check, before any work, that a folder holds a model of a kind.

    Imports nothing. A model given by its name is not checked; one in a bucket is copied to this
    machine.

    Args:
        model: name or folder.
        kind: what it must be; a tokenizer serves without weights.
        flag: the option that names it, for errors.

    Raises:
        StageError: the folder has no config.json, or names another architecture; its weights are not
            there, not in safetensors, or not those of its config.json; its tokenizer is too long;
            or it has checksums, as our own exports have, and a file does not fit them.
    """
    folder = Path(local_model(model))
    if not folder.is_dir():
        if is_meant_as_path(model):
            raise StageError(f"{model}: no such model folder; check {flag}")
        return

    if not (folder / CONFIG).exists():
        raise StageError(f"{model}: no config.json in this folder, so it is no model; check {flag}")
    if kind != "encoder":
        _check_architecture(folder)
    # Several stages ask about one model.
    problem = model_problem(folder, needs_weights=kind != "tokenizer") or once(
        ("model", model), lambda: sealed_problem(model, folder)
    )
    if problem:
        raise StageError(problem)


def _check_architecture(folder: Path) -> None:
    """Refuse a model of another kind, by its config.json as far as it can be read.

    Raises:
        StageError: it is no masked language model.
    """
    try:
        architectures = json.loads((folder / CONFIG).read_text())["architectures"] or []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if architectures and not any(
        name.endswith(("ForMaskedLM", "ForPreTraining")) for name in architectures
    ):
        raise StageError(
            f"{folder}: is {a_few(architectures)}, no masked language model; "
            "use a BertForMaskedLM or RobertaForMaskedLM"
        )


def model_stamp(model: str) -> str:
    """Return a text that differs between two versions of a model.

    It is the model's name, or for a folder a hash of the names, sizes and times of its files, in a
    bucket of their versions.
    """
    if is_bucket(model):
        stamps = [(file.name, file.num_bytes, file.version) for file in model_files_of(model)]
        return f"{model}:{hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]}"
    folder = Path(model)
    if not folder.is_dir():
        return model
    versions = [
        (path.name, path.stat().st_size, int(path.stat().st_mtime))
        for path in sorted(folder.iterdir())
    ]
    return f"{model}:{hashlib.sha256(repr(versions).encode()).hexdigest()[:16]}"

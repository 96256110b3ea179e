"""The frozen encoder and the tokenizer: the only module of the pipeline that imports torch or transformers, lazily.

Goes in: token ids or texts. Comes out: sentence vectors as numpy, or token ids with offsets. Costs one forward pass per
sequence; sequences are sorted by length and batched by a budget of padded tokens.
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

from pipeline.core.runs import offsets_of
from pipeline.machine import LOCAL_WORKERS
from pipeline.storage.errors import StageError

TOKENIZER_FILE = "tokenizer.json"
CHUNK_TEXTS = 2048  # tokenized at once
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

    def spans(self, texts: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that touch the code points [starts, ends) of texts, half-open; first >= last where none does."""
        shift = (self.offsets[:-1] - self.placed[:-1])[texts]
        first = np.searchsorted(self.ends, (texts << TEXT_BITS) + starts, side="right") + shift
        last = np.searchsorted(self.starts, (texts << TEXT_BITS) + ends, side="left") + shift
        return first, last

    def start_of(self, texts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """First code points of tokens of texts."""
        return self.starts[tokens - (self.offsets[:-1] - self.placed[:-1])[texts]] - (texts << TEXT_BITS)


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
            raise StageError(_not_loaded("tokenizer", model, error)) from error
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

    def encode_runs(self, texts: Sequence[str], wanted: np.ndarray | None = None, longest: int = 0) -> TokenRuns:
        """Tokens of texts, without special tokens. Memory: 40 bytes per token.

        Args:
            texts: any number.
            wanted: texts whose code points are asked for, bool (texts,); none without.
            longest: those of texts with more tokens than this are added; 0 = no others.
        """
        chunks = [
            self._chunk(texts[low : low + CHUNK_TEXTS], low, wanted, longest)
            for low in range(0, max(len(texts), 1), CHUNK_TEXTS)
        ]
        columns = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        ids, sizes, starts_word, num_placed, starts, ends = columns
        for points in (starts, ends):
            assert (points[1:] >= points[:-1]).all(), f"{self.model}: its tokens are not in the order of the text"
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
        places = np.zeros(len(found), np.bool_) if wanted is None else wanted[first : first + len(found)].copy()
        places |= (sizes > longest) if longest else False
        num_placed = np.where(places, sizes, 0)
        pairs = flat(flat(encoding.offsets for encoding in itertools.compress(found, places.tolist())))
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


def _set_tokenizer_threads() -> None:
    """Cores / local worker processes; said outright, so that a later fork of this process is no cause for a warning."""
    threads = _threads_of_a_worker()
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")


def _not_loaded(what: str, model: str, error: Exception) -> str:
    cause = str(error).splitlines()[0]
    return f"{model}: its {what} cannot be loaded ({cause}); give a model's name, or a folder with its files"


def _threads_of_a_worker() -> int:
    """Cores / local worker processes: two processes with all cores each get in each other's way, badly."""
    return max((os.cpu_count() or 1) // int(os.environ.get(LOCAL_WORKERS, "1")), 1)


class SentenceEncoder:
    """The initial model, frozen: mean of its last layer over the non-special tokens."""

    def __init__(self, model: str, device: str = "auto", num_threads: int = 0) -> None:
        """Load a masked language model, float32, no dropout.

        Raises:
            StageError: no such model, or it is no masked language model.
        """
        import torch

        self._torch = torch
        torch.set_num_threads(num_threads or _threads_of_a_worker())
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.tokenizer = TextTokenizer(model)
        self._model: Any = _load_masked_lm(model).to(self.device)

    @property
    def max_tokens(self) -> int:
        """Positions that the model has, special tokens included."""
        config = self._model.config
        limit = int(config.max_position_embeddings)
        return limit - int(config.pad_token_id) - 1 if config.model_type in ("roberta", "xlm-roberta") else limit

    def encode(self, sequences: Sequence[np.ndarray], batch_tokens: int) -> np.ndarray:
        """Vectors of token id sequences that have no special tokens yet; shape (n, d), float32."""
        hidden = int(self._model.config.hidden_size)
        vectors = np.zeros((len(sequences), hidden), np.float32)
        order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
        for rows in _batches(order, [len(sequence) + 2 for sequence in sequences], batch_tokens):
            vectors[rows] = self._forward([sequences[row] for row in rows])
        return vectors

    def _forward(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        torch = self._torch
        opening, closing = self.tokenizer.frame
        width = max(len(sequence) for sequence in sequences) + 2
        ids = np.full((len(sequences), width), self._model.config.pad_token_id or 0, np.int64)
        mask = np.zeros((len(sequences), width), np.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence) + 2] = [opening, *sequence, closing]
            mask[row, : len(sequence) + 2] = 1
        inner = mask.copy()
        inner[:, 0] = 0
        inner[np.arange(len(sequences)), mask.sum(1) - 1] = 0
        with torch.inference_mode():
            states = self._model.base_model(
                input_ids=torch.from_numpy(ids).to(self.device), attention_mask=torch.from_numpy(mask).to(self.device)
            ).last_hidden_state.float()
            weights = torch.from_numpy(inner).to(self.device).unsqueeze(-1)
            means = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return np.asarray(means.cpu().numpy())


def _batches(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Runs of rows, ascending in length, whose padded size stays within the budget (at least one row each)."""
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * lengths[row] <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _load_masked_lm(model: str) -> Any:  # noqa: ANN401
    import torch
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        loaded, info = AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, KeyError) as error:
        raise StageError(_not_loaded("masked language model", model, error)) from error
    finally:
        logging.set_verbosity(before)
    missing = sorted(info["missing_keys"])
    if missing:
        raise StageError(
            f"{model}: is no masked language model ({len(missing)} weights are not in it, for example {missing[0]}); "
            "use a checkpoint of BertForMaskedLM or RobertaForMaskedLM"
        )
    return loaded.eval()


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
        raise StageError(f"{model}: no config.json in this folder, so it is no model; check --model")
    architectures = json.loads((folder / "config.json").read_text()).get("architectures") or []
    if architectures and not any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in architectures):
        raise StageError(
            f"{model}: is {', '.join(architectures)}, no masked language model; use a BertForMaskedLM or RobertaForMaskedLM"
        )


def model_stamp(model: str) -> str:
    """What tells one version of a model from another: its name, or name, size and time of a folder's files."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    found = [(path.name, path.stat().st_size, int(path.stat().st_mtime)) for path in sorted(folder.iterdir())]
    return f"{model}:{hashlib.sha256(repr(found).encode()).hexdigest()[:16]}"

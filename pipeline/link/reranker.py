"""Compare a mention's context with its candidates' texts, by a frozen encoder.

Goes in: windows of text with a mention in them, and per mention the candidates' texts ("label:
description; labels of neighbours"). Comes out: one cosine per candidate, between the vectors of
window and text (`encoder.sentence_encoder`). Costs a forward pass per distinct window, and per text
that is in no cache: some are in memory, and those of earlier runs on disk (`vector_cache`).

Batching changes the last bits, so cosines are rounded to four decimals; order and cache can still
change the last decimal, which is rare. Vectors of masked language models all point one way (cosines
of .7 to .99 are common), so compare the candidates of one mention with each other, not with a fixed
threshold.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.encoder.model_copies import local_model
from pipeline.encoder.sentence_encoder import SentenceEncoder
from pipeline.encoder.sequences import COSINE_DECIMALS, Sequences, cosines, window
from pipeline.encoder.tokenizer import NUM_SPECIAL, Encoding
from pipeline.engine.errors import StageError
from pipeline.index.entity_store import EntityStore
from pipeline.link.linker import Scored
from pipeline.link.lru import LruCache
from pipeline.link.vector_cache import VectorCache, rounded
from schemas.array_types import F32, I64, Ints

# Of a window or a text, special tokens included.
MAX_TOKENS = 64
# Of a forward pass.
BATCH_TOKENS = 4096
# Candidates of a mention that are compared, the most popular ones.
MAX_RERANKED = 16
# Neighbours of an item whose labels are in its text: its own statements come first among them.
MAX_NEIGHBOURS = 6
# Lies in the folder of a model that `link train-reranker` wrote.
SETTINGS_FILE = "trelm_reranker.json"
# Around the mention, where the model was trained with them.
MARKS = ("[ ", " ]")


@dataclass(frozen=True, slots=True)
class Context:
    """Hold a text around a mention, and the mention's half-open code points in it."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankerSettings:
    """Say how a model is used as a re-ranker; `link train-reranker` writes it beside the model."""

    # Whether it was trained here: then the mention stands between MARKS in its window, and the text
    # of an item has its neighbours beside its description.
    is_trained: bool = False
    # Of the feature `semantic`, fitted with the linker's weights; None: theirs must have one.
    weight: float | None = None

    @classmethod
    def of(cls, model: str) -> RerankerSettings:
        """Read those of a model; a model from elsewhere has none.

        Raises:
            StageError: the file is none of ours.
        """
        path = Path(local_model(model)) / SETTINGS_FILE
        if not path.is_file():
            return cls()
        try:
            raw = json.loads(path.read_text())
            return cls(is_trained=bool(raw["is_trained"]), weight=float(raw["weight"]))
        except (ValueError, KeyError, TypeError) as error:
            raise StageError(
                f"{path}: not written by `link train-reranker` ({type(error).__name__}: {error}); "
                "train the model again, or remove this file"
            ) from error


class Reranker:
    """Compare contexts with candidates. Use one per process: it holds a model."""

    def __init__(
        self,
        model: str,
        num_threads: int = 0,
        cache_size: int = 50_000,
        max_tokens: int = MAX_TOKENS,
        stored: VectorCache | None = None,
    ) -> None:
        """Load an encoder, such as one for sentences.

        Args:
            model: name or folder.
            num_threads: of torch; 0 = cores / local worker processes.
            cache_size: candidates whose vectors are kept: 3 KB each with a hidden size of 768.
            max_tokens: special tokens included. Longer contexts are cut around the mention, longer
                texts at their end.
            stored: vectors of earlier runs; None keeps none.

        Raises:
            StageError: there is no such model, or it is no encoder.
        """
        self.encoder = SentenceEncoder(model, num_threads=num_threads, kind="encoder")
        self.settings = RerankerSettings.of(model)
        self._stored = stored or VectorCache("", 0)
        self._width = min(max_tokens, self.encoder.max_tokens) - NUM_SPECIAL
        assert self._width > 0, max_tokens
        self._cache_size = cache_size
        self.forget()

    def forget(self) -> None:
        """Forget all vectors in memory: the encoder has changed."""
        self._vectors: LruCache[str, F32] = LruCache(self._cache_size)

    def similarity(self, contexts: Sequence[Context], texts: Sequence[Sequence[str]]) -> list[F32]:
        """Return the cosines of each context with its candidates' texts, an array per context.

        A text that is empty has 0. Memory: the vectors of all distinct texts of the call.
        """
        # Contexts whose candidates all lack a text need no forward pass.
        numbers = [
            number for number, own_texts in enumerate(texts) if any(map(_has_words, own_texts))
        ]
        window_vectors = self._of_contexts([contexts[number] for number in numbers])
        vector_of_context = dict(zip(numbers, window_vectors, strict=True))
        vector_of_text = self._of_texts(
            [text for number in numbers for text in texts[number] if _has_words(text)]
        )

        similarities = []
        for number, own_texts in enumerate(texts):
            values = np.zeros(len(own_texts), np.float32)
            rows = [row for row, text in enumerate(own_texts) if _has_words(text)]
            if rows:
                candidates = np.stack([vector_of_text[own_texts[row]] for row in rows])
                context = np.broadcast_to(vector_of_context[number], candidates.shape)
                values[rows] = np.round(cosines(context, candidates), COSINE_DECIMALS)
            similarities.append(values)
        return similarities

    def _encode(self, sequences: Sequence[Ints]) -> F32:
        return self.encoder.encode(Sequences.of(sequences), BATCH_TOKENS)

    def _of_contexts(self, contexts: Sequence[Context]) -> list[F32]:
        """Return the vector of each context's window; equal windows share a forward pass."""
        windows = self.windows(contexts)
        # Arrays cannot be keys of a dict, their bytes can.
        distinct = {ids.tobytes(): ids for ids in windows}
        vectors = dict(zip(distinct, self._encode(list(distinct.values())), strict=True))
        return [vectors[ids.tobytes()] for ids in windows]

    def windows(self, contexts: Sequence[Context]) -> list[I64]:
        """Return the token ids of each context's window."""
        if self.settings.is_trained:
            contexts = [marked(context) for context in contexts]
        encodings = self.encoder.tokenizer.encode([context.text for context in contexts])
        return [
            window_ids(encoding, context, self._width)
            for encoding, context in zip(encodings, contexts, strict=True)
        ]

    def text_ids(self, texts: Sequence[str]) -> list[I64]:
        """Return the token ids of each text, cut at its end."""
        return [encoding.ids[: self._width] for encoding in self.encoder.tokenizer.encode(texts)]

    def _of_texts(self, texts: Sequence[str]) -> dict[str, F32]:
        """Return the vectors of texts, by text: from the cache, or computed."""
        cached = {text: self._vectors.get(text) for text in dict.fromkeys(texts)}
        vectors = {text: vector for text, vector in cached.items() if vector is not None}

        stored = self._stored.get(text for text in cached if text not in vectors)
        missing = [text for text in cached if text not in vectors and text not in stored]
        encoded = rounded(self._encode(self.text_ids(missing)))
        # Copies, since a view in the cache would keep the whole batch alive.
        computed = {text: vector.copy() for text, vector in zip(missing, encoded, strict=True)}
        self._stored.put(computed)
        for text, vector in (stored | computed).items():
            vectors[text] = vector
            self._vectors.put(text, vector)
        return vectors


def window_ids(encoding: Encoding, context: Context, width: int) -> I64:
    """Return the ids of at most `width` tokens around the mention, shape (n,).

    Where no token touches the mention, they are around its position.
    """
    low, high = encoding.span(context.start, context.end)
    if low == high:
        low = high = int(np.searchsorted(encoding.starts, context.start))
    start, end = window(len(encoding.ids), (low, high), width)
    return encoding.ids[start:end]


def _has_words(text: str) -> bool:
    return bool(text.strip())


def marked(context: Context) -> Context:
    """Return a context whose mention stands between marks, which are part of the mention."""
    before, mention, after = (
        context.text[: context.start],
        context.text[context.start : context.end],
        context.text[context.end :],
    )
    opening, closing = MARKS
    text = f"{before}{opening}{mention}{closing}{after}"
    return Context(text, context.start, context.end + len(opening) + len(closing))


def item_text(entities: EntityStore, row: int, *, with_facts: bool) -> str:
    """Return what an item is, in words: "label: description; labels of neighbours".

    Empty where nothing but the label is known: a label says nothing that the name does not say.

    Args:
        entities: the store.
        row: of the item.
        with_facts: name the neighbours of an item with a description too. An encoder that was not
            trained for it does better without (measured; see docs/reranking.md).
    """
    description = entities.description(row)
    if description and not with_facts:
        return f"{entities.label(row)}: {description}"
    rows = entities.rows(entities.neighbours(row)[:MAX_NEIGHBOURS])
    near = ", ".join(filter(None, (entities.label(other) for other in rows[rows >= 0].tolist())))
    known = "; ".join(part for part in (description, near) if part)
    return f"{entities.label(row)}: {known}" if known else ""


class CandidateReranker:
    """Compute the feature `semantic` of candidates.

    It is the cosine of context and candidate, less the mean of this cosine over the mention's
    candidates.
    """

    def __init__(
        self, model: str, entities: EntityStore, stored: VectorCache | None = None
    ) -> None:
        """Load a model; `Reranker` says what is raised.

        Args:
            model: name or folder.
            entities: of the run.
            stored: vectors of earlier runs; None keeps none.
        """
        self.reranker = Reranker(model, stored=stored)
        self._entities = entities

    def __call__(self, contexts: Sequence[Context], scored: Scored) -> F32:
        """Return one value per candidate, shape (c,).

        It is 0 where fewer than two candidates of a mention have a text, and for a candidate
        without one: nothing is known, which is no evidence. Only the MAX_RERANKED most popular
        candidates of a mention are compared.
        """
        values = np.zeros(len(scored.rows), np.float32)
        bounds = np.searchsorted(scored.mentions, np.arange(len(contexts) + 1)).tolist()
        compared: list[tuple[int, I64, list[str]]] = []
        for mention, (low, high) in enumerate(itertools.pairwise(bounds)):
            rows = _most_popular(scored.features["popularity"], low, high)
            texts = [
                item_text(self._entities, row, with_facts=self.reranker.settings.is_trained)
                for row in scored.rows[rows].tolist()
            ]
            has_text = np.array([bool(text) for text in texts], bool)
            # A single candidate has nothing to be compared with.
            if np.count_nonzero(has_text) > 1:
                compared.append((mention, rows[has_text], list(filter(None, texts))))

        similarities = self.reranker.similarity(
            [contexts[mention] for mention, _, _ in compared], [texts for _, _, texts in compared]
        )
        for (_, rows, _), similarity in zip(compared, similarities, strict=True):
            values[rows] = similarity - similarity.mean()
        return values


def _most_popular(popularity: F32, low: int, high: int) -> I64:
    """Return the MAX_RERANKED most popular of the rows low to high, ascending."""
    # Stable, so that of equally popular candidates the first ones are taken on every machine.
    order = np.argsort(-popularity[low:high], kind="stable")
    return low + np.sort(order[:MAX_RERANKED])

"""Compare a mention's context with its candidates' texts, by a frozen encoder.

Goes in: windows of text with a mention in them, and per mention the candidates' texts ("label:
description"). Comes out: one cosine per candidate, between the mean of the last layer over the
window's tokens and that over the text's, special tokens left out. Costs a forward pass per distinct
window, and per text that is not in the cache.

Batching changes the last bits, so cosines are rounded to four decimals; order and cache can still
change the last decimal, which is rare. Such means all point one way (cosines of .7 to .99 are
common), so compare the candidates of one mention with each other, not with a fixed threshold.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.encoder.sentence_encoder import SentenceEncoder
from pipeline.encoder.sequences import COSINE_DECIMALS, Sequences, cosines, window
from pipeline.encoder.tokenizer import NUM_SPECIAL, Encoding
from pipeline.index.entity_store import EntityStore
from pipeline.link.linker import Scored
from pipeline.link.lru import LruCache
from schemas.array_types import F32, I64, Ints

# Of a window or a text, special tokens included.
MAX_TOKENS = 64
# Of a forward pass.
BATCH_TOKENS = 4096
# Candidates of a mention that are compared, the most popular ones.
MAX_RERANKED = 16


@dataclass(frozen=True, slots=True)
class Context:
    """Hold a text around a mention, and the mention's half-open code points in it."""

    text: str
    start: int
    end: int


class Reranker:
    """Compare contexts with candidates. Use one per process: it holds a model."""

    def __init__(
        self,
        model: str,
        num_threads: int = 0,
        cache_size: int = 50_000,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        """Load an encoder, such as one for sentences.

        Args:
            model: name or folder.
            num_threads: of torch; 0 = cores / local worker processes.
            cache_size: candidates whose vectors are kept: 3 KB each with a hidden size of 768.
            max_tokens: special tokens included. Longer contexts are cut around the mention, longer
                texts at their end.

        Raises:
            StageError: there is no such model, or it is no encoder.
        """
        self._encoder = SentenceEncoder(model, num_threads=num_threads, kind="encoder")
        self._width = min(max_tokens, self._encoder.max_tokens) - NUM_SPECIAL
        assert self._width > 0, max_tokens
        self._vectors: LruCache[str, F32] = LruCache(cache_size)

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
        return self._encoder.encode(Sequences.of(sequences), BATCH_TOKENS)

    def _of_contexts(self, contexts: Sequence[Context]) -> list[F32]:
        """Return the vector of each context's window; equal windows share a forward pass."""
        encodings = self._encoder.tokenizer.encode([context.text for context in contexts])
        windows = [
            window_ids(encoding, context, self._width)
            for encoding, context in zip(encodings, contexts, strict=True)
        ]
        # Arrays cannot be keys of a dict, their bytes can.
        distinct = {ids.tobytes(): ids for ids in windows}
        vectors = dict(zip(distinct, self._encode(list(distinct.values())), strict=True))
        return [vectors[ids.tobytes()] for ids in windows]

    def _of_texts(self, texts: Sequence[str]) -> dict[str, F32]:
        """Return the vectors of texts, by text: from the cache, or computed."""
        cached = {text: self._vectors.get(text) for text in dict.fromkeys(texts)}
        vectors = {text: vector for text, vector in cached.items() if vector is not None}

        missing = [text for text in cached if text not in vectors]
        encodings = self._encoder.tokenizer.encode(missing)
        encoded = self._encode([encoding.ids[: self._width] for encoding in encodings])
        for text, vector in zip(missing, encoded, strict=True):
            # A copy, since a view in the cache would keep the whole batch alive.
            vectors[text] = vector.copy()
            self._vectors.put(text, vectors[text])
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


class CandidateReranker:
    """Compute the feature `semantic` of candidates.

    It is the cosine of context and candidate (label and description), less the mean of this cosine
    over the mention's candidates.
    """

    def __init__(self, model: str, entities: EntityStore) -> None:
        self._reranker = Reranker(model)
        self._entities = entities

    def __call__(self, contexts: Sequence[Context], scored: Scored) -> F32:
        """Return one value per candidate, shape (c,).

        It is 0 where a mention has one candidate. Only the MAX_RERANKED most popular candidates of
        a mention are compared; the others have 0.
        """
        values = np.zeros(len(scored.rows), np.float32)
        bounds = np.searchsorted(scored.mentions, np.arange(len(contexts) + 1)).tolist()
        compared = [
            _most_popular(scored.features["popularity"], low, high)
            for low, high in itertools.pairwise(bounds)
        ]

        # A single candidate has nothing to be compared with.
        several = [mention for mention, rows in enumerate(compared) if len(rows) > 1]
        texts = [
            [self._text(row) for row in scored.rows[compared[mention]].tolist()]
            for mention in several
        ]
        similarities = self._reranker.similarity([contexts[mention] for mention in several], texts)
        for mention, similarity in zip(several, similarities, strict=True):
            values[compared[mention]] = similarity - similarity.mean()
        return values

    def _text(self, row: int) -> str:
        """Return the text of a candidate; empty where it has no description to compare."""
        description = self._entities.description(row)
        return f"{self._entities.label(row)}: {description}" if description else ""


def _most_popular(popularity: F32, low: int, high: int) -> I64:
    """Return the MAX_RERANKED most popular of the rows low to high, ascending."""
    # Stable, so that of equally popular candidates the first ones are taken on every machine.
    order = np.argsort(-popularity[low:high], kind="stable")
    return low + np.sort(order[:MAX_RERANKED])

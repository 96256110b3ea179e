"""How alike a mention's context and its candidates' texts are, for an encoder that is frozen.

Goes in: windows of text with a mention in them, and per mention the candidates' texts ("label: description"). Comes out: one
cosine per candidate, between the means of the last layer over the window's and over the text's tokens, special tokens left
out. Costs a forward pass per distinct window, and per text that was not seen lately. Batching changes the last bits, so cosines
are rounded to four decimals: order and cache can change the last of them, and that seldom. Such means all point one way
(cosines of .7 to .99 are common): compare the candidates of one mention with each other, not with a fixed threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.encoder.sentence_encoder import SentenceEncoder
from pipeline.encoder.sequences import COSINE_DECIMALS, Sequences, cosines, window
from pipeline.encoder.tokenizer import Encoding
from pipeline.index.entity_store import EntityStore
from pipeline.link.linker import Scored
from pipeline.link.lru import LruCache

MAX_TOKENS = 64
BATCH_TOKENS = 4096
MAX_RERANKED = 16


@dataclass(frozen=True, slots=True)
class Context:
    """A text around a mention, and the mention's half-open code points in it."""

    text: str
    start: int
    end: int


class Reranker:
    """Compares contexts with candidates. One per process: it holds a model."""

    def __init__(
        self,
        model: str,
        num_threads: int = 0,
        cache_size: int = 50_000,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        """Load a masked language model.

        Args:
            model: name or folder.
            num_threads: of torch; 0 = cores / local worker processes.
            cache_size: candidates whose vectors are kept: 3 KB each with a hidden size of 768.
            max_tokens: special tokens included; longer contexts are cut around the mention, longer texts at their end.

        Raises:
            StageError: no such model, or it is no masked language model.
        """
        self._encoder = SentenceEncoder(model, num_threads=num_threads)
        self._width = min(max_tokens, self._encoder.max_tokens) - 2
        assert self._width > 0, max_tokens
        self._vectors: LruCache[str, np.ndarray] = LruCache(cache_size)

    def similarity(
        self, contexts: Sequence[Context], texts: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        """Cosines of each context with its own candidates' texts; 0 where a text is empty. Each float32 (n,).

        Memory: the vectors of all distinct texts of the call.
        """
        wanted = [index for index, own in enumerate(texts) if any(map(_says, own))]
        windows = dict(
            zip(wanted, self._of_contexts([contexts[index] for index in wanted]), strict=True)
        )
        found = self._of_texts([text for index in wanted for text in texts[index] if _says(text)])
        similarities = []
        for index, own in enumerate(texts):
            values = np.zeros(len(own), np.float32)
            places = [place for place, text in enumerate(own) if _says(text)]
            if places:
                candidates = np.stack([found[own[place]] for place in places])
                alike = cosines(np.broadcast_to(windows[index], candidates.shape), candidates)
                values[places] = np.round(alike, COSINE_DECIMALS)
            similarities.append(values)
        return similarities

    def _encode(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        return self._encoder.encode(Sequences.of(sequences), BATCH_TOKENS)

    def _of_contexts(self, contexts: Sequence[Context]) -> list[np.ndarray]:
        """Vectors of windows; mentions that share one share its forward pass."""
        encodings = self._encoder.tokenizer.encode([context.text for context in contexts])
        windows = [
            cut(encoding, context, self._width)
            for encoding, context in zip(encodings, contexts, strict=True)
        ]
        distinct = {ids.tobytes(): ids for ids in windows}
        vectors = dict(zip(distinct, self._encode(list(distinct.values())), strict=True))
        return [vectors[ids.tobytes()] for ids in windows]

    def _of_texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Vectors of texts, by text: remembered or computed."""
        remembered = {text: self._vectors.get(text) for text in dict.fromkeys(texts)}
        found = {text: vector for text, vector in remembered.items() if vector is not None}
        missing = [text for text in remembered if text not in found]
        encodings = self._encoder.tokenizer.encode(missing)
        vectors = self._encode([encoding.ids[: self._width] for encoding in encodings])
        for text, vector in zip(missing, vectors, strict=True):
            found[text] = (
                vector.copy()
            )  # a row of its own: else the cache would hold the whole batch
            self._vectors.put(text, found[text])
        return found


def cut(encoding: Encoding, context: Context, width: int) -> np.ndarray:
    """Ids of at most `width` tokens around the mention; where no token touches it, around its place. Shape (n,)."""
    low, high = encoding.span(context.start, context.end)
    if low == high:
        low = high = int(np.searchsorted(encoding.starts, context.start))
    start, end = window(len(encoding.ids), (low, high), width)
    return encoding.ids[start:end]


def _says(text: str) -> bool:
    return bool(text.strip())


class CandidateReranker:
    """The feature `semantic`: cosine of context and candidate (label and description), less the mean of the mention's."""

    def __init__(self, model: str, entities: EntityStore) -> None:
        self._reranker = Reranker(model)
        self._entities = entities

    def __call__(self, contexts: Sequence[Context], scored: Scored) -> np.ndarray:
        """One value per candidate; 0 where a mention has one candidate. Only the MAX_RERANKED most popular are compared."""
        values = np.zeros(len(scored.rows), np.float32)
        bounds = np.searchsorted(scored.mentions, np.arange(len(contexts) + 1))
        places = [
            low
            + np.sort(
                np.argsort(-scored.features["popularity"][low:high], kind="stable")[:MAX_RERANKED]
            )
            for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        ]
        several = [number for number, own in enumerate(places) if len(own) > 1]
        texts = [
            [self._text(row) for row in scored.rows[places[number]].tolist()] for number in several
        ]
        found = self._reranker.similarity([contexts[number] for number in several], texts)
        for number, similarity in zip(several, found, strict=True):
            values[places[number]] = similarity - similarity.mean()
        return values

    def _text(self, row: int) -> str:
        description = self._entities.description(row)
        return f"{self._entities.label(row)}: {description}" if description else ""

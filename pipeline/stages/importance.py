"""Stage `importance`: the semantic importance of every linked mention. Map-only, one unit per unit of `link`.

Each original sentence is encoded once; its variants, one per entity, are batched by length across sentences. All mentions
of one entity in a sentence are replaced together and share the score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.config import ImportanceConfig
from pipeline.core.semantic_importance import Span, cosines, replaced, semantic_importance, window
from pipeline.encoder import Encoding, SentenceEncoder, check_model, model_stamp
from pipeline.linked import LinkedSentence, linked_sentences, linked_units
from pipeline.storage.stage import StagePlan
from pipeline.storage.tables import RunPaths
from pipeline.storage.units import Unit, UnitWriter
from schemas import IMPORTANCE
from schemas.settings import to_dict

CHUNK_SENTENCES = 1024


@dataclass(slots=True)
class _Batch:
    """Sequences to encode, and which pair of them gives which mentions their cosine."""

    sequences: list[np.ndarray] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)  # original, variant
    mentions: list[list[tuple[str, int, int]]] = field(default_factory=list)  # keys that share the pair's score

    def add(self, sequence: np.ndarray) -> int:
        self.sequences.append(sequence)
        return len(self.sequences) - 1


@dataclass(kw_only=True)
class ImportanceWorker:
    """Scores the linked mentions of one unit."""

    paths: RunPaths
    config: ImportanceConfig
    _encoder: list[SentenceEncoder] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """The model stays in its process."""
        return {"paths": self.paths, "config": self.config, "_encoder": []}

    def setup(self) -> None:
        """Load the encoder."""
        if not self._encoder:
            config = self.config
            self._encoder.append(SentenceEncoder(config.model, config.device, config.num_threads))

    def process(self, unit: Unit, out: UnitWriter) -> None:
        """One unit of links."""
        chunk: list[LinkedSentence] = []
        for sentence in linked_sentences(self.paths, unit):
            out.count("rows_in", len(sentence.mentions))
            if sentence.mentions:
                chunk.append(sentence)
            if len(chunk) == CHUNK_SENTENCES:
                self._score(chunk, out)
                chunk = []
        self._score(chunk, out)
        out.advance(unit.size)

    def _score(self, sentences: list[LinkedSentence], out: UnitWriter) -> None:
        encoder = self._encoder[0]
        batch = _Batch()
        encodings = encoder.tokenizer.encode([sentence.text for sentence in sentences])
        for sentence, encoding in zip(sentences, encodings, strict=True):
            self._plan_sentence(sentence, encoding, batch, out)
        vectors = encoder.encode(batch.sequences, self.config.batch_tokens)
        pairs = np.array(batch.pairs, np.int64).reshape(-1, 2)
        values = cosines(vectors[pairs[:, 0]], vectors[pairs[:, 1]])
        rows = [
            (*key, float(value), float(si))
            for keys, value, si in zip(batch.mentions, values, semantic_importance(values), strict=True)
            for key in keys
        ]
        out.count("rows_out", len(rows))
        out.count("sequences_encoded", len(batch.sequences))
        out.write(IMPORTANCE, IMPORTANCE.from_rows(sorted(rows)))

    def _plan_sentence(self, sentence: LinkedSentence, encoding: Encoding, batch: _Batch, out: UnitWriter) -> None:
        """Queue the original, or its windows, and one variant per entity."""
        width = min(self.config.max_tokens, self._encoder[0].max_tokens) - 2
        originals: dict[Span, int] = {}
        for keys, spans in _entity_spans(sentence, encoding):
            if not spans:
                for key in keys:
                    out.reject(f"{key[0]}:{key[1]}-{key[2]}", "no token of the mention", sentence.text)
                continue
            start, end = window(len(encoding.ids), spans[0], width)
            ids = encoding.ids[start:end]
            if (start, end) not in originals:
                originals[start, end] = batch.add(ids)
            inside = [
                (max(low - start, 0), min(high - start, end - start))
                for low, high in spans
                if low < end and high > start
            ]
            batch.pairs.append((originals[start, end], batch.add(replaced(ids, inside, self._replacement()))))
            batch.mentions.append(keys)

    def _replacement(self) -> int | None:
        tokenizer = self._encoder[0].tokenizer
        return {"mask": tokenizer.mask_id, "unk": tokenizer.unk_id, "delete": None}[self.config.replacement]


def _entity_spans(
    sentence: LinkedSentence, encoding: Encoding
) -> Iterator[tuple[list[tuple[str, int, int]], list[Span]]]:
    """Keys and token spans of each entity of a sentence."""
    keys: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    spans: dict[int, list[Span]] = defaultdict(list)
    for mention in sentence.mentions:
        keys[mention.qid].append((sentence.doc_id, mention.start, mention.end))
        low, high = encoding.span(mention.start - sentence.start, mention.end - sentence.start)
        if low < high:
            spans[mention.qid].append((low, high))
    for qid, found in keys.items():
        yield found, spans[qid]


def plan(config: ImportanceConfig, paths: RunPaths) -> StagePlan:
    """One unit per unit of `link`; checks a local model before any work."""
    check_model(config.model)
    link = paths.require("link")
    return StagePlan(
        name="importance",
        tables=(IMPORTANCE,),
        units=linked_units(paths),
        worker=ImportanceWorker(paths=paths, config=config),
        inputs={"link": link.fingerprint, "model": model_stamp(config.model)},
        config=to_dict(config),
    )

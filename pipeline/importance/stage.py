"""Stage `importance`: the semantic importance of every linked mention. Map-only, one unit per unit of `link`.

Each original sentence is encoded once; its variants, one per entity, beside those of all sentences of a chunk, which is most
often the unit. All mentions of one entity in a sentence are replaced together and share the score.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pyarrow as pa

from pipeline.config import ImportanceConfig
from pipeline.encoder.sentence_encoder import NUM_SPECIAL, NumberFormat, SentenceEncoder, best_dtype
from pipeline.encoder.sequences import Sequences, cosines
from pipeline.encoder.tokenizer import check_model, model_stamp
from pipeline.engine.opened import OpenedOnce
from pipeline.engine.stage import Phase, StagePlan
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import RowRange, Unit
from pipeline.engine.units import UnitWriter
from pipeline.importance.semantic_importance import semantic_importance
from pipeline.importance.variants import MentionTokens, Variants, plan_variants
from pipeline.link.linked_sentences import LinkedReader, LinkedUnit, linked_units
from schemas import IMPORTANCE
from schemas.settings import to_dict

CHUNK_TOKENS = 1 << 19  # to encode at once, about: 100 MB of vectors for a model of 768
TOKEN_CHARACTERS = 4  # of a text, on average
MIN_TOKENS = 16  # a sequence counts as so many at least: its vector takes memory too


@dataclass(frozen=True, kw_only=True)
class ImportanceWorker:
    """Scores the linked mentions of one unit."""

    paths: RunPaths
    config: ImportanceConfig  # with a number format of its own: not auto
    _encoder: OpenedOnce[SentenceEncoder] = field(
        default_factory=OpenedOnce, compare=False, repr=False
    )
    _reader: OpenedOnce[LinkedReader] = field(default_factory=OpenedOnce, compare=False, repr=False)

    @property
    def encoder(self) -> SentenceEncoder:
        """The frozen encoder, loaded once."""
        config = self.config
        return self._encoder.get(
            lambda: SentenceEncoder(config.model, config.device, config.num_threads, config.dtype)
        )

    def process(self, unit: Unit[RowRange], out: UnitWriter) -> None:
        """One unit of links."""
        linked = self._reader.get(lambda: LinkedReader(self.paths)).read(unit)
        lost = linked.num_outside + linked.num_overlapping
        out.count("rows_in", lost)
        out.count("skipped_outside_sentence", linked.num_outside)
        out.count("skipped_overlapping", linked.num_overlapping)
        progress = _Progress(unit.size, len(linked.sentence), out)
        for chunk in _chunks(linked, self.config.max_tokens):
            out.count("rows_in", chunk.stop - chunk.start)
            out.write(IMPORTANCE, self._score(linked, chunk, progress, out))
        progress.tell(len(linked.sentence))

    def _score(
        self, linked: LinkedUnit, chunk: slice, progress: _Progress, out: UnitWriter
    ) -> pa.Table:
        """Rows of a range of mentions."""
        plan = self._plan(linked, chunk)
        size = chunk.stop - chunk.start
        vectors = self.encoder.encode(
            plan.sequences,
            self.config.batch_tokens,
            lambda share: progress.tell(chunk.start + share * size),
        )
        scores = cosines(vectors[plan.originals], vectors[plan.replaced]).astype(np.float32)
        scored, lost = (
            chunk.start + np.flatnonzero(one) for one in (plan.pairs >= 0, plan.pairs < 0)
        )
        for key, text in _places(linked, lost):
            out.reject(key, "no token of the mention", text)
        out.count("rows_out", len(scored))
        out.count("sequences", len(plan.sequences))
        return _rows(linked, scored, scores[plan.pairs[plan.pairs >= 0]])

    def _plan(self, linked: LinkedUnit, chunk: slice) -> Variants:
        encoder, config = self.encoder, self.config
        numbers, own = np.unique(linked.sentence[chunk], return_inverse=True)
        texts = linked.sentence_texts(numbers)
        tokens = encoder.tokenizer.encode_runs(texts, np.ones(len(texts), np.bool_))
        first = linked.start[linked.sentence[chunk]]
        spans = tokens.spans(
            own, linked.mention_start[chunk] - first, linked.mention_end[chunk] - first
        )
        mentions = MentionTokens(own, linked.qid[chunk].astype(np.int64), *spans)
        width = min(config.max_tokens, encoder.max_tokens) - NUM_SPECIAL
        tokenizer = encoder.tokenizer
        replacement = {"mask": tokenizer.mask_id, "unk": tokenizer.unk_id, "delete": None}[
            config.replacement
        ]
        return plan_variants(Sequences(tokens.ids, tokens.offsets), mentions, width, replacement)


class _Progress:
    """Tells how much of a unit is done, by its mentions: the time goes into them."""

    def __init__(self, size: int, num_mentions: int, out: UnitWriter) -> None:
        self._size, self._num_mentions, self._out, self._told = size, num_mentions, out, 0

    def tell(self, mentions: float) -> None:
        """So many mentions are done."""
        done = int(self._size * mentions / self._num_mentions) if self._num_mentions else self._size
        if done > self._told:
            self._out.advance(done - self._told)
            self._told = done


def _chunks(linked: LinkedUnit, max_tokens: int) -> Iterator[slice]:
    """Ranges of mentions, those of whole sentences, with about CHUNK_TOKENS to encode each."""
    numbers, counts = np.unique(linked.sentence, return_counts=True)
    lengths = (linked.end[numbers] - linked.start[numbers]) // TOKEN_CHARACTERS
    work = np.cumsum((1 + counts) * np.clip(lengths, MIN_TOKENS, max(max_tokens, MIN_TOKENS)))
    last = np.flatnonzero(np.diff(work // CHUNK_TOKENS, append=-1))
    bounds = [0, *np.cumsum(counts)[last].tolist()]
    yield from (slice(low, high) for low, high in itertools.pairwise(bounds))


def _places(linked: LinkedUnit, mentions: np.ndarray) -> Iterator[tuple[str, str]]:
    """Key of each mention, and the text of its sentence."""
    sentences = linked.sentence[mentions]
    texts = linked.sentence_texts(sentences)
    doc_ids = linked.doc_ids.take(pa.array(linked.document[sentences])).to_pylist()
    starts, ends = linked.mention_start[mentions].tolist(), linked.mention_end[mentions].tolist()
    for doc_id, start, end, text in zip(doc_ids, starts, ends, texts, strict=True):
        yield f"{doc_id}:{start}-{end}", text


def _rows(linked: LinkedUnit, mentions: np.ndarray, cosine: np.ndarray) -> pa.Table:
    return IMPORTANCE.from_columns(
        {
            "doc_id": linked.doc_ids.take(pa.array(linked.document[linked.sentence[mentions]])),
            "start": linked.mention_start[mentions],
            "end": linked.mention_end[mentions],
            "cosine": cosine,
            "si": semantic_importance(cosine),
        }
    )


def _number_format(config: ImportanceConfig, paths: RunPaths) -> NumberFormat:
    """What `auto` means: as this run was made before, else what is best on this machine. One for all units."""
    if config.dtype != "auto":
        return config.dtype
    before = paths.manifest("importance")
    recorded = before.config.get("dtype") if before is not None else None
    return cast(NumberFormat, recorded) if recorded else best_dtype(config.device)


def plan(config: ImportanceConfig, paths: RunPaths) -> StagePlan:
    """One unit per unit of `link`; checks a local model before any work."""
    check_model(config.model)
    link = paths.require("link")
    tasks = [unit.task for unit in linked_units(paths)]
    resolved = dataclasses.replace(config, dtype=_number_format(config, paths))
    worker = ImportanceWorker(paths=paths, config=resolved)
    return StagePlan(
        name="importance",
        tables=(IMPORTANCE,),
        phases=(Phase(name="importance", tasks=tasks, worker=worker),),
        inputs={"link": link.fingerprint, "model": model_stamp(config.model)},
        config=to_dict(resolved),
    )

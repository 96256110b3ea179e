"""Measure the semantic importance of linked mentions: stage `importance`.

The stage only maps units, one per unit of `link`. Each original sentence is encoded once; its
variants, one per entity, beside those of all sentences of a chunk, which is most often the unit.
All mentions of one entity in a sentence are replaced together and share the score.
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
from pipeline.encoder.sentence_encoder import NumberFormat, SentenceEncoder, best_dtype
from pipeline.encoder.sequences import Sequences, cosines
from pipeline.encoder.tokenizer import NUM_SPECIAL, check_model, model_stamp
from pipeline.engine.errors import StageError
from pipeline.engine.opened_once import OpenedOnce
from pipeline.engine.stage import Phase, StagePlan
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import RowRange, Unit
from pipeline.engine.units import UnitWriter
from pipeline.importance.needed import ChosenSentences
from pipeline.importance.semantic_importance import semantic_importance
from pipeline.importance.variants import MentionTokens, Variants, plan_variants
from pipeline.link.linked_sentences import LinkedReader, LinkedUnit, linked_units
from pipeline.stats.rare_entities import rare_below, rare_items
from schemas import IMPORTANCE, LINKS
from schemas.array_types import F32, I64, Bools
from schemas.settings import to_dict

# About this many tokens are encoded at once: 100 MB of vectors for a model of 768.
CHUNK_TOKENS = 1 << 19
# Characters of a token of text, on average.
TOKEN_CHARACTERS = 4
# A sequence counts as at least this many tokens: its vector takes memory too.
MIN_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class ImportanceWorker:
    """Score the linked mentions of one unit."""

    paths: RunPaths
    # Its number format is a real one: not auto.
    config: ImportanceConfig
    # Share of all sentences in the random sample.
    sample_share: float = 1.0
    _encoder: OpenedOnce[SentenceEncoder] = field(
        default_factory=OpenedOnce, compare=False, repr=False
    )
    _reader: OpenedOnce[LinkedReader] = field(default_factory=OpenedOnce, compare=False, repr=False)
    _chosen: OpenedOnce[ChosenSentences] = field(
        default_factory=OpenedOnce, compare=False, repr=False
    )

    @property
    def encoder(self) -> SentenceEncoder:
        """Return the frozen encoder, loaded once."""
        config = self.config
        return self._encoder.get(
            lambda: SentenceEncoder(config.model, config.device, config.num_threads, config.dtype)
        )

    def process(self, unit: Unit[RowRange], out: UnitWriter) -> None:
        """Write the scores of one unit of links."""
        # The reader keeps the last row group: units in their order mostly share one.
        linked = self._reader.get(lambda: LinkedReader(self.paths)).read(unit)
        out.count("rows_in", linked.num_outside + linked.num_overlapping)
        out.count("skipped_outside_sentence", linked.num_outside)
        out.count("skipped_overlapping", linked.num_overlapping)

        chosen = self._chosen.get(self._choose)
        is_sampled_S = chosen.sampled(linked)
        is_scored_M = chosen.scored(linked, is_sampled_S)
        num_left_out = int(np.count_nonzero(~is_scored_M))
        if num_left_out:
            linked = linked.with_mentions(is_scored_M)
            out.count("rows_in", num_left_out)
            out.count("skipped_not_needed", num_left_out)

        progress = _MentionProgress(unit.size, len(linked.sentence), out)
        for chunk in _chunks(linked, self.config.max_tokens):
            out.count("rows_in", chunk.stop - chunk.start)
            scored, cosine = self._score(linked, chunk, progress, out)
            out.write(IMPORTANCE, _rows(linked, scored, cosine, is_sampled_S))
        progress.report(len(linked.sentence))

    def _choose(self) -> ChosenSentences:
        """Return the choice of sentences, for which the rare entities may have to be read."""
        rare = None
        if self.config.mentions == "needed":
            assert self.config.r_freq is not None
            rare = rare_items(self.paths, self.config.r_freq)
        return ChosenSentences(self.sample_share, rare)

    def _score(
        self, linked: LinkedUnit, chunk: slice, progress: _MentionProgress, out: UnitWriter
    ) -> tuple[I64, F32]:
        """Return the mentions of a range that have a score, and their cosines; reject the others."""
        plan = self._plan(linked, chunk)
        size = chunk.stop - chunk.start
        vectors = self.encoder.encode(
            plan.sequences,
            self.config.batch_tokens,
            lambda share: progress.report(chunk.start + share * size),
        )
        # One score per pair: a sentence and an entity in it.
        scores = cosines(vectors[plan.originals], vectors[plan.replaced]).astype(np.float32)

        has_score = plan.pairs >= 0
        scored = chunk.start + np.flatnonzero(has_score)
        without_token = chunk.start + np.flatnonzero(~has_score)
        for key, text in _keys_and_texts(linked, without_token):
            out.reject(key, "no token of the mention", text)
        out.count("rows_out", len(scored))
        out.count("sequences", len(plan.sequences))
        return scored, scores[plan.pairs[has_score]]

    def _plan(self, linked: LinkedUnit, chunk: slice) -> Variants:
        """Return the sequences that score a range of mentions."""
        # The sentences of the chunk, and for each mention the number of its sentence among them.
        encoder, tokenizer = self.encoder, self.encoder.tokenizer
        numbers, sentences = np.unique(linked.sentence[chunk], return_inverse=True)
        texts = linked.sentence_texts(numbers)
        tokens = tokenizer.encode_runs(texts, np.ones(len(texts), np.bool_))

        # Mentions count code points of the document, tokens those of the sentence.
        shift = linked.start[linked.sentence[chunk]]
        starts, ends = linked.mention_start[chunk] - shift, linked.mention_end[chunk] - shift
        low, high = tokens.spans(sentences, starts, ends)
        mentions = MentionTokens(sentences, linked.qid[chunk].astype(np.int64), low, high)

        width = min(self.config.max_tokens, encoder.max_tokens) - NUM_SPECIAL
        replacements = {"mask": tokenizer.mask_id, "unk": tokenizer.unk_id, "delete": None}
        replacement = replacements[self.config.replacement]
        return plan_variants(Sequences(tokens.ids, tokens.offsets), mentions, width, replacement)


class _MentionProgress:
    """Report how much of a unit is done, by its mentions: they take the time."""

    def __init__(self, size: int, num_mentions: int, out: UnitWriter) -> None:
        self._size, self._num_mentions, self._out, self._reported = size, num_mentions, out, 0

    def report(self, num_done: float) -> None:
        """Report the number of mentions that are done; a part of one counts."""
        # A unit without mentions is done at once.
        done = int(self._size * num_done / self._num_mentions) if self._num_mentions else self._size
        if done > self._reported:
            self._out.advance(done - self._reported)
            self._reported = done


def _chunks(linked: LinkedUnit, max_tokens: int) -> Iterator[slice]:
    """Yield ranges of mentions, of whole sentences, with about CHUNK_TOKENS to encode each."""
    # Shapes (sentences with a mention,): their numbers, mentions and tokens.
    numbers, counts = np.unique(linked.sentence, return_counts=True)
    lengths = (linked.end[numbers] - linked.start[numbers]) // TOKEN_CHARACTERS
    num_tokens = np.clip(lengths, MIN_TOKENS, max(max_tokens, MIN_TOKENS))

    # A sentence is encoded once as it is, and at most once per mention.
    cumulative = np.cumsum((1 + counts) * num_tokens)
    chunk_ends = np.flatnonzero(np.diff(cumulative // CHUNK_TOKENS, append=-1))
    bounds = [0, *np.cumsum(counts)[chunk_ends].tolist()]
    yield from (slice(low, high) for low, high in itertools.pairwise(bounds))


def _keys_and_texts(linked: LinkedUnit, mentions: I64) -> Iterator[tuple[str, str]]:
    """Yield the key of each mention, and the text of its sentence."""
    sentences = linked.sentence[mentions]
    texts = linked.sentence_texts(sentences)
    doc_ids = linked.doc_ids.take(pa.array(linked.document[sentences])).to_pylist()
    starts, ends = linked.mention_start[mentions].tolist(), linked.mention_end[mentions].tolist()
    for doc_id, start, end, text in zip(doc_ids, starts, ends, texts, strict=True):
        yield f"{doc_id}:{start}-{end}", text


def _rows(linked: LinkedUnit, mentions: I64, cosine: F32, is_sampled: Bools) -> pa.Table:
    """Return the rows of mentions with their cosines, shapes (n,).

    `is_sampled` is of the unit's sentences.
    """
    sentences = linked.sentence[mentions]
    return IMPORTANCE.from_columns(
        {
            "doc_id": linked.doc_ids.take(pa.array(linked.document[sentences])),
            "start": linked.mention_start[mentions],
            "end": linked.mention_end[mentions],
            "cosine": cosine,
            "si": semantic_importance(cosine),
            "is_sampled": is_sampled[sentences],
        }
    )


def _number_format(config: ImportanceConfig, paths: RunPaths) -> NumberFormat:
    """Return the number format that `auto` stands for, one for all units.

    It is the format of this run's earlier output, else the best one on this machine.
    """
    if config.dtype != "auto":
        return config.dtype
    try:
        manifest = paths.manifest("importance")
    except StageError:
        # A damaged manifest is no output: the stage runs again.
        manifest = None
    # Other cosines in a part of the units would not be comparable.
    recorded = manifest.config.get("dtype") if manifest is not None else None
    return cast(NumberFormat, recorded) if recorded else best_dtype(config.device)


def check(config: ImportanceConfig) -> None:
    """Check a local model before any work.

    Raises:
        StageError: it cannot be used.
    """
    check_model(config.model)


def plan(config: ImportanceConfig, paths: RunPaths) -> StagePlan:
    """Plan one unit per unit of `link`; a local model is checked before any unit starts.

    Raises:
        StageError: `link` is missing or out of date, so is `stats` where only needed mentions are
            scored, or the model cannot be used.
    """
    check(config)
    link = paths.require("link")
    # The units of `link` are balanced by text, which decides the time here too.
    tasks = [unit.task for unit in linked_units(paths)]

    inputs = {"link": link.fingerprint, "model": model_stamp(config.model)}
    r_freq = None
    if config.mentions == "needed":
        inputs["stats"] = paths.require("stats").fingerprint
        r_freq = rare_below(paths, config.r_freq)

    # Resolved once, here: machines with other hardware must not give other cosines.
    resolved = dataclasses.replace(config, dtype=_number_format(config, paths), r_freq=r_freq)
    # Mentions without an item count too: their number is known before any file is read.
    sample_share = min(config.sample / max(link.tables[LINKS.name].rows, 1), 1.0)
    worker = ImportanceWorker(paths=paths, config=resolved, sample_share=sample_share)
    return StagePlan(
        name="importance",
        tables=(IMPORTANCE,),
        phases=(Phase(name="importance", tasks=tasks, worker=worker),),
        inputs=inputs,
        config=to_dict(resolved),
    )

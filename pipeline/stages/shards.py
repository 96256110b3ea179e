"""Stage `shards`: sentences, links, importance and frequencies to `examples`; entities and relations to `knowledge`.

`knowledge` and the tokenizer's files are written once, before the units. Each unit of `link` becomes one part of `examples`,
in an order shuffled by hash. The trainer needs nothing else of the pipeline.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ShardsConfig
from pipeline.core.examples import (
    TokenSpan,
    Window,
    cut_windows,
    facts_between,
    shuffle_key,
    split_of,
    word_starts,
)
from pipeline.core.policies import PolicyLimits, default_r_freq, policy_bits
from pipeline.encoder import TOKENIZER_FILE, Encoding, TextTokenizer, check_model, model_stamp
from pipeline.knowledge import Knowledge, build_knowledge, load_knowledge
from pipeline.linked import LinkedSentence, linked_sentences, linked_units
from pipeline.query import add_view, connect
from pipeline.storage import files
from pipeline.storage.arrays import load_array, local_folder, save_array
from pipeline.storage.stage import Phase, PreparedStage, StagePlan
from pipeline.storage.tables import RunPaths, read_rows, read_table
from pipeline.storage.units import Unit, UnitReport, UnitWriter
from schemas import EXAMPLES, IMPORTANCE, KNOWLEDGE, TAIL_SUMMARY
from schemas.settings import to_dict
from schemas.shards import POLICY_BITS

CHUNK_SENTENCES = 2048
REACH_FOLDER, REACH_NAME = "reach", "entities.npy"  # look-up of the units, not read by the trainer


@dataclass(slots=True)
class _Resources:
    """What a worker opens once."""

    tokenizer: TextTokenizer
    knowledge: Knowledge
    limits: PolicyLimits
    frame: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class KnowledgeWorker:
    """One unit, before all others: `knowledge`, and the tokenizer's files beside it."""

    paths: RunPaths
    config: ShardsConfig

    def setup(self) -> None:
        """Nothing to open."""

    def process(self, unit: Unit, out: UnitWriter) -> None:  # noqa: ARG002 - there is one
        """Write them."""
        tokenizer = TextTokenizer(self.config.model)
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer.save(scratch)
            for path in sorted(Path(scratch).iterdir()):
                files.write_bytes(files.join(out.folder, "tokenizer", path.name), path.read_bytes())
        rows, reach = build_knowledge(self.config, self.paths, tokenizer)
        save_array(files.join(out.folder, REACH_FOLDER, REACH_NAME), reach)
        out.write(KNOWLEDGE, rows)


@dataclass(kw_only=True)
class ShardsWorker:
    """Sentences of one unit to examples."""

    paths: RunPaths
    config: ShardsConfig
    _open: list[_Resources] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """Tokenizer and look-ups stay in their process."""
        return {"paths": self.paths, "config": self.config, "_open": []}

    def setup(self) -> None:
        """Nothing before the first unit names the folder."""

    def process(self, unit: Unit, out: UnitWriter) -> None:
        """One unit."""
        resources = self._resources(out.folder)
        cosines = self._cosines(unit)
        rows: list[tuple[object, ...]] = []
        chunk: list[LinkedSentence] = []
        for sentence in linked_sentences(self.paths, unit):
            out.count("rows_in")
            out.count("spans_cut", sentence.num_cut)
            chunk.append(sentence)
            if len(chunk) == CHUNK_SENTENCES:
                rows += self._examples(chunk, cosines, resources, out)
                chunk = []
        rows += self._examples(chunk, cosines, resources, out)
        rows.sort(key=lambda row: shuffle_key(str(row[0]), int(row[1]), self.config.seed))  # type: ignore[call-overload]
        out.write(EXAMPLES, EXAMPLES.from_rows(rows))
        out.advance(unit.size)

    def _resources(self, folder: str) -> _Resources:
        if not self._open:
            tokenizer = TextTokenizer(self.config.model)
            found = [metadata.path for metadata in files.list_files(files.join(folder, KNOWLEDGE.name, "*.parquet"))]
            reach = load_array(files.join(local_folder(files.join(folder, REACH_FOLDER)), REACH_NAME))
            knowledge = load_knowledge(read_table(found, KNOWLEDGE), reach)
            self._open.append(_Resources(tokenizer, knowledge, self._limits(), tokenizer.frame))
        return self._open[0]

    def _limits(self) -> PolicyLimits:
        connection = connect()
        add_view(connection, "importance", self.paths.files("importance", IMPORTANCE), IMPORTANCE)
        median = connection.sql("SELECT median(round(1 - cosine::DOUBLE, 4)) FROM importance").fetchall()[0][0]
        summary = read_table(self.paths.files("stats", TAIL_SUMMARY), TAIL_SUMMARY).to_pylist()[0]
        default = default_r_freq(summary["num_linked"], summary["num_entities"])
        return PolicyLimits(
            r_freq=self.config.r_freq if self.config.r_freq is not None else default,
            median_distance=round(float(median or 0.0), 4),
            klt_r_min=self.config.klt_r_min,
            klt_r_max=self.config.klt_r_max,
        )

    def _cosines(self, unit: Unit) -> dict[tuple[str, int, int], float]:
        name = f"part-{unit.index:05d}-of-{unit.of:05d}.parquet"
        cosines: dict[tuple[str, int, int], float] = {}
        for path in self.paths.files("importance", IMPORTANCE):
            if path.endswith(name):
                for rows in read_rows(path, IMPORTANCE):
                    keys = zip(*(rows.column(key).to_pylist() for key in ("doc_id", "start", "end")), strict=True)
                    cosines.update(zip(keys, rows.column("cosine").to_pylist(), strict=True))
        return cosines

    def _examples(
        self,
        sentences: Sequence[LinkedSentence],
        cosines: dict[tuple[str, int, int], float],
        resources: _Resources,
        out: UnitWriter,
    ) -> list[tuple[object, ...]]:
        if not sentences:
            return []
        encodings = resources.tokenizer.encode([sentence.text for sentence in sentences])
        bits = self._policy_bits(sentences, cosines, resources)
        rows: list[tuple[object, ...]] = []
        for sentence, encoding, sentence_bits in zip(sentences, encodings, bits, strict=True):
            if len(encoding.ids) == 0:
                out.count("skipped_without_tokens")
                continue
            out.count("rows_out")
            spans = _token_spans(sentence, encoding, resources.knowledge)
            windows, lost = cut_windows(len(encoding.ids), encoding.words, spans, self.config.max_tokens - 2)
            out.count("spans_cut", lost)
            for window in windows:
                rows.append(self._row(sentence, encoding, window, sentence_bits, cosines, resources))
        return rows

    def _policy_bits(
        self, sentences: Sequence[LinkedSentence], cosines: dict[tuple[str, int, int], float], resources: _Resources
    ) -> list[np.ndarray]:
        knowledge = resources.knowledge
        numbers, values, entity_rows = [], [], []
        for number, sentence in enumerate(sentences):
            for mention in sentence.mentions:
                numbers.append(number)
                values.append(cosines.get((sentence.doc_id, mention.start, mention.end), float("nan")))
                entity_rows.append(knowledge.entity_rows.get(mention.qid, -1))
        bits = policy_bits(
            np.array(numbers, np.int64),
            np.array(values, np.float32),
            np.array([knowledge.frequency.get(row, 0) for row in entity_rows], np.int64),
            np.array([knowledge.reach.get(row, 0) for row in entity_rows], np.int64),
            resources.limits,
        )
        wanted = np.uint16(sum(POLICY_BITS[policy] for policy in self.config.policies))
        return np.split(bits & wanted, np.cumsum([len(sentence.mentions) for sentence in sentences])[:-1])

    def _row(  # noqa: PLR0913
        self,
        sentence: LinkedSentence,
        encoding: Encoding,
        window: Window,
        bits: np.ndarray,
        cosines: dict[tuple[str, int, int], float],
        resources: _Resources,
    ) -> tuple[object, ...]:
        """One window in the order of EXAMPLES' columns; token 0 is the opening special token."""
        knowledge = resources.knowledge
        opening, closing = resources.frame
        tokens = encoding.ids[window.start : window.end]
        mentions = [sentence.mentions[span.mention] for span in window.spans]
        rows = [knowledge.entity_rows[mention.qid] for mention in mentions]
        start = sentence.start + (int(encoding.starts[window.start]) if window.start else 0)
        shift = 1 - window.start
        return (
            sentence.doc_id,
            start,
            [opening, *tokens.tolist(), closing],
            (word_starts(encoding.words[window.start : window.end]) + 1).tolist(),
            len(tokens) + 2,
            split_of(sentence.doc_id, self.config.seed, self.config.validation_share),
            [span.start + shift for span in window.spans],
            [span.end + shift for span in window.spans],
            rows,
            [knowledge.frequency[row] for row in rows],
            [cosines.get((sentence.doc_id, mention.start, mention.end), float("nan")) for mention in mentions],
            [int(bits[span.mention]) for span in window.spans],
            *facts_between(rows, knowledge.tails),
        )


def _token_spans(sentence: LinkedSentence, encoding: Encoding, knowledge: Knowledge) -> list[TokenSpan]:
    """Mentions as token spans; a span that shares a token with the one before it is left out."""
    spans: list[TokenSpan] = []
    for number, mention in enumerate(sentence.mentions):
        start, end = encoding.span(mention.start - sentence.start, mention.end - sentence.start)
        if start < end and mention.qid in knowledge.entity_rows and (not spans or start >= spans[-1].end):
            spans.append(TokenSpan(start, end, number))
    return spans


@dataclass(frozen=True, kw_only=True)
class _Finish:
    """Names the tokenizer beside the shards, and its hash."""

    model: str

    def __call__(self, prepared: PreparedStage, _reports: Sequence[UnitReport]) -> dict[str, str]:
        content = files.read_bytes(files.join(prepared.data, "tokenizer", TOKENIZER_FILE))
        return {
            "tokenizer": f"{prepared.plan.data_folder}/tokenizer",
            "tokenizer_sha256": hashlib.sha256(content).hexdigest(),
            "model": self.model,
        }


def plan(config: ShardsConfig, paths: RunPaths) -> StagePlan:
    """One unit per unit of `link`; checks a local model before any work."""
    check_model(config.model)
    inputs = {stage: paths.require(stage).fingerprint for stage in ("kb", "link", "stats", "importance")}
    inputs["model"] = model_stamp(config.model)
    units = linked_units(paths)
    knowledge = Unit(index=len(units), of=len(units) + 1, path="knowledge", start=0, end=0)
    return StagePlan(
        name="shards",
        tables=(EXAMPLES, KNOWLEDGE),
        units=units,
        worker=ShardsWorker(paths=paths, config=config),
        inputs=inputs,
        config=to_dict(config),
        before=(Phase(name="knowledge", units=[knowledge], worker=KnowledgeWorker(paths=paths, config=config)),),
        finish=_Finish(model=config.model),
    )

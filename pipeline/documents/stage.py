"""Stage `documents`: a corpus to plain text with stable ids, and the links of wikitext to gold anchors.

Units are byte ranges (JSONL, MediaWiki exports), row ranges (Parquet), or groups of whole text files. Ids: the id field,
"file:position" where there is none, the page id of an article, the name of a text file. NULs become U+FFFD, counted.
An id that repeats within a unit is a reject; one that repeats across units fails the stage.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.arrays.hashing import hash64, hash_texts
from pipeline.config import DocumentsConfig
from pipeline.documents import corpus
from pipeline.documents.corpus import RawDocument
from pipeline.documents.titles_stage import FOLDER, NO_ITEM, TitleMap
from pipeline.documents.wikitext import Anchor
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.opened import OpenedOnce
from pipeline.engine.row_buffer import RowBuffer
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths, read_batches
from pipeline.engine.tasks import ByteRange, ListRange, RowRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.sources.ranges import plan_ranges
from pipeline.sources.work import RangeProgress, loss_handler, span_of
from schemas import ANCHORS, DOCUMENTS
from schemas.errors import ConfigError
from schemas.settings import to_dict

BATCH_CHARACTERS = 8 << 20
TEXT_FILES_PER_UNIT = 256
ENDINGS = re.compile(r"(?<=[^/])(?:\.(?:txt|md|jsonl?|ndjson|parquet|xml|gz|bz2|zst))+$")


# A range of bytes, of a user's Parquet rows, or of the list of text files.
DocumentTask = ByteRange | RowRange | ListRange


@dataclass(frozen=True, kw_only=True)
class DocumentsWorker:
    """Reads one range of one file, or a group of text files."""

    config: DocumentsConfig
    kinds: dict[str, str]  # path -> text, jsonl, parquet, wiki-xml
    labels: dict[str, str]  # path -> short unique name
    texts: tuple[str, ...]  # the text files: a unit of them is a range of this
    titles: str = ""  # folder of the title map; empty where no input has links
    _titles: OpenedOnce[TitleMap] = field(default_factory=OpenedOnce, compare=False, repr=False)

    def process(self, unit: Unit[DocumentTask], out: UnitWriter) -> None:
        """Documents and anchors of the unit."""
        sink = _Sink(out, self._titles.get(lambda: TitleMap(self.titles)) if self.titles else None)
        progress = RangeProgress(unit.task, out)
        for path, document in self._read(unit.task, out, progress):
            sink.add(path, document)
        sink.flush()
        progress.finish()

    def _read(
        self, task: DocumentTask, out: UnitWriter, progress: RangeProgress
    ) -> Iterator[tuple[str, RawDocument]]:
        if isinstance(task, ListRange):
            for number in range(task.start, task.end):
                path = self.texts[number]
                yield path, corpus.read_text_file(path, self.labels[path])
                progress.at_byte(number + 1)
            return
        label = self.labels[task.path]
        if isinstance(task, RowRange):
            rows = range(task.start, task.end)
            for document in corpus.read_parquet(task.path, rows, label, self.config):
                progress.at(document.position)
                yield task.path, document
            return
        on_loss = loss_handler(out, skip_corrupt=self.config.skip_corrupt)
        if self.kinds[task.path] == "jsonl":
            documents = corpus.read_jsonl(
                span_of(task), label, self.config, on_loss, progress.at_byte
            )
        else:
            documents = corpus.read_articles(span_of(task), on_loss, progress.at_byte)
        for document in documents:
            yield task.path, document


class _Sink:
    """Checks documents, counts what becomes of each, writes in batches."""

    def __init__(self, out: UnitWriter, titles: TitleMap | None) -> None:
        self._out = out
        self._titles = titles
        self._documents = RowBuffer(DOCUMENTS)
        self._anchors = RowBuffer(ANCHORS)
        self._num_characters = 0
        self._seen: set[str] = set()

    def add(self, path: str, document: RawDocument) -> None:
        """Keep, skip or reject a document."""
        self._out.count("rows_in")
        if document.skipped:
            self._out.count(document.skipped)
            return
        problem = document.problem or self._problem_of(document)
        if problem:
            payload = document.payload or document.text[:500]
            self._out.reject(document.doc_id or f"{path}:{document.position}", problem, payload)
            return
        self._seen.add(document.doc_id)
        self._out.count("rows_out")
        num_nuls = document.text.count("\0")
        if num_nuls:
            self._out.count("nuls_replaced", num_nuls)
        text = document.text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        self._documents.append((document.doc_id, document.title, text, posixpath.basename(path)))
        self._add_anchors(document.doc_id, document.anchors)
        for start, end, qid in document.links:
            self._anchors.append((document.doc_id, start, end, qid))
        self._num_characters += len(text)
        if self._num_characters >= BATCH_CHARACTERS:
            self.flush()

    def _problem_of(self, document: RawDocument) -> str:
        if not document.doc_id:
            return "empty doc_id"
        if document.doc_id in self._seen:
            return "doc_id repeats"
        return "" if document.text.strip("\0 \t\r\n") else "empty text"

    def _add_anchors(self, doc_id: str, anchors: Sequence[Anchor]) -> None:
        if self._titles is None or not anchors:
            return
        qids = self._titles.find([anchor.title for anchor in anchors])
        self._out.count("anchors_unresolved", qids.count(NO_ITEM))
        for anchor, qid in zip(anchors, qids, strict=True):
            if qid != NO_ITEM:
                self._anchors.append((doc_id, anchor.start, anchor.end, qid))

    def flush(self) -> None:
        """Write what was collected."""
        for buffer in (self._documents, self._anchors):
            if len(buffer):
                self._out.write(buffer.table, buffer.take())
        self._num_characters = 0


def plan(config: DocumentsConfig, paths: RunPaths) -> StagePlan:
    """Units of the corpus.

    Raises:
        ConfigError, StageError: no input, an unreadable one, MediaWiki exports before `titles` has run.
    """
    inputs = files.expand(config.inputs)
    if not inputs:
        raise ConfigError(
            "documents.inputs is empty: give files, folders or globs, for example --input corpus.jsonl"
        )
    if not any(files.size_of(path) for path in inputs):
        raise StageError(
            f"{', '.join(inputs)}: the corpus is empty: every file has 0 bytes; give other inputs"
        )
    kinds = {path: corpus.kind_of(path, config.format) for path in inputs}
    stamps = {path: files.stamp(path) for path in inputs}
    titles = ""
    if "wiki-xml" in kinds.values():
        stamps["titles"] = paths.require("titles").fingerprint
        titles = paths.artefact("titles", FOLDER)
    texts = tuple(path for path in inputs if kinds[path] == "text")
    worker = DocumentsWorker(
        config=config, kinds=kinds, labels=labels_of(inputs), texts=texts, titles=titles
    )
    return StagePlan(
        name="documents",
        tables=(DOCUMENTS, ANCHORS),
        phases=(Phase(name="documents", tasks=_tasks(config, kinds, texts), worker=worker),),
        inputs=stamps,
        config=to_dict(config),
        finish=functools.partial(finish, tuple(inputs)),
        measure=measure_of(set(kinds.values())),
        noun="documents",
    )


def measure_of(kinds: set[str]) -> str:
    """What the units of inputs of these kinds count; empty where they differ."""
    measures = {{"text": "files", "parquet": "rows"}.get(kind, "bytes") for kind in kinds}
    return measures.pop() if len(measures) == 1 else ""


def _tasks(
    config: DocumentsConfig, kinds: dict[str, str], texts: Sequence[str]
) -> list[DocumentTask]:
    unit_bytes = int(config.unit_mb * 2**20)
    tasks: list[DocumentTask] = [
        ListRange(kind=texts[start], start=start, end=min(start + TEXT_FILES_PER_UNIT, len(texts)))
        for start in range(0, len(texts), TEXT_FILES_PER_UNIT)
    ]
    for path, kind in kinds.items():
        if kind == "parquet":
            tasks += [
                RowRange(path=path, start=start, end=end)
                for _, start, end in corpus.parquet_ranges(path, unit_bytes, config)
            ]
        elif kind != "text":
            tasks += [
                ByteRange(path=path, start=span.start, end=span.end)
                for span in plan_ranges(path, unit_bytes)
            ]
    return tasks


def labels_of(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each file, without known endings; with as much of its folders as tells it from the others."""
    for depth in range(1, 32):
        names = {path: ENDINGS.sub("", "/".join(path.split("/")[-depth:])) for path in paths}
        if len(set(names.values())) == len(paths):
            return names
    return {path: path for path in paths}


def finish(
    inputs: tuple[str, ...], prepared: PreparedStage, reports: Sequence[UnitReport]
) -> dict[str, str]:
    """Refuse an empty corpus, and ids that occur in several units.

    Raises:
        StageError: says which.
    """
    parts = [report.parts[DOCUMENTS.name] for report in reports if DOCUMENTS.name in report.parts]
    if not parts:
        counters: Counter[str] = Counter()
        for report in reports:
            counters.update(report.counters)
        told = (
            ", ".join(f"{name} {count}" for name, count in sorted(counters.items()))
            or "nothing in it"
        )
        raise StageError(
            f"{', '.join(inputs)}: the corpus is empty: no document with text ({told}); give other inputs"
        )
    repeated = repeated_id([files.join(prepared.data, *part.path.split("/")) for part in parts])
    if repeated is not None:
        raise StageError(
            f"documents: doc_id {repeated!r} occurs more than once in {', '.join(inputs)}; name a unique field with "
            'documents.id_field, or set it to "" to number documents by their position'
        )
    return {}


def repeated_id(paths: Sequence[str]) -> str | None:
    """An id that occurs twice, if there is one; 8 bytes of memory per document."""
    hashes = [hash_texts(_ids_in(path)) for path in paths]
    keys, counts = np.unique(np.concatenate(hashes), return_counts=True)
    twice = set(keys[counts > 1].tolist())
    if not twice:
        return None
    return next(
        (doc_id for path in paths for doc_id in _ids_in(path) if hash64(doc_id) in twice), None
    )


def _ids_in(path: str) -> Iterator[str]:
    for batch in read_batches(path, DOCUMENTS, ["doc_id"]):
        yield from batch.column(0).to_pylist()

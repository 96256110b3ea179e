"""Turn a corpus into plain text with stable ids, and links into anchors: stage `documents`.

Units are byte ranges (JSONL, MediaWiki exports), row ranges (Parquet), or groups of whole text
files. Ids: the id field, "file:position" where there is none, the page id of an article, the name
of a text file. NULs become U+FFFD, counted. Of documents with one id the first stays, and the others
are rejects. Blank documents, redirects and disambiguation pages are counted, not rejected.
"""

from __future__ import annotations

import functools
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.config import DocumentsConfig
from pipeline.documents import corpus
from pipeline.documents.corpus import RawDocument
from pipeline.documents.dropped_templates import leave_dropped, most_dropped
from pipeline.documents.repeats import SHOWN_CHARACTERS, RepeatsWorker, leave_ids, repeat_reason
from pipeline.documents.titles_stage import FOLDER, NO_ITEM, TitleMap
from pipeline.documents.wikitext import Anchor
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.local_listing import FileEntry
from pipeline.engine.opened_once import OpenedOnce
from pipeline.engine.row_buffer import RowBuffer
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import Bucket, ByteRange, ListRange, RowRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.sources.range_progress import RangeProgress, long_handler, loss_handler
from pipeline.sources.ranges import plan_ranges
from schemas import ANCHORS, DOCUMENTS
from schemas.errors import ConfigError
from schemas.listing import a_few
from schemas.settings import to_dict

BATCH_CHARACTERS = 8 << 20
# Characters of which a text with nothing to read consists: white space, NULs, and marks of no width.
BLANK = "\0\ufeff\u200b\u2060" + "".join(filter(str.isspace, map(chr, range(sys.maxunicode))))
TEXT_FILES_PER_UNIT = 256
# Files that are looked into before a run begins; there may be a million.
CHECKED_FILES = 100
ENDINGS = re.compile(r"(?<=[^/])(?:\.(?:txt|md|jsonl?|ndjson|parquet|xml|gz|bz2|zst))+$")


# A range of bytes, of a user's Parquet rows, or of the list of text files.
DocumentTask = ByteRange | RowRange | ListRange


@dataclass(frozen=True, kw_only=True)
class DocumentsWorker:
    """Read one range of one file, or a group of text files."""

    config: DocumentsConfig
    # By path: text, jsonl, parquet or wiki-xml.
    kinds: dict[str, str]
    # By path: a short unique name.
    labels: dict[str, str]
    # The text files: a unit of them is a range of this list.
    texts: tuple[str, ...]
    # The folder of the title map; empty where no input has links.
    titles: str = ""
    _titles: OpenedOnce[TitleMap] = field(default_factory=OpenedOnce, compare=False, repr=False)

    def process(self, unit: Unit[DocumentTask], out: UnitWriter) -> None:
        """Write the documents and the anchors of the unit."""
        titles = self._titles.get(lambda: TitleMap(self.titles)) if self.titles else None
        sink = _DocumentSink(out, titles)
        progress = RangeProgress(unit.task, out)
        for path, document in self._read(unit.task, out, progress):
            sink.add(path, document)
        sink.flush()
        leave_ids(out, unit.index, list(sink.place_of), list(sink.place_of.values()))
        leave_dropped(out.folder, unit.index, sink.dropped)
        progress.finish()

    def _read(
        self, task: DocumentTask, out: UnitWriter, progress: RangeProgress
    ) -> Iterator[tuple[str, RawDocument]]:
        """Yield the file of each document of a task, and the document."""
        if isinstance(task, ListRange):
            for number in range(task.start, task.end):
                path = self.texts[number]
                yield path, corpus.read_text_file(path, self.labels[path])
                progress.reached(number + 1)
            return

        label = self.labels[task.path]
        if isinstance(task, RowRange):
            rows = range(task.start, task.end)
            for document in corpus.read_parquet(task.path, rows, label, self.config):
                progress.record_read(document.position)
                yield task.path, document
            return

        on_loss = loss_handler(out, skip_corrupt=self.config.skip_corrupt)
        on_long = long_handler(out, task.path)
        if self.kinds[task.path] == "jsonl":
            documents = corpus.read_jsonl(
                task, label, self.config, on_loss, progress.reached, on_long
            )
        else:
            documents = corpus.read_articles(task, on_loss, progress.reached, on_long)
        for document in documents:
            yield task.path, document


class _DocumentSink:
    """Check documents, count what becomes of each, write them in batches."""

    def __init__(self, out: UnitWriter, titles: TitleMap | None) -> None:
        self._out = out
        self._titles = titles
        self._documents = RowBuffer(DOCUMENTS)
        self._anchors = RowBuffer(ANCHORS)
        self._num_characters = 0
        # By id: where the document starts.
        self.place_of: dict[str, str] = {}
        # How often each template was dropped, by name.
        self.dropped: Counter[str] = Counter()

    def add(self, path: str, document: RawDocument) -> None:
        """Keep, skip or reject a document."""
        self._out.count("rows_in")
        if document.skipped:
            self._out.count(document.skipped)
            return

        self.dropped.update(document.dropped)
        if not document.problem and not document.text.strip(BLANK):
            self._out.count("skipped_empty")
            return

        place = f"{path}:{document.position}"
        problem = document.problem or self._problem_of(document, place)
        if problem:
            # The reject shows the start of the text, to be recognised by.
            payload = document.payload or document.text[:SHOWN_CHARACTERS]
            self._out.reject(document.doc_id or place, problem, payload)
            return
        # Only kept documents count: a reject does not use up its id.
        self.place_of[document.doc_id] = place
        self._out.count("rows_out")

        # A NUL ends a string for many programs. Its replacement has the same length, so offsets
        # stay right.
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

    def _problem_of(self, document: RawDocument, place: str) -> str:
        """Return why a document cannot be kept; empty if it can."""
        if not document.doc_id:
            return "empty doc_id"
        first_place = self.place_of.get(document.doc_id)
        return "" if first_place is None else repeat_reason(place, first_place)

    def _add_anchors(self, doc_id: str, anchors: Sequence[Anchor]) -> None:
        """Add the links of an article whose titles lead to an item; count the others."""
        if self._titles is None or not anchors:
            return

        qids = self._titles.find([anchor.title for anchor in anchors])
        self._out.count("anchors_unresolved", qids.count(NO_ITEM))
        for anchor, qid in zip(anchors, qids, strict=True):
            if qid != NO_ITEM:
                self._anchors.append((doc_id, anchor.start, anchor.end, qid))

    def flush(self) -> None:
        """Write the rows collected so far."""
        for buffer in (self._documents, self._anchors):
            if len(buffer):
                self._out.write(buffer.table, buffer.take())
        self._num_characters = 0


def found(config: DocumentsConfig) -> list[FileEntry]:
    """Return the files of the corpus.

    Raises:
        ConfigError: there are none.
    """
    entries = files.find(config.inputs)
    if not entries:
        raise ConfigError(
            "documents.inputs is empty: "
            "give files, folders or globs, for example --input corpus.jsonl"
        )
    return entries


def check(config: DocumentsConfig) -> None:
    """Check the inputs before any work: that they are there, and what the first of them are.

    Raises:
        ConfigError: no input.
        StageError: one of the first files is none that can be read, or has no text column.
    """
    for entry in found(config)[:CHECKED_FILES]:
        kind = corpus.kind_of(entry.path, config.format, config.text_field)
        if kind == "parquet":
            # Its end says whether it is whole, and which columns it has.
            corpus.parquet_ranges(entry.path, 1 << 62, config)


def plan(config: DocumentsConfig, paths: RunPaths) -> StagePlan:
    """Plan the units of the corpus.

    Raises:
        ConfigError: no input.
        StageError: an unreadable input, or MediaWiki exports before `titles` has run.
    """
    entries = found(config)
    inputs = [entry.path for entry in entries]
    # One empty file is a reject; a corpus of empty files is a mistake.
    if not any(entry.num_bytes for entry in entries):
        raise StageError(
            f"{a_few(inputs)}: the corpus is empty: every file has 0 bytes; give other inputs"
        )

    # Only links of MediaWiki exports have titles: other corpora do not depend on the stage
    # `titles`.
    kinds = {entry.path: kind for entry, kind in corpus.files_of(config).items()}
    stamps = {entry.path: entry.stamp for entry in entries}
    titles = ""
    if "wiki-xml" in kinds.values():
        stamps["titles"] = paths.require("titles").fingerprint
        titles = paths.artefact("titles", FOLDER)

    texts = tuple(path for path in inputs if kinds[path] == "text")
    worker = DocumentsWorker(
        config=config, kinds=kinds, labels=labels_of(inputs), texts=texts, titles=titles
    )
    read = Phase(name="documents", tasks=_tasks(config, kinds, texts), worker=worker)
    # Progress counts what is read: the other phase reads nothing of it.
    repeats = Phase(name="repeats", tasks=[Bucket(kind="repeats", size=0)], worker=RepeatsWorker())
    return StagePlan(
        name="documents",
        tables=(DOCUMENTS, ANCHORS),
        phases=(read, repeats),
        inputs=stamps,
        config=to_dict(config),
        finish=functools.partial(finish, a_few(inputs)),
        measure=measure_of(set(kinds.values())),
        noun="documents",
    )


def measure_of(kinds: set[str]) -> str:
    """Return what the units of inputs of these kinds count; empty where they differ."""
    # A progress bar cannot add bytes and rows.
    measures = {{"text": "files", "parquet": "rows"}.get(kind, "bytes") for kind in kinds}
    return measures.pop() if len(measures) == 1 else ""


def _tasks(
    config: DocumentsConfig, kinds: dict[str, str], texts: Sequence[str]
) -> list[DocumentTask]:
    """Return the tasks of the corpus: groups of text files, then ranges of the other files."""
    unit_bytes = int(config.unit_mb * 2**20)
    # A unit per small file would cost more than reading it.
    tasks: list[DocumentTask] = [
        ListRange(kind=texts[start], start=start, end=min(start + TEXT_FILES_PER_UNIT, len(texts)))
        for start in range(0, len(texts), TEXT_FILES_PER_UNIT)
    ]

    for path, kind in kinds.items():
        if kind == "parquet":
            row_ranges = corpus.parquet_ranges(path, unit_bytes, config)
            tasks += [RowRange(path=path, start=start, end=end) for _, start, end in row_ranges]
        elif kind != "text":
            tasks += plan_ranges(path, unit_bytes)
    return tasks


def labels_of(paths: Sequence[str]) -> dict[str, str]:
    """Return a short name for each file, without known endings.

    A name has as many folders as are needed to distinguish it from the others.
    """
    for depth in range(1, 32):
        names = {path: ENDINGS.sub("", "/".join(path.split("/")[-depth:])) for path in paths}
        if len(set(names.values())) == len(paths):
            return names

    # Two files that differ in nothing but their endings keep their whole paths.
    return {path: path for path in paths}


def finish(
    inputs: str,
    prepared: PreparedStage,
    reports: Sequence[UnitReport],
) -> dict[str, str]:
    """Refuse an empty corpus; return which templates were dropped most.

    Raises:
        StageError: no document with text.
    """
    if not any(DOCUMENTS.name in report.parts for report in reports):
        counters: Counter[str] = Counter()
        for report in reports:
            counters.update(report.counters)
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counters.items()))
        raise StageError(
            f"{inputs}: the corpus is empty: "
            f"no document with text ({listed or 'nothing in it'}); give other inputs"
        )
    return most_dropped(prepared.data)

"""Linked sentences: documents, sentences and links read side by side, a unit of `link` at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.storage.errors import StageError
from pipeline.storage.tables import RunPaths, read_rows, sized_units
from pipeline.storage.units import Unit
from schemas import DOCUMENTS, LINKS, SENTENCES, Table


@dataclass(frozen=True, slots=True)
class LinkedMention:
    """A linked mention; offsets are code points of the document."""

    start: int
    end: int
    qid: int


@dataclass(frozen=True, slots=True)
class LinkedSentence:
    """A sentence with its linked mentions (whole inside it, in order, none overlapping)."""

    doc_id: str
    start: int
    text: str
    mentions: tuple[LinkedMention, ...]
    num_cut: int  # linked mentions that cross the sentence's end, or another mention: left out


def linked_units(paths: RunPaths) -> list[Unit]:
    """The units that `link` worked on: ranges of documents, numbered as its part files are."""
    unit_mb = float(paths.require("link").config["unit_mb"])
    return sized_units(paths.files("documents", DOCUMENTS), int(unit_mb * 1e6), DOCUMENTS)


def linked_sentences(paths: RunPaths, unit: Unit) -> Iterator[LinkedSentence]:
    """Every sentence of a unit, in order, those without a linked mention too."""
    mentions: dict[str, list[LinkedMention]] = defaultdict(list)
    for path in _parts(paths, LINKS, unit):
        for rows in read_rows(path, LINKS):
            columns = zip(*(rows.column(name).to_pylist() for name in ("doc_id", "start", "end", "qid")), strict=True)
            for doc_id, start, end, qid in columns:
                if qid is not None:
                    mentions[doc_id].append(LinkedMention(start, end, qid))
    sentences: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for path in _parts(paths, SENTENCES, unit):
        for rows in read_rows(path, SENTENCES):
            for doc_id, start, end in zip(*(rows.column(name).to_pylist() for name in rows.column_names), strict=True):
                sentences[doc_id].append((start, end))
    for rows in read_rows(unit.path, DOCUMENTS, unit.start, unit.end):
        for doc_id, text in zip(rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True):
            yield from _of_document(doc_id, text, sentences[doc_id], mentions[doc_id])


def _parts(paths: RunPaths, table: Table, unit: Unit) -> list[str]:
    name = f"part-{unit.index:05d}-of-{unit.of:05d}.parquet"
    found = [path for path in paths.files("link", table) if path.endswith(name)]
    if not found:
        raise StageError(f"{paths.stage('link')}: has no {table.name}/{name}; run `trelm-pipeline link --redo`")
    return found


def _of_document(
    doc_id: str, text: str, sentences: list[tuple[int, int]], mentions: list[LinkedMention]
) -> Iterator[LinkedSentence]:
    starts = [start for start, _ in sentences]
    inside: list[list[LinkedMention]] = [[] for _ in sentences]
    cut = [0] * len(sentences)
    for mention in sorted(mentions, key=lambda one: (one.start, -one.end)):
        place = bisect_right(starts, mention.start) - 1
        if place < 0:
            continue
        taken = inside[place]
        if mention.end > sentences[place][1] or (taken and mention.start < taken[-1].end):
            cut[place] += 1
        else:
            taken.append(mention)
    for (start, end), found, num_cut in zip(sentences, inside, cut, strict=True):
        yield LinkedSentence(doc_id, start, text[start:end], tuple(found), num_cut)

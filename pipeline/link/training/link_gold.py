"""Take the corpus's own links as gold: wikitext's, or those of JSONL.

Goes in: tables of a run. Comes out: documents with mentions, a bounded number of them, the same
ones however the corpus is cut into units. Links mark mostly the first mention of an item, by its
full name; so the surnames of linked persons that stand alone later in the document are added, and
those of persons whom no name of the index fits, as NIL.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow.compute as pc

from pipeline.database.kb_lookups import matching
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths, read_batches
from pipeline.index.name_keys import normalise
from pipeline.link.gold import GoldDocument, GoldMention
from pipeline.link.known_names import MIN_LINKS
from pipeline.link.mentions import NamedEntity
from pipeline.link.spans import PERSON_LABELS
from schemas import ANCHORS, DOCUMENTS

# Fewer documents say too little, as fewer links than MIN_LINKS do.
MIN_DOCUMENTS = 20
# Of a corpus with more links a part of its documents is used: memory and time are bounded.
MAX_LINKS = 20_000
# Of a linked person: later mentions by the surname alone.
MAX_SHORT = 3
# Words of a person's name.
NAME_WORDS = (2, 4)
MIN_SURNAME = 3


def has_enough_links(paths: RunPaths) -> bool:
    """Say whether the corpus of a run has links enough to fit weights to."""
    counts = _counts(paths)
    return counts["anchors"] >= MIN_LINKS and counts["documents"] >= MIN_DOCUMENTS


def _counts(paths: RunPaths) -> dict[str, int]:
    tables = paths.finished("documents").tables
    return {name: tables[name].rows if name in tables else 0 for name in ("anchors", "documents")}


def gold_of_links(paths: RunPaths, max_links: int = MAX_LINKS) -> dict[str, GoldDocument]:
    """Return documents of the run with their links as gold mentions, if these are enough to fit.

    Raises:
        StageError: the corpus has too few links.
    """
    if not has_enough_links(paths):
        counts = _counts(paths)
        raise StageError(
            f"{paths.root}: the corpus has {counts['anchors']:,} links in "
            f"{counts['documents']:,} documents, but weights need {MIN_LINKS:,} links and "
            f"{MIN_DOCUMENTS} documents; train on gold files with --gold, or use the shipped "
            "weights (link.weights=trained)"
        )
    return linked_documents(paths, max_links)


def linked_documents(paths: RunPaths, max_links: int = MAX_LINKS) -> dict[str, GoldDocument]:
    """Return documents of the run with their links as gold mentions, by id, ids ascending.

    Links that overlap an earlier one, and links without text, are left out. Of a corpus with more
    links, documents with about `max_links` of them are chosen by the hash of their ids.
    """
    doc_ids = _chosen(paths, max_links)
    links: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    columns = ("doc_id", "start", "end", "qid")
    for rows in matching(paths.files("documents", ANCHORS), ANCHORS, columns, doc_ids):
        for doc_id, *link in zip(*(rows.column(name).to_pylist() for name in columns), strict=True):
            links[doc_id].append((link[0], link[1], link[2]))

    documents = {}
    text_columns = ("doc_id", "text")
    for rows in matching(paths.files("documents", DOCUMENTS), DOCUMENTS, text_columns, doc_ids):
        for doc_id, text in zip(
            *(rows.column(name).to_pylist() for name in text_columns), strict=True
        ):
            mentions = tuple(_apart(text, sorted(links[doc_id])))
            documents[doc_id] = GoldDocument(doc_id, text, mentions)
    return {doc_id: documents[doc_id] for doc_id in sorted(documents)}


def _chosen(paths: RunPaths, max_links: int) -> list[str]:
    """Return ids of documents with about `max_links` links in all, by the hash of their ids.

    Memory: `max_links` ids, since a document that is listed has a link.
    """
    # The documents with the lowest hashes: a heap of the others' kind, so the highest goes first.
    heap: list[tuple[int, str, int]] = []
    for path in paths.files("documents", ANCHORS):
        for batch in read_batches(path, ANCHORS, ("doc_id",)):
            for row in pc.value_counts(batch.column("doc_id")).to_pylist():
                entry = (-_hash_of(row["values"]), row["values"], row["counts"])
                (heapq.heappush if len(heap) < max_links else heapq.heappushpop)(heap, entry)

    chosen: dict[str, int] = {}
    total = 0
    for _, doc_id, count in sorted(heap, reverse=True):
        if total >= max_links and doc_id not in chosen:
            break
        chosen[doc_id] = chosen.get(doc_id, 0) + count
        total += count
    return list(chosen)


def _hash_of(doc_id: str) -> int:
    # Not the hash of the folds: the lowest of those would all be in one fold.
    return int.from_bytes(hashlib.blake2b(doc_id.encode(), digest_size=8).digest())


def _apart(text: str, links: Iterable[tuple[int, int, int]]) -> Iterator[GoldMention]:
    end_of_last = 0
    for start, end, qid in links:
        if start >= end_of_last and text[start:end].strip():
            yield GoldMention(start, end, qid)
            end_of_last = end


def with_short_names(
    document: GoldDocument, named: Sequence[NamedEntity], is_name: Callable[[str], bool]
) -> GoldDocument:
    """Return a document with the surnames of its persons as further mentions.

    The surname of a linked person means this person where it stands alone later on. That of a
    person whose full name no index lists means nobody whom the knowledge base has. A surname of two
    persons is left out.

    Args:
        document: with its links as mentions.
        named: the recogniser's spans.
        is_name: says whether the index lists a key.
    """
    label_of = {(entity.start, entity.end): entity.label for entity in named}
    taken = {(mention.start, mention.end) for mention in document.mentions}
    persons: dict[str, set[int | None]] = defaultdict(set)
    first_end: dict[str, int] = {}
    full_names = [
        *((mention.start, mention.end, mention.qid) for mention in document.mentions),
        *((entity.start, entity.end, None) for entity in named),
    ]
    for start, end, qid in full_names:
        words = document.text[start:end].split()
        is_person = label_of.get((start, end)) in PERSON_LABELS and _is_full_name(words)
        is_known = qid is not None or is_name(normalise(document.text[start:end]))
        if is_person and (qid is not None or not ((start, end) in taken or is_known)):
            persons[words[-1]].add(qid)
            first_end[words[-1]] = min(end, first_end.get(words[-1], end))

    added = [
        mention
        for surname, items in persons.items()
        if len(items) == 1
        for mention in _alone(document, surname, first_end[surname], next(iter(items)))
    ]
    mentions = sorted((*document.mentions, *added), key=lambda mention: mention.start)
    return GoldDocument(document.doc_id, document.text, tuple(mentions))


def _is_full_name(words: Sequence[str]) -> bool:
    fewest, most = NAME_WORDS
    return (
        fewest <= len(words) <= most
        and len(words[-1]) >= MIN_SURNAME
        and words[-1].isalpha()
        and all(word[:1].isupper() for word in words)
    )


def _alone(
    document: GoldDocument, surname: str, start: int, qid: int | None
) -> Iterator[GoldMention]:
    """Yield the first mentions of a surname after `start` that are in no longer name or link."""
    text = document.text
    num_found = 0
    for match in re.finditer(rf"\b{re.escape(surname)}\b", text[start:]):
        low, high = match.start() + start, match.end() + start
        before = text[max(low - 30, 0) : low].split(" ")
        # Another capitalised word beside it makes it a longer name, perhaps of somebody else.
        is_longer = len(before) > 1 and not before[-1] and before[-2][:1].isupper()
        is_longer |= re.match(r" [^\W\d_]", text[high:]) is not None and text[high + 1].isupper()
        is_linked = any(mention.start < high and low < mention.end for mention in document.mentions)
        if not is_longer and not is_linked:
            yield GoldMention(low, high, qid)
            num_found += 1
        if num_found == MAX_SHORT:
            return

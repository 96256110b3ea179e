"""Run the dictionary peers of `linking`: find all names of the KB in a text at once, take the most
pointed-to item.

They detect and look up; they weigh nothing. Each is used as its documentation says, with whole
words and the longest match. Names that are but one lower-case word or a number are left out: else
"the" and "2" are links. Functions are called by
`benchmarks.child`; building is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.linking_clock import Clock
from benchmarks.linking_names import names_of
from benchmarks.linking_spacy import annotate, load, pieces, read_texts
from benchmarks.linking_tables import read_items
from pipeline.index.name_keys import normalise

Links = list[tuple[int, int, int]]
MIN_CHARACTERS = 3


def surfaces_of(run: str) -> dict[str, int]:
    """Return names as written, with the item that the baseline gives them."""
    items = read_items(run)
    names = names_of(items)
    written = {surface for item in items for surface in item.surfaces}
    fit = {
        surface
        for surface in written
        if len(surface) >= MIN_CHARACTERS and surface != surface.lower()
    }
    return {surface: names[key][0] for surface in sorted(fit) if (key := normalise(surface))}


def _run(texts: str, by: str, find: Callable[[str], Links]) -> dict[str, Any]:
    stream = list(pieces(read_texts(texts), by))
    clock = Clock()
    found = [find(text) for text in stream]
    return {**clock.taken(), "mentions": sum(map(len, found))}


def ahocorasick(out: Path, run: str, texts: str) -> dict[str, Any]:  # noqa: ARG001
    """Link by `ahocorasick_rs`, leftmost longest, case included; matches inside words are dropped."""
    import ahocorasick_rs

    surfaces = surfaces_of(run)
    keys, qids = list(surfaces), list(surfaces.values())
    automaton = ahocorasick_rs.AhoCorasick(keys, matchkind=ahocorasick_rs.MatchKind.LeftmostLongest)

    def find(text: str) -> Links:
        padded = f" {text} "
        return [
            (start, end, qids[number])
            for number, start, end in automaton.find_matches_as_indexes(text)
            if not (padded[start].isalnum() or padded[end + 1].isalnum())
        ]

    return _run(texts, "text", find)


def flashtext(out: Path, run: str, texts: str) -> dict[str, Any]:  # noqa: ARG001
    """Link by `flashtext`, case included."""
    from flashtext import KeywordProcessor

    processor = KeywordProcessor(case_sensitive=True)
    for surface, qid in surfaces_of(run).items():
        processor.add_keyword(surface, qid)

    def find(text: str) -> Links:
        return [
            (start, end, qid)
            for qid, start, end in processor.extract_keywords(text, span_info=True)
        ]

    return _run(texts, "text", find)


def phrase_matcher(out: Path, run: str, texts: str) -> dict[str, Any]:  # noqa: ARG001
    """Link by spaCy's `PhraseMatcher` on a blank pipeline, its longest matches."""
    from spacy.matcher import PhraseMatcher
    from spacy.util import filter_spans

    nlp = load("blank:en")
    matcher, surfaces = PhraseMatcher(nlp.vocab), surfaces_of(run)
    for surface, qid in surfaces.items():
        matcher.add(f"Q{qid}", [nlp.make_doc(surface)])
    stream = list(pieces(read_texts(texts), "4000"))
    clock = Clock()
    found = [
        (span.start_char, span.end_char, span.label_)
        for doc in annotate(nlp, stream, 64)
        for span in filter_spans(matcher(doc, as_spans=True))
    ]
    return {**clock.taken(), "mentions": len(found)}

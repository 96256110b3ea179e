"""Run spaCy as the limit of `linking` (recogniser or tokeniser alone) and as its peer (its own
entity linker).

The linker gets what the baseline has: an in-memory KB of the same names by the same normalised
keys, with each item's share of the triples that point to a name's items as prior. `context` adds
spaCy's mention encoder, trained or not; its vectors of items are the mean of the recogniser's token
vectors of label and description, as spaCy's documentation does it with word vectors. Functions with
`out` are called by `benchmarks.child`; loading and building are not timed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.linking_clock import Clock, rss_mb
from benchmarks.linking_names import Gold, names_of, read_gold
from benchmarks.linking_tables import Item, read_items, read_jsonl
from pipeline.index.name_keys import normalise

BLANK = "blank:"
ZONE_DOCS = 512  # the number of documents after which spaCy forgets new words
PIECES = ("line", "4000", "text")
VECTOR_CHARACTERS = 300
EPOCHS, BATCH_DOCS, DROPOUT = 4, 64, 0.2
Triple = tuple[int, int, int]  # start, end, item


def load(model: str, keep: Sequence[str] = ("senter", "ner")) -> Any:  # noqa: ANN401
    """Return a pipeline with these components and nothing that they do not need."""
    import spacy

    if model.startswith(BLANK):
        return spacy.blank(model.removeprefix(BLANK))
    nlp = spacy.load(model)
    for name in [name for name in nlp.component_names if name not in keep]:
        nlp.remove_pipe(name)
    for name in list(nlp.disabled):
        nlp.enable_pipe(name)
    return nlp


def read_texts(path: str) -> list[str]:
    """Read the corpus that `linking_data` wrote."""
    return list(json.loads(Path(path).read_text(encoding="utf-8")).values())


def pieces(texts: Iterable[str], by: str) -> Iterator[str]:
    """Yield texts whole, by line, or in whole lines of up to this many characters."""
    for text in texts:
        if by == "text":
            yield text
            continue
        most, held = (0 if by == "line" else int(by)), ""
        for line in text.splitlines(keepends=True):
            if held and len(held) + len(line) > most:
                yield held
                held = ""
            held += line
        yield held


def annotate(nlp: Any, texts: Iterable[str], batch_size: int) -> Iterator[Any]:  # noqa: ANN401
    """Yield documents of spaCy, whose new words are forgotten after each zone: read them one by
    one.
    """
    stream = iter(texts)
    while batch := list(itertools.islice(stream, ZONE_DOCS)):
        with nlp.memory_zone():
            yield from nlp.pipe(batch, batch_size=batch_size)


def recognise(out: Path, texts: str, model: str, by: str, batch_size: int) -> dict[str, Any]:  # noqa: ARG001
    """Recognise sentences and named entities (in a blank pipeline: tokens), and use nothing of
    them: the limit.
    """
    nlp, stream = load(model), list(pieces(read_texts(texts), by))
    clock = Clock()
    tokens = sum(len(doc) for doc in annotate(nlp, stream, batch_size))
    return {**clock.taken(), "tokens": tokens}


def recognise_without_zone(
    out: Path,  # noqa: ARG001
    texts: str,
    model: str,
    by: str,
    batch_size: int,
) -> dict[str, Any]:
    """Recognise, and forget no word: faster, while memory lasts."""
    nlp, stream = load(model), list(pieces(read_texts(texts), by))
    clock = Clock()
    tokens = sum(len(doc) for doc in nlp.pipe(stream, batch_size=batch_size))
    return {**clock.taken(), "tokens": tokens}


def tune(out: Path, texts: str, model: str, ways: dict[str, list[int]]) -> dict[str, Any]:  # noqa: ARG001
    """Measure the processor seconds of every way to cut and batch the texts, the least of two runs
    each; return the best way.
    """
    nlp, corpus = load(model), read_texts(texts)
    seconds: dict[tuple[str, int], float] = {}
    for _ in range(2):
        for by, sizes in ways.items():
            for size in sizes:
                clock = Clock()
                for _doc in annotate(nlp, list(pieces(corpus, by)), size):
                    pass
                seconds[by, size] = min(
                    seconds.get((by, size), float("inf")), clock.taken()["cpu_seconds"]
                )
    by, size = min(seconds, key=lambda way: seconds[way])
    return {
        "by": by,
        "batch_size": size,
        "cpu": {f"{name} × {count}": value for (name, count), value in seconds.items()},
    }


def memory_without_zone(out: Path, texts: str, num_parts: int) -> dict[str, Any]:  # noqa: ARG001
    """Measure resident memory of a blank pipeline that never forgets a word."""
    nlp, corpus = load("blank:en"), read_texts(texts)
    curve, size = [rss_mb()], -(-len(corpus) // num_parts)
    for first in range(0, len(corpus), size):
        for _doc in nlp.pipe(corpus[first : first + size]):
            pass
        curve.append(rss_mb())
    return {"curve": curve}


def link(out: Path, run: str, texts: str, model: str, *, context: bool) -> dict[str, Any]:  # noqa: ARG001
    """Run the peer end to end: recogniser and spaCy's linker.

    Untrained weights cost what trained ones do.
    """
    nlp = load(model)
    _add_linker(nlp, read_items(run), context=context)
    stream = list(pieces(read_texts(texts), "4000"))
    clock = Clock()
    found = [
        (entity.start_char, entity.kb_id_)
        for doc in annotate(nlp, stream, 64)
        for entity in doc.ents
    ]
    return {
        **clock.taken(),
        "mentions": len(found),
        "linked": sum(qid.startswith("Q") for _, qid in found),
    }


def at_gold_spans(out: Path, run: str, gold: str, model: str, *, trained: bool) -> dict[str, Any]:  # noqa: ARG001
    """Run the peer at gold spans: an item per mention.

    Trained: on every second document, applied to the others, and back.
    """
    items = read_items(run)
    golds, _ = read_gold(gold, items)
    sentences = sentences_of(gold, golds)
    order = {
        doc_id: number
        for number, doc_id in enumerate(dict.fromkeys(sentence[0] for sentence in sentences))
    }
    halves = (
        [[one for one in sentences if order[one[0]] % 2 == half] for half in (0, 1)]
        if trained
        else [[], sentences]
    )
    clock, found = Clock(), []
    for learn, apply in (halves, halves[::-1])[: 2 if trained else 1]:
        nlp = load(model)
        linker = _add_linker(nlp, items, context=trained)
        _train(nlp, linker, learn)
        found += _apply(nlp, linker, apply)
    return {**clock.taken(), "found": found}


def _add_linker(nlp: Any, items: Sequence[Item], *, context: bool) -> Any:  # noqa: ANN401
    from spacy.kb import InMemoryLookupKB

    names = names_of(items)
    vectors = _vectors(nlp, items) if context else {item.qid: [0.0] for item in items}
    length = len(next(iter(vectors.values())))

    def build(vocab: Any) -> Any:  # noqa: ANN401
        kb = InMemoryLookupKB(vocab, entity_vector_length=length)
        kb.set_entities([f"Q{item.qid}" for item in items], [1.0 + item.pointed_to for item in items],
                        [vectors[item.qid] for item in items])  # fmt: skip
        pointed_to = {item.qid: item.pointed_to for item in items}
        for key, qids in names.items():
            kb.add_alias(key, [f"Q{qid}" for qid in qids], _priors(qids, pointed_to))
        return kb

    config = {
        "incl_prior": True, "incl_context": context, "n_sents": 0, "entity_vector_length": length,
        "get_candidates": {"@misc": _by_normalised_key()},
    }  # fmt: skip
    linker = nlp.add_pipe("entity_linker", config=config)
    linker.set_kb(build)
    with _quiet():
        linker.initialize(lambda: [_example(nlp, "a name", [(2, 6, items[0].qid)])], nlp=nlp)
    return linker


def _priors(qids: Sequence[int], pointed_to: dict[int, int]) -> list[float]:
    """Return shares of what points to the items; of equals the first is ahead by a hair, since
    spaCy shuffles candidates.
    """
    weights = np.array([pointed_to[qid] + 1 - 1e-4 * place for place, qid in enumerate(qids)])
    return (weights / weights.sum() * (1 - 1e-6)).tolist()


def _by_normalised_key() -> str:
    import spacy

    name = "trelm_benchmarks.NormalisedCandidates"
    if not spacy.registry.has("misc", name):

        @spacy.registry.misc(name)
        def _create() -> Callable[[Any, Any], Any]:
            return lambda kb, mention: (
                kb.get_alias_candidates(normalise(mention.text)) if normalise(mention.text) else []
            )

    return name


def _vectors(nlp: Any, items: Sequence[Item]) -> dict[int, np.ndarray]:  # noqa: ANN401
    """Return an item's vector: what the recogniser's network makes of its label and description,
    the mean over the tokens.
    """
    encode = nlp.get_pipe("ner").model.get_ref("tok2vec")
    vectors = {}
    for first in range(0, len(items), ZONE_DOCS):
        batch = items[first : first + ZONE_DOCS]
        with nlp.memory_zone():
            docs = [
                nlp.make_doc(f"{item.label}: {item.description}"[:VECTOR_CHARACTERS])
                for item in batch
            ]
            ends = np.cumsum([len(doc) for doc in docs])[:-1]
            for item, rows in zip(batch, np.split(encode.predict(docs), ends), strict=True):
                vectors[item.qid] = rows.mean(axis=0) + 1e-6
    mean = np.mean(list(vectors.values()), axis=0)
    return {qid: vector - mean for qid, vector in vectors.items()}  # else all are much alike


def sentences_of(path: str, golds: Sequence[Gold]) -> list[tuple[str, int, str, list[Triple]]]:
    """Return lines of a gold file's documents that have a mention: document, position in it, text,
    mentions.
    """
    by_document: dict[str, list[Gold]] = {}
    for gold in golds:
        by_document.setdefault(gold.place[0], []).append(gold)
    sentences = []
    for document in read_jsonl(path):
        mentions, start = by_document.get(document["doc_id"], []), 0
        for line in document["text"].split("\n"):
            end = start + len(line)
            inside = [gold for gold in mentions if start <= gold.place[1] and gold.place[2] <= end]
            if inside:
                spans = [
                    (gold.place[1] - start, gold.place[2] - start, gold.qid) for gold in inside
                ]
                sentences.append((document["doc_id"], start, line, spans))
            start = end + 1
    return sentences


def _example(nlp: Any, text: str, mentions: Sequence[Triple]) -> Any:  # noqa: ANN401
    from spacy.training import Example

    gold, predicted = (
        _with_spans(nlp, text, mentions, linked=True),
        _with_spans(nlp, text, mentions, linked=False),
    )
    return Example(predicted, gold)


def _with_spans(nlp: Any, text: str, mentions: Sequence[Triple], *, linked: bool) -> Any:  # noqa: ANN401
    from spacy.util import filter_spans

    doc = nlp.make_doc(text)
    spans = [
        doc.char_span(
            start, end, label="NAME", kb_id=f"Q{qid}" if linked else "", alignment_mode="expand"
        )
        for start, end, qid in mentions
    ]
    doc.set_ents(filter_spans([span for span in spans if span is not None]))
    for token in doc:
        token.is_sent_start = token.i == 0
    return doc


def _train(nlp: Any, linker: Any, sentences: Sequence[tuple[str, int, str, list[Triple]]]) -> None:  # noqa: ANN401
    if not sentences:
        return
    rng, optimizer = random.Random(4), nlp.create_optimizer()
    order = list(sentences)
    for _ in range(EPOCHS):
        rng.shuffle(order)
        for first in range(0, len(order), BATCH_DOCS):
            batch = [
                _example(nlp, text, mentions)
                for _, _, text, mentions in order[first : first + BATCH_DOCS]
            ]
            with _quiet():
                linker.update(batch, drop=DROPOUT, sgd=optimizer)


def _apply(
    nlp: Any,  # noqa: ANN401
    linker: Any,  # noqa: ANN401
    sentences: Sequence[tuple[str, int, str, list[Triple]]],
) -> list[Any]:
    random.seed(5)  # spaCy shuffles candidates
    found = []
    for doc_id, offset, text, mentions in sentences:
        doc = _with_spans(nlp, text, mentions, linked=False)
        qids = {
            (e.start_char, e.end_char): qid
            for e, qid in zip(doc.ents, linker.predict([doc]), strict=True)
        }
        for start, end, _ in mentions:
            span = doc.char_span(start, end, alignment_mode="expand")
            qid = qids.get((span.start_char, span.end_char), "NIL")
            listed = [int(one.entity_[1:]) for one in linker.get_candidates(linker.kb, span)]
            found.append(
                (
                    doc_id,
                    offset + start,
                    offset + end,
                    int(qid[1:]) if qid[0] == "Q" else None,
                    listed,
                )
            )
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

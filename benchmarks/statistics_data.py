"""Generate `links` and `kb` of any size for `statistics`: documents of sentences of mentions,
entities by Zipf's law.

Half of a document's mentions are drawn from all entities, half from a topic of its own, so that
pairs repeat as they do in text. Sizes of documents are lognormal. Every number follows from the
seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.made_run import write_stage
from schemas import ENTITIES, LINKS, REDIRECTS, TRIPLES

FILE_ROWS = 100_000  # mentions per file, about: a unit of `link`
MEAN_DOCUMENT = 45  # mentions
TOPIC_ENTITIES = 400
NIL_SHARE = 0.15
ZIPF = 1.07  # slope of the rank plot of the kit's run
FACTS_PER_ENTITY = 3


def make_run(root: Path, num_rows: int, seed: int = 0) -> None:
    """Write the stages that `stats` reads; do nothing where they are there."""
    if (root / "kb" / "manifest.json").exists():
        return
    random = np.random.default_rng(seed)
    num_entities = max(num_rows // 8, 1_000)
    ids = random.permutation(
        np.arange(1, 120 * num_entities, 120, dtype=np.uint32)
    )  # as scattered as QIDs are
    ranks = np.arange(1, num_entities + 1) ** -ZIPF
    cumulative = np.cumsum(ranks / ranks.sum())
    write_stage(root, "link", {"links": (LINKS, _files(random, num_rows, ids, cumulative))})
    rows = random.integers(0, num_entities, FACTS_PER_ENTITY * num_entities)
    near = np.minimum(rows + random.integers(1, TOPIC_ENTITIES, len(rows)), num_entities - 1)
    facts = pa.table(
        {"subject": ids[rows], "predicate": random.integers(1, 50, len(rows)), "object": ids[near]}
    )
    triples = TRIPLES.from_columns({**dict(zip(facts.column_names, facts.columns, strict=True)),
                                    "rank": pa.array(["normal"] * facts.num_rows)})  # fmt: skip
    write_stage(
        root,
        "kb",
        {
            "entities": (ENTITIES, [_entities(ids)]),
            "triples": (TRIPLES, [triples]),
            "redirects": (REDIRECTS, [REDIRECTS.empty()]),
        },
    )


def _entities(ids: np.ndarray) -> pa.Table:
    count = len(ids)
    columns = {
        "qid": ids, "label": [f"item {qid}" for qid in ids.tolist()], "description": [""] * count,
        "enwiki_title": [None] * count, "instance_of": [[]] * count, "is_meta": [False] * count,
        "revision": [None] * count,
        **{name: np.zeros(count, np.uint32) for name in ("num_sitelinks", "num_all_sitelinks", "num_statements")},
    }  # fmt: skip
    return ENTITIES.from_columns(columns)


def _files(
    random: np.random.Generator, num_rows: int, ids: np.ndarray, cumulative: np.ndarray
) -> Iterator[pa.Table]:
    done, first = 0, 0
    while done < num_rows:
        count = min(FILE_ROWS, num_rows - done)
        sizes = np.maximum(
            random.lognormal(np.log(MEAN_DOCUMENT) - 0.32, 0.8, count // 20 + 50).astype(np.int64),
            1,
        )
        sizes = sizes[: np.searchsorted(np.cumsum(sizes), count) + 1]
        yield _links(random, sizes, first, ids, cumulative)
        done += int(sizes.sum())
        first += len(sizes)


def _links(
    random: np.random.Generator,
    sizes: np.ndarray,
    first: int,
    ids: np.ndarray,
    cumulative: np.ndarray,
) -> pa.Table:
    count = int(sizes.sum())
    documents = np.repeat(np.arange(first, first + len(sizes)), sizes)
    place = np.arange(count) - np.repeat(
        np.cumsum(sizes) - sizes, sizes
    )  # of the mention in its document
    topics = np.repeat(random.integers(0, len(ids), len(sizes)), sizes)
    anywhere = np.searchsorted(cumulative, random.random(count))
    nearby = (topics + (TOPIC_ENTITIES * random.random(count) ** 3).astype(np.int64)) % len(ids)
    entities = np.where(random.random(count) < 0.5, anywhere, nearby)
    qids = ids[np.minimum(entities, len(ids) - 1)]
    forms = random.integers(0, 3, count)
    starts = (place * 30).astype(np.uint32)
    columns = {
        "doc_id": [f"document-{number}" for number in documents.tolist()],
        "start": starts,
        "end": starts + np.uint32(9),
        "sentence_start": (place // 4 * 120).astype(np.uint32),
        "surface": [
            f"name {qid}.{form}" for qid, form in zip(qids.tolist(), forms.tolist(), strict=True)
        ],
        "detector": pa.array(["dictionary"] * count),
        "ner_type": pa.nulls(count, pa.string()),
        "qid": pa.array(qids, mask=random.random(count) < NIL_SHARE),
        "confidence": np.round(random.random(count), 5).astype(np.float32),
        "candidates": pa.array([[]] * count, LINKS.schema.field("candidates").type),
    }
    return LINKS.from_columns(columns)

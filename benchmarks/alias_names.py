"""Make a knowledge base for `alias_index`: the kit's genuine one, and synthetic names made from its
words.

Synthetic names take the kit's number of words per name, its first words and its other words, at
their real frequency; names of one word join the halves of two. A quarter of the rows repeat a name
of a pool, the more often the earlier it is in it: names with thousands of items are there, most
have one. Diacritics come along with the words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import RunConfig, load_config
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.engine.tables import RunPaths, read_table
from pipeline.run_stage import run_stage
from schemas import ALIASES, ENTITIES, TRIPLES, Table
from schemas.checksums import sealed

Array = np.ndarray[Any, Any]
CHUNK_ROWS = 500_000
REPEATED = 0.25  # share of rows that repeat a name of the pool
POOL = 0.125  # names of the pool per row
LABELS, NAMES, ANCHORS = 0.6, 0.35, 0.05  # of the rows: labels, other names, anchors
TRIPLES_PER_ENTITY = 5
MAX_WORDS = 6
MAX_QID = 130_000_000


class Words:
    """Draw synthetic names."""

    def __init__(self, names: list[str], num_rows: int) -> None:
        split = [name.split()[:MAX_WORDS] for name in names if name.strip()]
        self._lengths = np.array([len(words) for words in split])
        self._first = np.array([words[0] for words in split], object)
        self._other = np.array([word for words in split for word in words[1:]], object)
        self._heads = np.array([word[: len(word) // 2 + 1] for word in self._first], object)
        self._tails = np.array([word[len(word) // 2 :].lower() for word in self._first], object)
        self._pool = self._new(np.random.default_rng(0), max(int(num_rows * POOL), 1))

    def _new(self, rng: np.random.Generator, count: int) -> Array:
        lengths = rng.choice(self._lengths, count)
        names = np.where(
            lengths == 1,
            rng.choice(self._heads, count) + rng.choice(self._tails, count),
            rng.choice(self._first, count),
        )
        for length in range(1, MAX_WORDS):
            names = names + np.where(lengths > length, " " + rng.choice(self._other, count), "")
        return names

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Draw this many names, repeated ones among them."""
        names = self._new(rng, count)
        is_repeated = rng.random(count) < REPEATED
        places = (len(self._pool) * rng.random(count) ** 4).astype(np.int64)
        return np.where(is_repeated, self._pool[places], names)


def make_kb(run: Path, kit: Path, num_rows: int) -> RunConfig:
    """Make a run whose stage `kb` has the kit's subset A and, beside it, this many synthetic
    aliases of synthetic items.
    """
    dump = kit / "wikidata" / "assembled-subset-A.json.gz"
    config = load_config("", (f"run={run}", f'kb.dumps=["{dump}"]', "index.anchors=false"))
    run_stage("kb", config, RunnerSettings())
    surfaces = read_table(RunPaths(root=str(run)).files("kb", ALIASES), ALIASES, ["surface"])
    words = Words(surfaces.column("surface").to_pylist(), num_rows)
    manifest_path = run / "kb" / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    for number, tables in enumerate(_chunks(words, num_rows)):
        for table, rows in tables:
            _add(run, manifest, table, rows, number)
    manifest_path.write_text(sealed(manifest))
    return config


def _chunks(words: Words, num_rows: int) -> Iterator[list[tuple[Table, pa.Table]]]:
    num_entities = max(int(num_rows * LABELS), 1)
    step = max(MAX_QID // num_entities, 1)
    for number, low in enumerate(range(0, num_rows, CHUNK_ROWS)):
        count = min(CHUNK_ROWS, num_rows - low)
        labels, anchors = int(count * LABELS), int(count * ANCHORS)
        rng = np.random.default_rng(number + 1)
        qids = (np.arange(labels) + int(low * LABELS)) * step + 7
        names = words.draw(rng, count - anchors)
        owners = np.concatenate(
            [np.arange(labels), rng.integers(0, labels, count - anchors - labels)]
        )
        is_anchor = rng.integers(0, count - anchors, anchors)
        sources = ["label"] * labels + ["alias"] * (count - anchors - labels) + ["anchor"] * anchors
        aliases = {
            "surface": np.concatenate([names, names[is_anchor]]),
            "qid": np.concatenate([qids[owners], qids[owners[is_anchor]]]),
            "source": sources,
            "count": np.concatenate(
                [np.ones(count - anchors, np.int64), rng.integers(1, 50, anchors)]
            ),
        }
        yield [
            (ALIASES, ALIASES.from_columns(aliases)),
            (ENTITIES, _entities(rng, qids, names[:labels], words.draw(rng, labels))),
            (TRIPLES, _triples(rng, qids, step)),
        ]


def _entities(rng: np.random.Generator, qids: Array, labels: Array, words: Array) -> pa.Table:
    return ENTITIES.from_columns(
        {
            "qid": qids,
            "label": labels,
            "description": words + " of " + rng.permutation(words),
            "enwiki_title": [None] * len(qids),
            "num_sitelinks": rng.zipf(2, len(qids)).clip(0, 300),
            "num_all_sitelinks": np.zeros(len(qids), np.uint32),
            "num_statements": np.full(len(qids), TRIPLES_PER_ENTITY),
            "instance_of": [[5]] * len(qids),
            "is_meta": np.zeros(len(qids), bool),
            "revision": [None] * len(qids),
        }
    )


def _triples(rng: np.random.Generator, qids: Array, step: int) -> pa.Table:
    count = len(qids) * TRIPLES_PER_ENTITY
    popular = (rng.random(count) ** 3 * (MAX_QID // step)).astype(
        np.int64
    ) * step + 7  # early items are pointed to more
    columns = {
        "subject": np.repeat(qids, TRIPLES_PER_ENTITY),
        "predicate": np.full(count, 31),
        "object": popular.clip(0, (1 << 32) - 1),
        "rank": ["normal"] * count,
    }
    return TRIPLES.from_columns(columns)


def _add(run: Path, manifest: dict[str, Any], table: Table, rows: pa.Table, number: int) -> None:
    entry = manifest["tables"][table.name]
    folder = run / "kb" / Path(entry["files"][0]["path"]).parent
    path = folder / f"synthetic-{number:05d}.parquet"
    pq.write_table(rows, path, row_group_size=65_536, compression="zstd")
    relative = path.relative_to(run / "kb").as_posix()
    entry["files"].append(
        {"path": relative, "rows": rows.num_rows, "num_bytes": path.stat().st_size, "sha256": ""}
    )
    entry["rows"] += rows.num_rows

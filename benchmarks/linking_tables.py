"""Read the tables of a run for `linking`: the KB for the baseline and the peers, documents, links;
no Beam is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.engine.tables import RunPaths, read_rows, read_table
from schemas import ALIASES, DOCUMENTS, ENTITIES, LINKS, TRIPLES


class Found(NamedTuple):
    """Hold what the stage made of one mention."""

    qid: int | None
    candidates: tuple[int, ...]  # best first
    matches: tuple[str, ...] = ()  # how ours found each of them


class Item(NamedTuple):
    """Hold what the baseline and the peers know of an item of the KB, from its tables."""

    qid: int
    label: str
    description: str
    pointed_to: int  # triples with it as their object
    surfaces: tuple[str, ...]


def read_jsonl(path: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of lines."""
    with Path(path).open(
        encoding="utf-8"
    ) as lines:  # not splitlines(): texts may have other line ends in them
        yield from map(json.loads, lines)


def read_documents(run: str) -> Iterator[tuple[str, str]]:
    """Read the ids and texts of a run."""
    paths = RunPaths(root=run)
    for path in paths.files("documents", DOCUMENTS):
        for rows in read_rows(path, DOCUMENTS):
            yield from zip(
                rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True
            )


def read_items(run: str) -> list[Item]:
    """Read the KB of a run."""
    paths = RunPaths(root=run)
    pointed_to: dict[int, int] = {}
    for qid in (
        read_table(paths.files("kb", TRIPLES), TRIPLES, ["object"]).column("object").to_pylist()
    ):
        pointed_to[qid] = pointed_to.get(qid, 0) + 1
    names: dict[int, list[str]] = {}
    aliases = read_table(paths.files("kb", ALIASES), ALIASES, ["surface", "qid"])
    for surface, qid in zip(
        aliases.column("surface").to_pylist(), aliases.column("qid").to_pylist(), strict=True
    ):
        names.setdefault(qid, []).append(surface)
    wanted = ["qid", "label", "description"]
    entities = read_table(paths.files("kb", ENTITIES), ENTITIES, wanted)
    columns = (entities.column(name).to_pylist() for name in wanted)
    return [
        Item(qid, label, description, pointed_to.get(qid, 0), tuple(names.get(qid, ())))
        for qid, label, description in zip(*columns, strict=True)
    ]


def read_links(run_or_folder: str) -> dict[tuple[str, int, int], Found]:
    """Read all rows of `links` below a folder, by document and span."""
    found = {}
    for path in sorted(Path(run_or_folder).rglob(f"{LINKS.name}/*.parquet")):
        for rows in read_rows(str(path), LINKS):
            columns = (
                rows.column(name).to_pylist()
                for name in ("doc_id", "start", "end", "qid", "candidates")
            )
            for doc_id, start, end, qid, candidates in zip(*columns, strict=True):
                qids, matches = (
                    tuple(one[name] for one in candidates) for name in ("qid", "match")
                )
                found[doc_id, start, end] = Found(qid, qids, matches)
    return found

"""Make what `importance` works on: a slice of a linked run with this many mentions, and models of
any shape.

A slice is a run of its own: documents drawn at random (seeded) in their order, with their sentences
and links, until there are enough linked mentions; the last ones of the last document are left out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.linking_data import kit_folder
from benchmarks.shards_data import SMALL_BERT
from pipeline.engine.tables import RunPaths, read_table
from schemas import DOCUMENTS, LINKS, SENTENCES, Table
from schemas.manifest import MANIFEST_NAME, Manifest, PartFile, TableFiles

SHAPES = {"mini": (4, 256), "base": (12, 768)}  # layers, hidden size
HEAD_SIZE = 64


@dataclass(frozen=True)
class Linked:
    """Hold tables of some documents."""

    documents: pa.Table
    sentences: pa.Table
    links: pa.Table  # those with an item


def model_folder(folder: Path, shape: str) -> str:
    """Return the folder of the kit's small BERT, or of one of a shape with random weights and its
    tokenizer.
    """
    kit = kit_folder() / SMALL_BERT
    if shape == "kit":
        return str(kit)
    made = folder / shape
    if not (made / "model.safetensors").exists():
        _make_model(made, *SHAPES[shape], kit)
    return str(made)


def _make_model(made: Path, layers: int, hidden: int, kit: Path) -> None:
    import torch
    from transformers import BertConfig, BertForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=json.loads((kit / "config.json").read_text(encoding="utf-8"))["vocab_size"],
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD_SIZE,
        intermediate_size=4 * hidden,
    )
    made.mkdir(parents=True, exist_ok=True)
    for path in kit.glob("tokenizer*"):
        shutil.copyfile(path, made / path.name)
    BertForMaskedLM(config).save_pretrained(made)


def slice_of(run: str, folder: Path, mentions: int, units: int = 1) -> str:
    """Make a run with this many linked mentions of another one, in this many units of `link`."""
    made = folder / f"slice-{mentions}-{units}"
    if not (made / "link" / MANIFEST_NAME).exists():
        parts = _in_units(_drawn(RunPaths(root=run), mentions), units)
        _write(made, "documents", [(DOCUMENTS, [part.documents for part in parts])], {})
        tables = [
            (SENTENCES, [part.sentences for part in parts]),
            (LINKS, [part.links for part in parts]),
        ]
        _write(made, "link", tables, {"unit_mb": 1e9})  # one unit per file of documents
    return str(made)


def _drawn(paths: RunPaths, mentions: int) -> Linked:
    documents = read_table(paths.files("documents", DOCUMENTS), DOCUMENTS)
    sentences = read_table(paths.files("link", SENTENCES), SENTENCES)
    links = read_table(paths.files("link", LINKS), LINKS)
    links = links.filter(links["qid"].is_valid())
    counts = np.bincount(_places(links, documents), minlength=len(documents))
    order = np.random.default_rng(0).permutation(len(documents))
    enough = int(np.searchsorted(np.cumsum(counts[order]), mentions)) + 1
    chosen = documents.take(pa.array(np.sort(order[:enough])))
    found = Linked(chosen, _of(sentences, chosen), _of(links, chosen))
    places = np.lexsort((found.links["start"].to_numpy(), _places(found.links, chosen)))[:mentions]
    return Linked(chosen, found.sentences, found.links.take(pa.array(places)))


def _in_units(linked: Linked, units: int) -> list[Linked]:
    """Return ranges of documents with about as many mentions each."""
    before = np.cumsum(
        np.bincount(_places(linked.links, linked.documents), minlength=len(linked.documents))
    )
    unit = np.minimum((before - 1).clip(0) * units // max(before[-1], 1), units - 1)
    parts = [linked.documents.filter(pa.array(unit == number)) for number in range(units)]
    return [Linked(part, _of(linked.sentences, part), _of(linked.links, part)) for part in parts]


def _places(rows: pa.Table, documents: pa.Table) -> np.ndarray:
    """Return the row of each row's document; -1 where it is not among them."""
    found = pc.index_in(rows["doc_id"], value_set=documents["doc_id"].combine_chunks())
    return pc.fill_null(found, -1).to_numpy()


def _of(rows: pa.Table, documents: pa.Table) -> pa.Table:
    return rows.filter(pa.array(_places(rows, documents) >= 0))


def _write(
    made: Path, stage: str, tables: Sequence[tuple[Table, list[pa.Table]]], config: dict[str, float]
) -> None:
    """Write a stage's parts and manifest."""
    listed = {}
    for table, parts in tables:
        (made / stage / "data" / table.name).mkdir(parents=True, exist_ok=True)
        files = []
        for number, rows in enumerate(parts):
            path = f"data/{table.name}/part-{number:05d}-of-{len(parts):05d}.parquet"
            pq.write_table(rows.cast(table.schema), made / stage / path)
            files.append(
                PartFile(
                    path=path,
                    rows=len(rows),
                    num_bytes=(made / stage / path).stat().st_size,
                    sha256="",
                )
            )
        listed[table.name] = TableFiles(
            version=table.version, rows=sum(map(len, parts)), files=tuple(files)
        )
    manifest = Manifest(
        stage=stage, fingerprint="slice", code_version="", tables=listed, config=dict(config)
    )
    (made / stage / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")

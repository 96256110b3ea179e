"""Make what `shards` works on, once per folder: a run up to `importance`, tokenizers of both
families, generated rows.

A quick run is of the sample, a full one of the kit's articles and extracts. Generated rows have the
columns, the encodings and the row groups that the stage writes; ids are Zipf-distributed over a
vocabulary of 30,000, rows have 29 tokens in the mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from benchmarks.harness import ROOT
from benchmarks.linking_data import command, kit_folder
from pipeline.engine.tasks import Bucket, Unit
from pipeline.engine.units import UnitWriter, write_unit
from schemas import EXAMPLES
from schemas.table import list_of

SMALL_BERT = "model/splade-tiny-msmarco-mlm"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
VOCABULARY = 30_000
FILE_ROWS = 200_000
MEAN_TOKENS = 28


def finished_run(folder: Path, *, quick: bool) -> str:
    """Make or find a run with links and importance."""
    run, model = folder / "run", kit_folder() / SMALL_BERT
    if (run / "importance" / "manifest.json").exists():
        return str(run)
    arguments = [
        "run",
        "--until",
        "importance",
        "--run",
        str(run),
        "--set",
        f"importance.model={model}",
    ]
    if quick:
        arguments += [
            "--config",
            str(ROOT / "examples/tiny/pipeline.toml"),
            "--set",
            "link.spacy_model=blank:en",
        ]
    else:
        made = folder / "kit-input"
        command(str(ROOT / "examples/kit/prepare.py"), "--out", str(made))
        inputs = [
            str(kit_folder() / "text/enwiki-gensim-106articles.xml.bz2"),
            str(made / "extracts"),
        ]
        arguments += ["--config", str(ROOT / "examples/kit.toml"), "--workers", "2"]
        arguments += ["--set", f"kb.dumps={json.dumps([str(made / 'subset-A-typed.json.gz')])}"]
        arguments += ["--set", f"documents.inputs={json.dumps(inputs)}"]
    command("-m", "pipeline.cli", *arguments)
    return str(run)


def tokenizer_folders(folder: Path) -> dict[str, str]:
    """Make or find both tokenizers; return their folders by family. BERT's is that of the kit's
    small model.

    RoBERTa's: GPT-2's vocabulary and merges behind RoBERTa's special tokens.
    """
    roberta = folder / "roberta"
    if not roberta.exists():
        make_roberta(roberta, kit_folder() / "model" / "gpt2-bpe")
    return {"bert": str(kit_folder() / SMALL_BERT), "roberta": str(roberta)}


def make_roberta(folder: Path, bpe: Path) -> Path:
    """Make a byte-level tokenizer of full size, without a model."""
    from transformers import PreTrainedTokenizerFast

    listed = json.loads((bpe / "encoder.json").read_text(encoding="utf-8"))
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *listed))}
    lines = (bpe / "vocab.bpe").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True
    )
    names = {
        "bos": "<s>",
        "pad": "<pad>",
        "eos": "</s>",
        "unk": "<unk>",
        "cls": "<s>",
        "sep": "</s>",
        "mask": "<mask>",
    }
    tokens = {f"{name}_token": token for name, token in names.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)
    (folder / "config.json").write_text(
        '{"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}'
    )
    return folder


def generated_rows(folder: Path, num_tokens: int) -> list[str]:
    """Make or find files of generated rows with at least this many tokens."""
    data = folder / f"generated-{num_tokens}"
    num_files = -(-num_tokens // (FILE_ROWS * MEAN_TOKENS))
    if not (data / "done").exists():
        for name in ("_tmp", "_units", EXAMPLES.name):
            (data / name).mkdir(parents=True, exist_ok=True)
        for number in range(num_files):
            unit = Unit(index=number, of=num_files, task=Bucket(kind="generated"))
            write_unit(str(data), "shards", unit, _generate)
        (data / "done").touch()
    return [str(path) for path in sorted((data / EXAMPLES.name).glob("*.parquet"))]


def _generate(unit: Unit, out: UnitWriter) -> None:
    rng = np.random.default_rng(unit.index)
    sizes = np.clip(rng.lognormal(3.15, 0.55, FILE_ROWS).astype(np.int64) + 2, 3, 128)
    words, spans = (
        np.maximum((sizes - 2) * 5 // 6, 1),
        np.minimum(rng.poisson(2, FILE_ROWS), (sizes - 2) // 3),
    )
    facts = np.minimum(rng.poisson(0.2, FILE_ROWS), spans // 2)
    starts = _ordinals(spans) * 3 + 1
    numbers = np.arange(FILE_ROWS) + unit.index * FILE_ROWS
    columns: dict[str, Any] = {
        "doc_id": pa.array([f"generated-{number}" for number in (numbers * 7919) % 5_000_000]),
        "sentence_start": (numbers * 104_729) % 60_000,
        "input_ids": _lists(
            sizes, np.minimum(rng.zipf(1.2, sizes.sum()), VOCABULARY - 1), pa.uint32()
        ),
        "word_starts": _lists(words, _ordinals(words) * 6 // 5 + 1, pa.uint16()),
        "n_tokens": sizes,
        "split": pa.array(["train", "validation"]).take(
            pa.array((rng.random(FILE_ROWS) < 0.1).astype(np.int8))
        ),
        "span_start": _lists(spans, starts, pa.uint16()),
        "span_end": _lists(spans, starts + rng.integers(1, 4, spans.sum()), pa.uint16()),
        "span_entity_row": _lists(spans, rng.zipf(1.3, spans.sum()) % 1_000_000, pa.uint32()),
        "span_frequency": _lists(spans, rng.zipf(1.5, spans.sum()) % 10_000, pa.uint32()),
        "span_cosine": _lists(spans, np.round(1 - rng.random(spans.sum()) / 10, 4), pa.float32()),
        "span_policies": _lists(spans, rng.integers(0, 64, spans.sum()), pa.uint16()),
        "fact_head_span": _lists(facts, _ordinals(facts) * 2, pa.uint16()),
        "fact_relation_row": _lists(
            facts, 1_000_000 + rng.integers(0, 900, facts.sum()), pa.uint32()
        ),
        "fact_tail_span": _lists(facts, _ordinals(facts) * 2 + 1, pa.uint16()),
        "is_statement": pa.array(np.zeros(len(facts), np.bool_)),
    }
    out.write(EXAMPLES, EXAMPLES.from_columns(columns))


def _ordinals(sizes: np.ndarray) -> np.ndarray:
    """Return 0, 1, … within each list."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _lists(sizes: np.ndarray, values: np.ndarray, kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values, kind), type=list_of(kind)
    )

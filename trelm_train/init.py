"""Make a small pretrained model from a run's own documents, where none can be downloaded.

The `documents` table goes in. A Hugging Face folder comes out: BERT with a masked-LM head, and a
lower-cased WordPiece tokenizer. The warm-up is the ordinary training loop on plain text: shards
without mentions, made for it alone, with every knowledge component off.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import buckets
from schemas.bucket_copies import local_stage
from schemas.buckets import Location
from schemas.documents import DOCUMENTS
from schemas.errors import ConfigError, TrelmError
from schemas.manifest import MANIFEST_NAME, Manifest, PartFile, TableFiles
from schemas.occupied import occupant
from schemas.shards import EXAMPLES, KNOWLEDGE
from schemas.table import Table
from trelm_train.config import (
    CkaConfig,
    Config,
    FactsConfig,
    InjectionConfig,
    MemoryConfig,
    RoutingConfig,
    TrainConfig,
)
from trelm_train.data.shards import read_manifest, sha256_of, table_files
from trelm_train.model.protocols import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_POSITIONS = 512
# Of all letters the commonest; others become [UNK].
MAX_LETTERS = 1000
# With the two special tokens: one packed row.
WINDOW_TOKENS = 126
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True, kw_only=True, slots=True)
class InitRequest:
    """Hold what `trelm-train init` was asked for."""

    documents: Location
    out: Location
    vocab_size: int = 8000
    layers: int = 4
    hidden: int = 128
    heads: int = 2
    warmup: TrainConfig = TrainConfig(steps=500, learning_rate=5e-4, checkpoint_every=1_000_000)


def check_request(request: InitRequest) -> None:
    """Refuse impossible shapes before any work.

    Raises:
        ConfigError: names the option.
    """
    if request.hidden % request.heads:
        raise ConfigError(
            f"--hidden {request.hidden} must be a multiple of --heads {request.heads}"
        )
    # The five special tokens and the letters of a small corpus need about as many.
    if request.vocab_size < 100:
        raise ConfigError(f"--vocab-size {request.vocab_size} must be at least 100")
    holds = _holds(request.out)
    if holds:
        raise ConfigError(f"{request.out}: holds {holds} already; give another --out")


def _holds(out: Location) -> str:
    if isinstance(out, Path):
        return "a model" if (out / "config.json").exists() else occupant(out)
    return "something" if buckets.below(out, deep=True) else ""


def init(request: InitRequest) -> dict[str, Any]:
    """Make tokenizer and model, warm the model up, and return a summary.

    Raises:
        ConfigError: wrong options or no documents stage.
        TrelmError: the corpus is empty.
    """
    check_request(request)
    # It imports torch, which `--help` does without.
    from trelm_train.checkpoints.export import whole_model

    documents = local_stage(request.documents, tables=(DOCUMENTS.name,))
    manifest = read_manifest(documents, "documents", "trelm-pipeline documents")
    files = table_files(documents, manifest, DOCUMENTS)
    tokenizer = train_tokenizer(lambda: texts(files), request.vocab_size)
    if len(tokenizer) <= len(SPECIAL):
        raise TrelmError(f"{request.documents}: its documents hold no text; was the corpus empty?")

    # A warm-up that fails leaves nothing in the folder of the model.
    with (
        whole_model(request.out) as folder,
        tempfile.TemporaryDirectory(prefix="trelm-init-") as name,
    ):
        scratch = Path(name)
        _untrained(request, tokenizer).save_pretrained(scratch / "untrained")
        tokenizer.save_pretrained(scratch / "untrained")
        num_sentences = write_plain_shards(scratch / "shards", tokenizer, texts(files))
        summary = warm_up(request.warmup, scratch) if request.warmup.steps else {}
        source = scratch / ("run/model" if request.warmup.steps else "untrained")
        shutil.copytree(source, folder, dirs_exist_ok=True)

    return {
        "model": str(request.out),
        "vocabulary": len(tokenizer),
        "sentences": num_sentences,
        "steps": request.warmup.steps,
        "loss_first": summary.get("loss_first"),
        "loss_last": summary.get("loss_last"),
    }


def texts(files: list[Path]) -> Iterator[str]:
    """Yield the text of every document."""
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=["text"]):
            yield from batch.column(0).to_pylist()


def train_tokenizer(make_texts: Callable[[], Iterable[str]], vocab_size: int) -> Tokenizer:
    """Train a lower-cased WordPiece tokenizer with BERT's special tokens.

    `make_texts` is called twice: once to count letters, once to learn.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalizer, splitter

    # The trainer numbers pieces in the order of a hash table and breaks ties between merges by
    # those numbers. Pieces that are there from the start, in a fixed order, make the same texts
    # give the same vocabulary.
    letters = _commonest_letters(normalizer, make_texts())
    initial = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=initial, show_progress=False
    )
    learner.train_from_iterator(make_texts(), trainer)

    # The letters were special tokens of the learner only: build a tokenizer from its pieces.
    return wordpiece_tokenizer(learner.get_vocab(), normalizer, splitter)


def wordpiece_tokenizer(
    pieces: dict[str, int],
    normalizer: Any,  # noqa: ANN401
    splitter: Any,  # noqa: ANN401
) -> Tokenizer:
    """Make a tokenizer of WordPiece's pieces with their ids, BERT's special tokens among them."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()

    ends = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_POSITIONS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _commonest_letters(normalizer: Any, corpus: Iterable[str]) -> list[str]:  # noqa: ANN401
    """Return the `MAX_LETTERS` commonest letters of normalised texts, in the order of letters."""
    counts = Counter(
        letter
        for text in corpus
        for letter in normalizer.normalize_str(text)
        if not letter.isspace()
    )
    commonest = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return sorted(commonest[:MAX_LETTERS])


def _untrained(request: InitRequest, tokenizer: Tokenizer) -> Any:  # noqa: ANN401 - a model of transformers, which is untyped
    """Make a BERT with random weights, by the seed of the warm-up."""
    import torch
    from transformers import BertConfig, BertForMaskedLM
    from transformers.utils import logging as hf_logging

    # Its bar would mix with the log lines of the run.
    hf_logging.disable_progress_bar()

    torch.manual_seed(request.warmup.seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=request.hidden,
        num_hidden_layers=request.layers,
        num_attention_heads=request.heads,
        intermediate_size=4 * request.hidden,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
    )
    return BertForMaskedLM(config)


def sentence_windows(tokenizer: Tokenizer, text: str) -> Iterator[tuple[list[int], list[int]]]:
    """Yield token ids (special ones too) and word starts of each sentence, long ones in pieces."""
    sentences = [piece for piece in _SENTENCE_END.split(text) if piece.strip()]
    if not sentences:
        return

    for encoding in tokenizer(sentences, add_special_tokens=False).encodings:
        # A long sentence is cut without a look at its words: the warm-up only needs running text.
        for start in range(0, len(encoding.ids), WINDOW_TOKENS):
            ids = encoding.ids[start : start + WINDOW_TOKENS]
            words = encoding.word_ids[start : start + WINDOW_TOKENS]
            # One more for the opening special token.
            starts = [i + 1 for i in range(len(ids)) if i == 0 or words[i] != words[i - 1]]
            yield [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id], starts


def write_plain_shards(folder: Path, tokenizer: Tokenizer, corpus: Iterator[str]) -> int:
    """Write a shards folder without mentions, and return its number of sentences.

    It has every sentence of the corpus, all of them for training.
    """
    tokenizer.save_pretrained(folder / "tokenizer")
    examples, knowledge = folder / "examples.parquet", folder / "knowledge.parquet"
    num_sentences = 0

    with pq.ParquetWriter(examples, EXAMPLES.schema) as writer:
        for number, text in enumerate(corpus):
            # One document after the other: memory holds one document's windows.
            windows = list(sentence_windows(tokenizer, text))
            if windows:
                writer.write_table(_plain_rows(f"{number}", windows))
            num_sentences += len(windows)
    pq.write_table(KNOWLEDGE.empty(), knowledge)

    manifest = Manifest(
        stage="shards",
        fingerprint="init",
        code_version="init",
        tables={
            "examples": _files(EXAMPLES, examples, num_sentences),
            "knowledge": _files(KNOWLEDGE, knowledge, 0),
        },
        extra={
            "tokenizer": "tokenizer",
            "tokenizer_sha256": sha256_of(folder / "tokenizer" / "tokenizer.json"),
            "model": "init",
        },
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return num_sentences


def _plain_rows(doc_id: str, windows: list[tuple[list[int], list[int]]]) -> pa.Table:
    """Return rows of `examples` for the windows of a document; all other lists are empty."""
    count = len(windows)
    # Start with empty lists, so that every column of the schema is there.
    columns: dict[str, list[Any]] = {
        name: [[] for _ in range(count)] for name in EXAMPLES.column_names
    }
    columns |= {
        "doc_id": [doc_id] * count,
        "sentence_start": list(range(count)),
        "input_ids": [ids for ids, _ in windows],
        "word_starts": [starts for _, starts in windows],
        "n_tokens": [len(ids) for ids, _ in windows],
        "split": ["train"] * count,
        "is_statement": [False] * count,
    }
    return EXAMPLES.from_columns(columns)


def _files(table: Table, path: Path, rows: int) -> TableFiles:
    """Describe a table of one file for the manifest."""
    file = PartFile(
        path=path.name, rows=rows, num_bytes=path.stat().st_size, sha256=sha256_of(path)
    )
    return TableFiles(version=table.version, rows=rows, files=(file,))


def warm_up(warmup: TrainConfig, scratch: Path) -> dict[str, Any]:
    """Train the model `untrained` of a scratch folder on its `shards`; return the run's summary.

    The trained model is in `run/model`.
    """
    from trelm_train.checkpoints.model_card import CARD
    from trelm_train.training.session import RunRequest
    from trelm_train.training.train import run

    # Plain masked-LM training of all weights.
    config = Config(
        train=replace(warmup, validate=False),
        injection=InjectionConfig(enabled=False),
        memory=MemoryConfig(enabled=False),
        facts=FactsConfig(enabled=False),
        cka=CkaConfig(enabled=False),
        routing=RoutingConfig(policy="full"),
    )
    shards, model = scratch / "shards", scratch / "untrained"
    summary = run(RunRequest(shards=shards, model=str(model), out=scratch / "run", config=config))
    # It would call a folder that is removed the model's start.
    (scratch / "run" / "model" / CARD).unlink()
    return summary

"""Make a base model for experiments: a masked LM of a small pretrained encoder, warmed up.

    python experiments/make_base.py --model FOLDER --text FILE... --out FOLDER
        [--vocabulary-from PATH...] [--measure FILE] [--steps N] [--seed N]

In: the folder of a BERT with its WordPiece tokenizer. A sentence encoder, which has lost its
masked-LM head, gets a new one: an identity, then the word embeddings as decoder. Where texts are
named that the experiments will use, all other pieces of the vocabulary are left out, which makes
every step cheaper. Then all weights are trained as a masked LM on the texts, by the product's own
loop. Out: a model's folder for `trelm-train run`, and `base.json` with what it was made of. The
same input, seed and number of threads give the same bytes on the same machine.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from schemas.documents import DOCUMENTS
from schemas.errors import ConfigError, TrelmError
from schemas.manifest import MANIFEST_NAME, Manifest
from trelm_train.compare.experiment import TextSet
from trelm_train.compare.questions import text_loss
from trelm_train.config import Config, TrainConfig, check
from trelm_train.data.shards import (
    Shards,
    open_shards,
    read_lists,
    read_manifest,
    sha256_of,
    table_files,
)
from trelm_train.init import SPECIAL, texts, warm_up, wordpiece_tokenizer, write_plain_shards
from trelm_train.model.masked_lm import check_weights, load_pretrained, load_tokenizer
from trelm_train.model.protocols import Tokenizer

CONTINUES = "##"
# Texts that are tokenised in one call.
TEXTS_AT_ONCE = 256
# Files of a folder that are read.
SUFFIXES = (".txt", ".jsonl")
RECORD = "base.json"
# Lines that make one text of the warm-up.
LINES_AT_ONCE = 256
# Pieces of the text that is measured: with about 9,000 masks one standard error is .03.
MEASURED_PIECES = 1000
# Dropout is off: in a run as short as this it only costs time.
WARMUP = TrainConfig(
    steps=600, batch_tokens=1024, dropout=0.0, checkpoint_every=1_000_000, loggers=()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseRequest:
    """Hold what a base is made of."""

    model: Path
    out: Path
    texts: tuple[Path, ...]
    # Texts, or folders of stages, whose pieces are kept beside those of `texts`; none keeps all.
    vocabulary_from: tuple[Path, ...] = ()
    # A text whose loss is measured before and after; none measures nothing.
    measure: Path | None = None
    warmup: TrainConfig = WARMUP


def make_base(request: BaseRequest) -> dict[str, Any]:
    """Make the base and return its record.

    Raises:
        ConfigError: a path or an option is wrong.
        TrelmError: the texts are empty.
    """
    check(replace(Config(), train=request.warmup))
    if (request.out / "config.json").exists():
        raise ConfigError(f"{request.out}: holds a model already; give another --out")
    hf, has_head = load_bert(request.model)
    if not has_head:
        regrow_head(hf)

    tokenizer = plain_tokenizer(request.model, num_rows=hf.config.vocab_size)
    kept = np.sort(np.fromiter(tokenizer.get_vocab().values(), np.int64))
    if request.vocabulary_from:
        kept = kept_ids(tokenizer, request.texts, request.vocabulary_from)
    # Also where all are kept: rows of the table that no piece has are left out.
    hf, tokenizer = cut_model(hf, kept), cut_tokenizer(tokenizer, kept)

    with tempfile.TemporaryDirectory(prefix="trelm-base-") as name:
        scratch = Path(name)
        hf.save_pretrained(scratch / "untrained")
        tokenizer.save_pretrained(scratch / "untrained")
        before = loss_of(scratch / "untrained", request.measure)
        corpus = mixed(texts_of_all(request.texts), seed=request.warmup.seed)
        num_sentences = write_plain_shards(scratch / "shards", tokenizer, corpus)
        if not num_sentences:
            raise TrelmError("the files of --text hold no text; give others")
        summary = warm_up(request.warmup, scratch)
        record = {
            "model_sha256": sha256_of(request.model / "model.safetensors"),
            "had_head": has_head,
            "vocabulary": len(tokenizer),
            "texts": [path.name for path in request.texts],
            "sentences": num_sentences,
            "loss_before": before,
            "loss_after": loss_of(scratch / "run/model", request.measure),
            "train_loss_first": summary["loss_first"],
            "train_loss_last": summary["loss_last"],
            "warmup": asdict(request.warmup),
        }
        request.out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(scratch / "run/model", request.out, dirs_exist_ok=True)

    (request.out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def load_bert(folder: Path) -> tuple[Any, bool]:
    """Load a BERT with or without a masked-LM head, and say whether it has one.

    Raises:
        ConfigError: there is no BERT there, or its weights are incomplete or not finite.
    """
    from transformers import AutoConfig, BertForMaskedLM

    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: has no {name}; give the folder of a BERT as --model")
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "bert":
        raise ConfigError(f"{folder}: a {config.model_type!r} model; give a BERT as --model")

    hf, info = BertForMaskedLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    # The decoder is tied to the word embeddings, so no file needs to have it.
    missing = {key for key in info["missing_keys"] if ".decoder." not in key}
    lacks = sorted(key for key in missing if not key.startswith("cls.predictions."))
    if lacks:
        raise ConfigError(
            f"{folder}: its weights lack {len(lacks)} tensor(s) of the encoder such as "
            f"{lacks[0]!r}; copy the model again"
        )
    # A new head is made by `regrow_head`; only what the file holds is checked here.
    check_weights(
        str(folder), {key: value for key, value in hf.state_dict().items() if key not in missing}
    )
    return hf, not missing


@torch.no_grad()
def regrow_head(hf: Any) -> None:  # noqa: ANN401
    """Make the masked-LM head an identity: the states go to the tied decoder nearly as they are.

    The activation between the map and LayerNorm stays, as it belongs to the architecture.
    """
    predictions = hf.cls.predictions
    torch.nn.init.eye_(predictions.transform.dense.weight)
    torch.nn.init.ones_(predictions.transform.LayerNorm.weight)
    for bias in (
        predictions.transform.dense.bias,
        predictions.transform.LayerNorm.bias,
        predictions.bias,
        predictions.decoder.bias,
    ):
        torch.nn.init.zeros_(bias)


def plain_tokenizer(folder: Path, *, num_rows: int) -> Tokenizer:
    """Load a WordPiece tokenizer that neither cuts nor pads.

    Raises:
        ConfigError: it is of another kind, or has more pieces than the model has rows.
    """
    tokenizer: Any = load_tokenizer(str(folder))
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ != "WordPiece":
        raise ConfigError(f"{folder}: its tokenizer is not WordPiece; give a BERT as --model")
    missing = [token for token in SPECIAL if token not in tokenizer.get_vocab()]
    if missing:
        raise ConfigError(f"{folder}: its vocabulary has no {missing[0]}; give a BERT as --model")
    largest = max(tokenizer.get_vocab().values())
    if largest >= num_rows:
        raise ConfigError(
            f"{folder}: a piece has number {largest}, but the model has embeddings for {num_rows}; "
            "model and tokenizer do not belong together"
        )
    # Sentence encoders save the length that they cut their input to.
    backend.no_truncation()
    backend.no_padding()
    return tokenizer


def kept_ids(
    tokenizer: Tokenizer, text_paths: Iterable[Path], others: Iterable[Path]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the sorted ids of the pieces that a base keeps.

    These are special tokens, single characters (so that every word of them can still be spelled),
    and the pieces of all texts.

    Raises:
        ConfigError: a path is neither a text nor the folder of a stage that has some.
    """
    is_kept = np.zeros(max(tokenizer.get_vocab().values()) + 1, np.bool_)
    is_kept[tokenizer.all_special_ids] = True
    for piece, number in tokenizer.get_vocab().items():
        if piece in SPECIAL or len(piece.removeprefix(CONTINUES)) == 1:
            is_kept[number] = True

    shards_folders = [path for path in others if _stage(path) == "shards"]
    plain = [*text_paths, *(path for path in others if path not in shards_folders)]
    for folder in shards_folders:
        for ids in ids_of_shards(folder, tokenizer):
            is_kept[ids] = True
    for some_texts in _groups(texts_of_all(plain)):
        for encoding in tokenizer(some_texts, add_special_tokens=False).encodings:
            is_kept[encoding.ids] = True
    return np.flatnonzero(is_kept)


def ids_of_shards(
    folder: Path, tokenizer: Tokenizer
) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Yield the ids of the sentences of shards, and of the labels of their knowledge.

    Raises:
        ConfigError: they were made with another tokenizer.
    """
    shards: Shards = open_shards(folder)
    if load_tokenizer(str(shards.tokenizer_path)).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"{folder}: made with another tokenizer than that of --model; name the documents instead"
        )
    for columns in read_lists(shards.row_groups, ["input_ids"]):
        yield columns["input_ids"].values.astype(np.int64)
    for path in shards.knowledge_files:
        for labels in pq.read_table(path, columns=["label_ids"])["label_ids"].chunks:
            yield labels.flatten().to_numpy().astype(np.int64)


def cut_tokenizer(tokenizer: Tokenizer, kept: np.ndarray[Any, np.dtype[np.int64]]) -> Tokenizer:
    """Make the same tokenizer with some of the pieces, numbered again in the same order.

    Texts whose pieces are all kept are cut as before: of the pieces that fit, WordPiece takes the
    longest, and that is still there.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009 - not in the protocol
    piece_of = {number: piece for piece, number in tokenizer.get_vocab().items()}
    pieces = {piece_of[old]: new for new, old in enumerate(kept.tolist())}
    return wordpiece_tokenizer(pieces, backend.normalizer, backend.pre_tokenizer)


@torch.no_grad()
def cut_model(hf: Any, kept: np.ndarray[Any, np.dtype[np.int64]]) -> Any:  # noqa: ANN401
    """Make the same model with some rows of its vocabulary."""
    from transformers import BertConfig, BertForMaskedLM

    settings = {**hf.config.to_dict(), "vocab_size": len(kept), "tie_word_embeddings": True}
    # `[PAD]` is a special token, and is kept.
    settings["pad_token_id"] = int(np.searchsorted(kept, hf.config.pad_token_id or 0))
    smaller = BertForMaskedLM(BertConfig.from_dict(settings))

    rows = torch.from_numpy(kept)
    weights = hf.state_dict()
    for name in weights:
        if name.endswith(("word_embeddings.weight", "predictions.bias")) or ".decoder." in name:
            weights[name] = weights[name][rows]
    smaller.load_state_dict(weights)
    smaller.tie_weights()
    return smaller


def loss_of(folder: Path, measure: Path | None) -> float | None:
    """Return the masked-LM loss of a model on the beginning of a text; none without a text."""
    if measure is None:
        return None
    model = load_pretrained(str(folder), torch.device("cpu"))
    named = TextSet(name=measure.name, path=str(measure), sentences=MEASURED_PIECES)
    return text_loss(model, load_tokenizer(str(folder)), named)["loss"]


def texts_of_all(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the texts of some paths, in order."""
    for path in paths:
        yield from texts_of(path)


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a file, of a folder of them, or of a finished `documents` stage.

    A row of a .jsonl file has its text in `text`; without one, all its strings are texts, as in
    probes. A folder stands for its .txt and .jsonl files.

    Raises:
        ConfigError: there is no such text.
    """
    if _stage(path):
        manifest = read_manifest(path, "documents", "trelm-pipeline documents")
        yield from texts(table_files(path, manifest, DOCUMENTS))
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        if not files:
            raise ConfigError(f"{path}: no .txt or .jsonl file there; name other files or folders")
        for file in files:
            yield from texts_of(file)
    elif path.suffix == ".jsonl":
        for number, line in enumerate(_read(path).split("\n"), start=1):
            yield from _strings(path, number, line) if line.strip() else ()
    else:
        yield _read(path)


def mixed(corpus: Iterable[str], *, seed: int) -> Iterator[str]:
    """Yield the lines of all texts in another order, many as one text; memory holds them all.

    The loop reads whole texts one after the other. A short warm-up would see one file and not the
    next: a base of 600 steps had a loss of 6.1 on text like one of the files, and 4.1 when mixed.
    """
    lines = [line for text in corpus for line in text.split("\n") if line.strip()]
    random.Random(seed).shuffle(lines)
    for first in range(0, len(lines), LINES_AT_ONCE):
        yield "\n".join(lines[first : first + LINES_AT_ONCE])


def _stage(path: Path) -> str:
    """Return the name of the stage whose folder this is; empty for anything else."""
    manifest = path / MANIFEST_NAME
    if not manifest.is_file():
        return ""
    try:
        return Manifest.from_json(manifest.read_text(encoding="utf-8"), str(manifest)).stage
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _strings(path: Path, number: int, line: str) -> list[str]:
    """Return the texts of one row of a .jsonl file."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}:{number}: not JSON ({error}); check the file") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{path}:{number}: not a JSON object; check the file")
    if isinstance(row.get("text"), str):
        return [row["text"]]
    return [value for value in row.values() if isinstance(value, str)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read it as UTF-8 text ({error}); check it") from error


def _groups(corpus: Iterable[str]) -> Iterator[list[str]]:
    """Yield `TEXTS_AT_ONCE` texts at a time."""
    some_texts: list[str] = []
    for text in corpus:
        some_texts.append(text)
        if len(some_texts) == TEXTS_AT_ONCE:
            yield some_texts
            some_texts = []
    if some_texts:
        yield some_texts


def parse(arguments: list[str] | None) -> BaseRequest:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a BERT")
    parser.add_argument("--out", type=Path, required=True, help="folder of the base, made here")
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, help="what the warm-up reads"
    )
    parser.add_argument(
        "--vocabulary-from",
        type=Path,
        nargs="+",
        default=[],
        help="keep only pieces of --text and of these: texts, documents, shards or probes",
    )
    parser.add_argument("--measure", type=Path, help="text whose masked-LM loss is measured")
    parser.add_argument("--steps", type=int, default=WARMUP.steps)
    parser.add_argument("--seed", type=int, default=WARMUP.seed)
    parser.add_argument("--batch-tokens", type=int, default=WARMUP.batch_tokens)
    parser.add_argument(
        "--learning-rate", type=float, default=0.0, help="0 chooses it by the hidden size"
    )
    parser.add_argument("--precision", default=WARMUP.precision)
    parser.add_argument("--threads", type=int, default=WARMUP.threads)
    given = parser.parse_args(arguments)
    return BaseRequest(
        model=given.model,
        out=given.out,
        texts=tuple(given.text),
        vocabulary_from=tuple(given.vocabulary_from),
        measure=given.measure,
        warmup=replace(
            WARMUP,
            steps=given.steps,
            seed=given.seed,
            batch_tokens=given.batch_tokens,
            learning_rate=given.learning_rate,
            precision=given.precision,
            threads=given.threads,
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line: 0 done, 1 impossible, 2 bad usage."""
    from transformers.utils import logging as hf_logging

    # A missing head is no news here.
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    request = parse(arguments)
    try:
        record = make_base(request)
    except TrelmError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return error.exit_code

    sys.stdout.write(f"{request.out}: {record['vocabulary']:,} pieces\n")
    if request.measure is not None:
        before, after = record["loss_before"], record["loss_after"]
        sys.stdout.write(f"masked-LM loss on {request.measure.name}: {before:.3f} -> {after:.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

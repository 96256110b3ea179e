"""Ask a plain model the questions of an experiment, and keep every answer.

Probes: the rank and the log-probability of the object at the mask, item by item, with the subject
that the bootstrap draws by. Texts: masked-LM loss on fixed masks, 80/10/10, the same for every
model of one tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from schemas.bounded_lines import bounded_lines
from schemas.errors import ConfigError
from schemas.regular_files import open_regular
from trelm_train.compare.experiment import ProbeSet, TextSet
from trelm_train.config import MaskingConfig
from trelm_train.data.loader import Packing, Position, assemble, plan_batches, sentences_from_lists
from trelm_train.data.masking import mask_batch
from trelm_train.evaluate.answers import ask
from trelm_train.evaluate.finite import check_finite
from trelm_train.evaluate.lama import Item, Prober, read_jsonl, skip_reason
from trelm_train.evaluate.mlm import MASK_SEED
from trelm_train.model.masked_lm import MaskedLm, vocabulary_of
from trelm_train.model.protocols import Tokenizer

# Legend: M masked tokens, V vocabulary, R rows, S tokens per row, H hidden size, N sentences.

MAX_TOKENS = 128
SMALLEST = 1e-30
BATCH_TOKENS = 4096


@dataclass(slots=True)
class Answers:
    """Hold the answers of a model to one set of probes: parallel lists, item by item."""

    relation: list[str] = field(default_factory=list)
    subject: list[str] = field(default_factory=list)
    object: list[str] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)

    def measures(self) -> dict[str, float]:
        """Return means over items, and P@1 as a mean over relations too."""
        # A tie has rank 2 or more, so it is not right.
        is_right = np.asarray(self.rank) <= 1
        relation = np.asarray(self.relation)
        by_relation = [float(is_right[relation == name].mean()) for name in np.unique(relation)]
        return {
            "p_at_1": float(is_right.mean()),
            "p_at_1_by_relation": float(np.mean(by_relation)),
            "p_at_10": float((np.asarray(self.rank) <= 10).mean()),
            "mrr": float((1 / np.asarray(self.rank)).mean()),
            "log_p": float(np.mean(self.log_p)),
            "num_items": float(len(self.rank)),
        }

    def table(self, name: str) -> pa.Table:
        """Return the answers as rows, with the name of the probes in front."""
        columns = {
            "probes": [name] * len(self.rank),
            "relation": self.relation,
            "subject": self.subject,
            "object": self.object,
            "rank": self.rank,
            "log_p": self.log_p,
        }
        return pa.table(columns)


def ask_probes(model: MaskedLm, tokenizer: Tokenizer, probes: ProbeSet) -> Answers:
    """Ask every item of a set of probes that counts.

    Raises:
        ConfigError: a file is unreadable, or no item counts.
    """
    common = Path(probes.common_vocab) if probes.common_vocab else None
    prober = Prober(model, tokenizer, common)
    answers, items = Answers(), []

    for relation in read_jsonl(probes.relations_path):
        name = str(relation.get("relation", ""))
        path = Path(probes.folder) / f"{name}.jsonl"
        if not path.is_file():
            continue
        for row, item in _items_of(prober, path, str(relation.get("template", "")), probes):
            answers.relation.append(name)
            answers.subject.append(_subject(row))
            answers.object.append(str(row["obj_label"]))
            items.append(item)

    if not items:
        raise ConfigError(
            f"probes {probes.name!r}: no item of {probes.folder} has an object that is one token "
            "of this model; check the relations' file and the words"
        )
    clozes = [item.cloze for item in items]
    asked = ask(model, tokenizer.pad_token_id or 0, prober.candidates, clozes)
    answers.rank = asked.rank_M.tolist()
    # A probability may be too small for its number format.
    answers.log_p = np.log(np.maximum(asked.p_gold_M, SMALLEST)).tolist()
    return answers


def _subject(row: dict[str, Any]) -> str:
    """Return the id of a row's subject; its name where LAMA's file has no id."""
    return str(row.get("sub_uri") or row.get("sub_label", ""))


def _items_of(
    prober: Prober, path: Path, template: str, probes: ProbeSet
) -> list[tuple[dict[str, Any], Item]]:
    """Return the rows of a relation that count, with their questions."""
    # LAMA's own rule: of equal questions in a relation the first counts.
    pairs: set[tuple[str, str]] = set()
    counted: list[tuple[dict[str, Any], Item]] = []
    for row in read_jsonl(path):
        if probes.limit and len(counted) >= probes.limit:
            break
        # Before the limit: every part has its own first items.
        if not probes.asks(_subject(row)):
            continue
        reason = skip_reason(row, pairs, uhn=False, uncased=prober.is_uncased)
        item = reason or prober.item(template, row)
        if not isinstance(item, str):
            counted.append((row, item))
    return counted


def text_loss(model: MaskedLm, tokenizer: Tokenizer, text: TextSet) -> dict[str, float]:
    """Measure the masked-LM loss on a text: a natural-log cross-entropy per masked token.

    Raises:
        ConfigError: the file is unreadable, or nothing in it is masked.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    # Room for the opening and the closing special token.
    room = min(MAX_TOKENS, model.max_tokens) - 2
    ids, words = _pieces(tokenizer, read_text(Path(text.path)), room, text.sentences)
    sentences = sentences_from_lists({"ids": ids, "words": words})
    vocabulary = vocabulary_of(tokenizer, model.config.vocab_size)
    packing = Packing(max_tokens=room + 2, batch_tokens=BATCH_TOKENS, limit=model.max_tokens)
    total, num_masked = 0.0, 0

    with model.evaluating(), torch.no_grad():
        for rows in plan_batches(sentences.ids.lengths(np.arange(len(ids))), packing):
            batch = assemble(sentences, rows, Position(), vocabulary.pad_id)
            masked = mask_batch(batch, MaskingConfig(), vocabulary, seed=MASK_SEED, epoch=0)
            hidden_RSH = model.encode(model.pack(batch, masked.input_ids_RS))
            target_M = torch.from_numpy(masked.target_M).to(model.device)
            logits_MV = model.logits(hidden_RSH.reshape(-1, model.hidden_size)[target_M]).float()
            check_finite(model, logits_MV, f"the text {text.name!r}")
            gold_M = torch.from_numpy(masked.gold_M).to(model.device)
            # Double precision: a long sum of small numbers would lose digits.
            total += float(F.cross_entropy(logits_MV, gold_M, reduction="none").double().sum())
            num_masked += len(gold_M)

    if not num_masked:
        raise ConfigError(f"texts {text.name!r}: {text.path} is too short, no token was masked")
    return {"loss": total / num_masked, "num_masked": float(num_masked)}


def read_text(path: Path) -> list[str]:
    """Return the lines of a text that are not empty.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return [line.decode().rstrip("\r\n") for _, line in bounded_lines(file, str(path))]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read it as UTF-8 text ({error}); check it") from error


def _pieces(
    tokenizer: Tokenizer, lines: list[str], room: int, limit: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Cut lines into pieces of at most `room` tokens; return their ids and where words start."""
    ids: list[list[int]] = []
    words: list[list[int]] = []
    for encoding in tokenizer(lines, add_special_tokens=False).encodings if lines else ():
        for start in range(0, len(encoding.ids), room):
            if limit and len(ids) >= limit:
                return ids, words
            piece = encoding.ids[start : start + room]
            of_word = encoding.word_ids[start : start + room]

            # One more for the opening special token.
            starts = [
                place + 1
                for place in range(len(piece))
                if place == 0 or of_word[place] != of_word[place - 1]
            ]
            ids.append([tokenizer.cls_token_id, *piece, tokenizer.sep_token_id])
            words.append(starts)
    return ids, words

"""Ask LAMA probes (Petroni et al. 2019) in their published file format.

An item counts only if its object is one token of the model (after a space, in RoBERTa) and in the
common vocabulary; pairs are de-duplicated; candidates are ranked at the mask over the vocabulary
subset. The score is the unweighted mean over relations.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.array_types import I64
from schemas.errors import ConfigError
from trelm_train.data.loader import Packing, Position, assemble, plan_batches, sentences_from_lists
from trelm_train.model.masked_lm import MaskedLm, load_pretrained, load_tokenizer, pick_device
from trelm_train.model.protocols import Tokenizer

# Fixed, so that scores do not depend on the settings of a run.
BATCH = Packing(max_tokens=128, batch_tokens=4096, limit=512)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Say where the probes are and which of them count."""

    probes: Path
    relations: Path
    common_vocab: Path | None = None
    # Drop items whose object is part of the subject (string match only).
    uhn: bool = False
    # Items per relation; 0: all.
    limit: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Hold one question: token ids with a mask at `mask_position`, and the gold id."""

    ids: list[int]
    mask_position: int
    gold: int


@dataclass(slots=True)
class Questions:
    """Hold items by relation, and what was left out."""

    items: dict[str, list[Item]] = field(default_factory=dict)
    # Reason → rows that do not count for it.
    excluded: Counter[str] = field(default_factory=Counter)
    # Relations without a file.
    missing: list[str] = field(default_factory=list)
    # 1-1, N-1 or N-M, by relation.
    types: dict[str, str] = field(default_factory=dict)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSON-lines file.

    Raises:
        ConfigError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    try:
        # Not `splitlines`: JSON may hold other separators of lines inside a text.
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read it ({error.strerror}); check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); is it compressed?"
        ) from error

    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{path}:{number}: not JSON ({error}); write one JSON object per line"
            ) from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}:{number}: not a JSON object; write one JSON object per line")
        rows.append(row)
    return rows


class Prober:
    """Hold a model, its tokenizer and the vocabulary subset that answers are ranked over.

    Raises:
        ConfigError: the common vocabulary cannot be read, or holds no token of the model.
    """

    def __init__(self, model: MaskedLm, tokenizer: Tokenizer, common_vocab: Path | None) -> None:
        self.model, self.tokenizer = model, tokenizer
        ids = self._all_ids() if common_vocab is None else self._ids_of_words(common_vocab)
        self.candidates: I64 = np.unique(np.asarray(ids, np.int64))
        if not len(self.candidates):
            raise ConfigError(
                f"{common_vocab}: no word in it is a single token of this model; give another list"
            )

    def _all_ids(self) -> list[int]:
        """Return all ids of the vocabulary that are not special."""
        # Mask and padding tokens are no answers.
        special = set(self.tokenizer.all_special_ids)
        size = min(len(self.tokenizer), self.model.config.vocab_size)
        return [number for number in range(size) if number not in special]

    def _ids_of_words(self, common_vocab: Path) -> list[int]:
        """Return the ids of the words in a file that are one token.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            words = common_vocab.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise ConfigError(
                f"{common_vocab}: cannot read it ({error.strerror}); check the path and its permissions"
            ) from error

        ids = [self.single_token(word) for word in words if word]
        return [token for token in ids if token is not None]

    def single_token(self, word: str) -> int | None:
        """Return the id of a word that is one token of the vocabulary in running text, or None."""
        # RoBERTa has different tokens for a word at the start of a text and inside of it.
        text = self.model.family.word_prefix + word
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        is_single = len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id
        return int(ids[0]) if is_single else None

    def item(self, template: str, row: dict[str, Any]) -> Item | str:
        """Turn a row into a question, or return the reason why it does not count."""
        gold = self.single_token(str(row["obj_label"]))
        if gold is None:
            return "object_not_one_token"
        # An object outside the ranked vocabulary could never be found.
        if gold not in self.candidates:
            return "object_not_in_common_vocab"

        text = template.replace("[X]", str(row["sub_label"]))
        text = text.replace("[Y]", self.tokenizer.mask_token)
        ids = self.tokenizer(text)["input_ids"]
        # A template without [Y], or with the mask token in the subject.
        if ids.count(self.tokenizer.mask_token_id) != 1:
            return "not_one_mask"
        if len(ids) > self.model.max_tokens:
            return "too_long"

        return Item(ids=ids, mask_position=ids.index(self.tokenizer.mask_token_id), gold=gold)


def skip_reason(row: dict[str, Any], pairs: set[tuple[str, str]], *, uhn: bool) -> str:
    """Return the reason why a row does not count, or an empty text, before it is tokenised.

    `pairs` holds the (subject, object) pairs of earlier rows; the pair of this row is added.
    """
    if "sub_label" not in row or "obj_label" not in row:
        return "no_label"

    # Google-RE: several people have judged each row.
    votes = Counter(str(judgment.get("judgment", "")) for judgment in row.get("judgments", []))
    if votes["no"] > votes["yes"]:
        return "judged_wrong"

    pair = (str(row["sub_label"]), str(row["obj_label"]))
    if pair in pairs:
        return "duplicate"
    pairs.add(pair)

    # The name gives the answer away, as in (Apple Watch, Apple).
    if uhn and pair[1].casefold() in pair[0].casefold():
        return "uhn_string"
    return ""


def collect(prober: Prober, options: Options) -> Questions:
    """Read every question that counts, by relation; relations without a file are named.

    Raises:
        ConfigError: a file is unreadable, or no relation has a file.
    """
    questions = Questions()
    for relation in read_jsonl(options.relations):
        if not {"relation", "template"} <= relation.keys():
            raise ConfigError(
                f"{options.relations}: a row without 'relation' or 'template': {relation}"
            )

        name = str(relation["relation"])
        path = options.probes / f"{name}.jsonl"
        if not path.is_file():
            questions.missing.append(name)
            continue
        questions.types[name] = str(relation.get("type", ""))
        questions.items[name] = _items_of(prober, path, relation["template"], options, questions)

    if not questions.items:
        raise ConfigError(
            f"{options.probes}: no file P….jsonl for any relation of {options.relations}"
        )
    return questions


def _items_of(
    prober: Prober, path: Path, template: str, options: Options, questions: Questions
) -> list[Item]:
    """Read the items of one relation; count what is left out in `questions`.

    Raises:
        ConfigError: the file is unreadable.
    """
    items: list[Item] = []
    pairs: set[tuple[str, str]] = set()

    for row in read_jsonl(path):
        # The limit counts items that are asked: the same ones at every evaluation.
        if options.limit and len(items) >= options.limit:
            break
        item = skip_reason(row, pairs, uhn=options.uhn) or prober.item(template, row)
        if isinstance(item, str):
            questions.excluded[item] += 1
        else:
            items.append(item)

    return items


def gold_ranks(prober: Prober, items: list[Item]) -> list[int]:
    """Rank the gold token at each mask over the vocabulary subset, from 1.

    The rank is 1 + the number of candidates with a higher logit.
    """
    model = prober.model
    candidates = torch.from_numpy(prober.candidates).to(model.device)
    sentences = sentences_from_lists({"ids": [item.ids for item in items]})
    ranks = [0] * len(items)

    with model.evaluating(), torch.no_grad():
        for rows in plan_batches(sentences.ids.lengths(np.arange(len(items))), BATCH):
            batch = assemble(sentences, rows, Position(), prober.tokenizer.pad_token_id or 0)
            hidden_RSH = model.encode(model.pack(batch))

            # A batch has its items in another order: `numbers` says which ones.
            numbers = batch.key_N.tolist()
            mask_positions = np.asarray([items[number].mask_position for number in numbers])
            position_M = torch.from_numpy(batch.start_N + mask_positions)
            hidden_MH = hidden_RSH.reshape(-1, model.hidden_size)[position_M]
            logits_MV = model.logits(hidden_MH).float()

            gold_ids = [[items[number].gold] for number in numbers]
            gold_M1 = torch.tensor(gold_ids, device=model.device)
            better_M = (logits_MV[:, candidates] > logits_MV.gather(1, gold_M1)).sum(1)
            for number, count in zip(numbers, better_M.tolist(), strict=True):
                ranks[number] = count + 1

    return ranks


def scores(ranks: list[int]) -> dict[str, float]:
    """Compute P@1, P@10 and mean reciprocal rank."""
    array = np.asarray(ranks, np.float64)
    return {
        "p_at_1": float((array <= 1).mean()),
        "p_at_10": float((array <= 10).mean()),
        "mrr": float((1 / array).mean()),
    }


def evaluate_lama(model: MaskedLm, tokenizer: Tokenizer, options: Options) -> dict[str, Any]:
    """Score a model on LAMA probes.

    The result has macro and micro scores, scores per relation, what was excluded and which
    relations have no file.
    """
    prober = Prober(model, tokenizer, options.common_vocab)
    result = score_questions(prober, collect(prober, options))
    return result | {"uhn": "string match only" if options.uhn else "off"}


def score_questions(prober: Prober, questions: Questions) -> dict[str, Any]:
    """Score one model on collected questions."""
    relation_to_ranks = {
        name: gold_ranks(prober, items) for name, items in questions.items.items() if items
    }

    per_relation = {
        name: {"n": len(ranks), "type": questions.types[name], **scores(ranks)}
        for name, ranks in relation_to_ranks.items()
    }
    all_ranks = [rank for ranks in relation_to_ranks.values() for rank in ranks]

    # Macro: relations count alike, however many items they have. Micro: items count alike.
    macro: dict[str, float] | None = None
    if all_ranks:
        macro = {
            name: float(np.mean([row[name] for row in per_relation.values()]))
            for name in ("p_at_1", "p_at_10", "mrr")
        }

    return {
        "macro": macro,
        "micro": scores(all_ranks) if all_ranks else None,
        "num_items": len(all_ranks),
        "num_relations": len(per_relation),
        "relations": per_relation,
        "relations_without_items": sorted(set(questions.items) - set(per_relation)),
        "missing_relations": questions.missing,
        "excluded": dict(sorted(questions.excluded.items())),
        "candidates": len(prober.candidates),
    }


def probe(model_name: str, device: str, options: Options) -> dict[str, Any]:
    """Load a model and probe it."""
    model = load_pretrained(model_name, pick_device(device))
    return evaluate_lama(model, load_tokenizer(model_name), options)


def readable(result: dict[str, Any]) -> str:
    """Return the result as a few lines of text."""
    lines = [_score_line(name, row["n"], row) for name, row in result["relations"].items()]
    for name in ("macro", "micro"):
        if result[name]:
            lines.append(_score_line(name, result["num_items"], result[name]))
    lines.append(f"ranked over {result['candidates']} tokens; UHN: {result['uhn']}")

    if result["excluded"]:
        reasons = [f"{count} {reason}" for reason, count in result["excluded"].items()]
        lines.append("excluded: " + ", ".join(reasons))
    for title, key in (
        ("without a probe file", "missing_relations"),
        ("without an item", "relations_without_items"),
    ):
        if result[key]:
            lines.append(f"relations {title}: {', '.join(result[key])}")

    return "\n".join(lines)


def _score_line(name: str, num_items: int, row: dict[str, Any]) -> str:
    return (
        f"{name:8} n {num_items:5}  P@1 {row['p_at_1']:.3f}  P@10 {row['p_at_10']:.3f}  "
        f"MRR {row['mrr']:.3f}"
    )

"""LAMA probes (Petroni et al. 2019) in their published file format.

An item counts only if its object is one token of the model (after a space, in RoBERTa) and in the common vocabulary;
pairs are de-duplicated; candidates are ranked at the mask over the vocabulary subset. The score is the unweighted
mean over relations.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trelm_train.data.loader import Packing, Position, assemble, plan_batches, sentences_from_lists
from trelm_train.errors import ConfigError
from trelm_train.model.masked_lm import MaskedLm, load_pretrained, load_tokenizer, pick_device

BATCH = Packing(max_tokens=128, batch_tokens=4096, limit=512)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Where the probes are and which of them count."""

    probes: Path
    relations: Path
    common_vocab: Path | None = None
    uhn: bool = False  # drop items whose object is part of the subject (string match only)
    limit: int = 0  # items per relation; 0: all


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question: token ids with a mask at `mask_position`, and the gold id."""

    ids: list[int]
    mask_position: int
    gold: int


@dataclass(slots=True)
class Questions:
    """Items by relation, and what was left out."""

    items: dict[str, list[Item]] = field(default_factory=dict)
    excluded: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file.

    Raises:
        ConfigError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); is it compressed?"
        ) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{path}:{number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{path}:{number}: not a JSON object")
            rows.append(row)
    return rows


class Prober:
    """A model, its tokenizer and the vocabulary subset that answers are ranked over."""

    def __init__(self, model: MaskedLm, tokenizer: Any, common_vocab: Path | None) -> None:  # noqa: ANN401
        self.model, self.tokenizer = model, tokenizer
        if common_vocab is None:
            special = set(tokenizer.all_special_ids)
            ids: Iterable[int] = (
                i for i in range(min(len(tokenizer), model.config.vocab_size)) if i not in special
            )
        else:
            try:
                words = common_vocab.read_text(encoding="utf-8").split("\n")
            except OSError as error:
                raise ConfigError(f"{common_vocab}: cannot read it ({error.strerror})") from error
            ids = (
                token for word in words if word and (token := self.single_token(word)) is not None
            )
        self.candidates = np.unique(np.fromiter(ids, np.int64))
        if not len(self.candidates):
            raise ConfigError(f"{common_vocab}: holds no single token of this model")

    def single_token(self, word: str) -> int | None:
        """The id of a word that is one known token in running text."""
        text = self.model.family.word_prefix + word
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return int(ids[0]) if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id else None

    def item(self, template: str, row: dict[str, Any]) -> Item | str:
        """The question of a row, or the reason why it does not count."""
        gold = self.single_token(str(row["obj_label"]))
        if gold is None:
            return "object_not_one_token"
        if gold not in self.candidates:
            return "object_not_in_common_vocab"
        text = template.replace("[X]", str(row["sub_label"])).replace(
            "[Y]", self.tokenizer.mask_token
        )
        ids = self.tokenizer(text)["input_ids"]
        if ids.count(self.tokenizer.mask_token_id) != 1:
            return "not_one_mask"
        if len(ids) > self.model.max_tokens:
            return "too_long"
        return Item(ids=ids, mask_position=ids.index(self.tokenizer.mask_token_id), gold=gold)


def skip_reason(row: dict[str, Any], seen: set[tuple[str, str]], *, uhn: bool) -> str:
    """Why a row does not count before it is tokenised; empty if it does."""
    if "sub_label" not in row or "obj_label" not in row:
        return "no_label"
    votes = Counter(str(judgment.get("judgment", "")) for judgment in row.get("judgments", []))
    if votes["no"] > votes["yes"]:
        return "judged_wrong"
    pair = (str(row["sub_label"]), str(row["obj_label"]))
    if pair in seen:
        return "duplicate"
    seen.add(pair)
    if uhn and pair[1].casefold() in pair[0].casefold():
        return "uhn_string"
    return ""


def collect(prober: Prober, options: Options) -> Questions:
    """Every question that counts, by relation; relations without a file are named.

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
        questions.items[name] = []
        seen: set[tuple[str, str]] = set()
        for row in read_jsonl(path):
            if options.limit and len(questions.items[name]) >= options.limit:
                break
            reason = skip_reason(row, seen, uhn=options.uhn)
            item = reason or prober.item(relation["template"], row)
            if isinstance(item, str):
                questions.excluded[item] += 1
            else:
                questions.items[name].append(item)
    if not questions.items:
        raise ConfigError(
            f"{options.probes}: no file P….jsonl for any relation of {options.relations}"
        )
    return questions


def gold_ranks(prober: Prober, items: list[Item]) -> list[int]:
    """Rank (from 1) of the gold token at each mask, over the vocabulary subset."""
    model = prober.model
    candidates = torch.from_numpy(prober.candidates).to(model.device)
    sentences = sentences_from_lists({"ids": [item.ids for item in items]})
    ranks = [0] * len(items)
    with model.evaluating(), torch.no_grad():
        for rows in plan_batches(sentences.ids.lengths(np.arange(len(items))), BATCH):
            batch = assemble(sentences, rows, Position(), prober.tokenizer.pad_token_id or 0)
            hidden_RSH = model.encode(model.pack(batch))
            numbers = batch.key_N.tolist()
            at = batch.start_N + np.asarray([items[number].mask_position for number in numbers])
            logits_MV = model.logits(
                hidden_RSH.reshape(-1, model.hidden_size)[torch.from_numpy(at)]
            ).float()
            gold_M1 = torch.tensor(
                [[items[number].gold] for number in numbers], device=model.device
            )
            better = (logits_MV[:, candidates] > logits_MV.gather(1, gold_M1)).sum(1)
            for number, count in zip(numbers, better.tolist(), strict=True):
                ranks[number] = count + 1
    return ranks


def scores(ranks: list[int]) -> dict[str, float]:
    """P@1, P@10 and mean reciprocal rank."""
    array = np.asarray(ranks, np.float64)
    return {
        "p_at_1": float((array <= 1).mean()),
        "p_at_10": float((array <= 10).mean()),
        "mrr": float((1 / array).mean()),
    }


def evaluate_lama(model: MaskedLm, tokenizer: Any, options: Options) -> dict[str, Any]:  # noqa: ANN401
    """Macro and micro scores, per relation, with what was excluded and which relations have no file."""
    prober = Prober(model, tokenizer, options.common_vocab)
    result = score_questions(prober, collect(prober, options))
    return result | {"uhn": "string match only" if options.uhn else "off"}


def score_questions(prober: Prober, questions: Questions) -> dict[str, Any]:
    """Scores of one model on collected questions."""
    relation_to_ranks = {
        name: gold_ranks(prober, items) for name, items in questions.items.items() if items
    }
    per_relation = {
        name: {"n": len(ranks), "type": questions.types[name], **scores(ranks)}
        for name, ranks in relation_to_ranks.items()
    }
    every = [rank for ranks in relation_to_ranks.values() for rank in ranks]
    names = ("p_at_1", "p_at_10", "mrr")
    macro = (
        {name: float(np.mean([row[name] for row in per_relation.values()])) for name in names}
        if every
        else None
    )
    return {
        "macro": macro,
        "micro": scores(every) if every else None,
        "num_items": len(every),
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
    """The result as a few lines of text."""
    lines = []
    for name, row in result["relations"].items():
        lines.append(
            f"{name:8} n {row['n']:5}  P@1 {row['p_at_1']:.3f}  P@10 {row['p_at_10']:.3f}  MRR {row['mrr']:.3f}"
        )
    for name in ("macro", "micro"):
        if result[name]:
            row = result[name]
            lines.append(
                f"{name:8} n {result['num_items']:5}  P@1 {row['p_at_1']:.3f}  P@10 {row['p_at_10']:.3f}  MRR {row['mrr']:.3f}"
            )
    lines.append(f"ranked over {result['candidates']} tokens; UHN: {result['uhn']}")
    if result["excluded"]:
        lines.append(
            "excluded: "
            + ", ".join(f"{count} {reason}" for reason, count in result["excluded"].items())
        )
    for title, key in (
        ("without a probe file", "missing_relations"),
        ("without an item", "relations_without_items"),
    ):
        if result[key]:
            lines.append(f"relations {title}: {', '.join(result[key])}")
    return "\n".join(lines)

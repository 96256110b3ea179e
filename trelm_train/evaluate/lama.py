"""Ask LAMA probes (Petroni et al. 2019) in their published file format.

An item counts only if its object is one token of the model (after a space, in RoBERTa) and in the
common vocabulary; pairs are de-duplicated; candidates are ranked at the mask over the vocabulary
subset, ties against the model (`answers`). The score is the unweighted mean over relations.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from schemas.array_types import I64
from schemas.bounded_lines import bounded_lines
from schemas.errors import ConfigError
from schemas.regular_files import open_regular
from trelm_train.evaluate.answers import Answers, Cloze, ask
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.model.protocols import Tokenizer

# An id that fits the columns of QIDs; a longer one is not Wikidata's.
QID = re.compile(r"Q([0-9]{1,9})")


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
    """Hold one question, and what its row says of it."""

    cloze: Cloze
    sub_label: str
    obj_label: str
    # As numbers, Q42 as 42; None where the row names none, as in Google-RE.
    sub_qid: int | None = None
    obj_qid: int | None = None
    uuid: str | None = None


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
    templates: dict[str, str] = field(default_factory=dict)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSON-lines file.

    Raises:
        ConfigError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    try:
        with open_regular(path) as file:
            return [
                _row(line, f"{path}:{number}") for number, line in bounded_lines(file, str(path))
            ]
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read it ({error.strerror}); check the path and its permissions"
        ) from error


def _row(line: bytes, position: str) -> dict[str, Any]:
    """Return the row of one line; `position` is file and line, for errors.

    Raises:
        ConfigError: it is no JSON object.
    """
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{position}: not UTF-8 text ({error.reason} at byte {error.start} of the line); "
            "is it compressed?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{position}: not JSON ({error}); write one JSON object per line"
        ) from error
    if not isinstance(row, dict):
        raise ConfigError(f"{position}: not a JSON object; write one JSON object per line")
    return row


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
        # Some models have more rows than their tokenizer has tokens, others fewer.
        size = min(len(self.tokenizer), self.model.config.vocab_size)
        return [number for number in range(size) if number not in special]

    def _ids_of_words(self, common_vocab: Path) -> list[int]:
        """Return the ids of the words in a file that are one token.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            with open_regular(common_vocab) as file:
                lines = bounded_lines(file, str(common_vocab))
                words = [line.decode().rstrip("\r\n") for _, line in lines]
        except OSError as error:
            raise ConfigError(
                f"{common_vocab}: cannot read it ({error.strerror}); check the path and its permissions"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{common_vocab}: not UTF-8 text ({error.reason}); is it compressed?"
            ) from error

        ids = [self.single_token(word) for word in words]
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

        # The subject first: one that holds "[Y]" gives two masks, and is refused below.
        text = template.replace("[X]", str(row["sub_label"]))
        text = text.replace("[Y]", self.tokenizer.mask_token)
        ids = self.tokenizer(text)["input_ids"]
        # A template without [Y], or with the mask token in the subject.
        if ids.count(self.tokenizer.mask_token_id) != 1:
            return "not_one_mask"
        if len(ids) > self.model.max_tokens:
            return "too_long"

        mask_position = ids.index(self.tokenizer.mask_token_id)
        return Item(
            cloze=Cloze(ids=ids, mask_position=mask_position, gold=gold),
            sub_label=str(row["sub_label"]),
            obj_label=str(row["obj_label"]),
            sub_qid=qid_of(row.get("sub_uri")),
            obj_qid=qid_of(row.get("obj_uri")),
            uuid=str(row["uuid"]) if row.get("uuid") is not None else None,
        )


def qid_of(value: object) -> int | None:
    """Return the number of a QID such as "Q42", or None where this is none."""
    match = QID.fullmatch(str(value))
    return int(match[1]) if match else None


def skip_reason(row: dict[str, Any], pairs: set[tuple[str, str]], *, uhn: bool) -> str:
    """Return the reason why a row does not count, or an empty text, before it is tokenised.

    `pairs` holds the (subject, object) pairs of earlier rows; the pair of this row is added.
    """
    if "sub_label" not in row or "obj_label" not in row:
        return "no_label"

    # Google-RE: several people have judged each row. As in LAMA's own filter, whatever is not "yes"
    # ("no", "skip", nothing, what is no judgment at all) counts as a no.
    given = row.get("judgments", [])
    judgments = [
        judgment.get("judgment") if isinstance(judgment, dict) else None
        for judgment in (given if isinstance(given, list) else [given])
    ]
    num_yes = judgments.count("yes")
    if len(judgments) - num_yes > num_yes:
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
        questions.templates[name] = str(relation["template"])
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


def ask_all(prober: Prober, questions: Questions, *, num_top: int = 0) -> dict[str, Answers]:
    """Ask the items of every relation that has any, with the `num_top` best answers to each.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    pad_id = prober.tokenizer.pad_token_id or 0
    return {
        name: ask(prober.model, pad_id, prober.candidates, [item.cloze for item in items], num_top)
        for name, items in questions.items.items()
        if items
    }


def scores(rank_M: I64) -> dict[str, float]:
    """Compute P@1, P@10 and mean reciprocal rank of at least one rank."""
    return {
        "p_at_1": float((rank_M <= 1).mean()),
        "p_at_10": float((rank_M <= 10).mean()),
        "mrr": float((1 / rank_M).mean()),
    }


def evaluate_lama(model: MaskedLm, tokenizer: Tokenizer, options: Options) -> dict[str, Any]:
    """Score a model on LAMA probes.

    The result has macro and micro scores, scores per relation, what was excluded and which
    relations have no file.

    Raises:
        ConfigError: a file is unreadable, or no relation has a file.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    prober = Prober(model, tokenizer, options.common_vocab)
    questions = collect(prober, options)
    return score_answers(prober, questions, ask_all(prober, questions)) | {"uhn": uhn_of(options)}


def uhn_of(options: Options) -> str:
    """Say which part of UHN was applied."""
    return "string match only" if options.uhn else "off"


def score_answers(
    prober: Prober, questions: Questions, answers: dict[str, Answers]
) -> dict[str, Any]:
    """Score the answers of one model to collected questions."""
    per_relation = {
        name: {
            "n": len(of_relation.rank_M),
            "type": questions.types[name],
            **scores(of_relation.rank_M),
        }
        for name, of_relation in answers.items()
    }
    # The empty array is for probes without any item.
    all_ranks = np.concatenate(
        [np.zeros(0, np.int64), *(of_relation.rank_M for of_relation in answers.values())]
    )

    # Macro: relations count alike, however many items they have. Micro: items count alike.
    macro: dict[str, float] | None = None
    if len(all_ranks):
        macro = {
            name: float(np.mean([row[name] for row in per_relation.values()]))
            for name in ("p_at_1", "p_at_10", "mrr")
        }

    return {
        "macro": macro,
        "micro": scores(all_ranks) if len(all_ranks) else None,
        "num_items": len(all_ranks),
        "num_relations": len(per_relation),
        "relations": per_relation,
        "relations_without_items": sorted(set(questions.items) - set(per_relation)),
        "missing_relations": questions.missing,
        "excluded": dict(sorted(questions.excluded.items())),
        "candidates": len(prober.candidates),
    }


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

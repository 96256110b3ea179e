"""Ask LAMA probes (Petroni et al. 2019) in their published file format.

An item counts only if its object is one token of the model (after a space, in RoBERTa) and in the
common vocabulary; pairs are de-duplicated; candidates are ranked at the mask over the vocabulary
subset, ties against the model (`answers`). The score is the unweighted mean over relations
(`lama_report`). UHN drops items whose answer can be read off the name (`lama_uhn`). Objects of
several tokens have a protocol of their own (`lama_multi_token`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from trelm_train.evaluate.answers import Answers, ask
from trelm_train.evaluate.lama_files import ProbeFile, ProbeFiles, find_files, has_mark, read_jsonl
from trelm_train.evaluate.lama_multi_token import ask_multi_token
from trelm_train.evaluate.lama_report import (
    Labels,
    filtered_means,
    grouped,
    means,
    readable,
    scores,
)
from trelm_train.evaluate.lama_rows import (
    ANSWER,
    ProbeRow,
    qid_of,
    right_objects,
    row_of,
    sentence_reason,
    skip_reason,
)
from trelm_train.evaluate.lama_uhn import NOUN_OF, NameCloze, name_cloze_of, uhn_label
from trelm_train.evaluate.prober import Item, Prober
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.model.protocols import Tokenizer

# What others take from here, wherever it is written.
__all__ = [
    "Item",
    "Options",
    "Prober",
    "Questions",
    "ask_all",
    "collect",
    "evaluate_lama",
    "qid_of",
    "read_jsonl",
    "readable",
    "score_answers",
    "scores",
    "skip_reason",
]
MARKED = "files_with_byte_order_mark"
# Rows whose names are asked about together.
NAMES_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Say where the probes are, which of them count, and what is asked besides."""

    probes: Path
    # What the folder is called; empty: by its own name.
    name: str = ""
    # None: what lies beside the probes, where a template is needed.
    relations: Path | None = None
    common_vocab: Path | None = None
    # Empty, "string", or the masked LM of the name cloze: which items UHN drops.
    uhn: str = ""
    # Items per relation; 0: all.
    limit: int = 0
    # Empty, "all-masks" or "left-to-right".
    multi_token: str = ""


@dataclass(slots=True)
class Questions:
    """Hold items by relation, and what was left out."""

    items: dict[str, list[Item]] = field(default_factory=dict)
    # Rows that count before their object is tokenised, for objects of several tokens.
    rows: dict[str, list[ProbeRow]] = field(default_factory=dict)
    # All objects of each relation, and those that are right for each of its subjects.
    objects: dict[str, list[str]] = field(default_factory=dict)
    right: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    # Reason → rows that do not count for it.
    excluded: Counter[str] = field(default_factory=Counter)
    # What a reader should know, and how often.
    notes: Counter[str] = field(default_factory=Counter)
    found: ProbeFiles = field(default_factory=ProbeFiles)

    @property
    def files(self) -> dict[str, ProbeFile]:
        """Return the file of each relation."""
        return {file.relation: file for file in self.found.files}


# Says whether a row of a file is read at all.
KeepRow = Callable[[ProbeFile, dict[str, Any]], bool]


def collect(
    prober: Prober,
    options: Options,
    names: NameCloze | None = None,
    keep: KeepRow = lambda _file, _row: True,
) -> Questions:
    """Read every question that counts, by relation; relations without a file are named.

    Args:
        prober: of the model that is asked.
        options: which probes, and which items of them.
        names: drops items whose name gives the object away.
        keep: leaves out rows before they are counted or limited.

    Raises:
        ConfigError: a file is unreadable, or no relation has a file.
        NotFiniteError: the model of the name cloze gives NaN or infinite logits.
    """
    questions = Questions(found=find_files(options.probes, options.relations, options.name))
    questions.notes.update(prober.notes)
    if questions.found.relations is not None:
        questions.notes[MARKED] += has_mark(questions.found.relations)
    collector = _Collector(
        prober=prober, options=options, names=names, keep=keep, questions=questions
    )
    for file in questions.found.files:
        collector.add(file)
    return questions


@dataclass(frozen=True, kw_only=True, slots=True)
class _Collector:
    """Read the items of one relation after the other."""

    prober: Prober
    options: Options
    names: NameCloze | None
    keep: KeepRow
    questions: Questions

    def add(self, file: ProbeFile) -> None:
        """Add the items of a relation; count what is left out.

        Raises:
            ConfigError: the file is unreadable.
        """
        questions, limit = self.questions, self.options.limit
        questions.notes[MARKED] += has_mark(file.path)
        read = read_jsonl(file.path)
        right = right_objects(read)
        objects = [label for of_subject in right.values() for label in of_subject]
        if file.template is None:
            # Who is asked about in a sentence that stands alone is not known.
            right = {}
            objects = [str(row["obj_label"]) for row in read if not sentence_reason(row)]
        rows, items = list[ProbeRow](), list[Item]()
        questions.rows[file.relation], questions.items[file.relation] = rows, items
        questions.objects[file.relation] = list(dict.fromkeys(objects))
        questions.right[file.relation] = right

        kept = [row for row in read if self.keep(file, row)]
        for row in self._not_named(file, self._counting(file, kept)):
            # The limit counts items that are asked: the same ones at every evaluation.
            if limit and len(items) >= limit:
                break
            if not limit or len(rows) < limit:
                rows.append(row)
            item = self.prober.question(row, right.get(row.subject, ()))
            if isinstance(item, str):
                questions.excluded[item] += 1
            else:
                items.append(item)
        self._note(items)

    def _counting(self, file: ProbeFile, read: list[dict[str, Any]]) -> Iterator[ProbeRow]:
        """Yield the rows of a file that count before a model is asked; count the others."""
        pairs: set[tuple[str, str]] = set()
        uhn, uncased = bool(self.options.uhn), self.prober.is_uncased
        for row in read:
            reason = (
                sentence_reason(row)
                if file.template is None
                else skip_reason(row, pairs, uhn=uhn, uncased=uncased)
            )
            if reason:
                self.questions.excluded[reason] += 1
            else:
                yield row_of(file.template, row)

    def _not_named(self, file: ProbeFile, rows: Iterator[ProbeRow]) -> Iterator[ProbeRow]:
        """Yield the rows whose object the model of the name cloze does not name; count the others."""
        if self.names is None or file.relation not in NOUN_OF:
            yield from rows
            return
        while some := list(islice(rows, NAMES_AT_ONCE)):
            self.names.prepare(file.relation, some)
            for row in some:
                if self.names.gives_away(file.relation, row):
                    self.questions.excluded["uhn_name"] += 1
                else:
                    yield row

    def _note(self, items: list[Item]) -> None:
        """Count what a reader of the scores should know."""
        notes = self.questions.notes
        notes["sentences_asked_at_the_first_of_several_masks"] += sum(
            item.row.sentence.count(ANSWER) > 1 for item in items
        )
        pairs = [
            (item.row.sub_label.lower(), item.row.obj_label.lower())
            for item in items
            if not item.row.has_own_sentence
        ]
        # A model that lower-cases has none: they are the same question to it, and excluded.
        notes["items_that_differ_from_another_in_case_alone"] += len(pairs) - len(set(pairs))


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


def evaluate_lama(model: MaskedLm, tokenizer: Tokenizer, options: Options) -> dict[str, Any]:
    """Score a model on LAMA probes.

    The result has macro and micro scores, scores per relation and group, what was excluded and which
    relations have no file.

    Raises:
        ConfigError: a file is unreadable, or no relation has a file.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    prober = Prober(model, tokenizer, options.common_vocab)
    questions = collect(prober, options, name_cloze_of(options.uhn, model.device))
    result = score_answers(prober, questions, ask_all(prober, questions))
    return result | options_of(prober, questions, options)


def options_of(prober: Prober, questions: Questions, options: Options) -> dict[str, Any]:
    """Return what options add to a result: which UHN it is, and the other protocol's scores.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    added: dict[str, Any] = {
        "uhn": uhn_label(options.uhn),
        # UHN is defined for questions about a named subject.
        "relations_without_uhn": [
            file.relation for file in questions.found.files if options.uhn and file.template is None
        ],
    }
    if options.multi_token:
        added["multi_token"] = ask_multi_token(
            prober, questions.rows, questions.objects, questions.right, options.multi_token
        )
    return added


def score_answers(
    prober: Prober,
    questions: Questions,
    answers: dict[str, Answers],
    labels: Mapping[str, Labels] | None = None,
) -> dict[str, Any]:
    """Score the answers of one model to collected questions.

    Args:
        prober: who asked.
        questions: what was asked.
        answers: by relation.
        labels: groups of items beside those by type: name of the grouping, then labels by relation.
    """
    files, ranks = questions.files, {name: one.rank_M for name, one in answers.items()}
    whole = means(ranks)
    others = {name: [len(tokens) for tokens in one.others] for name, one in answers.items()}
    by_type = {
        name: [files[name].type or "not said"] * len(rank_M) for name, rank_M in ranks.items()
    }
    corpora = list(dict.fromkeys(file.corpus for file in files.values()))
    return {
        **whole,
        "filtered": filtered_means(
            {name: one.filtered_rank_M for name, one in answers.items()}, others
        ),
        "relations": {
            name: {"n": len(rank_M), "type": files[name].type, **scores(rank_M)}
            for name, rank_M in ranks.items()
        },
        # Published scores are of one corpus each.
        "corpora": {
            corpus: means({name: ranks[name] for name in ranks if files[name].corpus == corpus})
            for corpus in (corpora if len(corpora) > 1 else ())
        },
        "groups": {
            title: grouped(ranks, of_title)
            for title, of_title in {"type": by_type, **(labels or {})}.items()
        },
        "relations_without_items": sorted(set(questions.items) - set(ranks)),
        "missing_relations": questions.found.missing_relations,
        "missing_corpora": questions.found.missing_corpora,
        "files_without_template": questions.found.without_template,
        "excluded": dict(sorted(questions.excluded.items())),
        "notes": {name: count for name, count in sorted(questions.notes.items()) if count},
        "candidates": len(prober.candidates),
    }

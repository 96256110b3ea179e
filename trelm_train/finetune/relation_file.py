"""Read rows of relation classification in three forms, told apart by their content.

- TACRED's (Zhang et al. 2017): JSON rows of tokens, with inclusive ends of subject and object.
- SemEval-2010 task 8 (Hendrickx et al. 2010) as published: sentences with <e1> and <e2>.
- FewRel (Han et al. 2018): a JSON object of relations, each with its rows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from trelm_train.finetune.examples import Example, SourceFile, Span
from trelm_train.finetune.files import Row, checked_text, is_json, json_rows, read_text

TACRED_FORMAT = "rows in TACRED's form"
SEMEVAL = "SemEval-2010 task 8, original form"
FEWREL = "FewRel rows, as plain classification (a stand-in: FewRel's own task is few-shot)"
SUBJECT, OBJECT = "subject", "object"
# As SpanBERT's fine-tuning of TACRED (Joshi et al. 2020) writes brackets.
_BRACKETS = {
    "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}",
}  # fmt: skip
_SENTENCE = re.compile(r'(\d+)\t"(.*)"\s*')
_TAG = re.compile(r"</?e[12]>")
_TAGS = ("<e1>", "</e1>", "<e2>", "</e2>")


def read_relations(path: Path) -> SourceFile:
    """Read a file of relation rows, in their order.

    Raises:
        ConfigError: it cannot be read, is of none of the forms, or a row is wrong; names the row.
    """
    text = read_text(path)
    if not is_json(text):
        return SourceFile(path=path, format=SEMEVAL, examples=list(_semeval(text, str(path))))

    rows = json_rows(text, str(path))
    if rows[0].group:
        return SourceFile(path=path, format=FEWREL, examples=[fewrel_example(row) for row in rows])
    examples = [tacred_example(row) for row in rows]
    return SourceFile(path=path, format=TACRED_FORMAT, examples=examples)


def tacred_example(row: Row) -> Example:
    """Turn a row of TACRED's form into an example; types are read where it has them.

    Raises:
        ConfigError: a key is missing, or a span is outside of the tokens.
    """
    tokens = row.texts("token")
    ranges, types = [], []
    for side in ("subj", "obj"):
        # Ends are inclusive.
        ranges.append((row.number(f"{side}_start"), row.number(f"{side}_end") + 1))
        types.append(row.text(f"{side}_type") if f"{side}_type" in row.values else "")
    return _of_tokens(row, tokens, ranges, types, row.text("relation"))


def fewrel_example(row: Row) -> Example:
    """Turn a row of FewRel into an example; of an entity with several spans the first counts.

    Raises:
        ConfigError: a key is missing, or a span is outside of the tokens.
    """
    return _of_tokens(
        row, row.texts("tokens"), [_indexes(row, "h"), _indexes(row, "t")], ["", ""], row.group
    )


def _indexes(row: Row, key: str) -> tuple[int, int]:
    """Return the first span of `[name, QID, [[token indexes], …]]`, half open."""
    value: Any = row.get(key)
    try:
        first = value[2][0]
        start, last = first[0], first[-1]
    except (TypeError, LookupError):
        start = last = None
    if type(start) is not int or type(last) is not int:
        raise ConfigError(
            f"{row.position}: {key!r} must be [name, QID, [[token indexes], …]], but is {value!r:.80}"
        )
    return start, last + 1


def _of_tokens(
    row: Row,
    tokens: list[str],
    ranges: Sequence[tuple[int, int]],
    types: Sequence[str],
    relation: str,
) -> Example:
    words = [_BRACKETS.get(token, token) for token in tokens]
    # Where a word begins when they are joined by spaces.
    begins = [0, *itertools.accumulate(len(word) + 1 for word in words)]
    spans = []
    for kind, (start, end), entity_type in zip((SUBJECT, OBJECT), ranges, types, strict=True):
        if not 0 <= start < end <= len(words):
            raise ConfigError(
                f"{row.position}: the {kind} is tokens {start} to {end - 1}, but there are "
                f"{len(words)}, counted from 0; ends are inclusive"
            )
        last = begins[end - 1] + len(words[end - 1])
        spans.append(Span(start=begins[start], end=last, kind=kind, type=entity_type))
    return Example(text=" ".join(words), spans=tuple(spans), labels=(relation,))


def _semeval(text: str, name: str) -> Iterator[Example]:
    """Yield the examples of SemEval's own form: a sentence, its relation, a comment, a blank line.

    Raises:
        ConfigError: a line is something else; names the line.
    """
    # Not `splitlines`: it takes some characters inside of a sentence for line ends.
    lines = enumerate((line.strip() for line in text.split("\n")), 1)
    for number, line in lines:
        if not line or line.startswith("Comment"):
            continue
        match = _SENTENCE.fullmatch(line)
        if match is None:
            raise ConfigError(
                f"{name}:{number}: neither JSON nor SemEval's form, which is a number, a tab and a "
                f"sentence in quotation marks; it is {line!r:.60}"
            )
        relation = next(lines, (0, ""))[1]
        if not relation or relation.startswith("Comment") or _SENTENCE.fullmatch(relation):
            raise ConfigError(
                f"{name}:{number}: no relation on the next line; give the file with its labels"
            )
        sentence, spans = _untagged(match[2], f"{name}:{number}")
        yield Example(
            text=checked_text(sentence, "the sentence", f"{name}:{number}"),
            spans=spans,
            labels=(relation,),
        )


def _untagged(sentence: str, position: str) -> tuple[str, tuple[Span, Span]]:
    """Take the tags out of a sentence, and return where they stood."""
    if any(sentence.count(tag) != 1 for tag in _TAGS):
        raise ConfigError(f"{position}: must have <e1>, </e1>, <e2> and </e2> once each")
    place: dict[str, int] = {}
    removed = 0
    for match in _TAG.finditer(sentence):
        place[match[0]] = match.start() - removed
        removed += len(match[0])
    spans = [
        Span(start=place[f"<{tag}>"], end=place[f"</{tag}>"], kind=kind)
        for tag, kind in (("e1", SUBJECT), ("e2", OBJECT))
    ]
    if any(span.start >= span.end for span in spans):
        raise ConfigError(f"{position}: a tag ends before it begins, or marks nothing")
    return _TAG.sub("", sentence), (spans[0], spans[1])

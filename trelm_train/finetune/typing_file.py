"""Read entity typing rows as ERNIE wrote them (Zhang et al. 2019): Open Entity, FIGER, and their like.

A row is `{"sent", "start", "end", "labels", "ents"}`. Offsets count characters, the end is not in the
span. `ents` are ERNIE's links, which no plain model reads.
"""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigError
from trelm_train.finetune.examples import Example, SourceFile, Span
from trelm_train.finetune.files import Row, is_json, json_rows, read_text

FORMAT = "ERNIE's typing rows"
ENTITY = "entity"


def read_typing(path: Path) -> SourceFile:
    """Read a file of typing rows, in their order.

    Raises:
        ConfigError: it cannot be read, or a row is wrong; names the row.
    """
    text = read_text(path)
    if not is_json(text):
        raise ConfigError(f"{path}: not JSON; write a list of rows, or one row per line")
    examples = [example_of(row) for row in json_rows(text, str(path))]
    return SourceFile(path=path, format=FORMAT, examples=examples)


def example_of(row: Row) -> Example:
    """Turn a row into an example.

    Raises:
        ConfigError: a key is missing, or offsets are outside of the sentence.
    """
    sentence = row.text("sent")
    start, end = row.number("start"), row.number("end")
    # An empty span is in ERNIE's files; it is marked and scored like any other.
    if not 0 <= start <= end <= len(sentence):
        raise ConfigError(
            f"{row.position}: the span [{start}, {end}) is not inside the sentence of "
            f"{len(sentence)} characters; offsets count characters, and `end` is behind the last one"
        )
    # A label counts once; in the order of the row, so that files can be compared.
    labels = tuple(dict.fromkeys(row.texts("labels")))
    span = Span(start=start, end=end, kind=ENTITY)
    return Example(text=sentence, spans=(span,), labels=labels)

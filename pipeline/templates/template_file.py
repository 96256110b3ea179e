"""Read templates from a file.

Goes in: JSONL, `{"relation": "P19", "template": "The life of [X] began in [Y]."}`, with optional
fields. `held` (true) marks a template that only probes use, never a text to train on; the others
are the reader's business. The relation `distractor` marks sentences that name both and state no
fact. Files of LAMA (`relations.jsonl`) have this form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.engine import files
from pipeline.templates.filling import SLOTS
from pipeline.templates.property_ids import property_number
from schemas.bounded_lines import bounded_lines
from schemas.errors import ConfigError

OWN = Path(__file__).with_name("templates.jsonl")
DISTRACTOR = "distractor"
# A mark inside a template would end a sentence there.
SENTENCE_END = re.compile(r"[.!?…。\n\r\t]")


def read_templates(path: str) -> list[dict[str, Any]]:
    """Return the checked rows of a file.

    Raises:
        ConfigError: names file and line.
    """
    rows = []
    with files.open_read(path) as file:
        for number, line in bounded_lines(file, path):
            rows.append(_checked(line, f"{path}:{number}"))
    return rows


def _checked(line: bytes, position: str) -> dict[str, Any]:
    advice = 'write {"relation": "P19", "template": "The life of [X] began in [Y]."}'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{position}: not JSON ({error}); {advice}") from error
    if not isinstance(row, dict) or not all(
        isinstance(row.get(name), str) for name in ("relation", "template")
    ):
        raise ConfigError(f"{position}: not a relation and a template; {advice}")

    text = row["template"]
    if sorted(SLOTS.findall(text)) != ["X", "Y"]:
        raise ConfigError(f"{position}: {text!r} must have [X] and [Y] once each; {advice}")
    if SENTENCE_END.search(text[:-1]) or text != text.strip():
        raise ConfigError(
            f"{position}: {text!r} must be one sentence on one line, with a full stop only at its end"
        )
    if row["relation"] != DISTRACTOR:
        try:
            property_number(row["relation"])
        except ConfigError as error:
            raise ConfigError(f"{position}: {error}") from error
    return row


def known_and_held(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the templates of one relation that a corpus may use, and those kept for probes.

    A text that is marked `held` once is kept, also where a repeat of it is not marked; without a
    mark the last one is, if there are two or more. So whoever writes texts by a file leaves out what
    whoever asks by it has kept.
    """
    # A dict keeps the order and drops repeats.
    texts = list(dict.fromkeys(row["template"] for row in rows))
    marked = {row["template"] for row in rows if row.get("held")}
    held = [text for text in texts if text in marked]
    if not held and len(texts) > 1:
        held = texts[-1:]
    return [text for text in texts if text not in held], held

"""Fill templates: sentences with [X] for the subject and [Y] for the object. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

SLOTS = re.compile(r"\[([XY])\]")


@dataclass(frozen=True, slots=True)
class Written:
    """Hold a sentence, and the half-open code points of its subject and of its object."""

    text: str
    subject: tuple[int, int]
    object: tuple[int, int]


def fill(template: str, subject: str, object_: str) -> Written:
    """Return the sentence that a template makes of two names."""
    text = ""
    spans = {}
    end = 0
    for slot in SLOTS.finditer(template):
        # Spans are counted in the filled text: the first name moves the second.
        text += template[end : slot.start()]
        name = subject if slot[1] == "X" else object_
        spans[slot[1]] = (len(text), len(text) + len(name))
        text += name
        end = slot.end()
    return Written(text + template[end:], spans["X"], spans["Y"])

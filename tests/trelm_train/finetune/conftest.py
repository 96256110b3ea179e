"""Made-up rows of both tasks: sentences of the trainer's small world, with labels that can be learned."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.trelm_train import world
from tests.trelm_train.evaluate.broken import zeroed
from trelm_train.model.masked_lm import MaskedLm

Row = dict[str, Any]
# More labels for some than for others, so that macro and micro differ.
TYPES = (
    *((name, ["being", "person"]) for name in world.PEOPLE),
    *((name, ["place", "town"]) for name in world.TOWNS),
    *((name, ["place"]) for name in world.COUNTRIES),
)


def typing_rows(number: int, seed: int) -> list[Row]:
    """Rows of spans in the sentences of the world."""
    rng = random.Random(f"typing {seed}")
    labels_of = dict(TYPES)
    rows = []
    for _ in range(number):
        template, (head, _, tail) = rng.choice(world.sentences())
        sentence = template.format(h=head, t=tail)
        name = rng.choice([head, tail])
        start = sentence.index(name)
        rows.append(
            {"sent": sentence, "start": start, "end": start + len(name), "labels": labels_of[name], "ents": []}
        )  # fmt: skip
    return rows


def relation_rows(number: int, seed: int, negative: str = "no_relation") -> list[Row]:
    """Rows of TACRED's form: who lives where, what lies where, and two persons without a relation."""
    rng = random.Random(f"relation {seed}")
    rows = []
    for _ in range(number):
        template, (head, relation, tail) = rng.choice(world.sentences())
        if rng.random() < 0.4:
            template, relation = "{h} and {t} moved last year .", negative
            head, tail = rng.sample(world.PEOPLE, 2)
        tokens: list[str] = []
        place: dict[str, tuple[int, int]] = {}
        for piece in template.split():
            words = {"{h}": head, "{t}": tail}.get(piece, piece).split()
            if piece in ("{h}", "{t}"):
                place[piece] = (len(tokens), len(tokens) + len(words) - 1)
            tokens += words
        rows.append(
            {
                "token": tokens, "relation": relation, "subj_type": "NAME", "obj_type": rng.choice(["NAME", "PLACE"]),
                "subj_start": place["{h}"][0], "subj_end": place["{h}"][1],
                "obj_start": place["{t}"][0], "obj_end": place["{t}"][1],
            }
        )  # fmt: skip
    return rows


def write_list(path: Path, rows: list[Row]) -> Path:
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def typing_files(tmp_path: Path) -> dict[str, Path]:
    sizes = {"train": 40, "dev": 15, "test": 60}
    return {
        name: write_list(tmp_path / f"typing-{name}.json", typing_rows(size, seed))
        for seed, (name, size) in enumerate(sizes.items())
    }


@pytest.fixture
def relation_files(tmp_path: Path) -> dict[str, Path]:
    sizes = {"train": 40, "dev": 15, "test": 60}
    return {
        name: write_list(tmp_path / f"relation-{name}.json", relation_rows(size, seed))
        for seed, (name, size) in enumerate(sizes.items())
    }


@pytest.fixture
def zeroed_path(model: MaskedLm, tokenizer: Any, tmp_path: Path) -> Path:
    """A model whose states are 0 whatever it reads."""
    folder = tmp_path / "zeroed"
    zeroed(model).hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

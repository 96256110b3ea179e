from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trelm_train import world
from trelm_train.compare.plan import Inputs

PLAIN = [
    "routing.policy=full",
    "injection.enabled=false",
    "memory.enabled=false",
    "cka.enabled=false",
]
RELATIONS = {
    "P1": (world.LIVES, "[X] lives in [Y] ."),
    "P2": (world.COUNTRY, "[X] is a town in [Y] ."),
}
TWO_ARMS = {"mlm": PLAIN, "random+10%": ["routing.policy=random"]}
WriteExperiment = Callable[..., Path]


def write_probes(folder: Path, *, of_others: bool = False) -> Path:
    """The world's facts as LAMA probes; each subject has an id. Or the same about other subjects."""
    first, prefix = (1_000, "Old ") if of_others else (0, "")
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"relation": name, "template": template, "type": "N-1"})
        for name, (_, template) in RELATIONS.items()
    ]
    (folder / "relations.jsonl").write_text("\n".join(lines) + "\n")
    for name, (relation, _) in RELATIONS.items():
        rows = [
            json.dumps(
                {
                    "sub_uri": f"Q{first + world.ROW[head]}",
                    "sub_label": prefix + head,
                    "obj_label": tail,
                }
            )
            for head, stated, tail in world.facts()
            if stated == relation
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


NAMES = ("Zenda", "Strelsau", "Hentzau", "Tarlenheim")


def typing_rows(path: Path, num: int = 60) -> Path:
    """Rows whose first word alone tells the label."""
    rows = []
    for at in range(num):
        name, kind = NAMES[at % 4], "place" if at % 2 else "person"
        start = "He" if kind == "person" else "It"
        sent = f"{start} is {name} {at} ."
        rows.append(
            {"sent": sent, "start": len(start) + 4, "end": len(start) + 4 + len(name), "labels": [kind], "ents": []}
        )  # fmt: skip
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def relation_rows(path: Path, num: int = 60) -> Path:
    """Rows in TACRED's form, without types."""
    rows = [
        {
            "token": ["Ada", "met", NAMES[at % 4], str(at)], "subj_start": 0, "subj_end": 0, "obj_start": 2,
            "obj_end": 2, "relation": "no_relation" if at % 3 else "per:knows",
        }
        for at in range(num)
    ]  # fmt: skip
    path.write_text(json.dumps(rows))
    return path


def toml_of(section: str, values: dict[str, Any]) -> str:
    return f"{section}\n" + "".join(
        f"{key} = {json.dumps(value)}\n" for key, value in values.items()
    )


def write_file(
    folder: Path, shards: Path, model: Path, arms: dict[str, list[str]], **changed: Any
) -> Path:
    """An experiment file on the world, with probes and a text of its own; keywords change `[experiment]`."""
    probes = folder / "probes"
    if not probes.exists():
        for name in ("held", "chosen-by"):
            write_probes(probes / name, of_others=name == "chosen-by")
    text = folder / "general.txt"
    text.write_text(
        "\n".join(template.format(h=fact[0], t=fact[2]) for template, fact in world.sentences())
    )

    settings = {
        "name": "tiny", "shards": str(shards), "model": str(model), "baseline": "mlm", "steps": 4,
        "seeds": [0, 1], "budgets": [0.5, 1], "rates": [0.001], "timing_rounds": 1, "timing_steps": 1,
        "validation_sentences": 0, "resamples": 50, "set": ["train.batch_tokens=256", "train.max_tokens=48"],
    } | changed  # fmt: skip
    validation = {"name": "chosen-by", "folder": str(probes / "chosen-by"), "role": "validation"}
    sections = [
        toml_of("[experiment]", settings),
        toml_of("[[probes]]", {"name": "held", "folder": str(probes / "held")}),
        toml_of("[[probes]]", validation),
        toml_of("[[texts]]", {"name": "general", "path": str(text)}),
        *(toml_of("[[arms]]", {"name": name, "set": sets}) for name, sets in arms.items()),
    ]
    path = folder / "experiment.toml"
    path.write_text("\n".join(sections))
    return path


@pytest.fixture
def write_experiment(shards_path: Path, model_path: Path, tmp_path: Path) -> WriteExperiment:
    """`write_file` in this test's folder, with two arms where none are given."""

    def write(arms: dict[str, list[str]] | None = None, **changed: Any) -> Path:
        return write_file(tmp_path, shards_path, model_path, arms or TWO_ARMS, **changed)

    return write


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(shards="s", model="m", questions="q")

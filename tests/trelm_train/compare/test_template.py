"""The experiment files that are shipped, and the page that explains their keys."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.trelm_train.compare.conftest import relation_rows, typing_rows, write_probes
from trelm_train.compare.experiment import (
    Arm,
    ParaphraseSet,
    ProbeSet,
    Settings,
    TaskSet,
    TextSet,
    load_experiment,
)

ARMS = {
    "controlled": [
        "default", "mlm", "facts", "facts-upper", "facts+contrast", "facts+injection", "facts+injection+memory", "facts-ig",
        "facts-random", "facts-top_layers", "asked-all", "asked-long-tail-important", "asked-low-frequency",
        "asked-importance", "asked-high-frequency", "asked-klt", "salient-spans", "dkplm-style", "talk",
    ],
    "routing": [
        "mlm", "full", "upper", "ffn_all", "upper-ig", "upper-random", "top_layers", "upper-ig-tail", "upper-ig-background",
        "tenth-ig", "tenth-random", "upper+contrast", "upper+head", "upper+norms", "upper+embeddings", "upper+attention",
    ],
    "contrast": ["mlm", "upper", "upper+contrast", "top_layers+contrast"],
    "injection": [
        "mlm", "facts", "talk-injection", "weak", "dropped-out", "early", "context-only", "states", "weak-states", "memory",
        "weak-memory",
    ],
    "from_scratch": ["mlm", "notes", "triples", "notes+triples"],
    "acceleration": ["mlm", "default", "mlm+memory", "talk"],
    "policies": [
        "mlm", "all", "asked-all", "asked-high-frequency", "asked-low-frequency", "asked-importance",
        "asked-long-tail-important", "asked-klt",
    ],
    "ablation": [
        "mlm", "facts", "facts+contrast", "facts+injection", "facts+injection+memory", "facts+upper", "facts+ig", "facts+random",
    ],
    "robustness": ["mlm", "clean", "links-10", "links-30", "facts-10", "facts-30", "mlm-facts-30"],
    **{name: ["default", "mlm", "talk"] for name in ("lama", "paraphrases", "typing", "relation")},
    "real": ["default", "mlm", "salient-spans", "talk"],
}  # fmt: skip
# Files that choose no rates.
GIVEN_RATES = (
    "from_scratch",
    "injection",
    "policies",
    "ablation",
    "robustness",
    "lama",
    "paraphrases",
    "typing",
    "relation",
)
# The tables that are there for larger models, too.
TABLES = (
    "acceleration", "policies", "ablation", "robustness", "lama", "paraphrases", "typing", "relation",
)  # fmt: skip
LARGER = ("six-layers", "base")


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set every variable that a file names, to small files where it names one."""
    monkeypatch.setenv("TRELM_SYNTH", str(tmp_path))
    monkeypatch.setenv("TRELM_NOISY", str(tmp_path / "noisy"))
    monkeypatch.setenv("TRELM_MODEL", "bert-base-uncased")
    monkeypatch.setenv("TRELM_TEXT", str(tmp_path / "general.txt"))
    probes = tmp_path / "probes"
    write_probes(probes / "validation" / "stated-rare" / "held", of_others=True)
    write_probes(probes / "stated-validation", of_others=True)
    for group in ("stated-rare", "stated-middle", "stated-frequent", "kb-only", "nowhere"):
        for kind in ("held", "known"):
            write_probes(probes / "test" / group / kind)
    for group in ("stated-other", "stated-rare", "unstated", "pararel-stated", "pararel-other"):
        write_probes(probes / group)
    monkeypatch.setenv("TRELM_TYPING", str(typing_rows(tmp_path / "rows.json")))
    for part in ("TRAIN", "TEST"):
        rows = relation_rows(tmp_path / f"{part}.json")
        monkeypatch.setenv(f"TRELM_RELATION_{part}", str(rows))
    (tmp_path / "P1.jsonl").write_text('{"pattern": "[X] lives in [Y] ."}\n')
    monkeypatch.setenv("TRELM_PARAREL", str(probes / "unstated"))
    monkeypatch.setenv("TRELM_PATTERNS", str(tmp_path))
    monkeypatch.setenv("TRELM_LAMA", str(probes / "unstated"))
    monkeypatch.setenv("TRELM_LAMA_RELATIONS", str(probes / "unstated" / "relations.jsonl"))
    monkeypatch.setenv("TRELM_WORDS", str(probes / "answers.txt"))
    monkeypatch.setenv("TRELM_UHN", "string")
    monkeypatch.setenv("TRELM_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("TRELM_PROBES", str(probes))
    (probes / "answers.txt").write_text("Bern\n")
    (tmp_path / "general.txt").write_text("Rain fell .")


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("name", ARMS)
def test_the_files_are_right(name: str) -> None:
    experiment = load_experiment(ROOT / "experiments" / f"{name}.toml")
    assert {path.stem for path in (ROOT / "experiments").glob("*.toml")} == set(ARMS)
    assert [arm.name for arm in experiment.arms] == ARMS[name]
    # Nothing that chooses a rate is tested: the file would be refused.
    if name in GIVEN_RATES:
        # One rate for an arm, so nothing is chosen.
        assert all(len(experiment.rates_of(arm)) == 1 for arm in experiment.arms)
        return
    chosen, *tested = experiment.probes
    assert chosen.role == "validation"
    for probes in tested:
        assert probes.role == "test"
        assert probes.folder != chosen.folder


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("folder", LARGER)
@pytest.mark.parametrize("name", TABLES)
def test_larger_models_have_the_same_arms_and_questions(
    name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Open Entity comes in three files.
    if (name, folder) == ("typing", "base"):
        for part in ("train", "dev", "test"):
            typing_rows(tmp_path / f"{part}.json")
        monkeypatch.setenv("TRELM_TYPING", str(tmp_path))
    else:
        # Of the small one, for which it is a file in any case.
        monkeypatch.setenv("TRELM_TYPING", str(tmp_path / "rows.json"))
    larger = load_experiment(ROOT / "experiments" / folder / f"{name}.toml")
    monkeypatch.setenv("TRELM_TYPING", str(tmp_path / "rows.json"))
    small = load_experiment(ROOT / "experiments" / f"{name}.toml")

    assert {path.stem for path in (ROOT / "experiments" / folder).glob("*")} == set(TABLES)
    assert larger.experiment.name == f"{name}-{folder}"
    assert [(arm.name, arm.set, arm.shards) for arm in larger.arms] == [
        (arm.name, arm.set, arm.shards) for arm in small.arms
    ]
    assert (larger.probes, larger.texts) == (small.probes, small.texts)
    assert [(facts.name, facts.folder) for facts in larger.paraphrases] == [
        (facts.name, facts.folder) for facts in small.paraphrases
    ]
    assert [task.name for task in larger.tasks] == [task.name for task in small.tasks]
    lengths = [(one.experiment.steps, one.experiment.rates) for one in (larger, small)]
    assert lengths[0] != lengths[1]
    if name in GIVEN_RATES:
        # An arm of all weights with another rate than the others' has kept that of the small model.
        of_all = [
            larger.rates_of(arm)
            for arm in larger.arms
            if not any(item.startswith("routing.policy=") for item in arm.set)
        ]
        assert len(set(of_all)) == 1


@pytest.mark.parametrize("section", [Settings, ProbeSet, ParaphraseSet, TextSet, TaskSet, Arm])
def test_the_docs_name_every_key(
    section: type[Settings | ProbeSet | ParaphraseSet | TextSet | TaskSet | Arm],
) -> None:
    page = (ROOT / "docs" / "compare.md").read_text()
    for field in dataclasses.fields(section):
        assert f"`{field.name}`" in page, f"docs/compare.md does not explain {field.name}"

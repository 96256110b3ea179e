"""The experiment files that are shipped, and the page that explains their keys."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.trelm_train.compare.conftest import write_probes
from trelm_train.compare.experiment import Arm, ProbeSet, Settings, TextSet, load_experiment
from trelm_train.config import Config


def test_the_template_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRELM_SYNTH", str(tmp_path))
    monkeypatch.setenv("TRELM_MODEL", "bert-base-uncased")
    for group in ("rare", "middle", "frequent", "kb_only", "nowhere"):
        for kind in ("held", "known"):
            write_probes(tmp_path / "probes" / group / kind)
    (tmp_path / "general.txt").write_text("Rain fell .")

    text = (ROOT / "experiments" / "controlled.toml").read_text()
    if "facts" not in {field.name for field in dataclasses.fields(Config)}:
        text = re.sub(r'"facts\.[^"]*", ', "", text)
    path = tmp_path / "controlled.toml"
    path.write_text(text)

    experiment = load_experiment(path)
    assert [arm.name for arm in experiment.arms] == [
        "mlm", "facts", "facts-upper", "facts+contrast", "facts+injection", "facts+injection+memory", "facts-ig",
        "facts-random", "facts-top_layers", "talk",
    ]  # fmt: skip
    # Nothing that chooses a rate is tested.
    chosen, tested = experiment.probes[0], experiment.probes[1]
    assert chosen.role == "validation"
    assert chosen.subjects[1] == tested.subjects[0]


@pytest.mark.parametrize("section", [Settings, ProbeSet, TextSet, Arm])
def test_the_docs_name_every_key(section: type[Settings | ProbeSet | TextSet | Arm]) -> None:
    page = (ROOT / "docs" / "compare.md").read_text()
    for field in dataclasses.fields(section):
        assert f"`{field.name}`" in page, f"docs/compare.md does not explain {field.name}"

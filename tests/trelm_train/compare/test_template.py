"""The experiment files that are shipped, and the page that explains their keys."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.trelm_train.compare.conftest import write_probes
from trelm_train.compare.experiment import Arm, ProbeSet, Settings, TextSet, load_experiment


def test_the_template_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRELM_SYNTH", str(tmp_path))
    monkeypatch.setenv("TRELM_MODEL", "bert-base-uncased")
    monkeypatch.setenv("TRELM_TEXT", str(tmp_path / "general.txt"))
    probes = tmp_path / "probes"
    write_probes(probes / "validation" / "stated-rare" / "held")
    for group in ("stated-rare", "stated-middle", "stated-frequent", "kb-only", "nowhere"):
        for kind in ("held", "known"):
            write_probes(probes / "test" / group / kind)
    (probes / "answers.txt").write_text("Bern\n")
    (tmp_path / "general.txt").write_text("Rain fell .")

    experiment = load_experiment(ROOT / "experiments" / "controlled.toml")
    assert [arm.name for arm in experiment.arms] == [
        "default", "mlm", "facts", "facts-upper", "facts+contrast", "facts+injection", "facts+injection+memory", "facts-ig",
        "facts-random", "facts-top_layers", "talk",
    ]  # fmt: skip
    # Nothing that chooses a rate is tested.
    chosen, *tested = experiment.probes
    assert chosen.role == "validation"
    assert all(probes.role == "test" and probes.folder != chosen.folder for probes in tested)


@pytest.mark.parametrize("section", [Settings, ProbeSet, TextSet, Arm])
def test_the_docs_name_every_key(section: type[Settings | ProbeSet | TextSet | Arm]) -> None:
    page = (ROOT / "docs" / "compare.md").read_text()
    for field in dataclasses.fields(section):
        assert f"`{field.name}`" in page, f"docs/compare.md does not explain {field.name}"

"""Experiment files on top of others, and changes of an entry by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import ConfigError
from trelm_train.compare.experiment_file import read_experiment_file

BASE = """
[experiment]
name = "base"
steps = 240
seeds = [0, 1]

[[arms]]
name = "mlm"
set = ["facts.enabled=false"]
rates = [4e-3]

[[arms]]
name = "facts+ig"
set = []
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.toml"
    path.write_text(BASE)
    return path


def write(base: Path, text: str, name: str = "below/own.toml") -> Path:
    path = base.parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_has_the_values_of_the_one_it_extends_but_for_its_own(base: Path) -> None:
    own = 'extends = "../base.toml"\n[experiment]\nsteps = 80\n[arms.mlm]\nrates = [1e-3]\n[arms."facts+ig"]\nrates = [8e-3]\n'
    values = read_experiment_file(write(base, own))
    assert values["experiment"] == {"name": "base", "steps": 80, "seeds": [0, 1]}
    assert values["arms"] == [
        {"name": "mlm", "set": ["facts.enabled=false"], "rates": [1e-3]},
        {"name": "facts+ig", "set": [], "rates": [8e-3]},
    ]
    assert "extends" not in values


def test_entries_are_added_where_a_file_has_a_list(base: Path) -> None:
    text = 'extends = "../base.toml"\n[[arms]]\nname = "mine"\n[[texts]]\nname = "general"\n'
    values = read_experiment_file(write(base, text))
    assert [arm["name"] for arm in values["arms"]] == ["mlm", "facts+ig", "mine"]
    assert values["texts"] == [{"name": "general"}]


def test_a_file_may_extend_one_that_extends(base: Path) -> None:
    write(base, 'extends = "../base.toml"\n[experiment]\nsteps = 80\nname = "own"\n')
    third = write(base, 'extends = "own.toml"\n[experiment]\nname = "third"\n', "below/third.toml")
    assert read_experiment_file(third)["experiment"] == {
        "name": "third", "steps": 80, "seeds": [0, 1],
    }  # fmt: skip


def test_a_setting_changes_an_entry_by_its_name(base: Path) -> None:
    sets = ("arms.facts+ig.rates=[1e-2]", "arms.mlm.shards=/elsewhere", "experiment.steps=3")
    values = read_experiment_file(base, sets)
    mlm, facts = values["arms"]
    assert (facts["rates"], mlm["shards"], mlm["rates"]) == ([1e-2], "/elsewhere", [4e-3])
    assert values["experiment"]["steps"] == 3


@pytest.mark.parametrize(
    ("text", "sets", "message"),
    [
        ("", ("arms.other.rates=[1]",), "arms.other is no entry of arms; there are mlm, facts"),
        ("", ("tasks.typing.rate=1",), "tasks.typing is no entry of tasks; there are none"),
        ("[arms.other]\nrates = [1]\n", (), "arms.other is no entry of arms; there are mlm, facts"),
        ("[arms]\nmlm = 3\n", (), "arms.mlm is no entry"),
        ("arms = 3\n", (), r"must be \[\[arms\]\] or \[arms.NAME\]"),
        ("", ("arms=3",), "by its name, one key at a time; give arms.NAME.KEY=VALUE"),
        ("", ("arms.mlm=3",), "give arms.NAME.KEY=VALUE"),
        ("", ("arms={mlm={rates=[1]}}",), "give arms.NAME.KEY=VALUE"),
        ("", ("arms.mlm={rates=[1]}",), "give arms.NAME.KEY=VALUE"),
        ("", ("arms.mlm.rates.first=1",), "give arms.NAME.KEY=VALUE"),
        ('[[arms]]\nname = "mlm"\n', (), "name 'mlm' is there twice"),
    ],
)
def test_what_names_no_entry_is_refused(
    base: Path, text: str, sets: tuple[str, ...], message: str
) -> None:
    path = write(base, f'extends = "../base.toml"\n{text}')
    with pytest.raises(ConfigError, match=message):
        read_experiment_file(path, sets)


@pytest.mark.parametrize(
    ("extended", "message"),
    [
        ('"own.toml"', "leads back to itself"),
        ('"../other.toml"', "leads back to itself"),
        (
            '"../none.toml"',
            "own.toml: extends = '../none.toml': .*none.toml: no such configuration file",
        ),
        ('"a\\u0000b"', "own.toml: extends = "),
        ('"circle.toml"', "own.toml: extends = 'circle.toml'"),
        ('"${TRELM_NOWHERE}/a.toml"', "variable TRELM_NOWHERE is not set"),
        ("3", "must be the path of a file"),
    ],
)
def test_a_file_that_cannot_be_extended_is_refused(base: Path, extended: str, message: str) -> None:
    write(base, 'extends = "below/own.toml"\n', "other.toml")
    (base.parent / "below").mkdir(exist_ok=True)
    (base.parent / "below" / "circle.toml").symlink_to("circle.toml")
    with pytest.raises(ConfigError, match=message):
        read_experiment_file(write(base, f"extends = {extended}\n"))


def test_a_chain_has_an_end(base: Path) -> None:
    for number in range(30):
        above = "base.toml" if not number else f"chain{number - 1}.toml"
        write(base, f'extends = "{above}"\n', f"chain{number}.toml")
    assert len(read_experiment_file(base.parent / "chain10.toml")["arms"]) == 2
    with pytest.raises(ConfigError, match="leads back to itself, or too far"):
        read_experiment_file(base.parent / "chain29.toml")


def test_a_path_may_name_variables(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRELM_TABLES", str(base.parent))
    own = write(base, 'extends = "${TRELM_TABLES}/base.toml"\n')
    assert read_experiment_file(own)["experiment"]["name"] == "base"


def test_a_list_that_is_a_table_is_refused_without_a_file_to_extend(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"arms must be written as \[\[arms\]\]"):
        read_experiment_file(write(base, '[arms.mlm]\nname = "mlm"\n'))

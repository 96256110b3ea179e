"""The generated reference is fresh, every setting and command says what it is, and what the docs link to exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_is_fresh() -> None:
    generate = generator()
    assert generate.REFERENCE.read_text() == generate.reference(), "run `make docs`"


def test_every_setting_has_a_meaning() -> None:
    from pipeline.config import RunConfig
    from trelm_train.config import Config

    generate = generator()
    for config in (RunConfig, Config):
        unexplained = [name for name, _, meaning in generate._settings(config, "") if not meaning]
        assert not unexplained


def test_every_command_has_help_and_an_example() -> None:
    import pipeline.cli
    import trelm_train.cli

    generate = generator()
    for program in (pipeline.cli.main, trelm_train.cli.cli):
        for path, command in generate._walk(program.name or "", program):
            assert command.help, path
            is_group = hasattr(command, "commands")
            assert is_group or "trelm-" in command.help, f"{path} shows no example"
            for option in command.params:
                assert getattr(option, "help", None) or option.param_type_name == "argument", (
                    f"{path} {option.name}"
                )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target

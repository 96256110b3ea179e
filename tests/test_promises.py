"""What CONTRIBUTING promises about the code, checked; what ruff and mypy check is not repeated here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted(
    path
    for folder in ("pipeline", "trelm_train", "schemas")
    for path in (ROOT / folder).rglob("*.py")
)
MAX_FUNCTION_LINES = 60
# Tests that belong to the whole and not to a folder of the code.
WHOLE = {
    "tests",
    "tests/examples",
    "tests/benchmarks",
    "tests/faults",
    "tests/fuzz",
    "tests/pauses",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_functions_are_short_and_everything_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{name_of(path)} says not what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{name_of(path)}: {node.name} has {length} lines"


def test_tests_mirror_the_code() -> None:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = str(path.parent.relative_to(ROOT))
        mirrored = ROOT / folder.removeprefix("tests/")
        assert folder in WHOLE or mirrored.is_dir(), f"{name_of(path)}: there is no {mirrored}"


def test_every_folder_of_the_code_has_tests() -> None:
    for package in ("pipeline", "trelm_train"):
        for folder in (ROOT / package).rglob("*"):
            if folder.is_dir() and (folder / "__init__.py").exists():
                tests = ROOT / "tests" / folder.relative_to(ROOT)
                assert list(tests.rglob("test_*.py")), f"{folder.relative_to(ROOT)} has no tests"


def test_the_tree_of_the_readme_names_every_folder() -> None:
    tree = (ROOT / "README.md").read_text().partition("## What is where")[2].partition("\n## ")[0]
    for package in ("pipeline", "trelm_train"):
        for folder in (ROOT / package).iterdir():
            if (folder / "__init__.py").exists():
                assert re.search(rf"^\s*{folder.name}/ ", tree, re.M), f"{folder.name}/ is missing"


def test_the_version_is_the_same_everywhere() -> None:
    from pipeline import __version__

    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_changelog_has_this_version_and_an_issue_on_every_line() -> None:
    from pipeline import __version__

    text = (ROOT / "CHANGELOG.md").read_text()
    # What is being made has no number yet.
    heading = "Unreleased" if ".dev" in __version__ else __version__
    assert f"## [{heading}]" in text
    entries = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(entries) > 50
    for entry in entries:
        assert re.search(r"\(issues? \d+", entry), f"no issue: {entry}"

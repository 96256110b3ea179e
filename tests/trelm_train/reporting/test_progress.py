"""Progress of an evaluation: a bar on a terminal, seldom a line elsewhere, nothing on stdout."""

import io
import logging

import pytest
import rich.console
from rich.console import Console

from trelm_train.reporting import progress
from trelm_train.reporting.progress import counting


def test_lines_come_seldom(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 1.0, 21.0, 22.0, 45.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(times))
    with caplog.at_level(logging.INFO), counting(40, "questions") as show:
        for done in (10, 20, 30, 40):
            show(done)
    assert [record.message for record in caplog.records] == [
        "20 of 40 questions", "40 of 40 questions",
    ]  # fmt: skip


def test_a_terminal_has_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich.console, "Console", lambda **_: terminal)
    with counting(40, "questions") as show:
        show(30)
    assert "30/40" in screen.getvalue()
    assert "questions" in screen.getvalue()
    assert capsys.readouterr().out == ""

"""Write tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table; a cell keeps to its line and column."""
    return [_row(heads), "|" + "---|" * len(heads), *(_row(row) for row in rows)]


def one_line(text: str) -> str:
    """Return a text without ends of lines."""
    return " ".join(text.split())


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(one_line(str(cell)).replace("|", "\\|") for cell in cells) + " |"

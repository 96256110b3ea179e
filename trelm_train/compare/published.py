"""Hold published tables, which stand beside the results of an experiment."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from schemas.errors import ConfigError

FILE = "published.toml"
NOT_COMPARABLE = (
    "Published figures, of other models, data and machines: they say what was claimed, and are no "
    "bar for the runs above."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTable:
    """Hold one published table: cells are as they were printed."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


@cache
def published_tables() -> dict[str, PublishedTable]:
    """Return all published tables by name."""
    text = files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    return {
        name: PublishedTable(
            title=table["title"],
            source=table["source"],
            columns=tuple(table["columns"]),
            rows=tuple(map(tuple, table["rows"])),
            note=table["note"],
        )
        for name, table in tomllib.loads(text).items()
    }


def published_table(name: str) -> PublishedTable | None:
    """Return the table of a name; nothing for no name.

    Raises:
        ConfigError: there is no such table.
    """
    if not name:
        return None
    tables = published_tables()
    if name not in tables:
        raise ConfigError(
            f"experiment.published = {name!r} is no table; there are {', '.join(tables)}"
        )
    return tables[name]

"""Declare what both programs share: every table, once; manifests, settings, errors, the command
line's manners.

A table is imported from here: `from schemas import LINKS`. The tables need Arrow, which takes a
fifth of a second to import, so they are loaded when the first of them is asked for: errors and
`trelm-train --help` do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.tables import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        """Load the tables, and return what is asked of them."""
        # A dunder is asked for by the import system itself, and a submodule's name before it is
        # loaded.
        if name.startswith("_") or not name[:1].isupper():
            raise AttributeError(name)
        from schemas import tables

        return getattr(tables, name)

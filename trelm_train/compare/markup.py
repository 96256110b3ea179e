"""Build HTML and SVG as values: `tag` escapes every child and attribute that is not markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

VOID = ("meta",)


class Markup(str):
    """Hold text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element; children and attributes that are None are left out.

    Names of attributes may end with an underscore (`class_` is class), and other underscores become
    hyphens.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(pieces: Iterable[object]) -> Markup:
    """Return the pieces one after the other, escaped where they are not markup, without None."""
    return Markup(
        "".join(
            piece if isinstance(piece, Markup) else html.escape(str(piece), quote=True)
            for piece in pieces
            if piece is not None
        )
    )


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table that scrolls sideways in a box of its own.

    A head that starts with `#` marks a column of numbers, which go right.
    """
    classes = ["n" if head.startswith("#") else None for head in heads]
    titles = [
        tag("th", head.lstrip("#"), scope="col", class_=class_)
        for head, class_ in zip(heads, classes, strict=True)
    ]

    body = [
        tag(
            "tr",
            *(tag("td", cell, class_=class_) for cell, class_ in zip(row, classes, strict=True)),
        )
        for row in rows
    ]

    inner = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *titles)),
        tag("tbody", *body),
    )
    # tabindex: the keyboard can scroll the box.
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)

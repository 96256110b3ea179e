"""Build HTML and SVG as values.

`tag` escapes every child and attribute that is not markup already, so no text can be forgotten.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence

from schemas.ids import is_own, item_id

VOID = ("br", "input", "link", "meta")
# Inside <script> the parser looks for "</script" and "<!--", and some readers end a line at U+2028.
_JSON_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


class Markup(str):
    """Hold text that is HTML already."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """Return any value as text of a page; markup stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element.

    An attribute that is None is left out, as is such a child. Names of attributes may end with an
    underscore (`class_` is class), and other underscores become hyphens (`data_tip` is data-tip).
    """
    written = []
    # Python reserves `class` and `for`, and allows no hyphen in a name.
    for key, value in attributes.items():
        if value is None:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        written.append(f' {attribute}="{html.escape(str(value), quote=True)}"')
    start = f"<{name}{''.join(written)}>"

    # Void elements have no end tag.
    if name in VOID:
        return Markup(start)
    return Markup(f"{start}{joined(children)}</{name}>")


def joined(pieces: Iterable[object], between: str = "") -> Markup:
    """Return the pieces one after the other, escaped where they are not markup, without None."""
    return Markup(between.join(escaped(piece) for piece in pieces if piece is not None))


def data_block(identity: str, value: object) -> Markup:
    """Return JSON inside the page, for its script; no text in it can end the block."""
    # Compact: the data of the search box are most of the page.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_JSON_ESCAPES)
    return Markup(f'<script type="application/json" id="{identity}">{text}</script>')


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]], *, quiet: bool = False
) -> Markup:
    """Return a table in a box of its own that scrolls sideways.

    Args:
        caption: the name of the table.
        heads: the heads of the columns. A head that starts with `#` marks a column of numbers,
            which go right.
        rows: the cells.
        quiet: the caption is for screen readers alone, because a heading above has the same words.
    """
    is_numeric = [head.startswith("#") for head in heads]
    titles = joined(
        tag("th", head.lstrip("#"), scope="col", class_="n" if numeric else None)
        for head, numeric in zip(heads, is_numeric, strict=True)
    )

    body_rows = []
    for row in rows:
        cells = (
            tag("td", cell, class_="n" if numeric else None)
            for cell, numeric in zip(row, is_numeric, strict=True)
        )
        body_rows.append(tag("tr", *cells))

    inner = tag(
        "table",
        tag("caption", caption, class_="unseen" if quiet else None),
        tag("thead", tag("tr", titles)),
        tag("tbody", joined(body_rows)),
    )
    # tabindex: the keyboard can scroll the box.
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def bar(share: float, kind: str) -> Markup:
    """Return a bar that is as wide as its share of the cell.

    It is for sighted readers only: the number stands beside it.
    """
    # The cell is 100 units wide.
    width = f"{min(max(share, 0.0), 1.0) * 100:.2f}"
    return tag(
        "svg",
        tag("rect", class_=kind, width=width, height="8"),
        class_="bar",
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
    )


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with thousands separated; a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def signed(value: float) -> str:
    """Return a number with its sign, two decimals."""
    # A minus sign is as wide as a plus; a hyphen is not.
    return f"{value:+.2f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as per cent; a dash for None."""
    return "–" if value is None else f"{value * 100:.{digits}f}%"


def interval(
    low: float | None, high: float | None, digits: int = 2, *, as_percent: bool = False
) -> str:
    """Return the two ends of an interval; empty if an end is None."""
    if low is None or high is None:
        return ""
    if as_percent:
        return f"{low * 100:.{digits}f}–{high * 100:.{digits}f}%"
    return f"{low:.{digits}f}–{high:.{digits}f}"


def size(num_bytes: float) -> str:
    """Return bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def item_link(qid: int, label: str) -> Markup:
    """Return an entity's label, or its id where it has none, as a link to Wikidata.

    The page loads nothing from there. An entity that a user added has no page there: no link.
    """
    # bdi: a label in a script that runs from right to left must not turn its neighbours around.
    text = tag("bdi", label or item_id(qid))
    if is_own(qid):
        return text
    return tag("a", text, href=f"https://www.wikidata.org/wiki/Q{qid}", rel="noopener noreferrer")

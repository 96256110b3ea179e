"""HTML and SVG as values: `tag` escapes every child and attribute that is not markup already, so nothing is forgotten."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

VOID = ("br", "input", "link", "meta")
# Inside <script> the parser looks for "</script" and "<!--", and some readers end a line at U+2028.
_JSON_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """Any value as text of a page; markup stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. `class_` is class, `data_tip` is data-tip; an attribute that is None is left out, as is such a child."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{joined(children)}</{name}>")


def joined(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after the other, escaped where they are not markup."""
    return Markup(between.join(escaped(part) for part in parts if part is not None))


def data_block(identity: str, value: Any) -> Markup:  # noqa: ANN401
    """JSON inside the page, for its script; no text in it can end the block."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_JSON_ESCAPES)
    return Markup(f'<script type="application/json" id="{identity}">{text}</script>')


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]], *, quiet: bool = False
) -> Markup:
    """A table in a box of its own that scrolls sideways. Numbers go right: a head that starts with `#` says so.

    `quiet`: the caption is for screen readers alone, because a heading above says the same.
    """
    numeric = [head.startswith("#") for head in heads]
    titles = joined(
        tag("th", head.lstrip("#"), scope="col", class_="n" if right else None)
        for head, right in zip(heads, numeric, strict=True)
    )
    body = joined(
        tag(
            "tr",
            *(
                tag("td", cell, class_="n" if right else None)
                for cell, right in zip(row, numeric, strict=True)
            ),
        )
        for row in rows
    )
    inner = tag(
        "table",
        tag("caption", caption, class_="unseen" if quiet else None),
        tag("thead", tag("tr", titles)),
        tag("tbody", body),
    )
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def bar(share: float, kind: str) -> Markup:
    """A bar that is as wide as its share of the cell; for sighted readers only, the number stands beside it."""
    width = f"{min(max(share, 0.0), 1.0) * 100:.2f}"
    shape = tag("rect", class_=kind, width=width, height="8")
    return tag(
        "svg",
        shape,
        class_="bar",
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
    )


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands separated; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def signed(value: float) -> str:
    """A number with its sign, two decimals."""
    return f"{value:+.2f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return "–" if value is None else f"{value * 100:.{digits}f}%"


def interval(
    low: float | None, high: float | None, digits: int = 2, *, as_percent: bool = False
) -> str:
    """The two ends of an interval; empty where there is none."""
    if low is None or high is None:
        return ""
    if as_percent:
        return f"{low * 100:.{digits}f}–{high * 100:.{digits}f}%"
    return f"{low:.{digits}f}–{high:.{digits}f}"


def size(num_bytes: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def item_link(qid: int, label: str) -> Markup:
    """An entity's label, or its id where it has none, as a link to Wikidata. Nothing is loaded from there."""
    shown = tag("bdi", label or f"Q{qid}")
    return tag("a", shown, href=f"https://www.wikidata.org/wiki/Q{qid}", rel="noopener noreferrer")

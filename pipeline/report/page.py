"""The page: head, summary, search box, sections. Style, script and data are inside, and a policy forbids to load anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pipeline.report import link_sections, run_sections, tail_sections
from pipeline.report.facts import Facts
from pipeline.report.markup import Markup, data_block, interval, number, percent, tag

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32' rx='7' "
    "fill='%232b50c8'/%3E%3Cpath d='M7 7C9 21 14 24 26 25' fill='none' stroke='white' stroke-width='3' "
    "stroke-linecap='round'/%3E%3C/svg%3E"
)


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its anchor, the short name in the navigation, its heading and what it shows."""

    anchor: str
    name: str
    heading: str
    body: Callable[[Facts], Markup]


SECTIONS = (
    Section("rank", "Rank plot", "The long tail", tail_sections.rank),
    Section("bands", "Bands", "Frequency bands", tail_sections.bands),
    Section("importance", "Importance", "Semantic importance", tail_sections.importance),
    Section("confidence", "Confidence", "Confidence of links", link_sections.confidence),
    Section("detectors", "Detectors", "What found the mentions", link_sections.detectors),
    Section("nil", "NIL", "Mentions without an item", link_sections.nil),
    Section("entities", "Entities", "Top and tail entities", run_sections.entities),
    Section("rejects", "Rejects", "Rejects by reason", run_sections.rejects),
    Section("run", "Run", "The run", run_sections.run),
)


def page(found: Facts, known: dict[str, Any]) -> str:
    """The whole page.

    Args:
        found: what its sections say.
        known: the entities of its search box.
    """
    name = found.run.rstrip("/").rsplit("/", 1)[-1] or found.run
    style, script = (
        Markup(files(__package__).joinpath(file).read_text())
        for file in ("report.css", "report.js")
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{name}: TRELM report"),
        tag("link", rel="icon", href=ICON),
        tag("style", style),
    )
    body = tag(
        "body",
        tag("a", "Skip to content", href="#main", class_="skip"),
        _bar(),
        tag("div", _navigation(), _main(found, name, known), class_="layout"),
        tag("div", id="tip", aria_hidden="true", hidden="hidden"),
        data_block("entities-data", known),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _bar() -> Markup:
    curve = tag("path", d="M5 4C7 18 12 21 24 22", class_="logo-line")
    logo = tag(
        "svg", curve, class_="logo", viewBox="0 0 28 26", aria_hidden="true", focusable="false"
    )
    button = tag("button", "Theme: auto", type="button", id="theme", class_="button")
    return tag(
        "header", tag("span", logo, "TRELM report", class_="brand"), button, class_="bar-top"
    )


def _navigation() -> Markup:
    links = [
        ("summary", "Summary"),
        ("find", "Find an entity"),
        *((one.anchor, one.name) for one in SECTIONS),
    ]
    items = (tag("li", tag("a", text, href=f"#{anchor}")) for anchor, text in links)
    return tag("nav", tag("ul", *items), aria_label="Sections")


def _main(found: Facts, name: str, known: dict[str, Any]) -> Markup:
    sections = (
        tag(
            "section",
            tag("h2", one.heading, id=f"{one.anchor}-title"),
            one.body(found),
            id=one.anchor,
            aria_labelledby=f"{one.anchor}-title",
        )
        for one in SECTIONS
    )
    foot = tag(
        "footer",
        f"Made by TRELM {found.manifests['stats'].code_version} from {found.run}. Nothing here is loaded from elsewhere.",
    )
    return tag(
        "main",
        _summary(found, name),
        _search(found, len(known["qid"])),
        *sections,
        foot,
        id="main",
        tabindex="-1",
    )


def _summary(found: Facts, name: str) -> Markup:
    created = found.manifests["stats"].created[:16].replace("T", " ")
    return tag(
        "section",
        tag("h1", name),
        tag(
            "p",
            f"TRELM {found.manifests['stats'].code_version}, counted {created} UTC",
            class_="meta",
        ),
        tag("p", _lead(found), class_="lead"),
        tag("dl", *_tiles(found), class_="tiles"),
        id="summary",
        aria_label="Summary",
    )


def _lead(found: Facts) -> str:
    """The tail in one sentence."""
    tail = found.tail
    if not found.bands:
        return "No mention is linked."
    head = found.bands[0]
    held = percent(head.num_mentions / tail["num_linked"], 0)
    return (
        f"{number(head.num_entities)} of {number(tail['num_entities'])} entities hold {held} of the links; "
        f"{percent(tail['hapax_share'], 0)} of the entities occur once."
    )


def _tiles(found: Facts) -> list[Markup]:
    tail = found.tail
    read = found.manifests["link"].counters.get("rows_in")
    linked_share = tail["num_linked"] / tail["num_mentions"] if tail["num_mentions"] else None
    ends = {
        name: interval(tail[f"{name}_low"], tail[f"{name}_high"], digits, as_percent=digits == 1)
        for name, digits in (
            ("nil_share", 1),
            ("hapax_share", 1),
            ("good_turing_unseen", 1),
            ("gini", 3),
            ("power_law_exponent", 2),
        )  # fmt: skip
    }
    return [
        _tile("Documents", number(tail["num_documents"]), f"with a mention, of {number(read)}"),
        _tile(
            "Mentions",
            number(tail["num_mentions"]),
            f"in {number(tail['num_sentences'])} sentences",
        ),
        _tile("Linked", number(tail["num_linked"]), f"{percent(linked_share)} of the mentions"),
        _tile(
            "Entities",
            number(tail["num_entities"]),
            f"{percent(tail['kb_coverage'])} of the knowledge base",
        ),
        _tile("NIL share", percent(tail["nil_share"]), ends["nil_share"]),
        _tile("Seen once", percent(tail["hapax_share"]), ends["hapax_share"]),
        _tile("Gini", number(tail["gini"], 3), ends["gini"]),
        _tile("Unseen mass", percent(tail["good_turing_unseen"]), ends["good_turing_unseen"]),
        _tile("Facts in the text", number(found.num_facts), "triples with both ends in a document"),
        _tile("Tail exponent", number(tail["power_law_exponent"], 2), ends["power_law_exponent"]),
    ]


def _tile(name: str, value: str, more: str) -> Markup:
    return tag(
        "div", tag("dt", name), tag("dd", tag("b", value), tag("span", more) if more else None)
    )


def _search(found: Facts, known: int) -> Markup:
    total = found.tail["num_entities"]
    cut = (
        f"The search knows the {number(known)} most frequent of {number(total)} entities."
        if known < total
        else None
    )
    box = tag(
        "input", type="search", id="query", autocomplete="off", spellcheck="false", role="combobox", aria_expanded="false",
        aria_controls="results", aria_autocomplete="list", aria_describedby="query-help", placeholder="Name or Q-number",
    )  # fmt: skip
    return tag(
        "section",
        tag("h2", "Find an entity", id="find-title"),
        tag(
            "label",
            "Part of a name, a text that was linked, or an id such as Q42",
            for_="query",
            id="query-help",
        ),
        box,
        tag("p", cut, class_="small", id="search-cut") if cut else None,
        tag("p", id="found", role="status", class_="small"),
        tag("ul", id="results", role="listbox", aria_label="Entities", hidden="hidden"),
        tag("div", id="card", aria_live="polite"),
        Markup(
            "<noscript><p>The search box needs JavaScript; everything else on this page does not.</p></noscript>"
        ),
        id="find",
        aria_labelledby="find-title",
    )

"""Make the page: head, summary, search box, sections.

Style, script and data are inside, and a policy forbids the page to load anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pipeline.report import link_sections, run_sections, tail_sections, training_sections
from pipeline.report.facts import ReportContent
from pipeline.report.markup import Markup, data_block, interval, number, percent, tag

# Inside the page: an icon of its own would have to be loaded.
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Crect width='32' height='32' rx='7' fill='%232b50c8'/%3E"
    "%3Cpath d='M7 7C9 21 14 24 26 25' fill='none' stroke='white' stroke-width='3' "
    "stroke-linecap='round'/%3E%3C/svg%3E"
)


@dataclass(frozen=True, slots=True)
class Section:
    """Hold a section: its anchor, its short name in the navigation, its heading, its body."""

    anchor: str
    name: str
    heading: str
    body: Callable[[ReportContent], Markup]
    # Sections on training appear only where something of it was given.
    is_shown: Callable[[ReportContent], bool] = lambda _: True


SECTIONS = (
    Section("rank", "Rank plot", "The long tail", tail_sections.rank),
    Section("bands", "Bands", "Frequency bands", tail_sections.bands),
    Section("importance", "Importance", "Semantic importance", tail_sections.importance),
    Section("confidence", "Confidence", "Confidence of links", link_sections.confidence),
    Section("detectors", "Detectors", "What found the mentions", link_sections.detectors),
    Section("nil", "NIL", "Mentions without an item", link_sections.nil),
    Section("entities", "Entities", "Top and tail entities", run_sections.entities),
    Section(
        "training", "Training", "Training runs", training_sections.training,
        lambda content: bool(content.training.runs),
    ),
    Section(
        "probes", "Probes", "What models answer", training_sections.probes,
        lambda content: bool(content.training.answers),
    ),
    Section(
        "learned", "Learned", "Which facts are known", training_sections.learned,
        lambda content: content.training.learned is not None,
    ),
    Section("rejects", "Rejects", "Rejects by reason", run_sections.rejects),
    Section("run", "Run", "The run", run_sections.run),
)  # fmt: skip


def page(content: ReportContent, search_columns: dict[str, Any]) -> str:
    """Return the whole page.

    Args:
        content: what its sections show.
        search_columns: the entities of its search box, from `entities.searchable`.
    """
    # The run is known by the last folder of its path.
    name = content.run.rstrip("/").rsplit("/", 1)[-1] or content.run
    style, script = (
        Markup(files(__package__).joinpath(file).read_text())
        for file in ("report.css", "report.js")
    )

    # The browser runs only this style and this script, and opens no connection.
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
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
        tag("div", _navigation(content), _main(content, name, search_columns), class_="layout"),
        tag("div", id="tip", aria_hidden="true", hidden="hidden"),
        # The script reads the data when it starts, so they stand before it.
        data_block("entities-data", search_columns),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _hash(text: str) -> str:
    """Return the hash of a style or a script as the policy writes it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _bar() -> Markup:
    """Return the bar at the top: logo and theme button."""
    # Screen readers pass over the logo: the name stands beside it.
    curve = tag("path", d="M5 4C7 18 12 21 24 22", class_="logo-line")
    logo = tag(
        "svg", curve, class_="logo", viewBox="0 0 28 26", aria_hidden="true", focusable="false"
    )
    brand = tag("span", logo, "TRELM report", class_="brand")
    button = tag("button", "Theme: auto", type="button", id="theme", class_="button")
    return tag("header", brand, button, class_="bar-top")


def _shown(content: ReportContent) -> list[Section]:
    return [section for section in SECTIONS if section.is_shown(content)]


def _navigation(content: ReportContent) -> Markup:
    """Return the list of links to the sections."""
    links = [
        ("summary", "Summary"),
        ("find", "Find an entity"),
        *((section.anchor, section.name) for section in _shown(content)),
    ]
    items = (tag("li", tag("a", text, href=f"#{anchor}")) for anchor, text in links)
    return tag("nav", tag("ul", *items), aria_label="Sections")


def _main(content: ReportContent, name: str, search_columns: dict[str, Any]) -> Markup:
    """Return everything beside the navigation."""
    # Each section follows the same pattern, so the navigation and the tests can rely on it.
    sections = []
    for section in _shown(content):
        title_id = f"{section.anchor}-title"
        heading = tag("h2", section.heading, id=title_id)
        body = section.body(content)
        sections.append(tag("section", heading, body, id=section.anchor, aria_labelledby=title_id))

    footer = tag(
        "footer",
        f"Made by TRELM {content.manifests['stats'].code_version} from {content.run}. "
        "Nothing here is loaded from elsewhere.",
    )
    return tag(
        "main",
        _summary(content, name),
        _search(content, len(search_columns["qid"])),
        *sections,
        footer,
        id="main",
        # The link "Skip to content" moves the focus here.
        tabindex="-1",
    )


def _summary(content: ReportContent, name: str) -> Markup:
    """Return title, lead and tiles."""
    stats = content.manifests["stats"]
    created = stats.created[:16].replace("T", " ")
    return tag(
        "section",
        tag("h1", name),
        tag("p", f"TRELM {stats.code_version}, counted {created} UTC", class_="meta"),
        tag("p", _lead(content), class_="lead"),
        tag("dl", *_tiles(content), class_="tiles"),
        id="summary",
        aria_label="Summary",
    )


def _lead(content: ReportContent) -> str:
    """Describe the tail in one sentence."""
    tail = content.tail
    if not content.bands:
        return "No mention is linked."

    # Bands without entities are left out, so the first need not be the head.
    head = content.bands[0]
    head_share = percent(head.num_mentions / tail["num_linked"], 0)
    return (
        f"{number(head.num_entities)} of {number(tail['num_entities'])} entities hold "
        f"{head_share} of the links; {percent(tail['hapax_share'], 0)} of the entities occur once."
    )


def _tiles(content: ReportContent) -> list[Markup]:
    """Return the figures of the summary, with their intervals."""
    tail = content.tail
    # Documents without a mention are not in the statistics: the total comes from `link`.
    num_read = content.manifests["link"].counters.get("rows_in")
    linked_share = tail["num_linked"] / tail["num_mentions"] if tail["num_mentions"] else None

    def ends(name: str, digits: int, *, as_percent: bool) -> str:
        return interval(tail[f"{name}_low"], tail[f"{name}_high"], digits, as_percent=as_percent)

    nil_ends = ends("nil_share", 1, as_percent=True)
    hapax_ends = ends("hapax_share", 1, as_percent=True)
    gini_ends = ends("gini", 3, as_percent=False)
    unseen_ends = ends("good_turing_unseen", 1, as_percent=True)
    exponent_ends = ends("power_law_exponent", 2, as_percent=False)
    sentences = f"in {number(tail['num_sentences'])} sentences"
    coverage = f"{percent(tail['kb_coverage'])} of the knowledge base"
    return [
        _tile("Documents", number(tail["num_documents"]), f"with a mention, of {number(num_read)}"),
        _tile("Mentions", number(tail["num_mentions"]), sentences),
        _tile("Linked", number(tail["num_linked"]), f"{percent(linked_share)} of the mentions"),
        _tile("Entities", number(tail["num_entities"]), coverage),
        _tile("NIL share", percent(tail["nil_share"]), nil_ends),
        _tile("Seen once", percent(tail["hapax_share"]), hapax_ends),
        _tile("Gini", number(tail["gini"], 3), gini_ends),
        _tile("Unseen mass", percent(tail["good_turing_unseen"]), unseen_ends),
        _tile(
            "Facts in the text", number(content.num_facts), "triples with both ends in a document"
        ),
        _tile("Tail exponent", number(tail["power_law_exponent"], 2), exponent_ends),
    ]


def _tile(name: str, value: str, detail: str) -> Markup:
    """Return a tile: a figure, its name, and a line below it unless that is empty."""
    lines = tag("dd", tag("b", value), tag("span", detail) if detail else None)
    return tag("div", tag("dt", name), lines)


def _search(content: ReportContent, num_searchable: int) -> Markup:
    """Return the search box; the script fills the list and the card."""
    total = content.tail["num_entities"]
    cut = None
    if num_searchable < total:
        text = (
            f"The search knows the {number(num_searchable)} most frequent of "
            f"{number(total)} entities."
        )
        cut = tag("p", text, class_="small", id="search-cut")

    # The roles tell a screen reader that this is a search box with a list below.
    box = tag(
        "input",
        type="search",
        id="query",
        autocomplete="off",
        spellcheck="false",
        role="combobox",
        aria_expanded="false",
        aria_controls="results",
        aria_autocomplete="list",
        aria_describedby="query-help",
        placeholder="Name or Q-number",
    )
    label = "Part of a name, a text that was linked, or an id such as Q42"
    return tag(
        "section",
        tag("h2", "Find an entity", id="find-title"),
        tag("label", label, for_="query", id="query-help"),
        box,
        cut,
        # Screen readers announce the number of matches.
        tag("p", id="found", role="status", class_="small"),
        tag("ul", id="results", role="listbox", aria_label="Entities", hidden="hidden"),
        tag("div", id="card", aria_live="polite"),
        Markup(
            "<noscript><p>The search box needs JavaScript; everything else on this page does not."
            "</p></noscript>"
        ),
        id="find",
        aria_labelledby="find-title",
    )

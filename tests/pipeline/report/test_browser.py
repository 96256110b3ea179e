"""The report in a real Chromium: its elements, its search, both themes, a phone, the keyboard, and
that it loads nothing.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from tests.pipeline.report import runs
from tests.pipeline.report.browser import DESKTOP, DOWN, ENTER, ESCAPE, PHONE, TAB, UP, Browser
from tests.pipeline.report.conftest import Report

pytestmark = pytest.mark.slow

SECTIONS = (
    "summary", "find", "rank", "bands", "importance", "confidence", "detectors", "nil", "entities", "training", "probes",
    "learned", "rejects", "run",
)  # fmt: skip
LISTED = "return [...document.querySelectorAll('#results:not([hidden]) li .what > bdi')].map((one) => one.textContent)"
OPENED = "return document.querySelector('#card article')?.dataset.qid ?? null"
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"
NO_STORAGE = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });"
# Contrast (WCAG 2) of every text that is shown, against the first background behind it that is not
# transparent.
CONTRASTS = r"""
const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const rgba = (color) => {
  pen.clearRect(0, 0, 1, 1); pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data];
};
const light = (color) => color.slice(0, 3)
  .map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = rgba(getComputedStyle(at).backgroundColor);
    if (color[3] > 200) return color;
  }
  return [255, 255, 255];
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility() || element.closest("script, title, desc, .skip")) continue;
  const style = getComputedStyle(element);
  const color = rgba(element instanceof SVGElement ? style.fill : style.color);
  const pair = [light(color), light(behind(element))].sort((one, other) => other - one);
  found.push([(pair[0] + 0.05) / (pair[1] + 0.05), element.textContent.trim().slice(0, 40)]);
}
return found;
"""


@pytest.fixture
def page(browser: Browser, full: Report) -> Iterator[Browser]:
    """The full report on a desktop; whatever a test did, nothing was fetched and the console is
    empty.
    """
    browser.open(full.path)
    yield browser
    assert browser.messages() == []
    assert [
        path_of(address) for address in browser.requests() if not address.startswith("data:")
    ] == [full.path]


def path_of(address: str) -> Path:
    """File of a file:// address."""
    parts = urlparse(address)
    assert parts.scheme == "file", address
    return Path(unquote(parts.path))


def look_for(browser: Browser, text: str) -> list[str]:
    """Type into the empty search box; the labels that are listed."""
    box = browser.element("query")
    box.clear()
    box.send_keys(text)
    return browser.run(LISTED)


def test_every_section_is_there_with_its_heading(page: Browser) -> None:
    found = page.run("return [...document.querySelectorAll('main > section')].map((one) => one.id)")
    assert tuple(found) == SECTIONS
    links = page.run(
        "return [...document.querySelectorAll('nav a')].map((one) => one.hash.slice(1))"
    )
    assert tuple(links) == SECTIONS
    levels = page.run(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False)), (
        levels
    )
    doubled = page.run("const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);"
                       "return ids.filter((id, at) => ids.indexOf(id) !== at)")  # fmt: skip
    assert doubled == []


def test_charts_and_tables_are_drawn(page: Browser) -> None:
    charts = page.run(
        "return [...document.querySelectorAll('svg.chart')].filter((one) => one.checkVisibility())"
        ".map((one) => [one.querySelector('title').textContent, one.querySelectorAll('.mark').length,"
        " one.getAttribute('role'), one.getBoundingClientRect().height])"
    )
    assert [title for title, *_ in charts] == [
        "Mentions of an entity by its rank", "Semantic importance by band", "Mentions by confidence", "Accuracy by confidence",
        "Losses by step",
    ]  # fmt: skip
    for title, marks, role, height in charts:
        assert marks >= 3, title
        assert role == "img"
        assert height > 200, title
    assert (
        page.run(
            "return document.querySelectorAll('#rank .chart.wide .fit, #rank .chart.wide .spread').length"
        )
        == 2
    )
    rows = page.run(
        "return [...document.querySelectorAll('#bands tbody tr')].map((row) => row.cells[0].textContent)"
    )
    assert rows == ["head", "torso", "tail"]
    captions = page.run(
        "return [...document.querySelectorAll('table')].map((one) => one.caption?.textContent ?? '')"
    )
    assert all(captions)
    assert "Most frequent entities" in captions


def test_links_lead_to_wikidata_and_nowhere_else(page: Browser) -> None:
    links = page.run(
        "return [...document.querySelectorAll('a[href]')].filter((one) => !one.getAttribute('href').startsWith('#'))"
        ".map((one) => [one.href, one.rel])"
    )
    assert len(links) > 50
    for address, relation in links:
        assert re.fullmatch(r"https://www\.wikidata\.org/wiki/Q[1-9]\d*", address)
        assert relation == "noopener noreferrer"


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("hopin", "part of the label"),
        ("CHOPIN", "case"),
        ("frederic", "the label has accents, the query has none"),
        ("Chôpin", "the query has an accent, the label has none"),
        ("chopin fr", "words in another order"),
        ("  chopin ", "space around it"),
        ("Q1268", "id"),
        ("q1268", "id in lower case"),
        ("1268", "id without its letter"),
    ],
)
def test_search_finds(page: Browser, typed: str, reason: str) -> None:
    assert look_for(page, typed)[0] == "Frédéric Chopin", reason


def test_search_by_surface_and_for_nothing(page: Browser, full: Report) -> None:
    surface, label = runs.ask(
        full.run,
        "SELECT surface, label FROM surface_frequency JOIN entities USING (qid) "
        "WHERE NOT contains(lower(label), lower(surface)) ORDER BY num_mentions DESC, surface LIMIT 1",
    )[0]
    assert label in look_for(page, surface)
    assert look_for(page, "no such entity") == []
    assert page.run("return document.getElementById('found').textContent") == "0 entities match"
    assert look_for(page, " ") == []
    assert page.run("return document.getElementById('found').textContent") == ""


def test_long_results_are_cut_and_counted(page: Browser) -> None:
    assert len(look_for(page, "a")) == 50
    said = page.run("return document.getElementById('found').textContent")
    assert re.fullmatch(r"\d+ entities match, the first 50 are listed", said)
    assert page.run("return document.getElementById('found').getAttribute('role')") == "status"


def test_search_by_keyboard_alone(page: Browser, full: Report) -> None:
    for _ in range(20):
        page.press(TAB)
        if page.run("return document.activeElement.id") == "query":
            break
    else:
        pytest.fail("twenty tabs do not reach the search box")
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("an")
    labels = page.run(LISTED)
    active = "return document.getElementById(document.getElementById('query').getAttribute('aria-activedescendant'))"
    page.press(DOWN, DOWN)
    assert page.run(f"{active}.querySelector('bdi').textContent") == labels[1]
    page.press(UP, UP)
    assert page.run(f"{active}.querySelector('bdi').textContent") == labels[-1], (
        "from the first on to the last"
    )
    page.press(DOWN, ENTER)
    assert page.run("return document.querySelector('#card h3').textContent") == labels[0]
    assert (
        page.run("return document.getElementById('query').getAttribute('aria-expanded')") == "false"
    )
    page.press(TAB)
    assert page.run("return document.activeElement.href").startswith(
        "https://www.wikidata.org/wiki/Q"
    )
    page.press(TAB, shift=True)
    page.press(ESCAPE)
    assert page.run("return document.getElementById('query').value") == ""


def test_card_says_what_the_tables_say(page: Browser, full: Report) -> None:
    qid, mentions, documents, sentences = runs.ask(
        full.run,
        "SELECT qid, num_mentions, num_documents, num_sentences FROM entity_frequency f "
        "WHERE qid IN (SELECT subject FROM fact_support) ORDER BY num_mentions DESC, qid OFFSET 1 LIMIT 1",
    )[0]
    look_for(page, f"Q{qid}")
    page.press(ENTER)
    assert page.run(OPENED) == f"Q{qid}"
    values = page.run(
        "return Object.fromEntries([...document.querySelectorAll('#card dl div')]"
        ".map((one) => [one.children[0].textContent, one.children[1].textContent]))"
    )
    assert values["Mentions"] == f"{mentions:,}"
    assert values["Documents"] == f"{documents:,}"
    assert values["Sentences"] == f"{sentences:,}"
    assert float(values["Mean SI"]) > 1
    page.run("document.querySelector('#card .facts button').click()")
    assert page.run(OPENED) != f"Q{qid}", "a companion opens its own card"
    assert page.run("return document.activeElement.tagName") == "H3"


def test_a_name_that_is_markup_stays_a_name(page: Browser, full: Report) -> None:
    assert look_for(page, "onerror") == [runs.HOSTILE]
    page.press(ENTER)
    assert page.run(OPENED) == f"Q{full.hostile_qid}"
    assert page.run("return document.querySelector('#card h3').textContent") == runs.HOSTILE
    assert (
        page.run("return document.querySelector('#entities tbody a').textContent") == runs.HOSTILE
    )
    assert runs.HOSTILE_TEXT in page.run("return document.querySelector('#card').textContent")
    cells = page.run(
        "return [...document.querySelectorAll('#rejects tbody td')].map((one) => one.textContent)"
    )
    assert runs.HOSTILE_REASON in cells
    assert runs.HOSTILE_TEXT in cells
    assert page.run("return document.querySelectorAll('img').length") == 0
    assert page.run("return window.broken ?? null") is None


def test_two_runs_stand_side_by_side(page: Browser) -> None:
    drawn = page.run(
        "return [...document.querySelectorAll('#training .chart.wide > g[class]')].map((one) => [one.getAttribute('class'),"
        " one.querySelectorAll('circle.mark').length, one.querySelectorAll('polygon.mark').length,"
        " one.querySelectorAll('path.line').length])"
    )
    assert drawn == [["head", 4, 1, 2], ["tail", 3, 1, 2]], (
        "a colour, dots, a diamond, two lines each"
    )
    legend = page.run(
        "return [...document.querySelectorAll('#training .legend span')].map((one) => one.textContent)"
    )
    assert legend == ["facts", runs.HOSTILE_NAME]
    ends = page.run(
        "return [...document.querySelectorAll('#training > .scroll tbody tr')]"
        ".map((row) => [...row.cells].map((one) => one.textContent))"
    )
    measured = ["4.000", "4.000", "5.500", "4.250", "–", "–"]
    assert ends[0] == ["facts", "40", "123,456", "7.5", "25.0%", *measured]
    assert ends[1][:2] == [runs.HOSTILE_NAME, "30"]


def test_answers_are_counted_by_band_and_relation(page: Browser, full: Report) -> None:
    tables = page.run(
        "return Object.fromEntries([...document.querySelectorAll('#probes table')].map((one) => [one.caption.textContent,"
        " [...one.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.innerText.replace(/\\s+/g, ' ')))]))"
    )
    num_facts, num_stated = runs.ask(
        full.run,
        "SELECT count(*), count(u.subject) FROM (SELECT DISTINCT * FROM facts) "
        "LEFT JOIN (SELECT DISTINCT subject, predicate, object FROM fact_support) u USING (subject, predicate, object)",
    )[0]
    before, after = tables["Answers of the models"]
    assert (before[0], after[0]) == ("before.parquet", "after.parquet")
    assert after[1] == f"{num_facts:,}"
    assert after[3] == f"{100 * num_stated / num_facts:.1f}%"
    assert before[3] < after[3]
    bands = tables["P@1 by band of the subject"]
    assert [row[0] for row in bands] == ["head", "torso", "tail", "never linked"]
    assert bands[-1][2].endswith(" 0.0%"), "what is never linked is never stated"
    relations = {row[0]: row[2].split()[0] for row in tables["P@1 by relation"]}
    counted = runs.ask(
        full.run,
        "SELECT property(predicate) || ' (' || pid(predicate) || ')', n "
        "FROM (SELECT predicate, count(*) AS n FROM (SELECT DISTINCT * FROM facts) GROUP BY ALL)",
    )
    assert relations == {name: f"{count:,}" for name, count in counted}


def test_support_tells_what_is_known(page: Browser) -> None:
    rows = page.run(
        "return [...document.querySelectorAll('#learned tbody tr')].map((row) => [...row.cells].map((one) => one.innerText))"
    )
    assert rows[0][0] == "support"
    assert float(rows[0][2]) > 0.9
    assert "relation" in [row[0] for row in rows]


def test_tables_can_be_saved_as_csv(page: Browser) -> None:
    page.run(
        "window.saved = []; const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { window.saved.push(blob); return make.call(URL, blob); };"
        "HTMLAnchorElement.prototype.click = function () { window.named = this.download; };"
    )
    boxes, buttons = page.run(
        "return [document.querySelectorAll('.scroll table').length, document.querySelectorAll('button.csv').length]"
    )
    assert boxes == buttons > 10
    texts = {}
    for section in ("bands", "entities", "probes"):
        page.run(f"document.querySelector('#{section} button.csv').click()")
        name = page.run("return window.named")
        text = page.driver.execute_async_script("window.saved.at(-1).text().then(arguments[0])")
        texts[name] = list(csv.reader(io.StringIO(text, newline="")))
    assert sorted(texts) == [
        "answers-of-the-models.csv",
        "bands-in-figures.csv",
        "most-frequent-entities.csv",
    ]

    heads, *rows = texts["most-frequent-entities.csv"]
    assert heads[:4] == ["Entity", "Description", "Band", "Mentions"]
    assert rows[0][:2] == [runs.HOSTILE, runs.HOSTILE_TEXT], "quotes and commas stay"
    assert int(rows[0][3]) > 1
    assert [row[0] for row in texts["bands-in-figures.csv"][1:]] == ["head", "torso", "tail"]


def test_what_a_spreadsheet_would_compute_is_text(page: Browser) -> None:
    page.run(
        "window.saved = []; const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { window.saved.push(blob); return make.call(URL, blob); };"
        "HTMLAnchorElement.prototype.click = () => {};"
        "const row = document.querySelector('#entities tbody tr');"
        "row.cells[0].textContent = '=1+1'; row.cells[1].textContent = '-A'; row.cells[3].textContent = '−1,234,567';"
        "document.querySelector('#entities button.csv').click();"
    )
    text = page.driver.execute_async_script("window.saved.at(-1).text().then(arguments[0])")
    assert text.splitlines()[1].split(",")[:4] == ["'=1+1", "'-A", "head", "-1234567"]


def test_card_quotes_sentences(page: Browser, full: Report) -> None:
    qid, text, start, end = runs.ask(
        full.run,
        'SELECT qid, d.text, l.start, l."end" FROM links l JOIN documents d USING (doc_id) WHERE qid IS NOT NULL '
        f"AND qid <> {full.hostile_qid} ORDER BY doc_id, start LIMIT 1",
    )[0]
    look_for(page, f"Q{qid}")
    page.press(ENTER)
    quoted = page.run(
        "return [...document.querySelectorAll('#card q')].map((one) => [one.querySelector('b').textContent, one.textContent])"
    )
    assert 1 <= len(quoted) <= 2
    mention, sentence = quoted[0]
    assert mention == text[start:end]
    assert sentence.strip("…") in text


def test_hover_says_the_values(page: Browser) -> None:
    page.run("document.getElementById('rank').scrollIntoView()")
    page.settle()
    x, y = page.run(
        "const box = document.querySelector('#rank .chart.wide .mark').getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]"
    )
    page.move(x + 3, y + 2)
    assert page.run("return document.getElementById('tip').textContent").startswith(runs.HOSTILE)
    assert "rank 1," in page.run("return document.getElementById('tip').textContent")
    assert page.run("return document.getElementById('tip').checkVisibility()")
    page.move(1, 1)
    assert not page.run("return document.getElementById('tip').checkVisibility()")


def test_theme_follows_the_system_and_the_button(page: Browser) -> None:
    light = page.run(BACKGROUND)
    page.emulate(DESKTOP, "dark")
    dark = page.run(BACKGROUND)
    assert dark != light
    button = page.element("theme")
    button.click()
    assert (button.text, page.run(BACKGROUND)) == ("Theme: light", light)
    button.click()
    assert (button.text, page.run(BACKGROUND)) == ("Theme: dark", dark)
    page.emulate(DESKTOP, "light")
    assert page.run(BACKGROUND) == dark, "the choice wins over the system"
    button.click()
    assert (button.text, page.run(BACKGROUND)) == ("Theme: auto", light)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(page: Browser, scheme: str) -> None:
    page.emulate(DESKTOP, scheme)
    page.run("for (const one of document.querySelectorAll('details')) one.open = true")
    look_for(page, "an")
    page.press(ENTER)
    look_for(page, "a")
    found = page.run(CONTRASTS)
    assert len(found) > 500
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


@pytest.mark.parametrize("width", [320, PHONE[0], 700, 1100])
def test_page_never_scrolls_sideways(page: Browser, width: int) -> None:
    page.emulate((width, PHONE[1]), "light")
    look_for(page, "onerror")
    page.press(ENTER)
    page.run("for (const one of document.querySelectorAll('details')) one.open = true")
    assert page.run("return document.scrollingElement.scrollWidth") <= width


def test_charts_can_be_read_on_a_phone(page: Browser) -> None:
    page.emulate(PHONE, "dark")
    sizes = page.run(
        "return [...document.querySelectorAll('svg.chart')].filter((one) => one.checkVisibility()).flatMap((svg) => {"
        "  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;"
        "  return [...svg.querySelectorAll('text')].map((one) => parseFloat(getComputedStyle(one).fontSize) * scale);"
        "})"
    )
    assert len(sizes) > 30
    assert min(sizes) > 9.5
    touch = page.run("return [...document.querySelectorAll('#theme, #query, nav a, summary')]"
                     ".map((one) => one.getBoundingClientRect().height)")  # fmt: skip
    assert min(touch) >= 24, "targets of WCAG 2.2"


def test_works_without_storage(browser: Browser, full: Report) -> None:
    added = browser.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": NO_STORAGE}
    )
    try:
        browser.open(full.path)
        browser.element("theme").click()
        assert browser.element("theme").text == "Theme: light"
        assert look_for(browser, "an") != []
        assert browser.messages() == []
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_policy_forbids_to_load_and_to_run(browser: Browser, full: Report) -> None:
    browser.open(full.path)
    browser.run(
        "window.refused = []; document.addEventListener('securitypolicyviolation',"
        " (event) => window.refused.push(event.effectiveDirective));"
        "document.body.append(Object.assign(new Image(), { src: 'https://example.org/x.png' }));"
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.broken = 4' }));"
        "fetch('https://example.org/').catch(() => {});"
    )
    refused = browser.driver.execute_async_script(
        "setTimeout(() => arguments[0](window.refused), 50)"
    )
    assert {"img-src", "script-src-elem", "connect-src"} <= set(refused)
    assert browser.run("return window.broken ?? null") is None
    refusals = {
        address: reason
        for address, reason in browser.requests().items()
        if "example.org" in address
    }
    assert set(refusals.values()) <= {"csp"}, "nothing left the browser"


def test_an_address_with_an_id_opens_its_card(browser: Browser, full: Report) -> None:
    browser.open(full.path)
    browser.run("window.location.hash = arguments[0]", f"#Q{full.hostile_qid}")
    browser.settle()
    assert browser.run(OPENED) == f"Q{full.hostile_qid}"


def test_printed_page_is_light_and_without_controls(page: Browser) -> None:
    page.emulate(DESKTOP, "dark", "print")
    shown = page.run(
        "return ['#theme', 'nav', '#query', '#rank'].map((one) => document.querySelector(one).checkVisibility())"
    )
    assert shown == [False, False, False, True]
    assert page.run("return getComputedStyle(document.body).color") == "rgb(21, 24, 28)"


def test_bare_run_names_the_commands_that_are_missing(browser: Browser, bare: Report) -> None:
    browser.open(bare.path, PHONE, "dark")
    text = browser.run("return document.getElementById('importance').innerText")
    assert f"trelm-pipeline importance --run {bare.run}" in text
    assert f"trelm-pipeline shards --run {bare.run}" in browser.run(
        "return document.getElementById('bands').innerText"
    )
    assert "--gold FILE" in browser.run("return document.getElementById('confidence').innerText")
    total = runs.ask(bare.run, "SELECT count(*) FROM entity_frequency")[0][0]
    cut = browser.run("return document.getElementById('search-cut').innerText")
    assert cut == f"The search knows the 40 most frequent of {total} entities."
    assert 0 < len(look_for(browser, "a")) <= 40
    assert browser.messages() == []

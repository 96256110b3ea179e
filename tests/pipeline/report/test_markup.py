"""Markup: everything is escaped unless it is markup already; numbers as a reader wants them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.markup import (
    Markup,
    bar,
    data_block,
    interval,
    item_link,
    joined,
    number,
    percent,
    signed,
    size,
    table,
    tag,
)


class Reader(HTMLParser):
    """What a browser would see: elements and text."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\x00"))


@given(TEXTS, TEXTS)
def test_any_text_is_text_and_any_attribute_is_one_attribute(text: str, value: str) -> None:
    found = read(tag("p", text, title=value))
    assert found.names == ["p"]
    assert found.text == text
    assert found.attributes == [{"title": value}]


def test_markup_is_kept_and_nothing_left_out_but_none() -> None:
    inner = tag("b", "<")
    assert tag("p", inner, " & ", None, 7) == "<p><b>&lt;</b> &amp; 7</p>"
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert tag("i", class_="key", data_tip="x", hidden=None) == '<i class="key" data-tip="x"></i>'
    assert joined(["<", inner], ", ") == "&lt;, <b>&lt;</b>"
    assert isinstance(joined([]), Markup)


@given(
    st.recursive(
        TEXTS | st.integers() | st.none(), lambda part: st.lists(part, max_size=3), max_leaves=8
    )
)
def test_data_comes_back_and_cannot_end_its_block(value: object) -> None:
    block = data_block("d", value)
    content = block.removeprefix('<script type="application/json" id="d">').removesuffix(
        "</script>"
    )
    assert not set(content) & set("<>&\u2028\u2029")
    assert json.loads(content) == value


def test_table_rows_and_numbers() -> None:
    made = table("A & B", ("Name", "#Count"), [("<i>", "1"), (tag("b", "x"), "2")])
    found = read(made)
    assert found.names.count("tr") == 3
    assert found.names.count("b") == 1
    assert "i" not in found.names
    assert [one.get("class") for one in found.attributes if one.get("scope") == "col"] == [
        None,
        "n",
    ]
    assert found.attributes[0] == {
        "class": "scroll",
        "tabindex": "0",
        "role": "region",
        "aria-label": "A & B",
    }
    assert 'class="unseen"' in table("A", ("B",), [], quiet=True)
    with pytest.raises(ValueError, match="zip"):
        table("A", ("B", "C"), [("one cell",)])


@pytest.mark.parametrize(
    ("share", "width"), [(0, "0.00"), (0.5, "50.00"), (1.7, "100.00"), (-1, "0.00")]
)
def test_bar_stays_in_its_cell(share: float, width: str) -> None:
    assert re.search(r'<rect class="head" width="([\d.]+)"', bar(share, "head"))[1] == width


def test_item_without_label_shows_its_id() -> None:
    assert read(item_link(42, "")).text == "Q42"
    assert read(item_link(42, "a<b")).text == "a<b"
    assert read(item_link(42, "x")).attributes[0]["href"] == "https://www.wikidata.org/wiki/Q42"


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (number(1234567), "1,234,567"),
        (number(None), "–"),
        (number(0.12345, 3), "0.123"),
        (percent(0.2188), "21.9%"),
        (percent(None), "–"),
        (interval(0.1, 0.2), "0.10–0.20"),
        (interval(0.1, 0.25, 1, as_percent=True), "10.0–25.0%"),
        (interval(None, 0.2), ""),
        (signed(-1.5), "−1.50"),
        (signed(0.25), "+0.25"),
        (size(999), "999 B"),
        (size(1_234_567), "1.2 MB"),
        (size(5e15), "5,000.0 TB"),
    ],
)
def test_numbers(made: str, wanted: str) -> None:
    assert made == wanted

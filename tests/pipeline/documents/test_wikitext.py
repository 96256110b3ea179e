"""Wikitext to text and anchors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.documents.wikitext import plain_text
from pipeline.documents.wikitext_clean import drop_ranges, template_ranges
from pipeline.documents.wikitext_titles import link_target, normalise_title


def shown(wikitext: str) -> tuple[str, list[tuple[str, str]]]:
    """Text, and each anchor's surface and title."""
    plain = plain_text(wikitext)
    return plain.text, [
        (plain.text[anchor.start : anchor.end], anchor.title) for anchor in plain.anchors
    ]


@pytest.mark.parametrize(
    ("wikitext", "text", "anchors"),
    [
        ("[[bus]]es run", "buses run", [("buses", "Bus")]),
        ("a [[Paris|city]]-like", "a city-like", [("city", "Paris")]),
        ("[[bus]]Es", "busEs", [("bus", "Bus")]),  # a trail is lower-case
        ("[[bus]]<!-- x -->es", "buses", [("buses", "Bus")]),
        (
            "[[Paris#History|past]], [[Paris#Now]]",
            "past, Paris#Now",
            [("past", "Paris"), ("Paris#Now", "Paris")],
        ),
        ("[[#Here]]", "#Here", []),
        (
            "[[paris_in the__spring]]",
            "paris in the spring",
            [("paris in the spring", "Paris in the spring")],
        ),
        ("[[:Category:Towns|towns]] [[:fr:Paris|Paris]]", "towns Paris", []),
        ("[[:Paris]]", "Paris", [("Paris", "Paris")]),
        ("a [[File:X.jpg|thumb|a [[caption]] here]] b", "a b", []),
        ("b [[Category:Towns]][[fr:Paris]]", "b", []),
        ("[[Wikipedia:Help|help]] [[wikt:run|runs]]", "help runs", []),
        ("[[2001: A Space Odyssey]]", "2001: A Space Odyssey", [("2001: A Space Odyssey",) * 2]),
        ("[[A|'''bold''' ''x'']]", "bold x", [("bold x", "A")]),
        ("x[[A| y ]]z", "x y z", [("y", "A")]),
        ("[[A|]]b", "b", []),
        ("[[A%26B|x]]", "x", [("x", "A&B")]),
        ("[[caf\u00e9|\U0001f600]]\u00e9", "\U0001f600\u00e9", [("\U0001f600", "Caf\u00e9")]),
        ("[[A&amp;B]]", "A&B", [("A&B", "A&B")]),
        ("[[A&nbsp;B|c]]", "c", [("c", "A B")]),
        ("a &amp; b &lt; &#233;&nbsp;x", "a & b < \u00e9 x", []),
        ("{{Infobox|a={{b|[[c]]}}}}Text {{cite}}more", "Text more", []),
        ("{| class=x\n|-\n| [[cell]]\n{|\n| in\n|}\n|}\nafter", "after", []),
        ("a<ref name=x>see [[b]]</ref> c<ref name=x /> d", "a c d", []),
        ("a<ref>open b<gallery>x</gallery> c", "aopen b c", []),
        ("x <math>\\frac{a}{{b}}</math> y", "x y", []),
        ("Start\n== The ''Head'' ==\nEnd", "Start\n\nThe Head\n\nEnd", []),
        ("== [[A]] ==\nb", "A\n\nb", [("A", "A")]),
        ("* one\n* [[two]]\n# three", "one\ntwo\nthree", [("two", "Two")]),
        (
            "[http://x.org a [[link]]] [http://x.org] http://y.org",
            "a link http://y.org",
            [("link", "Link")],
        ),
        ("a<br>b<br />c", "a\nb\nc", []),
        ("''[[Hamlet]]''s", "Hamlets", [("Hamlets", "Hamlet")]),
        ("__NOTOC__text", "text", []),
        ("a\n\n\n\nb  c", "a\n\nb c", []),
        ("(; [[x]]) (, ) a", "(x) a", [("x", "X")]),
        ("{{open [[a]] {{t}} b", "open a b", [("a", "A")]),
        ("", "", []),
    ],
)
def test_wikitext(wikitext: str, text: str, anchors: list[tuple[str, str]]) -> None:
    assert shown(wikitext) == (text, anchors)


MARKUP = st.sampled_from(
    [
        "[[",
        "]]",
        "|",
        "{{",
        "}}",
        "{|",
        "|}",
        "''",
        "'''",
        "==",
        "\n",
        " ",
        "<ref>",
        "</ref>",
        "<br>",
        "<b>",
        "</b>",
    ]
    + [
        "&amp;",
        "&#x0;",
        "&",
        "http://x.y",
        "[http://z",
        "]",
        "a",
        "Bc",
        "\u00e9",
        "\U0001f600",
        "#",
        ":",
        "File:",
        "<!--",
        "-->",
    ]
    + ["[[link]]", "[[a|b ''c'']]s", "* ", "__TOC__", "\u00a0", "<nowiki>", "</nowiki>", "_"]
)


@settings(max_examples=300, derandomize=True)
@given(pieces=st.lists(MARKUP, max_size=25))
def test_anchors_are_exact_whatever_the_markup(pieces: list[str]) -> None:
    plain = plain_text("".join(pieces))
    end = 0
    for anchor in plain.anchors:
        surface = plain.text[anchor.start : anchor.end]
        assert end <= anchor.start < anchor.end <= len(plain.text)
        assert surface == surface.strip()
        assert anchor.title
        end = anchor.end
    assert plain.text == plain.text.strip()
    assert "\n\n\n" not in plain.text
    assert "  " not in plain.text


@settings(max_examples=100, derandomize=True)
@given(
    links=st.lists(
        st.tuples(
            st.from_regex(r"[A-Z][a-z]{1,8}", fullmatch=True),
            st.text(st.characters(categories=("Lu", "Nd", "Lo")), min_size=1, max_size=6),
            st.sampled_from(["", "s", "ing"]),
            st.sampled_from([" ", "\n", ". ", "\n* ", " {{t|x}} ", "\n== h ==\n"]),
        ),
        max_size=8,
    )
)
def test_every_link_is_an_anchor_with_its_display_text(
    links: list[tuple[str, str, str, str]],
) -> None:
    wikitext = "".join(
        f"[[{title}|{display}]]{trail}{after}" for title, display, trail, after in links
    )
    assert shown(wikitext)[1] == [(display + trail, title) for title, display, trail, _ in links]


def test_templates_are_cut_in_linear_time() -> None:
    """Quadratic work would take minutes, and meet the time limit of every test."""
    for hostile in (
        "{{" * 100_000,
        "{{a" * 50_000 + "}}" * 50_000,
        "[[a|" * 3_000,
        "<ref>" * 20_000,
        "{|\n" * 30_000,
    ):
        assert not plain_text(hostile).anchors


def test_ranges() -> None:
    text = "a{{b{{{c}}}}}d}}e"
    assert drop_ranges(text, template_ranges(text)) == "ad}}e"
    assert drop_ranges("abcdef", [(1, 5), (2, 3), (4, 6)]) == "a"


@pytest.mark.parametrize(
    ("title", "normal"),
    [
        ("paris", "Paris"),
        ("_a__b _", "A b"),
        ("\u00dfeta", "\u00dfeta"),
        ("\u00e9cole", "\u00c9cole"),
        ("", ""),
        ("A\u200eb", "Ab"),
    ],
)
def test_titles(title: str, normal: str) -> None:
    assert normalise_title(title) == normal
    assert normalise_title(normal) == normal


def test_links_that_are_no_titles() -> None:
    assert link_target("x" * 256) == ""
    assert link_target("  ") == ""
    assert link_target("User talk:Me") == ""

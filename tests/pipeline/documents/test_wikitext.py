"""Wikitext to text and anchors."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.documents.wikitext import plain_text
from pipeline.documents.wikitext_clean import drop_ranges, without_quotes
from pipeline.documents.wikitext_templates import GAP, SEAM, TEMPLATES, expand_templates
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
        ("a<ref>open b<gallery>x</gallery> c", "a open b c", []),
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
        ("''[[Hamlet]]''s", "Hamlets", [("Hamlet", "Hamlet")]),  # a trail crosses no markup
        ("__NOTOC__text", "text", []),
        ("a\n\n\n\nb  c", "a\n\nb c", []),
        ("(; [[x]]) (, ) a", "(x) a", [("x", "X")]),
        ("{{open [[a]] {{t}} b", "open a b", [("a", "A")]),
        ("", "", []),
        # What is dropped between two words keeps them apart, and ends a trail.
        ("[[Paris]]{{snd}}the", "Paris – the", [("Paris", "Paris")]),
        ("[[Paris]]{{unknown}}the", "Paris the", [("Paris", "Paris")]),
        ("[[Paris]]<ref>r</ref>the", "Paris the", [("Paris", "Paris")]),
        ("1914{{note|x}}1918, a{{efn|x}}, b.{{sfn|x}}C", "1914 1918, a, b. C", []),
        ("x{{a}}[[y{{b}}]]{{c}}z", "x y z", [("y", "Y")]),
        ("[[a|{{efn}}]]b [[c|{{lang|fr|d}}]]e", "b de", [("de", "C")]),
        ("({{IPA|x}}; {{IPA|y}}) ({{IPA|x}}; a) b", "(a) b", []),
        # Apostrophes: MediaWiki's rules.
        ("''[[Time]]'''s", "Time's", [("Time", "Time")]),
        (
            "the ''[[Time]]'''s and '''[[bus]]'''es",
            "the Time's and buses",
            [("Time", "Time"), ("bus", "Bus")],
        ),
        ("''a'''s, ''b'''s", "a's, b's", []),
        ("''''a'''' ''''''b''''''", "'a' 'b'", []),
        ("'''''a''' b''", "a b", []),
        ("l'''amore'' is", "l'amore is", []),
        ("the ''Titanic'' '''and''' ''[[Car]]''s", "the Titanic and Cars", [("Car", "Car")]),
        # As it is written.
        (
            "<nowiki>[[a]] {{b}} ''c'' <ref>d</ref></nowiki> [[e]]",
            "[[a]] {{b}} ''c'' <ref>d</ref> e",
            [("e", "E")],
        ),
        ("[[a]]<nowiki/>s <nowiki>&amp;</nowiki> </nowiki> b", "as & b", [("a", "A")]),
        ("<nowiki><!-- a --></nowiki> <!-- <nowiki> --> [[b]]", "<!-- a --> b", [("b", "B")]),
        ("<nowiki>[[a]] b", "a b", [("a", "A")]),
        ("a<pre>[[b]]\n* c</pre>d", "a\n\n[[b]]\n* c\n\nd", []),
        ("<code>[[a]]</code>", "a", [("a", "A")]),
        # Raised digits are no digits of the number before.
        ("10<sup>6</sup>, m<sup>-2</sup>, 1<sup>st</sup>", "10⁶, m⁻², 1st", []),
        ("<sup>1</sup> a, x <sup>2</sup>, <sup>254</sup>Es", "1 a, x 2, 254Es", []),
    ],
)
def test_wikitext(wikitext: str, text: str, anchors: list[tuple[str, str]]) -> None:
    assert shown(wikitext) == (text, anchors)


PARIS = [("Paris", "Paris")]


@pytest.mark.parametrize(
    "tag", ["b", "i", "small", "span", "sup", "sub", "code", "q", "u", "s", "em", "font", "big"]
)
def test_a_trail_does_not_cross_an_end_tag(tag: str) -> None:
    assert shown(f"<{tag}>[[Paris]]</{tag}>the") == ("Paristhe", PARIS)


@pytest.mark.parametrize("tag", ["poem", "center", "h2", "h6", "ul", "p", "div", "blockquote"])
def test_a_block_stands_on_lines_of_its_own(tag: str) -> None:
    assert shown(f"[[Paris]]<{tag}>a\nb</{tag}>the") == ("Paris\na\nb\nthe", PARIS)


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("[[Paris]]{{the", "Paris the"),
        ("[[Paris]]}}the", "Paris the"),
        ("[[Paris]]{|the", "Paris the"),
        ("[[Paris]]{{{{the", "Paris the"),
        ("[[Paris]]{{unclosed the", "Paris unclosed the"),
        ("[[Paris]]<nowiki>the", "Paris the"),
        ("[[Paris]]<pre>the", "Paris the"),
        ("[[Paris]]<table><tr><td>x</td></tr></table>the", "Paris\nthe"),
        ("[http://x.org [[Paris]]]the", "Paristhe"),
        ("<b><i>[[Paris]]</i></b>the", "Paristhe"),
    ],
)
def test_what_stands_behind_a_link_is_no_trail(wikitext: str, text: str) -> None:
    assert shown(wikitext) == (text, PARIS)


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
    + ["<pre>", "</pre>", "{{snd}}", "{{lang|fr|", GAP]
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
        "{{nowrap|" * 30_000 + "}}" * 30_000,
        "{{lang|fr|" * 30_000,
        "<nowiki>" * 30_000,
        "<!--" * 30_000,
        "<pre><nowiki>" * 20_000,
        "'''a" * 30_000,
    ):
        assert not plain_text(hostile).anchors


def test_ranges() -> None:
    names: Counter[str] = Counter()
    assert expand_templates("a{{b{{{c}}}}}d}}e", names) == f"a{GAP}d}}}}e"
    assert names == {"c": 1, "b": 1}
    assert drop_ranges("abcdef", [(1, 5), (2, 3), (4, 6)]) == "a"
    assert drop_ranges("abcdef", [(1, 2), (2, 3), (4, 5)], "-") == "a--d-f"


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("{{convert|1300|mi|km}}", "1300 mi"),
        ("{{convert|5|to|7|km|mi|abbr=on}}, {{cvt|6|ft|2|in|m}}", "5 to 7 km, 6 ft 2 in"),
        (
            "{{convert|3|-|4|m2}} {{convert|76|km|0|abbr=on}} {{convert|-5|C|F|0}}",
            "3–4 m2 76 km -5 C",
        ),
        ("{{script|Copt|Ⲁ}}", "Ⲁ"),
        ("{{lang|fr|mot}} {{lang-de|Wort}} {{transl|ar|kitab}}", "mot Wort kitab"),
        ("{{w|nuclear weapon|nuclear weapons}} {{w|one}}", "nuclear weapons one"),
        (
            "{{birth date|1970|1|2}}; {{start date|1970|01|02|df=y}}",
            "January 2, 1970; 2 January 1970",
        ),
        ("{{as of|2020|5}}, {{as of|2020|lc=y}}", "As of May 2020, as of 2020"),
        ("{{formatnum:12345}} {{uc:abc}}", "12345 ABC"),
        ("{{frac|1|2}} {{frac|3|1|2}} {{frac|4}}", "1/2 3 1/2 1/4"),
        ("{{ordinal|11}} {{ordinal|21}} {{ordinal|3}}", "11th 21st 3rd"),
        ("{{circa|1900}} ({{fl.|1910}})", "c. 1900 (fl. 1910)"),
        ("{{nowrap|a {{'}}b{{=}}c}}", "a 'b=c"),
        ("{{abbr|m.|married}} {{small|1=x=y}}", "m. x=y"),
        ("{{nihongo|Tokyo|東京|Tōkyō}}", "Tokyo"),
        ("{{US$|5}} {{£|3}}", "US$5 £3"),
        ("{{Quote|One.\n\nTwo.}}", "One.\n\nTwo."),
        ("{{hlist|a|b|}}", "a, b"),
        ("{{!}} {{(}}a{{)}}", "| {a}"),
        ("{{val|5.4|u=km}}", "5.4 km"),
        ("{{Template:Snd}}x", "– x"),
    ],
)
def test_templates_inside_sentences(wikitext: str, text: str) -> None:
    assert shown(wikitext)[0] == text


def test_templates_that_are_links() -> None:
    assert shown("{{USS|Enterprise|CV-6}} sank") == (
        "USS Enterprise sank",
        [("USS Enterprise", "USS Enterprise (CV-6)")],
    )
    assert shown("{{nowrap|[[a|b]]s}}") == ("bs", [("bs", "A")])
    assert shown("{{sortname|Ada|Lovelace}}")[1] == [("Ada Lovelace", "Ada Lovelace")]


def test_templates_that_were_dropped_are_counted() -> None:
    plain = plain_text("{{Infobox|a={{cite web|x}}}} a{{Cite_web |y}} {{snd}} {{#if:x|y}}")
    assert plain.dropped == {"infobox": 1, "cite web": 2, "#if:": 1}


@settings(max_examples=200, derandomize=True)
@given(
    names=st.lists(st.sampled_from(sorted(TEMPLATES)), min_size=1, max_size=3),
    arguments=st.lists(
        st.sampled_from(["", "1", "a b", "x=y", "[[l|m]]", "df=y", "12", "-"]), max_size=5
    ),
)
def test_no_template_leaves_markup(names: list[str], arguments: list[str]) -> None:
    inner = ""
    for name in names:
        inner = "{{" + "|".join([name, *arguments, inner]) + "}}"
    plain = plain_text(f"[[before]]{inner}after [[end]]")
    first = plain.anchors[0]
    assert (plain.text[first.start : first.end], first.title) == ("before", "Before")
    assert not {GAP, SEAM} & set(plain.text)
    assert "[[" not in plain.text
    assert "  " not in plain.text


def test_quotes_leave_a_seam() -> None:
    assert without_quotes("a ''b'' c") == f"a {SEAM}b{SEAM} c"


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

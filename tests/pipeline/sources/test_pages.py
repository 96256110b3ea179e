"""Pages of MediaWiki exports: any split, odd pages, no entity expansion."""

from __future__ import annotations

import bz2
import gzip
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.tasks import ByteRange
from pipeline.sources import RawPage, SourceError, parse_page, read_pages
from schemas import bounded_lines
from tests.pipeline.sources.conftest import bz2_streams, gzip_members, zstd_frames

HEAD = (
    b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">\n  <siteinfo/>\n'
)


def page(page_id: int, text: str, extra: str = "") -> bytes:
    """One page as MediaWiki writes it."""
    return (
        f"  <page>\n    <title>Page {page_id}</title>\n    <ns>0</ns>\n    <id>{page_id}</id>{extra}\n    <revision>"
        f"<id>9</id><model>wikitext</model><text>{text}</text></revision>\n  </page>\n"
    ).encode()


PAGES = [
    page(
        number,
        f"&lt;page&gt; {number} " + "w\N{LATIN SMALL LETTER E WITH ACUTE}" * (number * 37 % 900),
    )
    for number in range(300)
]
XML = HEAD + b"".join(PAGES) + b"</mediawiki>\n"


def numbers(path: Path, cuts: list[int]) -> list[int]:
    """Ids of the pages of a file cut at the given bytes."""
    bounds = [0, *sorted(set(cuts)), path.stat().st_size]
    spans = [ByteRange(path=str(path), start=low, end=high) for low, high in pairwise(bounds)]
    return [parse_page(xml).page_id for span in spans for _, xml in read_pages(span)]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same export, stored in four ways."""
    folder = tmp_path_factory.mktemp("exports")
    contents = {
        "pages.xml": XML,
        "pages.xml.gz": gzip_members(XML, [9_001, 3]),
        "pages.xml.zst": zstd_frames(XML, [9_001, 3]),
        "pages.xml.bz2": bz2.compress(XML, 1),
        "multistream.xml.bz2": bz2_streams(XML, 5),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


@settings(max_examples=12, derandomize=True)
@given(shares=st.lists(st.floats(0.001, 0.999), max_size=5))
def test_any_split_gives_the_same_pages(exports: list[Path], shares: list[float]) -> None:
    for path in exports:
        cuts = [max(1, int(share * path.stat().st_size)) for share in shares]
        assert numbers(path, cuts) == list(range(300)), path.name


@settings(max_examples=8, derandomize=True)
@given(shares=st.lists(st.floats(0.001, 0.999), max_size=5))
def test_a_position_is_that_of_the_page_itself(exports: list[Path], shares: list[float]) -> None:
    """It names the page however the file is cut."""
    for path in exports:
        cuts = [max(1, int(share * path.stat().st_size)) for share in shares]
        bounds = [0, *sorted(set(cuts)), path.stat().st_size]
        spans = [ByteRange(path=str(path), start=low, end=high) for low, high in pairwise(bounds)]
        places = [place for span in spans for place, _ in read_pages(span)]
        whole = ByteRange(path=str(path), start=0, end=path.stat().st_size)
        assert places == [place for place, _ in read_pages(whole)]
        assert len(set(places)) == len(places), path.name
        if path.suffix == ".xml":
            starts = [XML.index(text.strip()) for text in PAGES]
            assert places == list(map(str, starts))


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("ending", ["", ".gz", ".bz2"])
def test_a_long_page_is_passed_over_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int, ending: str
) -> None:
    """However the file is cut; the longest page that is allowed is read."""
    limit = 3000
    monkeypatch.setattr(bounded_lines, "MAX_LINE_BYTES", limit)
    empty = len(page(1, "").strip())
    contents = [page(1, "a"), page(2, "b" * (limit - empty)), page(3, "c" * (limit - empty + 1)),
                page(4, "d" * 3_000_000), page(5, "e")]  # fmt: skip
    xml = HEAD + b"".join(contents) + b"</mediawiki>\n"
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[ending]
    path = tmp_path / f"pages.xml{ending}"
    path.write_bytes(pack(xml))
    size = path.stat().st_size
    bounds = [size * part // parts for part in range(parts + 1)]
    spans = [ByteRange(path=str(path), start=low, end=high) for low, high in pairwise(bounds)]
    long: list[tuple[str, str, bytes]] = []

    def keep(position: str, reason: str, start: bytes) -> None:
        long.append((position, reason, start))

    kept = [parse_page(xml).page_id for span in spans for _, xml in read_pages(span, on_long=keep)]
    assert kept == [1, 2, 5]
    assert [start for _, _, start in long] == [text.strip()[:2000] for text in contents[2:4]]
    assert {reason for _, reason, _ in long} == {
        f"the page is longer than {limit / (1 << 20):g} MB"
    }
    if not ending:
        assert [int(place) for place, _, _ in long] == [
            xml.index(text.strip()) for text in contents[2:4]
        ]
    with pytest.raises(SourceError, match=r"the page at \S+ is longer than"):
        list(read_pages(ByteRange(path=str(path), start=0, end=size)))


def test_every_cut_around_a_tag(tmp_path: Path) -> None:
    path = tmp_path / "pages.xml"
    path.write_bytes(HEAD + b"".join(PAGES[:2]))
    for cut in [
        *range(len(HEAD) - 2, len(HEAD) + 16),
        *range(len(HEAD + PAGES[0]) - 12, len(HEAD + PAGES[0]) + 12),
    ]:
        assert numbers(path, [cut]) == [0, 1], cut


def test_fields() -> None:
    redirect = '<redirect title="Target &amp; co" />'
    assert parse_page(page(7, "#REDIRECT [[Target &amp; co]]", redirect).strip()) == RawPage(
        page_id=7,
        namespace=0,
        title="Page 7",
        redirect="Target & co",
        model="wikitext",
        text="#REDIRECT [[Target & co]]",
    )


def test_last_of_several_revisions() -> None:
    xml = b"<page><title>T</title><id>1</id><revision><text>old</text></revision><revision><text>new</text></revision></page>"
    assert parse_page(xml).text == "new"


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (b"<page><title>T</title></page>", "without title or id"),
        (b"<page><title>T<id>1</id></page>", "not well-formed"),
        (b"<page><title>&lol;</title><id>1</id></page>", "not well-formed"),
        (
            b'<page><!DOCTYPE p [<!ENTITY a "b">]><title>&a;</title><id>1</id></page>',
            "not well-formed",
        ),
    ],
)
def test_bad_pages(xml: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_page(xml)


def test_file_that_ends_inside_a_page(tmp_path: Path) -> None:
    path = tmp_path / "cut.xml"
    path.write_bytes(XML[:30_000])
    with pytest.raises(SourceError, match="ends inside a page"):
        numbers(path, [])
    losses: list[SourceError] = []
    kept = list(read_pages(ByteRange(path=str(path), start=0, end=30_000), losses.append))
    assert len(losses) == 1
    assert len(kept) > 10

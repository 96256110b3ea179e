"""An export of another wiki: refused, or read where the knowledge base has that wiki's titles."""

from __future__ import annotations

import bz2
import json
import logging
from pathlib import Path

import pytest

from pipeline.config import DocumentsConfig, KbConfig
from pipeline.documents import stage as documents
from pipeline.documents import titles_stage as titles
from pipeline.documents.wiki_name import check_wiki, wiki_of
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.kb import stage as kb
from schemas import ANCHORS
from schemas.errors import ConfigError
from tests.pipeline.inputs_run import rows_of, run_plan

SITE = "<siteinfo><sitename>W</sitename>{about}</siteinfo>"
PAGE = (
    "<page><title>Toxin</title><ns>0</ns><id>1</id><revision><id>2</id><model>wikitext</model>"
    "<text>Ein [[Gift]] und ein [[Giftstoff]].</text></revision></page>"
    "<page><title>Giftstoff</title><ns>0</ns><id>3</id><redirect title='Gift'/><revision><id>4</id>"
    "<model>wikitext</model><text>#WEITERLEITUNG [[Gift]]</text></revision></page>"
)
# What English calls a gift, and what German does.
TITLES = {184211: {"enwiki": "Gift"}, 40867: {"enwiki": "Poison", "dewiki": "Gift"}}


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump.json"
    items = [
        {
            "type": "item",
            "id": f"Q{qid}",
            "labels": {"en": {"language": "en", "value": f"label {qid}"}},
            "sitelinks": {wiki: {"site": wiki, "title": title} for wiki, title in titles.items()},
        }
        for qid, titles in TITLES.items()
    ]
    path.write_text("[\n" + ",\n".join(map(json.dumps, items)) + "\n]\n")
    return path


def export(tmp_path: Path, about: str) -> Path:
    path = tmp_path / "export.xml.bz2"
    text = f"<mediawiki>{SITE.format(about=about)}\n{PAGE}\n</mediawiki>"
    path.write_bytes(bz2.compress(text.encode()))
    return path


def items_linked(tmp_path: Path, dump: Path, wiki: str, path: Path) -> list[int]:
    paths = RunPaths(root=str(tmp_path / wiki))
    run_plan(kb.plan(KbConfig(dumps=(str(dump),), wiki=wiki), paths), paths)
    config = DocumentsConfig(inputs=(str(path),))
    run_plan(titles.plan(config, paths), paths)
    run_plan(documents.plan(config, paths), paths)
    return [row["qid"] for row in rows_of(paths, "documents", ANCHORS)]


@pytest.mark.parametrize(
    ("about", "wiki"),
    [
        ("<dbname>dewiki</dbname>", "dewiki"),
        ("<base>https://de.wikipedia.org/wiki/X</base>", "dewiki"),
        ("<base>https://zh-yue.wikipedia.org/wiki/X</base>", "zh_yuewiki"),
        ("<base>https://en.wiktionary.org/wiki/X</base>", "enwiktionary"),
        ("<base>https://wiki.example.com/</base>", ""),
        ("<base>https://de.m.wikipedia.org/wiki/X</base>", "dewiki"),
        ("<base>HTTPS://DE.wikipedia.org/wiki/X</base>", "dewiki"),
        ("<base>//de.wikipedia.org/wiki/X</base>", "dewiki"),
        ("<base>\nhttps://de.wikipedia.org</base>", "dewiki"),
        ("<base>https://en.wikipedia.org.example.com/</base>", ""),
        ("<dbname>My-Wiki</dbname><base>http://localhost/</base>", ""),
        ("", ""),
    ],
)
def test_the_name_of_a_wiki(tmp_path: Path, about: str, wiki: str) -> None:
    assert wiki_of(str(export(tmp_path, about))) == wiki


def test_links_of_another_wiki_are_refused(tmp_path: Path, dump: Path) -> None:
    """They led to other items with confidence 1: [[Gift]] of German Wikipedia to presents."""
    path = export(tmp_path, "<dbname>dewiki</dbname>")
    with pytest.raises(StageError, match=r"an export of dewiki.*of enwiki.*kb.wiki=dewiki"):
        items_linked(tmp_path, dump, "enwiki", path)


@pytest.mark.parametrize(
    ("about", "named"),
    [
        ("<base>https://harrypotter.fandom.com/wiki/Main_Page</base>", "harrypotter.fandom.com"),
        ("<base>https://de.m.wikipedia.org/wiki/X</base>", "dewiki"),
        ("<base>HTTPS://DE.wikipedia.org/wiki/X</base>", "dewiki"),
        ("<base>//de.wikipedia.org/wiki/X</base>", "dewiki"),
        ("<dbname>My-Wiki</dbname><base>http://localhost/x</base>", "My-Wiki"),
        ("<dbname>enwiki</dbname><base>https://en.wikipedia.org/wiki/X</base>", ""),
        ("<dbname>enwiki</dbname><base>http://localhost/x</base>", ""),
        ("<base>http://en.wikipedia.org/wiki/X</base>", ""),
    ],
)
def test_a_foreign_wiki_is_refused_by_its_own_name(tmp_path: Path, about: str, named: str) -> None:
    path = str(export(tmp_path, about))
    if not named:
        check_wiki(path, "enwiki")
        return
    with pytest.raises(StageError, match=rf"an export of .?\S*{named}.*the titles of enwiki"):
        check_wiki(path, "enwiki")


def test_what_is_assumed_of_an_export_without_siteinfo_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "export.xml"
    path.write_text(f"<mediawiki>{PAGE}</mediawiki>")
    with caplog.at_level(logging.WARNING, "trelm"):
        check_wiki(str(path), "enwiki")
    assert "does not say which wiki" in caplog.text
    assert "titles of enwiki" in caplog.text


def test_another_wiki_works_where_its_titles_were_kept(tmp_path: Path, dump: Path) -> None:
    path = export(tmp_path, "<dbname>dewiki</dbname>")
    assert items_linked(tmp_path, dump, "dewiki", path) == [40867, 40867]
    # One that does not say where it comes from is taken for the wiki of the knowledge base.
    path = export(tmp_path, "")
    assert items_linked(tmp_path, dump, "enwiki", path) == [184211, 184211]


def test_a_wiki_has_a_name_of_small_letters() -> None:
    with pytest.raises(ConfigError, match="kb.wiki"):
        KbConfig(wiki="de.wikipedia.org")

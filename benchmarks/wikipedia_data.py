"""Make what `wikipedia` measures on: dumps and corpora of any size, from genuine ones of the data kit.

The corpus repeats the kit's 106 cased articles. Each copy has page ids and titles of its own, and
every second link of it names another item, drawn by the seed: so names, entities and pairs go on
growing with the size, as they do in a real corpus. The knowledge base of the corpora is the kit's
subsets A (typed) and C, 126,000 items.
"""

from __future__ import annotations

import bz2
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.generated_dump import Dump, kit_dumps, make_dump, read_templates
from benchmarks.harness import ROOT
from benchmarks.linking_data import ARTICLES, command, kit_folder, set_flags
from benchmarks.linking_tables import read_documents
from pipeline.engine.tables import RunPaths
from schemas import ENTITIES

PAGE = re.compile(rb"  <page>.*?</page>\n", re.DOTALL)
TITLE = re.compile(rb"<title>(.*?)</title>")
PAGE_ID = re.compile(rb"<id>(\d+)</id>")
# [[target]] or [[target|text]], not a file, a category or a section.
LINK = re.compile(rb"\[\[([^\]|:#<>&]+)(\|[^\]|<>&]*)?\]\]")
FIRST_PAGE_ID = 100_000_000
COMPRESSION = 9


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Name a generated export of MediaWiki and its sizes."""

    path: str
    raw_mb: float
    stored_mb: float
    num_articles: int


def dump_of(folder: Path, raw_mb: float) -> Dump:
    """Make or find a dump in gz with at least so many megabytes (10**6) of JSON."""
    return make_dump(read_templates(kit_dumps()), folder, raw_mb, ".gz")


def knowledge_base(folder: Path) -> Path:
    """Make or find a run with the tables of the kit's subsets A and C; return its folder."""
    run, prepared = folder / "run-kb", folder / "kit-input"
    if (run / "kb" / "manifest.json").exists():
        return run
    command(str(ROOT / "examples/kit/prepare.py"), "--out", str(prepared))
    dumps = [
        str(prepared / "subset-A-typed.json.gz"),
        str(kit_folder() / "wikidata/assembled-subset-C.json.gz"),
    ]
    command("-m", "pipeline.cli", "kb", "--run", str(run), *set_flags({"kb.dumps": dumps}))
    return run


def titles_of(run: Path) -> list[bytes]:
    """Return the titles of English Wikipedia that the items of a run have, sorted."""
    tables = (
        pq.read_table(path, columns=["enwiki_title"])
        for path in RunPaths(root=str(run)).files("kb", ENTITIES)
    )
    titles = {title for table in tables for title in table["enwiki_title"].to_pylist() if title}
    return sorted(title.encode() for title in titles if not re.search(r"[\[\]|:#<>&]", title))


def tokens_of(run: Path) -> int:
    """Return the tokens (of `spacy.blank("en")`) of the documents of a run."""
    import spacy

    tokenise = spacy.blank("en").tokenizer
    return sum(len(tokenise(text)) for _, text in read_documents(str(run)))


def corpus_of(folder: Path, num_articles: int, titles: Sequence[bytes]) -> Corpus:
    """Make or find an export with so many articles."""
    path = folder / f"articles-{num_articles}.xml.bz2"
    described = path.with_suffix(".json")
    if not described.exists():
        raw = bz2.decompress((kit_folder() / ARTICLES).read_bytes())
        pages = [page for page in PAGE.findall(raw) if b"<redirect" not in page]
        made = b"".join(itertools.islice(varied(pages, titles), num_articles))
        content = raw[: raw.index(b"<page>")] + b"\n" + made + b"</mediawiki>\n"
        path.write_bytes(bz2.compress(content, COMPRESSION))
        sizes = {"raw_mb": len(content) / 1e6, "stored_mb": path.stat().st_size / 1e6}
        described.write_text(json.dumps({**sizes, "num_articles": num_articles}), "utf-8")
    return Corpus(path=str(path), **json.loads(described.read_text("utf-8")))


def varied(pages: Sequence[bytes], titles: Sequence[bytes], seed: int = 5) -> Iterator[bytes]:
    """Yield the pages again and again, without an end; those of the first round have their links."""
    drawn = random.Random(seed)
    for number in itertools.count():
        copy, place = divmod(number, len(pages))
        page = TITLE.sub(rb"<title>\1 (copy %d)</title>" % copy, pages[place], count=1)
        page = PAGE_ID.sub(b"<id>%d</id>" % (FIRST_PAGE_ID + number), page, count=1)
        yield LINK.sub(lambda found: _link(found, titles, drawn), page) if copy else page


def _link(found: re.Match[bytes], titles: Sequence[bytes], drawn: random.Random) -> bytes:
    """Return the link, or one to another item, as often as not."""
    return found[0] if drawn.random() < 0.5 else b"[[" + drawn.choice(titles) + b"]]"

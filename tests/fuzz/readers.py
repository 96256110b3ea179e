"""Every reader of foreign bytes, with a sound input: what it reads, and which errors are its own."""

from __future__ import annotations

import bz2
import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from pipeline.config import DocumentsConfig, load_config
from pipeline.documents import corpus
from pipeline.documents.wiki_name import wiki_of
from pipeline.documents.wikitext import WikitextError, plain_text
from pipeline.engine.tasks import ByteRange
from pipeline.engine.units import UnitReport
from pipeline.index.added_file import read_added
from pipeline.kb.entity_rows import KbBuilder, KbRules
from pipeline.kb.indented import read_indented
from pipeline.kb.sql_redirects import REDIRECT_COLUMNS, SqlRows
from pipeline.link.gold import load_gold
from pipeline.link.weights import TRAINED, load_weights
from pipeline.sources.lines import read_lines
from pipeline.sources.pages import parse_page, read_pages
from pipeline.sources.ranges import peek
from pipeline.templates.template_file import OWN, read_templates
from schemas.errors import TrelmError
from schemas.manifest import Manifest
from trelm_train.config import load_config as load_trainer_config
from trelm_train.evaluate.bear_data import METADATA, read_bear
from trelm_train.evaluate.lama_files import read_jsonl
from trelm_train.evaluate.lama_rows import right_objects, row_of, sentence_reason, skip_reason
from trelm_train.evaluate.lama_uhn import read_named
from trelm_train.evaluate.paraphrases import read_patterns
from trelm_train.finetune.relation_file import read_relations
from trelm_train.finetune.typing_file import read_typing

TEXT = "{{Infobox|a=1}}'''Paris''' is [[France|French]]s{{snd}}<ref>r</ref> in {{lang|fr|la [[Seine]]}}.\n== H ==\n* x\n"
ENTITY = {
    "type": "item", "id": "Q42", "lastrevid": 7,
    "labels": {"en": {"language": "en", "value": "Ada"}}, "descriptions": {}, "aliases": {"en": [{"language": "en", "value": "A"}]},
    "claims": {"P31": [{"rank": "normal", "mainsnak": {
        "snaktype": "value", "property": "P31", "datavalue": {"type": "wikibase-entityid", "value": {"id": "Q5", "entity-type": "item"}}}}]},
    "sitelinks": {"enwiki": {"site": "enwiki", "title": "Ada"}},
}  # fmt: skip
DUMP = (
    b"[\n"
    + b",\n".join(json.dumps(ENTITY | {"id": f"Q{n}"}).encode() for n in range(1, 9))
    + b"\n]\n"
)
PAGE = (
    "<page><title>T</title><ns>0</ns><id>7</id><revision><id>8</id><model>wikitext</model>"
    f"<text>{TEXT.replace('<', '&lt;')}</text></revision></page>\n"
)
PAGES = (
    f"<mediawiki><siteinfo><dbname>enwiki</dbname></siteinfo>\n{PAGE * 3}</mediawiki>\n".encode()
)
ROWS = b"".join(
    json.dumps(
        {"id": n, "text": f"text {n}", "links": [{"start": 0, "end": 4, "qid": "Q1"}]}
    ).encode()
    + b"\n"
    for n in range(5)
)
GOLD = (
    json.dumps(
        {"doc_id": "1", "text": "Paris", "mentions": [{"start": 0, "end": 5, "qid": "Q90"}]}
    ).encode()
    + b"\n"
)
ADDED = (
    b'{"id": "U1", "label": "Brook", "aliases": ["B"], "description": "maker", "facts": {"P31": ["Q5"], "P2": ["U2"]}}\n'
    b'{"id": "U2", "label": "Hand", "popularity": 5}\n'
)
LAMA = (
    b'{"sub_label": "Ada", "obj_label": "Paris", "sub_uri": "Q7", "judgments": [{"judgment": "yes"}]}\n'
    b'{"sub_label": "Bob", "obj_label": "Rome"}\n'
    b'{"masked_sentences": ["Ada is in [MASK] ."], "obj_label": "Paris", "id": 5}\n'
)
PATTERNS = b'{"pattern": "[X] is in [Y]."}\n{"pattern": "In [Y] lies [X]", "lemma": "lie"}\n'
BEAR_METADATA = json.dumps(
    {
        "P30": {
            "templates": ["[X] is in [Y].", "[Y] has [X]."],
            "answer_space_labels": ["Asia", "Europe"],
            "answer_space_ids": ["Q48", "Q46"],
        }
    }
).encode()
BEAR_ROWS = (
    b'{"sub_id": "Q1", "sub_label": "Ada", "obj_id": "Q46", "obj_label": "Europe", "answer_idx": 1}\n'
    b'{"sub_id": "Q2", "sub_label": "Bob", "obj_id": "Q48", "obj_label": "Asia", "answer_idx": 0}\n'
)
NAMED = b'{"named": {"city": {"Ada": [5, 7, 9], "Bob": []}, "language": {"Ada": [1]}}}'
TYPING = b'[{"sent": "Ada left Rome .", "start": 0, "end": 3, "labels": ["person", "poet"], "ents": []}]\n'
TACRED = (
    b'{"token": ["Ada", "left", "Rome"], "subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2, '
    b'"subj_type": "PERSON", "obj_type": "CITY", "relation": "left"}\n'
) * 2
SEMEVAL = (
    b'1\t"The <e1>rain</e1> fell on <e2>Rome</e2>."\nCause-Effect(e1,e2)\nComment: none\n\n'
    b'2\t"The <e2>king</e2> met <e1>Ada</e1>."\nOther\nComment:\n'
)
FEWREL = (
    b'{"P17": [{"tokens": ["Rome", "in", "Italy"], "h": ["rome", "Q1", [[0]]], "t": ["italy", "Q2", [[2]]]}], '
    b'"P26": [{"tokens": ["Ada", "met", "Bob"], "h": ["bob", "Q3", [[2]]], "t": ["ada", "Q4", [[0]]]}]}'
)
SETTINGS = (
    b'run = "r"\n[kb]\ndumps = ["a"]\nlanguages = ["de"]\n[link]\ntop_k = 5\nmin_confidence = 0.5\n'
)
TRAINER_SETTINGS = (
    b'[train]\nsteps = 5\nlearning_rate = 1e-3\n[facts]\nshare = 0.5\n[routing]\npolicy = "full"\n'
)
SQL = (
    b"-- Host: x    Database: wikidatawiki\nCREATE TABLE `redirect` (\n  `rd_from` int(8),\n  `rd_namespace` int(11),\n"
    b"  `rd_title` varbinary(255),\n  `rd_interwiki` varbinary(32)\n) ENGINE=InnoDB;\n"
    b"INSERT INTO `redirect` VALUES (11,0,'Q2',''),(12,0,'Q3\\'x',NULL),(15,0,'Q6','');\n"
)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader of a file, and what it must do with a changed one."""

    name: str
    content: bytes
    read: Callable[[Path], Any]
    ending: str = ""
    # Errors of its own; every other one is a fault.
    errors: tuple[type[Exception], ...] = (TrelmError,)
    # Whether a checksum tells a changed bit: then what is read without an error is what was written.
    is_sealed: bool = False


def whole(path: Path) -> ByteRange:
    return ByteRange(path=str(path), start=0, end=path.stat().st_size)


def lines(path: Path) -> list[bytes]:
    return [line for _, line in read_lines(whole(path))]


def entities(path: Path) -> int:
    builder = KbBuilder(KbRules(statements=True))
    outcomes = [outcome for line in lines(path) for outcome in builder.add_line(line)]
    return len(outcomes) + sum(rows.num_rows for _, rows in builder.take())


def indented(path: Path) -> int:
    builder = KbBuilder(KbRules())
    return sum(len(builder.add_line(record)) for record in read_indented(str(path)))


def pages(path: Path) -> int:
    count = 0
    for _, xml in read_pages(whole(path)):
        try:
            page = parse_page(xml)
            count += len(plain_text(page.text).anchors)
        except (ValueError, WikitextError):
            # A reject, as in the stage.
            count += 1
    return count


def wikitext(path: Path) -> str:
    text = path.read_bytes().decode("utf-8", "replace")
    plain = plain_text(text)
    for anchor in plain.anchors:
        assert plain.text[anchor.start : anchor.end].strip()
    return plain.text


def documents(path: Path) -> list[str]:
    config = DocumentsConfig(links_field="links")
    found = corpus.read_jsonl(whole(path), "x", config, None)
    return [document.problem or document.text for document in found]


def kinds(path: Path) -> str:
    return f"{corpus.kind_of(str(path))} {wiki_of(str(path))} {len(peek(str(path)))}"


def probes(path: Path) -> Counter[str]:
    pairs: set[tuple[str, str]] = set()
    rows = read_jsonl(path)
    found = Counter(f"{len(objects)} right" for objects in right_objects(rows).values())
    for row in rows:
        for template, reason in (
            ("[X] is [Y]", skip_reason(row, pairs, uhn=True, uncased=True)),
            (None, sentence_reason(row)),
        ):
            found[reason or str(row_of(template, row).sub_qid)] += 1
    return found


def bear(metadata: bytes, rows: bytes, folder: Path) -> int:
    """A probe in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / METADATA).write_bytes(metadata)
    (folder / "P30.jsonl").write_bytes(rows)
    return sum(relation.num_statements for relation in read_bear(folder).relations)


def redirects(path: Path) -> int:
    rows = SqlRows("redirect", REDIRECT_COLUMNS)
    return sum(len(list(rows.feed(line))) for line in lines(path))


READERS = (
    Reader(name="dump", content=DUMP, read=entities),
    Reader(name="dump-gz", content=gzip.compress(DUMP, mtime=0), read=lines, ending=".gz", is_sealed=True),
    Reader(name="dump-bz2", content=bz2.compress(DUMP), read=lines, ending=".bz2", is_sealed=True),
    Reader(name="dump-bz2-streams", content=bz2.compress(DUMP[:900]) + bz2.compress(DUMP[900:]), read=lines, ending=".bz2", is_sealed=True),
    Reader(
        name="dump-zst", content=zstandard.ZstdCompressor(write_checksum=True).compress(DUMP), read=lines, ending=".zst",
        is_sealed=True,
    ),
    Reader(name="indented", content=json.dumps({"entities": {"Q42": ENTITY}}, indent=1).encode(), read=indented),
    Reader(name="pages", content=PAGES, read=pages),
    Reader(name="wikitext", content=TEXT.encode(), read=wikitext, errors=(WikitextError,)),
    Reader(name="jsonl", content=ROWS, read=documents),
    Reader(name="text", content="Köln\n".encode(), read=lambda path: corpus.read_text_file(str(path), "a").text),
    Reader(name="kinds", content=PAGES[:200], read=kinds),
    Reader(name="gold", content=GOLD, read=lambda path: load_gold(str(path))),
    Reader(name="added", content=ADDED, read=lambda path: read_added(str(path))),
    Reader(name="templates", content=OWN.read_bytes()[:600].rpartition(b"\n")[0], read=lambda path: read_templates(str(path))),
    Reader(name="lama", content=LAMA, read=probes),
    Reader(name="patterns", content=PATTERNS, read=read_patterns),
    Reader(name="bear", content=BEAR_METADATA, read=lambda path: bear(path.read_bytes(), BEAR_ROWS, path.parent / "bear")),
    Reader(name="bear-rows", content=BEAR_ROWS, read=lambda path: bear(BEAR_METADATA, path.read_bytes(), path.parent / "bear")),
    Reader(name="names", content=NAMED, read=read_named, ending=".json"),
    Reader(name="typing", content=TYPING, read=read_typing),
    Reader(name="typing-gz", content=gzip.compress(TYPING, mtime=0), read=lambda path: read_typing(path).examples, is_sealed=True),
    Reader(name="tacred", content=TACRED, read=read_relations),
    Reader(name="semeval", content=SEMEVAL, read=read_relations),
    Reader(name="fewrel", content=FEWREL, read=read_relations),
    Reader(name="settings", content=SETTINGS, read=lambda path: load_config(str(path)), ending=".toml"),
    Reader(name="trainer-settings", content=TRAINER_SETTINGS, read=lambda path: load_trainer_config(path, []), ending=".toml"),
    Reader(name="weights", content=load_weights(TRAINED).to_json().encode(), read=lambda path: load_weights(str(path)), ending=".json"),
    Reader(name="redirects", content=SQL, read=redirects, errors=(TrelmError, ValueError)),
    Reader(
        name="manifest", content=Manifest(stage="kb", fingerprint="f", code_version="0", tables={}).to_json().encode(),
        read=lambda path: Manifest.from_json(path.read_text(encoding="utf-8"), "m"), errors=(ValueError,), is_sealed=True,
    ),
    Reader(
        name="report", content=UnitReport(index=3, parts={}, counters={"rows_in": 5}).to_json().encode(),
        read=lambda path: UnitReport.from_json(path.read_text(encoding="utf-8")), errors=(ValueError,), is_sealed=True,
    ),
)  # fmt: skip

"""The scanner of entities gives what the decoder gives, or leaves the record to it."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import KbConfig
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import ByteRange, number_units
from pipeline.kb import fast
from pipeline.kb.entity_rows import KbRules
from pipeline.kb.stage import KbWorker, plan
from tests.pipeline.kb.scans import check_scan, compact
from tests.pipeline.kb.test_entity_rows import claim, item, terms, to
from tests.pipeline.kb.test_splits import DUMP, MemoryWriter, Rows

pytest.importorskip("numba")
NUM_CUTS, NUM_BATCHES, BATCH = 50, 40, 50
RULES = KbRules(languages=("en", "mul", "de"))
KIT_DUMPS = (
    "wikibrain-testDump.json.bz2", "qrank-twenty_entities.json.bz2", "wdtk-mock-dump-with-bugs.json",
    "wdtk-mock-dump-for-long-testing.json", "assembled-subset-A.json.gz", "assembled-subset-C.json.gz",
)  # fmt: skip


def dumped(entity: Any) -> bytes:
    return json.dumps(entity, separators=(",", ":")).encode()


def rich(number: int = 1) -> dict[str, Any]:
    """An item with all that the scanner looks at."""
    name = claim({"text": "Nom", "language": "en"}, "monolingualtext")
    return item(
        f"Q{number}",
        descriptions=terms(en="first", fr="pas voulu \N{SNOWMAN} \N{GRINNING FACE}"),
        aliases={"en": [{"language": "en", "value": 'a "quoted" alias\\'}], "xx": [], "de": []},
        claims={
            "P31": [to(5), to(5), to(13442814, "deprecated"), to(7)],
            "P279": [to(1), to(2, "preferred"), to(3, "preferred"), to(2, "preferred")],
            "P1813": [name, claim("Short", "string")],
            "P569": [claim({"time": "+1952-03-11T00:00:00Z", "precision": 11}, "time")],
            "P2": [claim(None, snaktype="novalue"), claim(None, snaktype="somevalue", datatype="")],
            "P1628": [claim({"entity-type": "property", "numeric-id": 31, "id": "P31"})],
            "P1082": [claim({"amount": "+1", "unit": "1"}, "quantity"), claim(-1.5e3, "quantity")],
        },
        sitelinks={
            name: {"site": name, "title": f"Title {name}", "badges": ["Q1", True, None]}
            for name in ("enwiki", "dewiki", "commonswiki", "enwikiquote", "x")
        },
        lastrevid=99 + number,
    )


def test_a_usual_item_is_scanned() -> None:
    """Else the tests below would compare the decoder with itself."""
    assert check_scan([dumped(rich()), dumped(rich(2))], RULES) == 2


# Each is valid JSON of a form that the scanner must leave alone or read right: (text, replacement).
ODD = {
    "a key with an escape": (b'"rank"', b'"r\\u0061nk"'),
    "a language with an escape": (b'"en":{', b'"\\u0065n":{'),
    "a property twice": (b'"P279"', b'"P31"'),
    "a site twice": (b'"dewiki":', b'"enwiki":'),
    "a long site twice": (b'"enwikiquote":', b'"commonswiki":'),
    "claims twice": (b'"sitelinks":{', b'"claims":{},"sitelinks":{'),
    "sitelinks twice": (b'"lastrevid"', b'"sitelinks":{"frwiki":{"title":"x"}},"lastrevid"'),
    "a rank twice": (b'"rank":"deprecated"', b'"rank":"deprecated","rank":"normal"'),
    "a snak twice": (b'"rank":"deprecated"', b'"mainsnak":{"datatype":"x"},"rank":"deprecated"'),
    "a number twice": (b'"numeric-id":5,', b'"numeric-id":6,"numeric-id":5,'),
    "a type of snak twice": (b'"snaktype":"value"', b'"snaktype":"novalue","snaktype":"value"'),
    "a value twice": (b'"type":"wikibase-entityid"', b'"value":"x","type":"wikibase-entityid"'),
    "a section twice": (b'"aliases"', b'"labels"'),
    "a type with an escape": (b'"type":"wikibase-entityid"', b'"type":"wikibase\\u002dentityid"'),
    "another type": (b'"type":"wikibase-entityid"', b'"type":"string"'),
    "no type": (b'"type":"wikibase-entityid"', b'"kind":1'),
    "a lexeme": (b'"entity-type":"item"', b'"entity-type":"lexeme"'),
    "no kind": (b'"entity-type":"item",', b""),
    "no number": (b'"numeric-id":5,', b""),
    "a number of zero": (b'"numeric-id":5,', b'"numeric-id":0,'),
    "a padded number": (b'"numeric-id":5,', b'"numeric-id":05,'),
    "a large number": (b'"numeric-id":5,', b'"numeric-id":4200000000,'),
    "a huge number": (b'"numeric-id":5,', b'"numeric-id":123456789012345678901,'),
    "a fraction": (b'"numeric-id":5,', b'"numeric-id":5.0,'),
    "an id that is no text": (b'"id":"Q5"', b'"id":5'),
    "an unknown rank": (b'"rank":"normal"', b'"rank":"best"'),
    "a rank that is no text": (b'"rank":"normal"', b'"rank":null'),
    "a missing snak": (b'"mainsnak"', b'"snak"'),
    "an unknown snak": (b'"snaktype":"value"', b'"snaktype":"maybe"'),
    "no datatype": (b'"datatype":"wikibase-item"', b'"datatype":""'),
    "an id of ten digits": (b'"P279"', b'"P4294967295"'),
    "an id that is too large": (b'"P279"', b'"P4294967296"'),
    "no property": (b'"P279"', b'"Q279"'),
    "two properties in one slot": (b'"P279"', b'"P16415"'),
    "lists for maps": (b'"aliases":{', b'"more":[],"other":{'),
    "null for a map": (b'"sitelinks":{', b'"sitelinks":null,"other":{'),
    "a space": (b'"claims":{', b'"claims": {'),
    "a comma too many": (b'"lastrevid":100', b'"lastrevid":100,'),
    "a comma in a list": (b"true,null]", b"true,null,]"),
    "half a pair": (b"pas voulu", b"\\ud83d"),
    "the wrong half": (b"pas voulu", b"\\ude00\\ud83d"),
    "two wrong halves": (b"pas voulu", b"\\ude00\\ude00"),
    "an unknown escape": (b"pas voulu", b"\\x41"),
    "a short escape": (b"pas voulu", b"\\u12g4"),
    "a control character": (b"pas voulu", b"a\tb"),
    "bytes that are no UTF-8, skipped": (b"pas voulu", b"\xff\xfe"),
    "bytes that are no UTF-8, kept": (b"first", b"\xc3\x28"),
    "text in UTF-8": (b"first", "f\N{LATIN SMALL LETTER U WITH DIAERESIS}rst".encode()),
    "a large exponent": (b"-1500.0", b"1e999"),
    "a word for true": (b"true", b"tru"),
    "no end": (b'"lastrevid":100}', b'"lastrevid":100'),
    "two ends": (b'"lastrevid":100}', b'"lastrevid":100}}'),
    "two objects": (b'"lastrevid":100}', b'"lastrevid":100}{"id":"Q77"}'),
    "a revision that is text": (b'"lastrevid":100', b'"lastrevid":"100"'),
    "a large revision": (b'"lastrevid":100', b'"lastrevid":99999999999999999999'),
    "a name that is no text": (b'"value":"first"', b'"value":1'),
    "deep nesting": (b"[true,null]", b"[" * 70 + b"]" * 70),
    "a property as entity": (b'"id":"Q1"', b'"id":"P1"'),
    "a lexeme as entity": (b'"id":"Q1"', b'"id":"L1"'),
    "a list of values": (b'{"amount":"+1","unit":"1"}', b'[1,"\\n",[{}],{"a":[]}]'),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_forms_become_what_the_decoder_makes_of_them(name: str) -> None:
    old, new = ODD[name]
    entity = rich()
    for page in entity["sitelinks"].values():
        page["badges"] = [True, None]
    record = dumped(entity)
    changed = record.replace(old, new)
    assert changed != record, "the case has no effect"
    check_scan([dumped(rich(3)), changed, dumped(rich(4)), changed], RULES)


def test_any_change_of_bytes_becomes_what_the_decoder_makes_of_it() -> None:
    random_ = random.Random(1)
    pieces = [
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"0",
        b"-",
        b"\\u00e9",
        b"\xe9",
        b" ",
    ]
    num_scanned = 0
    for batch in range(NUM_BATCHES):
        lines = []
        for number in range(BATCH):
            # Each has an id of its own: repeats would not be compared.
            changed = bytearray(dumped(rich(batch * BATCH + number + 1)))
            for _ in range(random_.choice((1, 1, 2))):
                start = random_.randrange(len(changed))
                end = start + random_.choice((0, 1, 1, 9))
                changed[start:end] = random_.choice((b"", *pieces, changed[start : start + 9]))
            lines.append(bytes(changed))
        num_scanned += check_scan(lines, RULES)
    assert num_scanned > NUM_BATCHES * BATCH // 10


def test_scholarly_articles_are_left_out() -> None:
    article = item("Q8", claims={"P31": [to(13442814)], "P50": [to(4)]})
    rules = KbRules(exclude_scholarly=True)
    assert check_scan([dumped(rich()), dumped(article), dumped(rich(2))], rules) == 3


def test_more_than_the_tables_hold() -> None:
    """Groups, sites and records beyond the workspace are left to the decoder."""
    sites = {f"s{number}wiki": {"title": "x"} for number in range(3000)}
    group = [to(number % 900 + 1) for number in range(1500)]
    long = terms(en="x" * (5 << 20))
    entities = [
        item("Q1", sitelinks=sites),
        item("Q2", claims={"P1": group}),
        item("Q3", labels=long),
    ]
    many = {f"P{number}": [to(1), to(number)] for number in range(1, 9000)}
    assert check_scan(list(map(dumped, entities)), RULES) == 0
    assert check_scan([dumped(item("Q4", claims=many, sitelinks=dict(list(sites.items())[:2000])))], RULES) == 1  # fmt: skip


@pytest.mark.parametrize("rules", [KbRules(languages=("x" * 70,)), KbRules(wiki="w" * 70), KbRules(statements=True)])  # fmt: skip
def test_what_no_scanner_keeps(rules: KbRules) -> None:
    assert fast.open_scanner(rules) is None


def test_without_numba_there_is_no_scanner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast.importlib.util, "find_spec", lambda name: None)
    assert fast.open_scanner(RULES) is None


@pytest.fixture
def untried() -> Iterator[None]:
    """A process that has not tried a scanner yet, before and after the test."""
    fast._works.cache_clear()
    yield
    fast._works.cache_clear()


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(
    "error",
    [ImportError("Numba needs NumPy 2.3 or less"), OSError(28, "No space left"), EOFError()],
)
def test_a_numba_that_does_not_work_leaves_the_dump_to_the_decoder(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, and a broken cache does not end the stage."""
    from pipeline.kb import entity_scanner

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(entity_scanner, "scan_entity", broken)
    assert fast.open_scanner(RULES) is None
    assert f"without compiled code ({type(error).__name__}" in caplog.text
    # Every unit asks.
    assert fast.open_scanner(RULES) is None
    assert caplog.text.count("without compiled code") == 1


@pytest.mark.usefixtures("untried")
def test_without_a_folder_for_numbas_cache_there_is_no_scanner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    for name in ("pipeline.kb.entity_scanner", "pipeline.kb.scan_entity"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert fast.open_scanner(RULES) is None


def test_only_long_dumps_pay_for_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump.json"
    path.write_bytes(DUMP)
    config, paths = KbConfig(dumps=(str(path),)), RunPaths(root=str(tmp_path / "run"))

    def is_long() -> bool:
        return next(
            phase.worker.is_long for phase in plan(config, paths).phases if phase.name == "kb"
        )

    assert not is_long()
    monkeypatch.setattr("pipeline.kb.stage.SMALLEST_DUMPS", len(DUMP))
    assert is_long()


def read(path: Path, cuts: list[int], *, is_long: bool) -> tuple[Rows, Any]:
    """Rows and counters of a file cut at some bytes."""
    worker = KbWorker(config=KbConfig(skip_corrupt=True), page_dumps={}, is_long=is_long)
    size = path.stat().st_size
    bounds = [0, *sorted({cut for cut in cuts if 0 < cut < size}), size]
    tasks = [ByteRange(path=str(path), start=low, end=high) for low, high in pairwise(bounds)]
    rows, counters = Rows(), Rows()
    for unit in number_units([tasks])[0]:
        out = MemoryWriter(unit)
        worker.process(unit, out)
        out.close()
        rows += out.rows
        counters += out.counters
    return rows, counters


@pytest.mark.slow
def test_any_split_gives_the_rows_of_the_decoder(tmp_path: Path) -> None:
    lines = [compact(line) for line in DUMP.splitlines()]
    for number in range(3000, 3040):
        lines.insert(2 * number % 200, dumped(rich(number)))
    content = b"\n".join(lines) + b"\n"
    path, random_ = tmp_path / "dump.json", random.Random(5)
    path.write_bytes(content)
    wanted = read(path, [], is_long=False)
    assert wanted[1]["rejects"] == 3
    for _ in range(NUM_CUTS):
        cuts = [random_.randrange(len(content)) for _ in range(random_.randint(0, 8))]
        assert read(path, cuts, is_long=True) == wanted, cuts


@pytest.mark.kit
@pytest.mark.slow
@pytest.mark.parametrize("name", KIT_DUMPS)
def test_every_genuine_dump(kit: Path, name: str) -> None:
    path = kit / "wikidata" / name
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)
    with opener(path, "rb") as file:
        lines = list(file)
    num_scanned = check_scan(lines, KbRules())
    assert num_scanned > 0.9 * len(lines), "nearly all are of the usual form"

"""Any split of any format gives the rows of `kb`, rejects included, that one reader gives; damaged
files too.
"""

from __future__ import annotations

import bz2
import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard

from pipeline.config import KbConfig
from pipeline.engine.tasks import ByteRange, Unit, number_units
from pipeline.engine.units import UnitWriter
from pipeline.kb.stage import KbWorker
from pipeline.sources import SourceError
from pipeline.sources.bz2_blocks import iter_magics
from schemas.table import Table
from tests.pipeline.sources.conftest import bz2_streams, gzip_members, zstd_frames

NUM_SPLITS = 50
NUM_DAMAGES, SPLITS_PER_DAMAGE = 10, 5
SIZES = [
    60_000,
    9_000,
    1,
    0,
    33_333,
    5,
]  # of members and frames: they start within lines, at lines, are empty
Rows = Counter[tuple[str, str]]


class MemoryWriter(UnitWriter):
    """Keeps the rows of a unit instead of writing them."""

    def __init__(self, unit: Unit) -> None:
        super().__init__("", "kb", unit)
        self.rows: Rows = Counter()

    def write(self, table: Table, rows: pa.Table) -> None:
        self.rows.update((table.name, str(row)) for row in rows.to_pylist())

    def close(self) -> None:
        self.rows.update(("rejects", str(row)) for row in self._rejects)


def entity(number: int, random_: random.Random) -> bytes:
    """An item or property with rows in every table, and noise of any length, so that little of it
    can be compressed.
    """
    noise = random_.randbytes(random_.choice((0, 5, 500, 800, 2500))).hex()
    value = {"id": f"Q{number + 1}", "entity-type": "item"}
    snaks = {
        "P31": {"snaktype": "value", "datavalue": {"type": "wikibase-entityid", "value": value}},
        "P18": {"snaktype": "value", "datavalue": {"type": "string", "value": f"é {number}.jpg"}},
    }
    made = {
        "type": "item",
        "id": f"{'P' if number % 9 == 0 else 'Q'}{number}",
        "labels": {"en": {"language": "en", "value": f"name {number} \N{SNOWMAN}"}},
        "aliases": {"en": [{"language": "en", "value": f"alias {number}"}]},
        "claims": {
            pid: [{"mainsnak": snak, "rank": "normal", "type": "statement"}] for pid, snak in snaks.items()
        },
        "noise": noise,
    }  # fmt: skip
    return json.dumps(made, ensure_ascii=number % 2 == 0).encode()


def make_dump() -> bytes:
    """A dump of some 250 entities with all that becomes a reject or is skipped."""
    random_ = random.Random(3)
    odd = [
        b'{"id":"Q9000","labels":7}', b"{broken", b'{"id":"X1"}', b'{"id":"L3","type":"lexeme"}', b"", b"\xff\xfe",
        b'{"id":"Q9001"}{"id":"Q9002"}', b'{"entities":{"Q9003":{"id":"Q9003"},"Q9004":{"id":"Q9004"}}}',
    ]  # fmt: skip
    records = [entity(number, random_) for number in range(1, 240)]
    for place, record in enumerate(odd):
        records.insert(29 * (place + 1), record)
    return b"[\n" + b",\n".join(records) + b"\n]\n"


DUMP = make_dump()
FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "json": bytes,
    "gz-members": lambda data: gzip_members(data, SIZES),
    "gz-one-member": lambda data: gzip.compress(data, 1, mtime=0),
    "bz2-one-stream": lambda data: bz2.compress(data, 1),
    "bz2-streams": lambda data: bz2_streams(data, 5),
    "zst-frames": lambda data: zstd_frames(data, SIZES),
    "zst-one-frame": lambda data: zstandard.ZstdCompressor(level=1, write_checksum=True).compress(
        data
    ),
}


def read(path: Path, cuts: list[int]) -> tuple[Rows, Counter[str]]:
    """Rows of all tables and counters of a file cut at the given bytes."""
    size = path.stat().st_size
    bounds = [0, *sorted({cut for cut in cuts if 0 < cut < size}), size]
    worker = KbWorker(config=KbConfig(statements=True, skip_corrupt=True), page_dumps={})
    rows: Rows = Counter()
    counters: Counter[str] = Counter()
    for unit in units_between(path, bounds):
        out = MemoryWriter(unit)
        worker.process(unit, out)
        out.close()
        rows += out.rows
        counters += out.counters
    skipped = sum(count for name, count in counters.items() if name.startswith("skipped_"))
    assert counters["rows_in"] == counters["rows_out"] + counters["rejects"] + skipped
    return rows, counters


def units_between(path: Path, bounds: list[int]) -> list[Unit[ByteRange]]:
    tasks = [ByteRange(path=str(path), start=low, end=high) for low, high in pairwise(bounds)]
    return number_units([tasks])[0]


def process_all(worker: KbWorker, units: list[Unit[ByteRange]]) -> None:
    for unit in units:
        worker.process(unit, MemoryWriter(unit))


def starts_in(content: bytes, path: Path, name: str) -> list[int]:
    """Bytes at which something starts: a line, member, block, frame."""
    if name.startswith("bz2"):
        with path.open("rb") as file:
            return [magic.bit // 8 for magic in iter_magics(file, 0)]
    mark = {"js": b"\n", "gz": b"\x1f\x8b\x08", "zs": b"\x28\xb5\x2f\xfd"}[name[:2]]
    return [at for at in range(len(content)) if content.startswith(mark, at)]


def random_cuts(random_: random.Random, size: int, starts: list[int]) -> list[int]:
    """One to eight places, half of them at most two bytes from where something starts."""
    return [
        random_.choice(starts) + random_.randint(-2, 2)
        if random_.random() < 0.5
        else random_.randrange(size)
        for _ in range(random_.randint(1, 8))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_any_split_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    content, path, random_ = FORMATS[name](DUMP), tmp_path / name, random.Random(name)
    path.write_bytes(content)
    starts = starts_in(content, path, name)
    wanted, counted = read(path, [])
    per_table = Counter(table for table, _ in wanted.elements())
    assert per_table["entities"] == 217
    assert per_table["statements"] == 2 * 213, "the four on odd lines have no claims"
    assert (counted["rejects"], counted["skipped_lexeme"], counted["skipped_repeated"]) == (3, 1, 0)
    for _ in range(NUM_SPLITS):
        cuts = random_cuts(random_, len(content), starts)
        assert read(path, cuts) == (wanted, counted), cuts


def test_every_format_has_the_same_rows(tmp_path: Path) -> None:
    """But for the rejects: their keys are places in the file."""
    found = []
    for name, store in FORMATS.items():
        path = tmp_path / name
        path.write_bytes(store(DUMP))
        rows = read(path, [])[0]
        found.append(Counter(row for row in rows.elements() if row[0] != "rejects"))
    assert all(rows == found[0] for rows in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "json"])
def test_any_split_of_a_damaged_file_loses_the_same_rows(tmp_path: Path, name: str) -> None:
    """One byte changed, or some bytes gone, at random places and where something starts.

    What came out of a gzip member or zstd frame before the fault shows stays; all that depends on
    the member alone.
    """
    content, path, random_ = FORMATS[name](DUMP), tmp_path / name, random.Random(name)
    path.write_bytes(content)
    starts = starts_in(content, path, name)
    sound = read(path, [])[0]
    num_lossy = 0
    for number in range(NUM_DAMAGES):
        place = (
            random_.choice(starts[1:] or [40]) + random_.randint(0, 20)
            if number % 3 == 0
            else random_.randrange(64, len(content))
        )
        place = min(place, len(content) - 1)
        gone = random_.choice((0, 0, 3, 40_000))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 + gone :]
        )
        wanted = read(path, [])
        num_lossy += wanted[0] != sound
        if name.startswith(
            "bz2"
        ):  # the others check what they hold only at the end of a member or frame
            assert wanted[1]["rejects"] <= 3 + 3
        for _ in range(SPLITS_PER_DAMAGE):
            cuts = [*random_cuts(random_, len(content), starts), place + random_.randint(-3, 3)]
            assert read(path, cuts) == wanted, (place, gone, cuts)
    assert num_lossy >= NUM_DAMAGES // 2


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "json"])
def test_without_skip_corrupt_any_split_of_a_damaged_file_fails(tmp_path: Path, name: str) -> None:
    """The damage is met, whoever reads it."""
    content, path, random_ = FORMATS[name](DUMP), tmp_path / name, random.Random(name)
    path.write_bytes(content)
    starts = starts_in(content, path, name)
    place = len(content) * 2 // 3
    path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
    worker = KbWorker(config=KbConfig(), page_dumps={})
    for _ in range(5):
        cuts = sorted(
            {cut for cut in random_cuts(random_, len(content), starts) if 0 < cut < len(content)}
        )
        units = units_between(path, [0, *cuts, len(content)])
        with pytest.raises(SourceError, match=r"byte \d+: .* corrupt"):
            process_all(worker, units)

"""The dump benchmark: what it generates, that all sides make the same rows, and what it prints."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from benchmarks import dump_parse, harness
from benchmarks.bz2_stream import SingleStream
from benchmarks.generated_dump import (
    AROUND_ENTITY,
    FIRST_NUMBER,
    Dump,
    Templates,
    cut,
    make_dump,
    read_templates,
)
from benchmarks.harness import Measured, Variant
from schemas.processor import BFLOAT16_FLAGS
from tests.conftest import ROOT, SAMPLE
from tests.pausing import PATIENCE_S, wait_until

SUFFIXES = ("", ".gz", ".bz2")
RAW_MB = 1.0
DOCUMENTED = {
    "benchmark", "case", "unit", "ours", "limit", "peers", "rss_mb", "peer_rss_mb", "ratio_to_limit", "ratio_to_peers", "runs",
}  # fmt: skip


def sources() -> list[Path]:
    """The kit's dumps where it is at hand, else the sample."""
    kit = Path(os.environ.get("TRELM_KIT", "")) / "wikidata" / "qrank-twenty_entities.json.bz2"
    return [kit] if kit.exists() else [SAMPLE / "entities.json"]


@pytest.fixture(scope="module")
def templates() -> Templates:
    return read_templates(sources())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dumps")


@pytest.fixture(scope="module")
def dumps(templates: Templates, folder: Path) -> dict[str, Dump]:
    return {
        suffix: make_dump(templates, folder, RAW_MB, suffix, batch_entities=16)
        for suffix in SUFFIXES
    }


def content(dump: Dump) -> bytes:
    data = Path(dump.path).read_bytes()
    return (
        gzip.decompress(data)
        if dump.path.endswith(".gz")
        else bz2.decompress(data)
        if dump.path.endswith(".bz2")
        else data
    )


def test_all_forms_hold_the_same_json_of_the_size_asked_for(dumps: dict[str, Dump]) -> None:
    plain = content(dumps[""])
    assert all(content(dump) == plain for dump in dumps.values())
    assert all(dump.raw_bytes == len(plain) >= RAW_MB * 1e6 for dump in dumps.values())
    ids = [entity["id"] for entity in json.loads(plain)]
    assert len(set(ids)) == len(ids) == dumps[""].num_entities
    assert {int(name[1:]) for name in ids} == set(range(FIRST_NUMBER, FIRST_NUMBER + len(ids)))


def test_gz_has_the_official_members(dumps: dict[str, Dump]) -> None:
    rest, members = Path(dumps[".gz"].path).read_bytes(), []
    while rest:
        decoder = zlib.decompressobj(31)
        members.append(decoder.decompress(rest))
        rest = decoder.unused_data
    assert members[0] == b"[\n"
    assert members[-1] == b"\n]\n"
    assert len(members) > 5
    assert set(members[2:-1:2]) == {b",\n"}
    assert all(member.startswith(b"{") and member.endswith(b"}") for member in members[1::2])


def test_bz2_is_one_stream(dumps: dict[str, Dump]) -> None:
    decoder = bz2.BZ2Decompressor()
    decoder.decompress(Path(dumps[".bz2"].path).read_bytes())
    assert decoder.eof
    assert not decoder.unused_data


@pytest.mark.parametrize(
    "sizes", [(0,), (1,), (5, 0, 3), (100_000, 7, 250_000), (1, 2, 3, 4, 5, 6, 7, 8, 9)]
)
def test_joined_streams_decode_as_one(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Level 1 has blocks of 100 KB: the longer parts have several, whose checksums combine."""
    parts = [os.urandom(size) for size in sizes]
    with (tmp_path / "joined").open("wb") as file:
        stream = SingleStream(file, 1)
        for part in parts:
            stream.add(bz2.compress(part, 1))
        stream.finish()
    decoder = bz2.BZ2Decompressor()
    assert decoder.decompress((tmp_path / "joined").read_bytes()) == b"".join(parts)
    assert decoder.eof


def test_only_the_id_and_the_names_are_varied() -> None:
    reader = bz2.open if sources()[0].suffix == ".bz2" else open
    with reader(sources()[0], "rb") as file:
        records = [record for line in file if (record := line.strip(AROUND_ENTITY))]
    for record in records:
        genuine, varied = json.loads(record), json.loads(b"7".join(cut(record)[1]))
        assert list(genuine) == list(varied)
        for key in genuine.keys() - {"id", "labels", "descriptions", "aliases", "sitelinks"}:
            assert genuine[key] == varied[key]
        for language, term in genuine.get("labels", {}).items():
            end = " 7" if language in ("en", "mul") else ""
            assert varied["labels"][language]["value"] == term["value"] + end
        assert len(b"".join(cut(record)[1])) <= len(record) + len(
            cut(record)[1]
        )  # all other bytes are as they were


def test_a_dump_is_used_again(templates: Templates, folder: Path, dumps: dict[str, Dump]) -> None:
    before = Path(dumps[".gz"].path).stat().st_mtime_ns
    assert make_dump(templates, folder, RAW_MB, ".gz", batch_entities=16) == dumps[".gz"]
    assert Path(dumps[".gz"].path).stat().st_mtime_ns == before


def setup_for(folder: Path) -> dump_parse.Setup:
    return dump_parse.Setup(
        folder=folder, raw_mb=RAW_MB, slice_mb=RAW_MB, rows_mb=RAW_MB, batch_entities=16, unit_mb=0.05, rounds=2,
        quick=True, sources=tuple(sources()),
    )  # fmt: skip


@pytest.mark.slow
def test_all_peers_make_our_rows(folder: Path) -> None:
    (fields,) = dump_parse.same_rows(setup_for(folder))
    compared = {"bz2", "json", "isal_orjson", "beam_json"}
    assert fields["ok"], fields
    assert fields["same_as_ours"].keys() - {"qwikidata"} == compared
    assert fields["tables"]["ours"]["entities"]["rows"] > 10
    assert fields["tables"]["ours"]["triples"]["rows"] > 10


@pytest.mark.skipif(
    importlib.util.find_spec("qwikidata") is None,
    reason="pip install qwikidata: it is in extra bench",
)
def test_qwikidata_makes_our_rows(folder: Path) -> None:
    (fields,) = dump_parse.same_rows(setup_for(folder))
    assert fields["same_as_ours"]["qwikidata"]


def test_other_rows_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"result": {"same": {"orjson": False, "bz2": True}, "tables": {}}}
    monkeypatch.setattr(dump_parse, "run_once", lambda variant, scratch: answer)
    (fields,) = dump_parse.same_rows(setup_for(folder))
    assert not fields["ok"]
    assert fields["aims"]["variants_with_other_rows"] == {"value": 1, "at_most": 0, "met": False}


def measured(name: str, seconds: list[float], work: float = 10.0) -> Measured:
    variant = Variant(name=name, target="none:none", arguments={}, work=work)
    return Measured(variant=variant, seconds=seconds, cpu_seconds=seconds, rss_mb=100.0)


def test_a_missing_peer_has_no_aim_that_could_be_missed() -> None:
    by_name = {"ours": measured("ours", [1.0]), "isal_orjson": measured("isal_orjson", [2.0])}
    aims = dump_parse._speed_aims(".gz", by_name, {"qwikidata": "pip install qwikidata"})
    judged = harness.judged(aims, quick=False)
    assert judged["aims"] == {
        "cpu_ratio_to_peers.isal_orjson": {"value": 2.0, "at_least": 3.0, "met": False},
        "cpu_ratio_to_peers.qwikidata": {
            "value": None, "at_least": 8.0, "met": None, "why": "pip install qwikidata",
        },
    }  # fmt: skip
    assert not judged["ok"]


def test_a_run_that_took_no_longer_than_a_start_has_no_rate_without_it() -> None:
    run = measured("run", [2.0])
    assert dump_parse._without_startup(run, 1.0) == {"without_startup": 10.0}
    assert dump_parse._without_startup(run, 2.0)["skipped"].keys() == {"without_startup"}


def test_record_has_the_documented_keys_and_medians() -> None:
    found = {
        "ours": measured("ours", [1.0, 2.0, 10.0]),
        "orjson": measured("orjson", [4.0, 5.0, 6.0]),
    }
    fields = harness.record("dump_parse", "gz", "MB/s", found, 20.0)
    assert fields.keys() >= DOCUMENTED
    assert (fields["ours"], fields["peers"], fields["runs"]) == (5.0, {"orjson": 2.0}, 3)
    assert (fields["ratio_to_limit"], fields["ratio_to_peers"]) == (0.25, {"orjson": 2.5})


def test_a_missing_peer_is_skipped_with_what_to_install(tmp_path: Path) -> None:
    missing = Variant(name="other", target="none:none", arguments={}, needs="no_such_package")
    assert harness.measure([missing], 1, tmp_path) == {}
    assert harness.skipped([missing]) == {"skipped": {"other": "pip install no_such_package"}}


def test_rounds_are_interleaved_and_print_one_object_per_line(
    folder: Path, dumps: dict[str, Dump], capsys: pytest.CaptureFixture[str]
) -> None:
    variants = [dump_parse.limit(name, dumps[".gz"]) for name in ("isal", "gzip")]
    found = harness.measure(variants, 2, folder)
    assert [result["bytes"] for result in found["isal"].results] == [dumps[".gz"].raw_bytes] * 2
    assert all(one.rss_mb > 1 and len(one.seconds) == 2 for one in found.values())
    harness.emit(
        {"benchmark": "dump_parse", "machine": harness.machine(["msgspec", "no-such-package"])}
    )
    harness.emit({"ours": 12.345678})
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first)["machine"]["versions"]["no-such-package"] is None
    assert set(json.loads(first)["machine"]["bfloat16_instructions"]) <= BFLOAT16_FLAGS
    assert json.loads(second) == {"ours": 12.35}


def test_a_failing_variant_tells_its_error(folder: Path) -> None:
    variant = Variant(
        name="wrong",
        target="benchmarks.dump_parse_limits:decompress",
        arguments={"path": "/no/such", "library": "bz2"},
    )
    with pytest.raises(harness.VariantError, match="No such file"):
        harness.run_once(variant, folder)


def test_an_interruption_ends_the_variant_too(folder: Path) -> None:
    """The program, interrupted while a variant runs: exit code, message, and no process left."""
    code = (
        "import signal\n"
        "from pathlib import Path\n"
        "from benchmarks.harness import Variant, run_once, run_program\n"
        # A job that a shell starts in the background ignores SIGINT, and hands that on to its
        # children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "variant = Variant(name='slow', target='tests.benchmarks.slow:sleep', arguments={'started': %r})\n"
        "run_program(lambda: run_once(variant, Path(%r)))\n"
    )
    started = folder / "started"
    process = subprocess.Popen(
        [sys.executable, "-c", code % (str(started), str(folder))],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(started.exists, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == harness.INTERRUPTED
    assert said == "interrupted\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)

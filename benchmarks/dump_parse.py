"""Dump to tables: `python -m benchmarks.dump_parse [--quick] [--gb 1.0] [--case gz …] [--keep
FOLDER]`.

Goes in: the data kit (environment variable TRELM_KIT), from whose genuine entities a dump of any
size is generated (`benchmarks.generated_dump` says what of it is genuine). Comes out: one JSON
object per case, see benchmarks/README.md. MB are 10**6 bytes of JSON. Costs about 40 minutes and
1.2 GB of disk at 1 GB and five rounds on 2 cores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.generated_dump import Dump, Templates, kit_dumps, make_dump, read_templates
from benchmarks.harness import (
    Measured,
    Variant,
    common_arguments,
    emit,
    harmonic,
    machine,
    measure,
    record,
    run_once,
    run_program,
    scratch_folder,
    skipped,
)  # fmt: skip

NAME = "dump_parse"
UNIT = "MB/s"
RSS_LIMIT_MB = 1000.0
TINY_MB = 0.001  # one entity: what a start costs
WORKERS = (1, 2)
RSS_TIMES = 4  # the larger input of case `rss`
DEFAULT_UNIT_MB = 0.0  # the stage's own choice
PACKAGES = ("trelm", "apache-beam", "isal", "msgspec", "orjson", "pyarrow", "qwikidata")
KIT_FILES = (
    "wikibrain-testDump.json.bz2",
    "qrank-twenty_entities.json.bz2",
    "wdtk-mock-dump-with-bugs.json",
    "wdtk-mock-dump-for-long-testing.json",
    "assembled-subset-A.json.gz",
)
OURS = "benchmarks.dump_parse_ours:process_units"
POOL = "benchmarks.dump_parse_ours:process_units_in_pool"
KIT = "benchmarks.dump_parse_ours:kit_files"
COMMAND = "benchmarks.dump_parse_command:run_command"
DECOMPRESS = "benchmarks.dump_parse_limits:decompress"
DECODE = "benchmarks.dump_parse_limits:decode_typed"
COMPARE = "benchmarks.dump_parse_rows:compare"
PEERS = {
    "orjson": ("benchmarks.dump_parse_peers:orjson_loop", "orjson"),
    "qwikidata": ("benchmarks.dump_parse_qwikidata:qwikidata_loop", "qwikidata"),
    "beam_json": ("benchmarks.dump_parse_beam:beam_json", ""),
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and places."""

    folder: Path
    raw_mb: float
    slice_mb: float  # for the slow peers
    rows_mb: float  # for comparing rows
    batch_entities: int
    unit_mb: float  # stored, for several processes; 0 is the stage's own choice
    rounds: int
    quick: bool
    sources: tuple[Path, ...]

    @functools.cached_property
    def templates(self) -> Templates:
        """The genuine entities."""
        return read_templates(self.sources)

    def dump(self, suffix: str, raw_mb: float | None = None) -> Dump:
        """The generated dump, or another of its kind."""
        return make_dump(
            self.templates, self.folder, raw_mb or self.raw_mb, suffix, self.batch_entities
        )

    def measure(self, variants: Sequence[Variant]) -> dict[str, Measured]:
        """Run them, interleaved."""
        return measure(variants, self.rounds, self.folder)


def ours(dump: Dump, unit_mb: float, name: str = "ours", **options: Any) -> Variant:  # noqa: ANN401 - keys of KbConfig
    """Our variant outside Beam."""
    arguments = {"path": dump.path, "unit_mb": unit_mb, "options": options}
    return Variant(name=name, target=OURS, arguments=arguments, work=dump.raw_mb)


def peer(name: str, dump: Dump) -> Variant:
    """A peer on a dump."""
    target, needs = PEERS[name]
    return Variant(
        name=name, target=target, arguments={"path": dump.path}, work=dump.raw_mb, needs=needs
    )


def limit(name: str, dump: Dump) -> Variant:
    """Decompression by a library, or typed decoding, alone."""
    target = DECODE if name == "msgspec" else DECOMPRESS
    arguments = {"path": dump.path} | ({} if name == "msgspec" else {"library": name})
    return Variant(name=name, target=target, arguments=arguments, work=dump.raw_mb)


def compared(setup: Setup, suffix: str) -> Iterator[dict[str, Any]]:
    """Ours, the peers and the limits on one core."""
    full, part, plain = (
        setup.dump(suffix),
        setup.dump(suffix, setup.slice_mb),
        setup.dump("", setup.slice_mb),
    )
    peers = [peer("orjson", full), peer("qwikidata", part)]
    if suffix == ".gz":
        peers.append(peer("beam_json", part))
    libraries = ["isal", "gzip"] if suffix == ".gz" else ["bz2"]
    limits = [*(limit(name, full) for name in libraries), limit("msgspec", plain)]
    variants = [ours(full, DEFAULT_UNIT_MB), *peers]
    found = setup.measure([*variants, *limits])
    by_limit = {variant.name: found.pop(variant.name) for variant in limits}
    rates = {name: measured.rate for name, measured in by_limit.items()}
    rates["both"] = harmonic(rates[libraries[0]], rates["msgspec"])
    bound = (
        "both" if suffix == ".gz" else "bz2"
    )  # bz2: decoding JSON is a small part, decompression is the limit
    yield {
        **record(NAME, suffix[1:], UNIT, found, rates[bound]),
        "limit_is": bound,
        "limits": rates,
        "limit_cpu_rates": {name: measured.cpu_rate for name, measured in by_limit.items()},
        "raw_mb": full.raw_mb,
        "peer_raw_mb": {
            name: measured.variant.work for name, measured in found.items() if name != "ours"
        },
        "stored_ratio": full.raw_bytes / full.stored_bytes,
        **_refused(found),
        **skipped(variants),
    }


def _refused(found: Mapping[str, Measured]) -> dict[str, Any]:
    if "qwikidata" not in found:
        return {}
    result = found["qwikidata"].results[0]
    return {"qwikidata_refused": result["refused"], "qwikidata_entities": result["entities"]}


def with_statements(setup: Setup, suffix: str) -> Iterator[dict[str, Any]]:
    """Ours with `--statements`, on one core."""
    full = setup.dump(suffix)
    found = setup.measure([ours(full, DEFAULT_UNIT_MB, statements=True)])
    yield {**record(NAME, f"{suffix[1:]}_statements", UNIT, found, None), "raw_mb": full.raw_mb}


def in_processes(setup: Setup, suffix: str) -> Iterator[dict[str, Any]]:
    """Ours in one and in two processes outside Beam, and the ratio of the two."""
    full = setup.dump(suffix)
    variants = [_many(POOL, full, setup, {"processes": count}) for count in WORKERS]
    found = setup.measure(variants)
    for count, variant in zip(WORKERS, variants, strict=True):
        fields = record(
            NAME, f"{suffix[1:]}_processes_{count}", UNIT, {"ours": found[variant.name]}, None
        )
        yield {
            **fields,
            "scaling": found[variant.name].rate / found[variants[0].name].rate,
            "raw_mb": full.raw_mb,
        }


def in_runner(setup: Setup) -> Iterator[dict[str, Any]]:
    """The command on the local runner with one and with two workers; wall time, start-up included
    and told.
    """
    suffixes, tiny = (".gz",) if setup.quick else (".gz", ".bz2"), setup.dump(".gz", TINY_MB)
    full = {suffix: setup.dump(suffix) for suffix in suffixes}
    workers = [{"workers": count} for count in WORKERS]
    runs = {
        suffix: [_many(COMMAND, dump, setup, count, suffix) for count in workers]
        for suffix, dump in full.items()
    }
    starts = [_many(COMMAND, tiny, setup, count, "start") for count in workers]
    found = setup.measure(
        [*starts, *(variant for variants in runs.values() for variant in variants)]
    )
    for suffix, variants in runs.items():
        for count, variant, start in zip(WORKERS, variants, starts, strict=True):
            measured, startup_s = found[variant.name], found[start.name].median_s
            yield {
                **record(NAME, f"{suffix[1:]}_runner_{count}", UNIT, {"ours": measured}, None),
                "startup_s": startup_s,
                "without_startup": variant.work / max(measured.median_s - startup_s, 1e-9),
                "scaling": measured.rate / found[variants[0].name].rate,
                "raw_mb": variant.work,
            }


def _many(
    target: str, dump: Dump, setup: Setup, count: dict[str, int], prefix: str = ""
) -> Variant:
    arguments = {"path": dump.path, "unit_mb": setup.unit_mb, **count}
    name = f"{prefix}_{next(iter(count.values()))}"
    return Variant(name=name, target=target, arguments=arguments, work=dump.raw_mb, pinned=False)


def peak_memory(setup: Setup) -> Iterator[dict[str, Any]]:
    """Peak memory of a worker at two sizes of gz and one of bz2, with the stage's own unit size;
    `--statements` too.
    """
    inputs = [(".gz", setup.raw_mb), (".gz", setup.raw_mb * RSS_TIMES), (".bz2", setup.raw_mb)]
    settings: tuple[dict[str, Any], ...] = ({},) if setup.quick else ({}, {"statements": True})
    for suffix, raw_mb in inputs:
        dump = setup.dump(suffix, raw_mb)
        for options in settings:
            answer = run_once(ours(dump, DEFAULT_UNIT_MB, **options), setup.folder)
            yield {
                "benchmark": NAME, "case": "rss", "input": suffix[1:], "raw_mb": dump.raw_mb, **options,
                "unit": "MB", "lower_is_better": True, "ours": answer["rss_mb"], "limit": RSS_LIMIT_MB,
                "ratio_to_limit": answer["rss_mb"] / RSS_LIMIT_MB, "units": answer["result"]["units"], "runs": 1,
            }  # fmt: skip


def same_rows(setup: Setup) -> Iterator[dict[str, Any]]:
    """Whether every peer makes our rows, in all columns, of a slice; and ours of gz, bz2 and plain
    JSON.
    """
    gz = setup.dump(".gz", setup.rows_mb)
    others = [
        ours(setup.dump(suffix, setup.rows_mb), setup.unit_mb, name)
        for suffix, name in ((".bz2", "bz2"), ("", "json"))
    ]
    peers = [peer(name, gz) for name in PEERS]
    wanted = [
        variant for variant in (ours(gz, setup.unit_mb), *others, *peers) if not variant.is_missing
    ]
    targets = {
        variant.name: {"target": variant.target, "arguments": dict(variant.arguments)}
        for variant in wanted
    }
    answer = run_once(
        Variant(name="rows", target=COMPARE, arguments={"targets": targets}), setup.folder
    )["result"]
    fields = {
        "benchmark": NAME,
        "case": "rows",
        "raw_mb": gz.raw_mb,
        "ok": all(answer["same"].values()),
    }
    yield {**fields, "same_as_ours": answer["same"], "tables": answer["tables"], **skipped(peers)}


def kit_files(setup: Setup) -> Iterator[dict[str, Any]]:
    """Each genuine dump of the kit: what went in, what came out."""
    paths = {name: str(kit_dumps()[0].parent / name) for name in KIT_FILES}
    answer = run_once(
        Variant(name="kit", target=KIT, arguments={"paths": list(paths.values())}), setup.folder
    )
    for name, path in paths.items():
        found = answer["result"][path]
        yield {
            "benchmark": NAME,
            "case": "kit",
            "file": name,
            "ok": found["all_accounted_for"],
            **found,
        }


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "rows": same_rows,
    "kit": kit_files,
    "gz": functools.partial(compared, suffix=".gz"),
    "bz2": functools.partial(compared, suffix=".bz2"),
    "gz_statements": functools.partial(with_statements, suffix=".gz"),
    "bz2_statements": functools.partial(with_statements, suffix=".bz2"),
    "gz_processes": functools.partial(in_processes, suffix=".gz"),
    "bz2_processes": functools.partial(in_processes, suffix=".bz2"),
    "runner": in_runner,
    "rss": peak_memory,
}
NOT_QUICK = ("bz2_statements",)


def setup_of(folder: Path, gb: float | None, rounds: int | None, *, quick: bool) -> Setup:
    """Sizes for a full or a quick run."""
    return Setup(
        folder=folder,
        raw_mb=(gb or (0.02 if quick else 1.0)) * 1000,
        slice_mb=5 if quick else 100,
        rows_mb=3 if quick else 20,
        batch_entities=64 if quick else 1024,
        unit_mb=0.5 if quick else DEFAULT_UNIT_MB,
        rounds=rounds or (1 if quick else 5),
        quick=quick,
        sources=tuple(kit_dumps()),
    )


def main() -> int:
    """Run the cases; the exit code is 1 if rows differ or an entity is lost."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--gb", type=float, help="GB of JSON to generate (default: 1.0; 0.02 with --quick)"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    given = parser.parse_args()
    failed = False
    with scratch_folder(given.keep) as folder:
        setup = setup_of(folder, given.gb, given.rounds, quick=given.quick)
        emit(
            {
                "benchmark": NAME,
                "machine": machine(PACKAGES),
                "raw_mb": setup.raw_mb,
                "quick": given.quick,
            }
        )
        for case in given.case or [
            name for name in CASES if not given.quick or name not in NOT_QUICK
        ]:
            for fields in CASES[case](setup):
                emit(fields)
                failed = failed or not fields.get("ok", True)
    return int(failed)


if __name__ == "__main__":
    run_program(main)

"""Measure dump to tables: `python -m benchmarks.dump_parse [--quick] [--gb 1.0] [--case gz …]
[--keep FOLDER]`.

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
    Aim,
    Measured,
    Variant,
    common_arguments,
    harmonic,
    judged,
    measure,
    none_wrong,
    ratio,
    record,
    report,
    run_once,
    run_program,
    scratch_folder,
    skipped,
)  # fmt: skip

NAME = "dump_parse"
UNIT = "MB/s"
RSS_LIMIT_MB = 1000.0
# Times the speed of a peer, on gz alone: on bz2 decompression takes nearly all the time.
GZ_AIMS = {"isal_orjson": 3.0, "qwikidata": 8.0}
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
SCAN = "benchmarks.dump_parse_ours:process_units_by_scan"
POOL = "benchmarks.dump_parse_ours:process_units_in_pool"
KIT = "benchmarks.dump_parse_ours:kit_files"
COMMAND = "benchmarks.dump_parse_command:run_command"
DECOMPRESS = "benchmarks.dump_parse_limits:decompress"
DECODE = "benchmarks.dump_parse_limits:decode_typed"
COMPARE = "benchmarks.dump_parse_rows:compare"
PEERS = {
    "isal_orjson": ("benchmarks.dump_parse_peers:isal_orjson_loop", "orjson"),
    "orjson": ("benchmarks.dump_parse_peers:orjson_loop", "orjson"),
    "qwikidata": ("benchmarks.dump_parse_qwikidata:qwikidata_loop", "qwikidata"),
    "beam_json": ("benchmarks.dump_parse_beam:beam_json", ""),
}
GZ_PEERS = ("isal_orjson", "qwikidata", "beam_json")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold sizes and folders."""

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
        """Return the genuine entities."""
        return read_templates(self.sources)

    def dump(self, suffix: str, raw_mb: float | None = None) -> Dump:
        """Return the generated dump of this kind of file, or one of another size."""
        return make_dump(
            self.templates, self.folder, raw_mb or self.raw_mb, suffix, self.batch_entities
        )

    def measure(self, variants: Sequence[Variant]) -> dict[str, Measured]:
        """Run variants, interleaved."""
        return measure(variants, self.rounds, self.folder)


def ours(dump: Dump, unit_mb: float, name: str = "ours", **options: Any) -> Variant:  # noqa: ANN401 - keys of KbConfig
    """Return our variant outside Beam."""
    arguments = {"path": dump.path, "unit_mb": unit_mb, "options": options}
    return Variant(name=name, target=OURS, arguments=arguments, work=dump.raw_mb)


def peer(name: str, dump: Dump) -> Variant:
    """Return a peer on a dump."""
    target, needs = PEERS[name]
    return Variant(
        name=name, target=target, arguments={"path": dump.path}, work=dump.raw_mb, needs=needs
    )


def limit(name: str, dump: Dump) -> Variant:
    """Return the variant that only decompresses by a library, or only decodes (`msgspec`)."""
    target = DECODE if name == "msgspec" else DECOMPRESS
    arguments = {"path": dump.path} | ({} if name == "msgspec" else {"library": name})
    return Variant(name=name, target=target, arguments=arguments, work=dump.raw_mb)


def compared(setup: Setup, suffix: str) -> Iterator[dict[str, Any]]:
    """Measure ours, the peers and the limits on one core."""
    full, part = setup.dump(suffix), setup.dump(suffix, setup.slice_mb)
    plain = setup.dump("", setup.slice_mb)
    if suffix == ".gz":
        peers = [peer("isal_orjson", full), peer("qwikidata", part), peer("beam_json", part)]
        libraries = ["isal", "gzip"]
    else:
        peers = [peer("orjson", full), peer("qwikidata", part)]
        libraries = ["bz2"]

    limits = [*(limit(name, full) for name in libraries), limit("msgspec", plain)]
    variants = [ours(full, DEFAULT_UNIT_MB), *peers]
    by_name = setup.measure([*variants, *limits])
    by_limit = {variant.name: by_name.pop(variant.name) for variant in limits}

    rates = {name: measured.rate for name, measured in by_limit.items()}
    rates["both"] = harmonic(rates[libraries[0]], rates["msgspec"])
    # bz2: decoding JSON is a small part of the work, so decompression alone is the limit.
    bound = "both" if suffix == ".gz" else "bz2"
    skips = skipped(variants)
    yield {
        **record(NAME, suffix[1:], UNIT, by_name, rates[bound]),
        "cpu_ratio_to_peers": _cpu_ratios(by_name),
        "limit_is": bound,
        "limits": rates,
        "limit_cpu_rates": {name: measured.cpu_rate for name, measured in by_limit.items()},
        "raw_mb": full.raw_mb,
        "peer_raw_mb": {
            name: measured.variant.work for name, measured in by_name.items() if name != "ours"
        },
        "stored_ratio": full.raw_bytes / full.stored_bytes,
        **_refused(by_name),
        **judged(_speed_aims(suffix, by_name, skips.get("skipped", {})), quick=setup.quick),
        **skips,
    }


def _cpu_ratios(by_name: Mapping[str, Measured]) -> dict[str, float]:
    """Return our rate over that of each peer, by processor time."""
    ours_rate = by_name["ours"].cpu_rate
    return {
        name: ours_rate / measured.cpu_rate for name, measured in by_name.items() if name != "ours"
    }


def _speed_aims(
    suffix: str, by_name: Mapping[str, Measured], reasons: Mapping[str, str]
) -> list[Aim]:
    """Return the aims of a speed case; `reasons` say why a peer is not there."""
    if suffix != ".gz":
        return []
    ratios = _cpu_ratios(by_name)
    return [
        Aim(
            name=f"cpu_ratio_to_peers.{name}",
            value=ratios.get(name),
            at_least=least,
            missing=reasons.get(name, ""),
        )
        for name, least in GZ_AIMS.items()
    ]


def _refused(by_name: Mapping[str, Measured]) -> dict[str, Any]:
    if "qwikidata" not in by_name:
        return {}
    result = by_name["qwikidata"].results[0]
    return {"qwikidata_refused": result["refused"], "qwikidata_entities": result["entities"]}


def with_statements(setup: Setup, suffix: str) -> Iterator[dict[str, Any]]:
    """Measure ours with `--statements`, on one core."""
    full = setup.dump(suffix)
    by_name = setup.measure([ours(full, DEFAULT_UNIT_MB, statements=True)])
    yield {
        **record(NAME, f"{suffix[1:]}_statements", UNIT, by_name, None),
        "raw_mb": full.raw_mb,
        **judged([], quick=setup.quick),
    }


def by_scan(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure ours by the decoder and by the scanner of entities, on one core."""
    full = setup.dump(".gz")
    arguments = {"path": full.path, "unit_mb": DEFAULT_UNIT_MB}
    scan = Variant(name="scan", target=SCAN, arguments=arguments, work=full.raw_mb, needs="numba")
    by_name = setup.measure([ours(full, DEFAULT_UNIT_MB), scan])
    yield {
        **record(NAME, "gz_scan", UNIT, by_name, None),
        "cpu_ratio_to_peers": _cpu_ratios(by_name),
        "raw_mb": full.raw_mb,
        **judged([], quick=setup.quick),
        **skipped([scan]),
    }


def in_processes(setup: Setup, suffix: str) -> Iterator[dict[str, Any]]:
    """Measure ours in one and in two processes outside Beam, and the ratio of the two."""
    full = setup.dump(suffix)
    variants = [_many(POOL, full, setup, {"processes": count}) for count in WORKERS]
    by_name = setup.measure(variants)
    for count, variant in zip(WORKERS, variants, strict=True):
        measured = by_name[variant.name]
        yield {
            **record(NAME, f"{suffix[1:]}_processes_{count}", UNIT, {"ours": measured}, None),
            "scaling": measured.rate / by_name[variants[0].name].rate,
            "raw_mb": full.raw_mb,
            **judged([], quick=setup.quick),
        }


def in_runner(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure the command on the local runner with one and with two workers.

    It is wall time with the start-up, which a dump of one entity measures.
    """
    suffixes = (".gz",) if setup.quick else (".gz", ".bz2")
    tiny = setup.dump(".gz", TINY_MB)
    full = {suffix: setup.dump(suffix) for suffix in suffixes}
    workers = [{"workers": count} for count in WORKERS]
    runs = {
        suffix: [_many(COMMAND, dump, setup, count, suffix) for count in workers]
        for suffix, dump in full.items()
    }
    starts = [_many(COMMAND, tiny, setup, count, "start") for count in workers]
    by_name = setup.measure(
        [*starts, *(variant for variants in runs.values() for variant in variants)]
    )
    for suffix, variants in runs.items():
        for count, variant, start in zip(WORKERS, variants, starts, strict=True):
            measured, startup_s = by_name[variant.name], by_name[start.name].median_s
            yield {
                **record(NAME, f"{suffix[1:]}_runner_{count}", UNIT, {"ours": measured}, None),
                "startup_s": startup_s,
                **_without_startup(measured, startup_s),
                "scaling": measured.rate / by_name[variants[0].name].rate,
                "raw_mb": variant.work,
                **judged([], quick=setup.quick),
            }


def _without_startup(measured: Measured, startup_s: float) -> dict[str, Any]:
    """Return the rate after the start-up, or why there is none."""
    work_s = measured.median_s - startup_s
    if work_s > 0:
        return {"without_startup": measured.variant.per_second(work_s)}
    return {"skipped": {"without_startup": "the run took no longer than a start"}}


def _many(
    target: str, dump: Dump, setup: Setup, count: dict[str, int], prefix: str = ""
) -> Variant:
    arguments = {"path": dump.path, "unit_mb": setup.unit_mb, **count}
    name = f"{prefix}_{next(iter(count.values()))}"
    return Variant(name=name, target=target, arguments=arguments, work=dump.raw_mb, pinned=False)


def peak_memory(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure the peak memory of a worker at two sizes of gz and one of bz2; with `--statements`
    too.

    Units have the stage's own size.
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
                "ratio_to_limit": ratio(answer["rss_mb"], RSS_LIMIT_MB), "units": answer["result"]["units"], "runs": 1,
                **judged([Aim(name="rss_mb", value=answer["rss_mb"], at_most=RSS_LIMIT_MB)], quick=setup.quick),
            }  # fmt: skip


def same_rows(setup: Setup) -> Iterator[dict[str, Any]]:
    """Say whether every peer makes our rows of a slice, in all columns; and ours of bz2 and plain
    JSON.
    """
    gz = setup.dump(".gz", setup.rows_mb)
    other_files = [
        ours(setup.dump(suffix, setup.rows_mb), setup.unit_mb, name)
        for suffix, name in ((".bz2", "bz2"), ("", "json"))
    ]
    peers = [peer(name, gz) for name in GZ_PEERS]
    variants = (ours(gz, setup.unit_mb), *other_files, *peers)
    targets = {
        variant.name: {"target": variant.target, "arguments": dict(variant.arguments)}
        for variant in variants
        if not variant.is_missing
    }
    answer = run_once(
        Variant(name="rows", target=COMPARE, arguments={"targets": targets}), setup.folder
    )["result"]
    num_different = sum(not same for same in answer["same"].values())
    yield {
        "benchmark": NAME,
        "case": "rows",
        "raw_mb": gz.raw_mb,
        "same_as_ours": answer["same"],
        "tables": answer["tables"],
        **judged([none_wrong("variants_with_other_rows", num_different)], quick=setup.quick),
        **skipped(peers),
    }


def kit_files(setup: Setup) -> Iterator[dict[str, Any]]:
    """Count what goes in and what comes out of each genuine dump of the kit."""
    paths = {name: str(kit_dumps()[0].parent / name) for name in KIT_FILES}
    answer = run_once(
        Variant(name="kit", target=KIT, arguments={"paths": list(paths.values())}), setup.folder
    )
    for name, path in paths.items():
        counts = answer["result"][path]
        num_lost = int(not counts["all_accounted_for"])
        yield {
            "benchmark": NAME,
            "case": "kit",
            "file": name,
            **counts,
            **judged([none_wrong("files_with_lost_entities", num_lost)], quick=setup.quick),
        }


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "rows": same_rows,
    "kit": kit_files,
    "gz": functools.partial(compared, suffix=".gz"),
    "bz2": functools.partial(compared, suffix=".bz2"),
    "gz_statements": functools.partial(with_statements, suffix=".gz"),
    "bz2_statements": functools.partial(with_statements, suffix=".bz2"),
    "gz_scan": by_scan,
    "gz_processes": functools.partial(in_processes, suffix=".gz"),
    "bz2_processes": functools.partial(in_processes, suffix=".bz2"),
    "runner": in_runner,
    "rss": peak_memory,
}
NOT_QUICK = ("bz2_statements",)


def setup_of(folder: Path, gb: float | None, rounds: int | None, *, quick: bool) -> Setup:
    """Return the sizes of a full or a quick run."""
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
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--gb", type=float, help="GB of JSON to generate (default: 1.0; 0.02 with --quick)"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    options = parser.parse_args()
    names = options.case or [name for name in CASES if not options.quick or name not in NOT_QUICK]
    with scratch_folder(options.keep) as folder:
        setup = setup_of(folder, options.gb, options.rounds, quick=options.quick)
        records = (fields for name in names for fields in CASES[name](setup))
        return report(NAME, options, PACKAGES, records, raw_mb=setup.raw_mb)


if __name__ == "__main__":
    run_program(main)

"""Measure what every stage costs per unit, and what all of Wikidata and English Wikipedia would take:
`python -m benchmarks.wikipedia [--quick] [--size 1 …] [--case kb …] [--keep FOLDER]`.

Goes in: the data kit; dumps and corpora of three sizes are made from it. Comes out: one JSON object
per stage with its cost at each size, one per stage and measured time beside the time that the model
expects, and one of the full run. `python -m benchmarks.wikipedia_table FILE` makes tables of them.
Costs about 20 minutes on two cores and 4 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import wikipedia_data
from benchmarks.harness import (
    Aim,
    Variant,
    common_arguments,
    judged,
    measure,
    refuse_less_than_one,
    report,
    run_program,
    scratch_folder,
)
from benchmarks.linking_data import kit_folder
from benchmarks.shards_data import SMALL_BERT
from benchmarks.statistics_data import make_run
from benchmarks.wikipedia_costs import Cost, Point, Prices, cost_of, full_stage, point_of

NAME = "wikipedia"
PACKAGES = ("trelm", "apache-beam", "duckdb", "pyarrow", "spacy", "torch")
STAGE = "benchmarks.wikipedia_stage:run"
SIZES = (1, 4, 16)
# Runs of a stage at each size: the small ones are short, and what start-up adds is noise.
RUNS = {1: 3, 4: 2}
# A cost per unit may differ by this much between the steps.
FLAT_WITHIN = 0.15
MODEL_WITHIN = 0.25
BLANK = "blank:en"
WORKERS = (2, 16, 64, 256)


@dataclass(frozen=True, kw_only=True)
class Base:
    """Say how large size 1 is."""

    dump_mb: float
    articles: int
    links: int


FULL_BASE = Base(dump_mb=400, articles=52, links=500_000)
QUICK_BASE = Base(dump_mb=3, articles=2, links=20_000)


@dataclass(frozen=True, kw_only=True)
class FullData:
    """Hold the sizes of the real data, as read in 2026, and what is assumed of it."""

    dump_mb: float = 1.6e6
    entities: float = 118e6
    # Assumed, per entity: names in en and mul, best-ranked statements with an item.
    aliases: float = 1.1
    triples: float = 7.0
    articles: float = 6.9e6
    tokens: float = 3.6e9

    @property
    def rows(self) -> float:
        """Return the rows of the knowledge base that `index` reads."""
        return self.entities * (1 + self.aliases + self.triples)


# List prices of batch jobs on Dataflow in us-central1, in dollars, as known in November 2026; they change.
PRICES = Prices(core_hour=0.056, memory_gb_hour=0.003557, memory_gb=3.75)


@dataclass(kw_only=True)
class Setup:
    """Hold folders and sizes, and collect what was measured."""

    folder: Path
    base: Base
    sizes: Sequence[int]
    rounds: int
    quick: bool
    spacy_model: str = ""
    workers: int = 2
    costs: dict[str, Cost] = field(default_factory=dict)
    # Of a token of the corpus: links, linked mentions, anchors, megabytes of wikitext.
    per_token: dict[str, float] = field(default_factory=dict)

    def runs_of(self, size: int) -> int:
        """Return how often a stage runs at a size."""
        return self.rounds * (1 if self.quick else RUNS.get(size, 1))


@dataclass(frozen=True, kw_only=True)
class Job:
    """Name a command to run on a run's folder."""

    command: str
    root: Path
    settings: Sequence[str] = ()
    runs: int = 1
    workers: int
    # A run whose stages are linked in first.
    finished: str = ""


def run_stage(setup: Setup, job: Job) -> list[dict[str, Any]]:
    """Run a stage as often as the job asks for; return what each run says, and its clocks."""
    arguments = {
        "name": job.command, "root": str(job.root), "settings": list(job.settings), "workers": job.workers,
        "finished": job.finished,
    }  # fmt: skip
    variant = Variant(name=job.command, target=STAGE, arguments=arguments, pinned=False)
    measured = measure([variant], job.runs, setup.folder)[job.command]
    clocks = zip(measured.results, measured.seconds, measured.cpu_seconds, strict=True)
    return [
        {**result, "seconds": seconds, "cpu_seconds": cpu_seconds, "rss_mb": measured.rss_mb}
        for result, seconds, cpu_seconds in clocks
    ]


def stage_record(setup: Setup, name: str, unit: str, points: Sequence[Point]) -> dict[str, Any]:
    """Return the record of one stage, and keep its cost for the full run."""
    cost = setup.costs[name] = cost_of(points)
    flatness = cost.flatness
    too_few = "--quick and two sizes measure no steps" if flatness is None else ""
    largest = points[-1]
    off = largest.seconds / cost.seconds(largest.num_units, largest.workers)
    aims = [
        # Below, too: a cost that falls is not known yet.
        Aim(
            name="last_step_over_first", value=flatness, at_least=1 / (1 + FLAT_WITHIN),
            at_most=1 + FLAT_WITHIN, missing=too_few,
        ),
        Aim(
            name="seconds_over_expected", value=off, at_least=1 / (1 + MODEL_WITHIN),
            at_most=1 + MODEL_WITHIN,
        ),
        Aim(name="cheapest_step", value=min(cost.steps_s, default=cost.work_s), at_least=0.0),
    ]  # fmt: skip
    return {
        "benchmark": NAME, "case": name, "unit": unit, "lower_is_better": True,
        "ours": cost.work_s, "limit": None, "steps": cost.steps_s, "fixed_cpu_s": cost.fixed_cpu_s,
        "alone": cost.serial_s, "start_s": cost.start_s, "rss_mb": cost.rss_mb,
        "mb": {"read": cost.read_mb, "written": cost.written_mb, "stored": cost.stored_mb},
        "points": [asdict(point) for point in points], "runs": setup.rounds,
        "model": {
            str(point.size): {"seconds": point.seconds, "expected": cost.seconds(point.num_units, point.workers)}
            for point in points
        },
        **judged(aims, quick=setup.quick),
    }  # fmt: skip


def knowledge_base(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure `kb` per megabyte of JSON and `index` per row that it reads."""
    points: dict[str, list[Point]] = {"kb": [], "index": []}
    for size in setup.sizes:
        dump = wikipedia_data.dump_of(setup.folder, size * setup.base.dump_mb)
        job = Job(
            command="kb",
            root=setup.folder / f"run-kb-{size}",
            settings=[f"kb.dumps={json.dumps([dump.path])}"],
            runs=setup.runs_of(size),
            workers=setup.workers,
        )
        runs = run_stage(setup, job)
        points["kb"].append(point_of(size, dump.raw_mb, job.workers, runs))
        rows = sum(runs[0]["rows"][table] for table in ("entities", "aliases", "triples"))
        index_runs = run_stage(setup, replace(job, command="index"))
        points["index"].append(point_of(size, rows, job.workers, index_runs))
    units = {"kb": "s/MB", "index": "s/row"}
    for name, measured in points.items():
        yield stage_record(setup, name, units[name], measured)


def corpus(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure the stages that read text."""
    units = {
        "documents": "s/MB", "index_anchors": "s/anchor", "link": "s/token", "importance": "s/mention",
        "shards": "s/token",
    }  # fmt: skip
    points: dict[str, list[Point]] = {name: [] for name in units}
    for size in setup.sizes:
        job, export = _text_job(setup, size)
        taken = {
            "documents": run_stage(setup, job),
            "index_anchors": run_stage(setup, replace(job, command="index")),
            "link": run_stage(setup, replace(job, command="link")),
        }
        run_stage(setup, replace(job, command="stats", runs=1))
        # Long, and as exact as it needs to be.
        taken["importance"] = run_stage(setup, replace(job, command="importance", runs=1))
        taken["shards"] = run_stage(setup, replace(job, command="shards"))

        num_tokens = wikipedia_data.tokens_of(job.root)
        num_units = {
            "documents": export.raw_mb,
            "index_anchors": taken["documents"][0]["rows"]["anchors"],
            "link": num_tokens,
            "importance": taken["importance"][0]["rows"]["importance"],
            "shards": num_tokens,
        }
        for name in units:
            points[name].append(point_of(size, num_units[name], job.workers, taken[name]))
        for name in ("documents", "index_anchors", "importance"):
            setup.per_token[name] = num_units[name] / num_tokens
        setup.per_token["stats"] = taken["link"][0]["rows"]["links"] / num_tokens
    for name, measured in points.items():
        yield stage_record(setup, name, units[name], measured)


def _text_job(setup: Setup, size: int) -> tuple[Job, wikipedia_data.Corpus]:
    """Return the job `documents` on an export of some size, and the export."""
    base = wikipedia_data.knowledge_base(setup.folder)
    titles = wikipedia_data.titles_of(base)
    export = wikipedia_data.corpus_of(setup.folder, size * setup.base.articles, titles)
    job = Job(
        command="documents",
        root=setup.folder / f"run-text-{size}",
        settings=corpus_settings(export.path, setup.spacy_model),
        runs=setup.runs_of(size),
        finished=str(base),
        workers=setup.workers,
    )
    return job, export


def corpus_settings(path: str, spacy_model: str) -> list[str]:
    """Return the settings of a run over an export; no name of a pipeline is the stage's own."""
    settings = [
        f"documents.inputs={json.dumps([path])}",
        f"importance.model={json.dumps(str(kit_folder() / SMALL_BERT))}",
        # A small corpus: finer units keep two processes busy.
        "documents.unit_mb=0.25",
        "link.unit_mb=0.25",
        # Fitting weights grows with a corpus up to 20,000 links, which is no cost of a token.
        "link.weights=trained",
    ]
    return [*settings, f"link.spacy_model={json.dumps(spacy_model)}"] if spacy_model else settings


def counts(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure `stats` per link, on generated links whose entities and pairs grow with them."""
    points = []
    for size in setup.sizes:
        made = setup.folder / f"links-{size * setup.base.links}"
        made.mkdir(exist_ok=True)
        make_run(made, size * setup.base.links)
        job = Job(
            command="stats",
            root=setup.folder / f"run-links-{size}",
            runs=setup.runs_of(size),
            finished=str(made),
            workers=setup.workers,
        )
        runs = run_stage(setup, job)
        points.append(point_of(size, size * setup.base.links, job.workers, runs))
    yield stage_record(setup, "stats", "s/link", points)


def one_worker(setup: Setup) -> Iterator[dict[str, Any]]:
    """Compare one worker with what the model expects, for the stage that takes longest."""
    cost = setup.costs.get("link")
    if cost is None or len(setup.sizes) == 1:
        return
    size = setup.sizes[-2]
    job, _ = _text_job(setup, size)
    runs = run_stage(setup, replace(job, command="link", workers=1, runs=1))
    measured = statistics.median(run["seconds"] for run in runs)
    expected = cost.seconds(wikipedia_data.tokens_of(job.root), 1)
    aim = Aim(name="off_by", value=abs(measured / expected - 1), at_most=MODEL_WITHIN)
    yield {
        "benchmark": NAME, "case": "link_one_worker", "unit": "s", "lower_is_better": True, "ours": measured,
        "limit": None, "expected": expected, "size": size, "rss_mb": runs[0]["rss_mb"], "runs": len(runs),
        **judged([aim], quick=setup.quick),
    }  # fmt: skip


def full(setup: Setup) -> Iterator[dict[str, Any]]:
    """Say what the real data would take, from the costs that were measured before."""
    data = FullData()
    known = {"kb": data.dump_mb, "index": data.rows, "link": data.tokens, "shards": data.tokens}
    known |= {name: share * data.tokens for name, share in setup.per_token.items()}
    stages = {
        name: full_stage(cost, known[name], WORKERS, PRICES)
        for name, cost in setup.costs.items()
        if name in known
    }
    if not stages or len(setup.sizes) == 1:
        # One size cannot tell what start-up takes from what the data takes.
        return
    total = {
        key: {str(number): sum(stage[key][str(number)] for stage in stages.values()) for number in WORKERS}
        for key in ("hours", "dollars")
    }  # fmt: skip
    yield {
        "benchmark": NAME, "case": "full", "unit": "h", "lower_is_better": True,
        "ours": total["hours"]["2"], "limit": None, "total": total, "stages": stages,
        "data": asdict(data), "prices": asdict(PRICES), "per_token": setup.per_token, "runs": 1,
        **judged([], quick=setup.quick),
    }  # fmt: skip


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "kb": knowledge_base,
    "stats": counts,
    "corpus": corpus,
    "one_worker": one_worker,
    "full": full,
}


def main() -> int:
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--case",
        action="append",
        choices=CASES,
        help="only this case; may be repeated; one_worker and full need those before them",
    )
    parser.add_argument(
        "--size", action="append", type=int, help=f"of the data; may be repeated (default: {SIZES})"
    )
    parser.add_argument(
        "--spacy-model", default="", help="of stage `link` (default: the stage's own)"
    )
    options = parser.parse_args()
    refuse_less_than_one(parser, options, "rounds")
    with scratch_folder(options.keep) as folder:
        setup = setup_of(options, folder)
        records = (fields for name in options.case or CASES for fields in CASES[name](setup))
        return report(NAME, options, PACKAGES, records, sizes=list(setup.sizes))


def setup_of(options: argparse.Namespace, folder: Path) -> Setup:
    """Return the folders and sizes that the options ask for."""
    return Setup(
        folder=folder,
        base=QUICK_BASE if options.quick else FULL_BASE,
        sizes=sorted(set(options.size or ((1,) if options.quick else SIZES))),
        rounds=options.rounds or 1,
        quick=options.quick,
        # Processes of their own take seconds to start.
        workers=1 if options.quick else 2,
        spacy_model=options.spacy_model or (BLANK if options.quick else ""),
    )


if __name__ == "__main__":
    run_program(main)

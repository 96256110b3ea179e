"""Compare a run in a bucket with a local one: `python -m benchmarks.buckets [--quick] [--config FILE] [--case stages …]`.

Goes in: a configuration of the pipeline, the sample's by default, and the data kit. Servers that
stand in for object stores run in this process, on loopback and in memory. So requests and rows are
what they would be elsewhere, and times say what our own code adds, not what a network adds. Comes
out: one JSON object per place and case. Costs about 6 minutes on two cores.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    ROOT,
    Measured,
    Variant,
    common_arguments,
    judged,
    measure,
    none_wrong,
    refuse_less_than_one,
    report,
    run_program,
    scratch_folder,
)
from benchmarks.linking_data import kit_folder
from benchmarks.shards_data import SMALL_BERT
from pipeline.flow import STAGES
from schemas.bucket_copies import send_folder
from tests.bucket_servers import bucket_server

NAME = "buckets"
PACKAGES = ("trelm", "apache-beam", "gcsfs", "s3fs", "moto", "gcp-storage-emulator")
SAMPLE = "examples/tiny/pipeline.toml"
STEPS, QUICK_STEPS = 60, 20
PLACES = ("local", "s3", "gs")
# One command may run two stages.
COMMANDS = tuple(dict.fromkeys(stage.command for stage in STAGES))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold folders and sizes."""

    folder: Path
    config: str
    places: tuple[str, ...]
    workers: int
    rounds: int
    quick: bool


@contextmanager
def place_named(setup: Setup, name: str) -> Iterator[tuple[str, Counter[str]]]:
    """Yield where runs of a place lie, and the requests that its server has answered so far."""
    if name == "local":
        folder = setup.folder / "local"
        folder.mkdir(exist_ok=True)
        yield str(folder), Counter()
        return
    with bucket_server(name) as server, ExitStack() as stack:
        cache = setup.folder / f"copies-{name}"
        for variable, value in {**server.environment, "TRELM_CACHE": str(cache)}.items():
            stack.callback(_set_variable, variable, os.environ.get(variable))
            os.environ[variable] = value
        yield server.root, server.num_requests


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def stages(setup: Setup) -> Iterator[dict[str, Any]]:
    """Run every stage in each place; compare all rows with those of the local run."""
    local_digests: dict[str, Any] = {}
    for place in setup.places:
        with place_named(setup, place) as (root, num_requests):
            measured, requests = {}, {}
            for command in COMMANDS:
                num_requests.clear()
                measured[command] = _stage(setup, command, f"{root}/run")
                requests[command] = dict(num_requests)
            num_requests.clear()
            _stage(setup, "run", f"{root}/run")
            requests["run, all up to date"] = dict(num_requests)
            digests = _digests(setup, f"{root}/run")
        local_digests = local_digests or digests
        num_other = sum(
            digests.get(table) != local_digests.get(table)
            for table in digests.keys() | local_digests.keys()
        )
        yield {
            "benchmark": NAME, "case": "stages", "place": place, "unit": "s", "lower_is_better": True,
            "ours": sum(one.median_s for one in measured.values()), "limit": None,
            "seconds": {name: one.median_s for name, one in measured.items()},
            "cpu_seconds": {name: one.cpu_seconds[0] for name, one in measured.items()},
            "requests": requests, "num_requests": sum(sum(requests[command].values()) for command in COMMANDS),
            "rows": {table: rows for table, (rows, _) in digests.items()}, "config": setup.config,
            "workers": setup.workers, "rss_mb": max(one.rss_mb for one in measured.values()), "runs": 1,
            **judged([none_wrong("tables_other_than_local", num_other)], quick=setup.quick),
        }  # fmt: skip


def _stage(setup: Setup, command: str, run: str) -> Measured:
    settings = {"importance.model": str(kit_folder() / SMALL_BERT)}
    if setup.quick:
        settings["link.spacy_model"] = "blank:en"
    arguments = {
        "name": command, "run": run, "config": setup.config, "workers": setup.workers, "settings": settings,
    }  # fmt: skip
    variant = Variant(
        name=command, target="benchmarks.buckets_work:stage", arguments=arguments, pinned=False
    )
    return measure([variant], 1, setup.folder)[command]


def _digests(setup: Setup, run: str) -> dict[str, Any]:
    variant = Variant(
        name="digests",
        target="benchmarks.buckets_work:digests",
        arguments={"run": run},
        pinned=False,
    )
    answer = measure([variant], 1, setup.folder)["digests"].results[0]
    return {table: tuple(found) for table, found in answer.items()}


def training(setup: Setup) -> Iterator[dict[str, Any]]:
    """Train from the shards in each place, in turns; compare tokens per second and the last losses."""
    model = kit_folder() / SMALL_BERT
    made = setup.folder / "local" / "run" / "shards"
    if not (made / "manifest.json").exists():
        for command in COMMANDS:
            _stage(setup, command, str(made.parent))
    with ExitStack() as stack:
        roots = {name: stack.enter_context(place_named(setup, name)) for name in setup.places}
        variants = []
        for name, (root, _) in roots.items():
            if name != "local":
                send_folder(made, f"{root}/train/shards")
                send_folder(model, f"{root}/train/model")
            arguments = {
                "shards": f"{root}/train/shards" if name != "local" else str(made),
                "model": f"{root}/train/model" if name != "local" else str(model),
                "to": f"{root}/trained", "steps": QUICK_STEPS if setup.quick else STEPS,
            }  # fmt: skip
            variants.append(
                Variant(
                    name=name,
                    target="benchmarks.buckets_work:train",
                    arguments=arguments,
                    pinned=False,
                )
            )
        for _, num_requests in roots.values():
            num_requests.clear()
        # Of all rounds together.
        by_name = measure(variants, setup.rounds, setup.folder)
        requests = {name: dict(num_requests) for name, (_, num_requests) in roots.items()}
    rates = {
        name: statistics.median(result["tokens_per_s"] for result in measured.results)
        for name, measured in by_name.items()
    }
    losses = {name: measured.results[0]["loss"] for name, measured in by_name.items()}
    num_other = sum(loss != losses["local"] for loss in losses.values())
    for name, measured in by_name.items():
        yield {
            "benchmark": NAME, "case": "training", "place": name, "unit": "tokens/s", "ours": rates[name],
            "limit": rates["local"], "ratio_to_limit": rates[name] / rates["local"],
            "seconds": measured.median_s, "limit_seconds": by_name["local"].median_s,
            "loss": losses[name], "requests": requests[name], "rss_mb": measured.rss_mb,
            "runs": len(measured.seconds),
            **judged([none_wrong("losses_other_than_local", num_other)], quick=setup.quick),
        }  # fmt: skip


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "stages": stages,
    "training": training,
}


def main() -> int:
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument("--config", default=SAMPLE, help=f"of the pipeline (default: {SAMPLE})")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--place", action="append", choices=PLACES[1:], help="beside local; may be repeated"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    options = parser.parse_args()
    refuse_less_than_one(parser, options, "rounds", "workers")
    with scratch_folder(options.keep) as folder:
        setup = Setup(
            folder=folder,
            config=str(ROOT / options.config),
            places=("local", *(options.place or PLACES[1:])),
            workers=options.workers,
            rounds=options.rounds or (1 if options.quick else 3),
            quick=options.quick,
        )
        records = (fields for name in options.case or CASES for fields in CASES[name](setup))
        return report(NAME, options, PACKAGES, records, config=options.config)


if __name__ == "__main__":
    run_program(main)

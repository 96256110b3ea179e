"""Run our side of `linking`, and hold all that it uses of the stage `link`: when its insides
change, this and `linking_steps` follow.

Used are the stage's worker and settings, the writer of units, and the table `documents`. The
functions with `out` are called by `benchmarks.child`, each in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.linking_clock import Clock, rss_mb
from benchmarks.linking_steps import timed_steps
from benchmarks.linking_tables import read_jsonl, read_links
from pipeline.config import LinkConfig
from pipeline.engine.tables import RunPaths, sized_row_ranges
from pipeline.engine.tasks import Bucket, RowRange, Unit, number_units
from pipeline.engine.units import UnitWriter, write_unit
from pipeline.index.extended_index import IndexFolders
from pipeline.link.stage import LinkWorker
from schemas import DOCUMENTS

MEGABYTE = 1e6


def write_documents(folder: Path, documents: Sequence[tuple[str, str]]) -> str:
    """Write ids and texts as a file of the table `documents`; return its path."""
    unit = Unit(index=0, of=1, task=Bucket(kind="documents"))

    def write(_unit: Unit, out: UnitWriter) -> None:
        out.write(
            DOCUMENTS,
            DOCUMENTS.from_rows([(doc_id, "", text, "benchmark") for doc_id, text in documents]),
        )

    for name in ("_tmp", "_units", DOCUMENTS.name):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return str(
        folder / write_unit(str(folder), "documents", unit, write).parts[DOCUMENTS.name].path
    )


class Stage:
    """Set the stage's worker up, for documents of ours; its files go to a folder of ours."""

    def __init__(self, out: Path, run: str, **settings: Any) -> None:  # noqa: ANN401 - keys of LinkConfig
        self._config = LinkConfig(
            **{"anchors": False, **settings}
        )  # these documents have no links of their own
        paths = RunPaths(root=run)
        self._worker = LinkWorker(config=self._config, index=IndexFolders.of(paths))
        self.folder = out
        for name in ("_tmp", "_units", "links", "sentences", "rejects"):
            (out / name).mkdir(parents=True, exist_ok=True)
        _ = self._worker.resources  # opening is not timed

    def units(self, paths: Sequence[str]) -> list[Unit[RowRange]]:
        """Return the units that the stage would make of these files."""
        tasks = sized_row_ranges(paths, int(self._config.unit_mb * MEGABYTE), DOCUMENTS)
        return number_units([tasks])[0]

    def run(self, units: Iterable[Unit]) -> int:
        """Link and write some units; returns the mentions."""
        reports = [
            write_unit(str(self.folder), "link", unit, self._worker.process) for unit in units
        ]
        return sum(report.counters["mentions"] for report in reports)


def whole_stage(out: Path, run: str, documents: str, model: str) -> dict[str, Any]:
    """Link all units of the documents, one after the other; setting up is not timed."""
    stage = Stage(out, run, spacy_model=model)
    clock = Clock()
    mentions = stage.run(stage.units([documents]))
    return {**clock.taken(), "mentions": mentions}


def steps(out: Path, run: str, documents: str, model: str) -> dict[str, Any]:
    """Link with a stop-watch in every step: seconds of processor time per step."""
    stage = Stage(out, run, spacy_model=model)
    with timed_steps() as watch:
        clock = Clock()
        stage.run(stage.units([documents]))
        taken = clock.taken()
    return {**taken, "steps": watch.seconds, "calls": watch.calls, "missing": watch.missing}


def memory(out: Path, run: str, parts: list[str], model: str) -> dict[str, Any]:
    """Measure resident memory before the first and after every file of documents."""
    stage = Stage(out, run, spacy_model=model)
    clock, curve = Clock(), [rss_mb()]
    for path in parts:
        stage.run(stage.units([path]))
        curve.append(rss_mb())
    return {**clock.taken(), "curve": curve}


def named_spans(out: Path, run: str, spans: str, *, given: bool, **settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Link sentences with one name each (a gold file), their spans given or to be found; return
    what becomes of the names.
    """
    lines = list(read_jsonl(spans))
    path = write_documents(out / "documents", [(line["doc_id"], line["text"]) for line in lines])
    stage = Stage(out / "link", run, gold_spans=spans if given else "", **settings)
    clock = Clock()
    stage.run(stage.units([path]))
    taken = clock.taken()
    links = read_links(str(stage.folder))
    places = [
        (line["doc_id"], line["mentions"][0]["start"], line["mentions"][0]["end"]) for line in lines
    ]
    return {**taken, "found": [links.get(place) for place in places]}

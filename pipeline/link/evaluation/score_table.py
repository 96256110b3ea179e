"""Score a linker on several gold files in one table: `trelm-pipeline link score`.

Goes in: a run with an index, gold files. Comes out: figures per file, and the same as Markdown.
Three linkers are scored by the same lines: the linker end to end, the linker at the gold spans, and
a baseline that takes, of the items with exactly this name, the one that most triples point to.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import LinkConfig
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.index.entity_store import EntityStore
from pipeline.index.extended_index import IndexFolders
from pipeline.link.evaluation.calibration import calibration
from pipeline.link.evaluation.comparison import (
    compare,
    facts_of,
    golds_of,
    in_annotated_lines,
    items_of,
    within_kb,
)
from pipeline.link.evaluation.gold_files import (
    SCORED_CANDIDATES,
    LinkedFile,
    link_file,
    most_pointed_to,
)
from pipeline.link.evaluation.scores import (
    ERROR_CLASSES,
    Gold,
    ItemFacts,
    Prediction,
    SpanKey,
    at_gold_spans,
    candidate_recall,
    count_errors,
    end_to_end,
)
from pipeline.link.evaluation.wrong_links import WRONG_LINKS, count_wrong_links, wrong_links
from pipeline.link.gold import load_gold
from pipeline.link.stage import open_resources

GOLD_SUFFIX = ".jsonl"
Links = Mapping[SpanKey, Prediction]


def gold_files(given: Sequence[str]) -> list[str]:
    """Return the gold files that paths name: files, and the *.jsonl of folders, sorted by name.

    Raises:
        StageError: a folder has none, or two files have the same name.
    """
    paths: list[str] = []
    for name in given:
        if _is_file(name):
            paths.append(name)
            continue
        inside = _gold_files_in(name)
        if not inside:
            raise StageError(
                f"{name}: the folder has no file that ends in {GOLD_SUFFIX}; "
                "give a folder of gold files, or the files themselves"
            )
        paths += inside

    titles = [title_of(path) for path in paths]
    repeated = sorted({title for title in titles if titles.count(title) > 1})
    if repeated:
        raise StageError(
            f"two gold files are called {repeated[0]!r}; rename one, since the table has a row "
            "per name"
        )
    return paths


def _is_file(path: str) -> bool:
    if files.is_local(path):
        return not Path(path).is_dir()
    # In a bucket a folder has no object of its own name.
    return bool(files.list_files(glob.escape(path)))


def _gold_files_in(folder: str) -> list[str]:
    if files.is_local(folder):
        return sorted(str(path) for path in Path(folder).glob(f"*{GOLD_SUFFIX}"))
    pattern = files.join(glob.escape(folder), f"*{GOLD_SUFFIX}")
    return [entry.path for entry in files.list_files(pattern)]


def title_of(path: str) -> str:
    """Return the name of a gold file as the table has it."""
    return Path(path).name.removesuffix(GOLD_SUFFIX)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Say which gold and which links count."""

    # Leave out gold that is not in the KB, and the links at its spans.
    kb_only: bool = False
    # Count links only in the lines from the first to the last gold mention of each document.
    annotated_lines: bool = False


def score_files(
    run_folder: str, given: Sequence[str], config: LinkConfig, counted: Counted
) -> dict[str, Any]:
    """Link the texts of gold files with a run's index, and return the figures of each file.

    Args:
        run_folder: with a finished index; nothing is written there.
        given: gold files, or folders of them.
        config: of stage `link`; its `gold_spans` and `anchors` do not count.
        counted: which gold and which links count.

    Raises:
        StageError: the run has no index yet, or a file is no gold file.
    """
    paths = RunPaths(root=run_folder)
    paths.require("index")
    config = replace(config, gold_spans="", anchors=False, mentions="detected")
    # All files are read before any work: a broken one is told at once.
    documents_of = {title_of(path): load_gold(path) for path in gold_files(given)}

    resources = open_resources(config, IndexFolders.of(paths))
    linked = {
        title: link_file(resources, documents, config) for title, documents in documents_of.items()
    }
    store = resources.entities
    golds_by_file = {
        title: golds_of(paths, documents.values(), store)
        for title, documents in documents_of.items()
    }
    # One scan of the triples for all files.
    facts = facts_of(paths, store, _all_items(linked.values(), golds_by_file.values()))
    return {
        "kb_items": len(store),
        **asdict(counted),
        "weights": config.weights,
        "spacy_model": config.spacy_model,
        "min_confidence": config.min_confidence,
        "files": {
            title: _figures(linked[title], golds_by_file[title], facts, store, counted)
            for title in linked
        },
    }


def _all_items(linked: Iterable[LinkedFile], golds: Iterable[Sequence[Gold]]) -> set[int]:
    """Return all items about which something must be known."""
    qids: set[int] = set()
    for file, golds_of_file in zip(linked, golds, strict=True):
        qids |= items_of(golds_of_file, file.end_to_end) | items_of((), file.at_gold)
        for named in (file.recognised_names, file.gold_names):
            qids |= {qid for items in named.values() for qid in items}
    return qids


def _figures(
    linked: LinkedFile,
    golds: Sequence[Gold],
    facts: ItemFacts,
    store: EntityStore,
    counted: Counted,
) -> dict[str, Any]:
    """Return the figures of one gold file."""

    def restricted(links: Links) -> tuple[Sequence[Gold], Links]:
        if counted.annotated_lines:
            links = in_annotated_lines(links, linked.documents)
        return within_kb(golds, links, store) if counted.kb_only else (golds, links)

    found = compare(*restricted(linked.end_to_end), facts)
    given = compare(*restricted(linked.at_gold), facts)
    # Links at spans that do not count are left out here, so the classes need the gold as it is.
    texts = {doc_id: document.text for doc_id, document in linked.documents.items()}
    classes = [name for _, name in wrong_links(golds, found.links, texts, facts)]
    num_links = sum(link.qid is not None for link in found.links.values())
    recognised = most_pointed_to(linked.recognised_names, facts.in_degree)
    named = most_pointed_to(linked.gold_names, facts.in_degree)
    return {
        "documents": len(linked.documents),
        "end_to_end": end_to_end(found.golds, found.links),
        "wrong_links": count_wrong_links(classes, num_links),
        "missed": count_errors(found.errors, found.golds)["classes"],
        "gold_spans": {
            **at_gold_spans(given.golds, given.links),
            "candidate_recall_at": candidate_recall(given.golds, given.links, SCORED_CANDIDATES),
            "errors": count_errors(given.errors, given.golds)["classes"],
            "calibration": calibration(given.golds, given.links),
        },
        "baseline": {
            "end_to_end": end_to_end(*restricted(recognised)),
            "gold_spans": at_gold_spans(*restricted(named)),
        },
    }


def format_table(scores: Mapping[str, Any]) -> str:
    """Return the figures as Markdown: one table of scores, two of errors."""
    files = scores["files"]
    note = "; gold outside the KB is left out" if scores["kb_only"] else ""
    note += "; only the annotated lines count" if scores["annotated_lines"] else ""
    head = (
        f"KB of {scores['kb_items']:,} items, weights {scores['weights']}, recogniser "
        f"{scores['spacy_model']}, least confidence {scores['min_confidence']}{note}."
    )
    rows = [_row(title, figures) for title, figures in files.items()]
    return "\n\n".join(
        [
            head,
            _markdown(COLUMNS, rows),
            "Wrong links, by cause (share of all links):",
            _markdown(("cause", *files), _class_rows(files, "wrong_links", WRONG_LINKS)),
            "Gold mentions without the right link, by cause (share of the gold in the KB):",
            _markdown(("cause", *files), _class_rows(files, "missed", ERROR_CLASSES)),
        ]
    )


COLUMNS = (
    "gold",
    "in KB",
    "end to end F (P / R)",
    "recogniser + most pointed-to",
    "gold spans / best candidate",
    "exact name, most pointed-to",
    "candidate recall",
    "rare / best (n)",
    "calibration error",
)


def _row(title: str, figures: Mapping[str, Any]) -> list[str]:
    given, baseline = figures["gold_spans"], figures["baseline"]
    rare = given["slices"].get("rare")
    return [
        title,
        f"{given['gold_in_kb']:,}",
        _f_p_r(figures["end_to_end"]),
        _f_p_r(baseline["end_to_end"]),
        f"{_share(given['accuracy'])} / {_share(given['accuracy_best_candidate'])}",
        _share(baseline["gold_spans"]["accuracy"]),
        _share(given["candidate_recall"]),
        "–"
        if rare is None
        else f"{_share(rare['accuracy'])} / {_share(rare['accuracy_best_candidate'])} "
        f"({rare['gold_in_kb']:,})",
        _share(given["calibration"]["all"]["expected_calibration_error"]),
    ]


def _f_p_r(figures: Mapping[str, Any]) -> str:
    f1, precision, recall = (_share(figures[name]) for name in ("f1", "precision", "recall"))
    return f"{f1} ({precision} / {recall})"


def _class_rows(
    files: Mapping[str, Any], section: str, classes: Iterable[str]
) -> Iterator[list[str]]:
    for name in classes:
        cells = [figures[section][name] for figures in files.values()]
        shares = (cell.get("share_of_links", cell.get("share_of_gold")) for cell in cells)
        yield [
            name,
            *(
                f"{cell['count']} ({_share(share)})"
                for cell, share in zip(cells, shares, strict=True)
            ),
        ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".removeprefix("0")


def _markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

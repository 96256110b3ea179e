"""Score linking on text that nobody tuned to: the kit's `el-dev`, with its subsets A and C as the knowledge base.

Ours and the baseline (the recogniser's spans, of the items of exactly this name the most pointed-to)
are scored by `link score`: the same texts, spans of the same recogniser, the same lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Aim, judged
from benchmarks.linking_data import Prepared, command, kit_folder

SUBSET_C = "wikidata/assembled-subset-C.json.gz"
GOLD_FOLDER = "el-dev"
LEAD_AIM = 0.10


def score(made: Prepared, *, quick: bool) -> dict[str, Any]:
    """Return what `link score` says; --quick takes one small file and the run at hand."""
    kit = kit_folder()
    gold, run = kit / GOLD_FOLDER, made.run
    if quick:
        gold /= "oke-2015-eval.jsonl"
    else:
        run = str(_larger_run(made, kit))
    said = command(
        "-m", "pipeline.cli", "link", "score", "--run", run, "--gold", str(gold), "--annotated-lines", "--json"
    )  # fmt: skip
    scores: dict[str, Any] = json.loads(said)
    return scores


def _larger_run(made: Prepared, kit: Path) -> Path:
    """Return a run with the index of both subsets, made when missing."""
    run = made.folder / "run-ac"
    dumps = [str(made.folder / "kit" / "subset-A-typed.json.gz"), str(kit / SUBSET_C)]
    for stage in ("kb", "index"):
        command(
            "-m", "pipeline.cli", stage, "--run", str(run), "--set", f"kb.dumps={json.dumps(dumps)}"
        )
    return run


def records(name: str, made: Prepared, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Yield one record per gold file: F1 end to end of ours and of the baseline."""
    scores = score(made, quick=quick)
    for title, figures in scores["files"].items():
        ours, baseline = (side["end_to_end"] for side in (figures, figures["baseline"]))
        given = figures["gold_spans"]
        lead = None if None in (ours["f1"], baseline["f1"]) else ours["f1"] - baseline["f1"]
        yield {
            "benchmark": name, "case": "unseen", "gold": title, "unit": "F1", "ours": ours["f1"],
            "peers": {"recogniser_most_pointed_to": baseline["f1"]},
            "precision": {"ours": ours["precision"], "baseline": baseline["precision"]},
            "recall": {"ours": ours["recall"], "baseline": baseline["recall"]},
            "gold_spans": {
                "ours": given["accuracy"],
                "exact_most_pointed_to": figures["baseline"]["gold_spans"]["accuracy"],
                "candidate_recall": given["candidate_recall"],
            },
            "wrong_links": {cause: part["count"] for cause, part in figures["wrong_links"].items()},
            "in_kb": given["gold_in_kb"], "kb_items": scores["kb_items"], "runs": 1,
            **judged([Aim(name="lead", value=lead, at_least=LEAD_AIM)], quick=quick),
        }  # fmt: skip

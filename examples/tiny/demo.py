"""`make demo`: everything on the sample, from a Wikidata dump to a trained and probed model, in a
few minutes.

Each step is a command that anyone can type; it is printed before it runs. No weights are
downloaded: `trelm-train init` makes a small BERT of the sample's own documents, and that is the
"pretrained" model of the rest.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path("examples/tiny")
RUN = "demo/run"
PRETRAINED = "demo/pretrained"
TRAINED = "demo/train"
# Answers of the model before and after training.
BEFORE, AFTER = "demo/before.parquet", "demo/after.parquet"
CONFIG = str(HERE / "pipeline.toml")
PROBES = [
    "--probes",
    str(HERE / "probes"),
    "--relations",
    str(HERE / "probes" / "relations.jsonl"),
    "--json",
]

RAREST = "SELECT label(qid) AS label, num_mentions FROM entity_frequency ORDER BY num_mentions, expected_mentions, qid LIMIT 5"
MOST_IMPORTANT = """
SELECT label(l.qid) AS label, round(max(i.si), 3) AS si FROM importance i JOIN links l USING (doc_id, start, "end")
GROUP BY l.qid ORDER BY si DESC, l.qid LIMIT 5
"""


def run(program: str, *arguments: str, capture: bool = False) -> str:
    """Print a command and run it; stops the demo where it fails."""
    command = [str(Path(sys.executable).parent / program), *arguments]
    say(f"\n$ {program} {shlex.join(arguments)}")
    done = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE if capture else None
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def say(text: str) -> None:
    """Write a line at once: the commands in between write for themselves."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def query(sql: str) -> list[dict[str, Any]]:
    """Rows of a question to the run."""
    program = str(Path(sys.executable).parent / "trelm-pipeline")
    command = [program, "sql", "--run", RUN, "--format", "json", sql]
    return [json.loads(line) for line in subprocess.check_output(command, text=True).splitlines()]


def probe(model: str, items: str) -> dict[str, Any]:
    """LAMA-format probes of a model; every answer goes to a file."""
    command = ("evaluate", "lama", "--model", model, *PROBES, "--items", items, "--run", RUN)
    found: dict[str, Any] = json.loads(run("trelm-train", *command, capture=True))
    return found


def main() -> None:
    """All steps, then what came of them."""
    started_s = time.monotonic()
    run("trelm-pipeline", "run", "--config", CONFIG, "--until", "stats")
    if not (Path(PRETRAINED) / "config.json").exists():
        run(
            "trelm-train", "init", "--documents", f"{RUN}/documents", "--out", PRETRAINED, "--layers", "2",
            "--batch-tokens", "1024", "--learning-rate", "0.001", "--warmup-steps", "1200",
        )  # fmt: skip
    run("trelm-pipeline", "run", "--config", CONFIG)
    links = json.loads(
        run(
            "trelm-pipeline",
            "evaluate",
            "--run",
            RUN,
            "--gold",
            str(HERE / "gold.jsonl"),
            "--json",
            capture=True,
        )
    )
    before = probe(PRETRAINED, BEFORE)
    if not (Path(TRAINED) / "summary.json").exists():
        run(
            "trelm-train", "run", "--shards", f"{RUN}/shards", "--model", PRETRAINED, "--out", TRAINED,
            "--config", str(HERE / "train.toml"),
        )  # fmt: skip
    after = probe(f"{TRAINED}/model", AFTER)
    run(
        "trelm-pipeline", "report", "--run", RUN, "--gold", str(HERE / "gold.jsonl"), "--training", TRAINED,
        "--items", BEFORE, "--items", AFTER, "--before", BEFORE,
    )  # fmt: skip
    summary = json.loads((Path(TRAINED) / "summary.json").read_text())
    report(links, before, after, summary, time.monotonic() - started_s)


def report(
    links: dict[str, Any],
    before: Any,  # noqa: ANN401
    after: Any,  # noqa: ANN401
    summary: dict[str, Any],
    seconds: float,
) -> None:
    """The readable summary."""
    tail = query("FROM tail_summary")[0]
    rarest = ", ".join(f"{row['label']} ({row['num_mentions']})" for row in query(RAREST))
    important = ", ".join(f"{row['label']} ({row['si']:.3f})" for row in query(MOST_IMPORTANT))
    num_nil = tail["num_mentions"] - tail["num_linked"]
    losses = [summary[split]["loss"] for split in ("validation_before", "validation_after")]
    p_at_1 = [scores["macro"]["p_at_1"] for scores in (before, after)]
    lines = {
        "documents": tail["num_documents"],
        "mentions": f"{tail['num_mentions']}: {tail['num_linked']} linked to {tail['num_entities']} entities, {num_nil} NIL",
        "linking, against gold": f"F1 {links['f1']:.3f} (precision {links['precision']:.3f}, recall {links['recall']:.3f})",
        "rarest entities": rarest,
        "most important (SI)": important,
        "tail exponent": f"{tail['power_law_exponent']:.2f} for frequencies from {tail['power_law_x_min']} up; "
        f"{tail['hapax_share']:.0%} of the entities occur once",
        "loss of asked facts": f"{summary['fact_loss_first']:.3f} -> {summary['fact_loss_last']:.3f}",
        "training loss": f"{summary['loss_first']:.3f} -> {summary['loss_last']:.3f} in {summary['steps']} steps",
        "validation MLM loss": f"{losses[0]:.3f} -> {losses[1]:.3f}  (the warm-up has seen these documents)",
        "probes P@1": f"{p_at_1[0]:.3f} -> {p_at_1[1]:.3f}  (mean of {len(after['relations'])} relations)",
        "weights updated": f"{summary['weights_updated_share']:.1%}",
        "time": f"{seconds:.0f} s",
    }
    say("\n" + "─" * 78 + "\nThe sample, from a Wikidata dump to a trained and probed model\n")
    for name, value in lines.items():
        say(f"  {name:22} {value}")
    say(f"""
  tables                 {RUN}/*/   (trelm-pipeline sql --run {RUN})
  report                 {RUN}/report.html   (open it in a browser)
  model                  {TRAINED}/model   (AutoModelForMaskedLM.from_pretrained)

Next: the loss above is of a toy model on a toy corpus. With your own dump and corpus:
  trelm-pipeline run --run runs/mine --set kb.dumps='["latest-all.json.gz"]' --set documents.inputs='["corpus/"]' \\
      --set importance.model=bert-base-uncased --workers 0
  trelm-train run --shards runs/mine/shards --model bert-base-uncased --out runs/mine/train""")


if __name__ == "__main__":
    main()

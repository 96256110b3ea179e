"""Be the command `link score`: link gold files with a run's index, and score them in one table."""

from __future__ import annotations

import json

import click

from schemas.command_line import say_after_stop
from schemas.errors import ConfigError


@click.command("link score")
@click.option(
    "--run", "run_folder", metavar="FOLDER", required=True, help="Run with a finished index."
)
@click.option(
    "--gold",
    "gold",
    metavar="PATH",
    required=True,
    multiple=True,
    help="Gold JSONL (docs/linking.md), or a folder of such files; may be repeated.",
)
@click.option(
    "--kb-only",
    is_flag=True,
    help="Leave out gold that is not in the knowledge base, and the links at its spans.",
)
@click.option(
    "--annotated-lines",
    is_flag=True,
    help="Count links only in the lines from the first to the last gold mention of each document: "
    "for gold that annotates a part of each text.",
)
@click.option(
    "--out",
    metavar="FOLDER",
    default="",
    help="Folder to write scores.md and scores.json to, made when missing.",
)
@click.option(
    "--config",
    metavar="FILE.toml",
    default="",
    help="File of settings; only its section link is used.",
)
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change any setting: --set link.weights=by-hand; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def score_command(  # noqa: PLR0913 - an option each
    run_folder: str,
    gold: tuple[str, ...],
    kb_only: bool,  # noqa: FBT001
    annotated_lines: bool,  # noqa: FBT001
    out: str,
    config: str,
    overrides: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Link the texts of gold files with the run's index, and score them in one table.

    \b
    The run needs kb and index alone; its documents are not read, and nothing is written to it.
    A row per gold file: end to end, at the gold spans, rare items, calibration; beside it a
    baseline that takes the most pointed-to item of exactly this name, at the same recogniser's
    spans and at the gold spans. Then wrong links and missed mentions by cause.
    docs/linking.md says how each figure is counted.

    \b
    trelm-pipeline link score --run runs/a --gold gold/ --out scores
    Compare settings:
      trelm-pipeline link score --run runs/a --gold gold/ --set link.weights=by-hand
    """
    say_after_stop("nothing was written")
    from pathlib import Path

    from pipeline.config import load_config
    from pipeline.engine import files
    from pipeline.link.evaluation.score_table import Counted, format_table, score_files

    # A file of this name would be found after minutes of work only.
    if out and Path(out).is_file():
        raise ConfigError(f"--out {out!r} is a file; give the name of a folder")
    counted = Counted(kb_only=kb_only, annotated_lines=annotated_lines)
    scores = score_files(run_folder, gold, load_config(config, overrides).link, counted)
    table, as_text = format_table(scores), json.dumps(scores, indent=1)
    if out:
        files.write_bytes(files.join(out, "scores.md"), f"{table}\n".encode())
        files.write_bytes(files.join(out, "scores.json"), f"{as_text}\n".encode())
    click.echo(as_text if as_json else table)

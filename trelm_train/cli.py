"""`trelm-train`: train a BERT or RoBERTa on the shards of `trelm-pipeline`, and look at what came
of it.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from schemas.buckets import Location
from schemas.command_line import (
    HELP_SETTINGS,
    Program,
    add_cache_option,
    add_verbose_option,
    call,
    leave,
    say_after_stop,
)
from trelm_train.command_options import (
    FILE,
    FOLDER,
    JSON_OPTION,
    LOCATION,
    show,
)
from trelm_train.evaluate_commands import EVALUATE_COMMANDS
from trelm_train.finetune_commands import evaluate_relation, evaluate_typing

CHECKPOINTS_KEPT = (
    "a checkpoint that was saved is kept; `trelm-train resume --out FOLDER` goes on from it"
)

PROGRAM = Program(
    extra="train",
    after_stop="nothing was written",
    # Batch systems send SIGTERM, or SIGUSR1 some time before.
    stop_signals=(signal.SIGTERM, signal.SIGUSR1),
)

Command = TypeVar("Command", bound=Callable[..., None])


def _run_options(command: Command) -> Command:
    """Give a command the options that `run` and `inspect plan` share."""
    for option in reversed(
        (
            click.option(
                "--shards",
                type=LOCATION,
                required=True,
                help="Folder of a finished `trelm-pipeline shards`.",
            ),
            click.option(
                "--model",
                required=True,
                help="Name or folder of the pretrained masked LM that the shards were made for.",
            ),
            click.option(
                "--out",
                type=LOCATION,
                required=True,
                help="New folder for checkpoints, metrics and the exported model.",
            ),
            click.option(
                "--config",
                "config_path",
                type=click.Path(path_type=Path),
                help="TOML file of settings, with sections train, masking, …",
            ),
            click.option(
                "--preset",
                type=click.Choice(["fast", "full", "talk"]),
                help="Start from named settings: fast trains the FFN of the upper half alone, full all "
                "weights, talk what the paper's talk describes. Without it, the defaults.",
            ),
            click.option(
                "--set",
                "sets",
                multiple=True,
                metavar="SECTION.KEY=VALUE",
                help="Change one setting; may be repeated.",
            ),
        )
    ):
        command = option(command)
    return command


@click.group(name="trelm-train", context_settings=HELP_SETTINGS)
@click.version_option(package_name="trelm", prog_name="trelm-train")
def cli() -> None:
    """Train a knowledge-enhanced BERT or RoBERTa on the shards of trelm-pipeline.

    \b
    Example, from shards to a probed model:
      trelm-train run --shards runs/a/shards --model bert-base-uncased --out runs/a/train
      trelm-train evaluate mlm --model runs/a/train/model --shards runs/a/shards
    """


@cli.command()
@_run_options
@click.option("--steps", type=int, help="Short for --set train.steps=N.")
@click.option("--seed", type=int, help="Short for --set train.seed=N.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Short for --set train.device=…."
)
@click.option(
    "--resume",
    "resume_mode",
    type=click.Choice(["never", "auto"]),
    default="never",
    show_default=True,
    help="auto continues from the newest checkpoint in --out, if there is one; "
    "for jobs that are started again.",
)
def run(resume_mode: str, **options: Any) -> None:  # noqa: ANN401
    """Train from the beginning.

    \b
    Examples:
      trelm-train run --shards runs/a/shards --model bert-base-uncased --out runs/a/train \\
          --steps 2000
    Only rare entities' facts are asked, in a fifth of the sentences that state facts:
      trelm-train run --shards runs/a/shards --model bert-base-uncased --out runs/a/rare \\
          --set facts.policy=low-frequency --set facts.share=0.2
    Four GPUs, eight batches per step, started again by the batch system until it is done:
      torchrun --nproc-per-node 4 --no-python trelm-train run --shards runs/a/shards --model roberta-base \\
          --out runs/a/train --resume auto --set train.micro_batches=8
    Everything in a bucket (docs/storage.md):
      trelm-train run --shards s3://bucket/a/shards --model s3://bucket/bert --out s3://bucket/a/train
    """
    say_after_stop(CHECKPOINTS_KEPT)
    request = _request(options)
    from trelm_train.training import train
    from trelm_train.training.report import readable

    summary = (train.run_or_resume if resume_mode == "auto" else train.run)(request)
    if summary:  # of the first rank
        click.echo(readable(summary))


def _request(options: dict[str, Any]) -> Any:  # noqa: ANN401
    from trelm_train.config import load_config

    short = [
        f"train.{name}={options[name]}"
        for name in ("steps", "seed", "device")
        if options.get(name) is not None
    ]
    config = load_config(
        options["config_path"], [*options["sets"], *short], preset=options["preset"] or ""
    )
    from trelm_train.training.session import RunRequest

    return RunRequest(
        shards=options["shards"], model=options["model"], out=options["out"], config=config
    )


@cli.command()
@click.option(
    "--out", type=LOCATION, required=True, help="Folder of an interrupted `trelm-train run`."
)
@click.option("--shards", type=LOCATION, help="New folder of the run's shards, if they have moved.")
def resume(out: Location, shards: Location | None) -> None:
    """Continue a run from its last checkpoint. The result is bit for bit that of a run that never stopped.

    \b
    Example:
      trelm-train resume --out runs/a/train
    """
    say_after_stop(CHECKPOINTS_KEPT)
    from trelm_train.training.report import readable
    from trelm_train.training.train import resume as continue_run

    summary = continue_run(out, moved_shards=shards)
    if summary:
        click.echo(readable(summary))


@cli.command()
@click.option(
    "--documents",
    type=LOCATION,
    required=True,
    help="Folder of a finished `trelm-pipeline documents`.",
)
@click.option("--out", type=LOCATION, required=True, help="Folder for the model.")
@click.option(
    "--vocab-size",
    type=click.IntRange(min=1),
    default=8000,
    show_default=True,
    help="Number of entries of the WordPiece vocabulary.",
)
@click.option(
    "--layers",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Number of transformer layers.",
)
@click.option(
    "--hidden",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Hidden size; the FFN has four times as many neurons.",
)
@click.option(
    "--heads",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Number of attention heads.",
)
@click.option(
    "--warmup-steps",
    type=click.IntRange(min=0),
    default=500,
    show_default=True,
    help="Number of plain masked-LM steps; 0 makes none.",
)
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Number of padded tokens per step.",
)
@click.option(
    "--learning-rate", type=float, default=5e-4, show_default=True, help="Peak learning rate."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of weights, masks and order."
)
@JSON_OPTION
def init(as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Make a small pretrained model from a run's own documents.

    \b
    Example:
      trelm-train init --documents runs/a/documents --out runs/a/model --warmup-steps 300
    """
    from trelm_train.config import Config, TrainConfig, check
    from trelm_train.init import InitRequest
    from trelm_train.init import init as make

    steps = options.pop("warmup_steps")
    warmup = TrainConfig(
        steps=steps,
        seed=options.pop("seed"),
        learning_rate=options.pop("learning_rate"),
        batch_tokens=options.pop("batch_tokens"),
        checkpoint_every=1_000_000,
    )
    if steps:
        check(Config(train=warmup))
    result = make(InitRequest(warmup=warmup, **options))
    losses = (
        ""
        if result["loss_last"] is None
        else f", loss {result['loss_first']:.3f} -> {result['loss_last']:.3f}"
    )
    show(
        result,
        f"{result['model']}: {result['vocabulary']} tokens, {result['sentences']} sentences, "
        f"{steps} steps{losses}",
        as_json=as_json,
    )


@cli.command()
@click.option(
    "--checkpoint", type=LOCATION, required=True, help="A folder OUT/checkpoints/step-… of a run."
)
@click.option("--out", type=LOCATION, required=True, help="Folder for the model.")
def export(checkpoint: Location, out: Location) -> None:
    """Turn a checkpoint into a plain model folder. The memory bank lies beside the model.

    \b
    Example:
      trelm-train export --checkpoint runs/a/train/checkpoints/step-00000500 --out model-500
    """
    from trelm_train.checkpoints.export import export_checkpoint

    click.echo(f"{out}: model of step {export_checkpoint(checkpoint, out)}")


@cli.group()
def evaluate() -> None:
    """Measure a plain model: memory and injection are off.

    \b
    Example:
      trelm-train evaluate mlm --model runs/a/train/model --shards runs/a/shards
    """


@cli.command()
@click.option(
    "--config",
    "configs",
    type=FILE,
    multiple=True,
    help="Experiment file; several may follow, as the shell writes them for experiments/*.toml.",
)
@click.argument("more_configs", type=FILE, nargs=-1)
@click.option(
    "--out", type=FOLDER, required=True, help="Folder for a folder per experiment, by its name."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of runs at a time, each with one thread.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change a setting of the file, such as experiment.seeds=[0] or arms.talk.rates=[1e-3]; may be "
    "repeated.",
)
@click.option("--keep-models", is_flag=True, help="Keep the model of every run.")
@click.option(
    "--plan", "plan_only", is_flag=True, help="Time the arms' steps, list the runs, train nothing."
)
def compare(plan_only: bool, more_configs: tuple[Path, ...], **options: Any) -> None:  # noqa: ANN401, FBT001
    """Compare arms at equal time: probes of the plain model, with intervals, on one page.

    Every arm is trained with several seeds, at several shares of the baseline's seconds. What is
    done is kept: the same command goes on where it was stopped.

    \b
    Examples:
      trelm-train compare --config experiments/controlled.toml --out comparisons --plan
      trelm-train compare --config experiments/*.toml --out comparisons --workers 4
      trelm-train compare --config experiments/relation.toml --out comparisons --set tasks.relation.epochs=3
    """
    configs = (*options.pop("configs"), *more_configs)
    if not configs:
        raise click.UsageError("give an experiment file: --config experiments/controlled.toml")
    say_after_stop("what has run is kept; the same command goes on")
    from trelm_train.compare.compare import CompareRequest
    from trelm_train.compare.compare import compare as compare_arms
    from trelm_train.compare.compare import plan as list_runs

    request = CompareRequest(configs=configs, **options)
    if plan_only:
        click.echo(list_runs(request))
        return
    for path in compare_arms(request):
        click.echo(path)


@cli.group()
def inspect() -> None:
    """Look into a run: what it will need, and what it has learned.

    \b
    Example:
      trelm-train inspect path --run runs/a/train
    """


@inspect.command("plan")
@_run_options
@JSON_OPTION
def inspect_plan(as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Estimate the memory and disk that a run will need. Start nothing and write nothing.

    \b
    Example:
      trelm-train inspect plan --shards runs/a/shards --model bert-base-uncased --out runs/a/train \\
          --set train.batch_tokens=16384
    """
    request = _request(options)
    from trelm_train.training.resource_estimate import estimate_request, readable_estimate

    plan = estimate_request(request)
    show(plan.to_dict(), readable_estimate(plan), as_json=as_json)


@inspect.command("bank")
@click.option(
    "--run",
    "run_path",
    type=LOCATION,
    required=True,
    help="The --out folder of a run, or an exported model.",
)
@click.option("--entity", required=True, help="QID or label of the entity.")
@click.option("--top", type=int, default=10, show_default=True, help="Number of neighbours.")
@JSON_OPTION
def inspect_bank(run_path: Location, entity: str, top: int, as_json: bool) -> None:  # noqa: FBT001
    """List the entities nearest to one entity. The cosine of their notes in the memory bank decides.

    \b
    Example:
      trelm-train inspect bank --run runs/a/train --entity Q90
    """
    from dataclasses import asdict

    from trelm_train.training.inspect import nearest

    center, neighbours = nearest(run_path, entity, top=top)
    lines = [f"{center.id} {center.label}: written {center.count} times"]
    lines += [
        f"  {item.cosine:+.3f}  {item.id:10} {item.label} ({item.count})" for item in neighbours
    ]

    result = {"entity": asdict(center), "nearest": [asdict(item) for item in neighbours]}
    show(result, "\n".join(lines), as_json=as_json)


@inspect.command("path")
@click.option("--run", "run_path", type=LOCATION, required=True, help="The --out folder of a run.")
@JSON_OPTION
def inspect_path(run_path: Location, as_json: bool) -> None:  # noqa: FBT001
    """Show the knowledge path. It lists how many neurons of each layer were trained, and the first of them.

    \b
    Example:
      trelm-train inspect path --run runs/a/train
    """
    from trelm_train.training.inspect import knowledge_path

    path = knowledge_path(run_path)
    lines = [f"policy {path['policy']}, chosen before step {path['step']}"]
    if path["policy"] == "full":
        lines = ["policy full: every weight is trained, no neuron is chosen"]
    for layer, neurons in enumerate(path["layers"] if path["policy"] != "full" else []):
        bar = "#" * round(40 * len(neurons) / path["inner_size"])
        shown = ", ".join(map(str, neurons[:8])) + (", …" if len(neurons) > 8 else "")
        lines.append(
            f"layer {layer:2}  {len(neurons):5} of {path['inner_size']}  {bar:40}  {shown}"
        )
    show(path, "\n".join(lines), as_json=as_json)


for command in (*EVALUATE_COMMANDS, evaluate_typing, evaluate_relation):
    evaluate.add_command(command)
add_cache_option(cli)
add_verbose_option(cli)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program: 0 done, 1 failure, 2 bad usage or configuration, 130 interrupted, 143
    terminated.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    leave(
        call(lambda: cli.main(arguments, prog_name="trelm-train", standalone_mode=False), PROGRAM)
    )


if __name__ == "__main__":
    main()

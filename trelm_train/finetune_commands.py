"""Add `trelm-train evaluate typing` and `trelm-train evaluate relation`.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from schemas.command_line import say_after_stop
from schemas.errors import ConfigError
from trelm_train.command_options import DEVICE_OPTION, FILE_LOCATION, FOLDER, JSON_OPTION

if TYPE_CHECKING:
    from trelm_train.finetune.evaluate import Request

Command = TypeVar("Command", bound=Callable[..., None])
# torch takes no larger one.
MAX_SEED = (1 << 63) - 1
FINISHED_KEPT = "what was finished is kept; the same command goes on"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Hold the settings of a published fine-tuning."""

    length: int
    batch: int
    rate: float
    epochs: int = 0
    steps: int = 0


# As published; the code of KEPLER (Wang et al. 2021) and of KP-PLM (Wang et al. 2022).
TYPING_PRESETS = {
    "kepler": Preset(length=128, batch=32, rate=3e-5, epochs=40),
    "kp-plm": Preset(length=128, batch=16, rate=2e-5, epochs=20),
}
RELATION_PRESETS = {
    "kepler": Preset(length=512, batch=16, rate=3e-5, steps=7000),
    "kp-plm": Preset(length=256, batch=32, rate=2e-5, epochs=5),
}


_FILES = (
    click.option(
        "--model", required=True, help="Name or folder of a BERT, a RoBERTa or their like."
    ),
    click.option("--train", type=FILE_LOCATION, help="File of the rows to train on."),
    click.option(
        "--dev",
        type=FILE_LOCATION,
        help="File of the rows that choose rate and epochs; without it a tenth of --train.",
    ),
    click.option("--test", type=FILE_LOCATION, help="File of the rows to test on."),
    click.option(
        "--data",
        type=FILE_LOCATION,
        help="One file in place of the three; a hash of the sentence splits it 80/10/10.",
    ),
    click.option("--out", type=FOLDER, required=True, help="Folder of results and finished cells."),
)
_GRID = (
    click.option(
        "--rate",
        "rates",
        type=click.FloatRange(min=0, min_open=True),
        multiple=True,
        help="Peak learning rate; several make a grid.",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(min=1),
        multiple=True,
        help="Number of epochs; several make a grid.",
    ),
    click.option(
        "--steps",
        type=click.IntRange(min=1),
        multiple=True,
        help="Number of steps in place of epochs; several make a grid.",
    ),
    click.option(
        "--seed",
        "seeds",
        type=click.IntRange(min=0),
        multiple=True,
        default=(0, 1, 2),
        show_default=True,
        help="Seed of order, dropout and classifier; may be repeated.",
    ),
    click.option("--batch", type=click.IntRange(min=1), help="Number of rows per step."),
    click.option("--length", type=click.IntRange(min=1), help="Most tokens of a row."),
    click.option(
        "--pool",
        type=click.Choice(["cls", "entities"]),
        default="cls",
        show_default=True,
        help="State that is classified: that of [CLS], or those at the markers before the spans.",
    ),
    click.option(
        "--early-stopping",
        "patience",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Number of epochs without a better dev score that end training; 0 takes the last weights.",
    ),
    click.option(
        "--limit",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Number of rows of each part, for a quick try; 0 takes all.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Number format of matrix products.",
    ),
    DEVICE_OPTION,
    JSON_OPTION,
)


def _grid_options(presets: dict[str, Preset]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command the options which both have."""
    told = "; ".join(f"{name}: {_describe(preset)}" for name, preset in presets.items())
    preset = click.option(
        "--preset",
        type=click.Choice(list(presets)),
        default="kp-plm",
        show_default=True,
        help=f"Published settings, each changed by its option. {told}.",
    )

    def decorate(command: Command) -> Command:
        for option in reversed((*_FILES, preset, *_GRID)):
            command = option(command)
        return command

    return decorate


def _describe(preset: Preset) -> str:
    long = f"{preset.steps:,} steps" if preset.steps else f"{preset.epochs} epochs"
    return f"{preset.length} tokens, {preset.batch} rows, rate {preset.rate:g}, {long}"


def _request(presets: dict[str, Preset], options: dict[str, Any]) -> Request:
    """Turn options into what the evaluation asks for.

    Raises:
        ConfigError: epochs and steps at once, a rate that is not finite, or too large a seed.
    """
    from schemas.bucket_copies import local_file
    from trelm_train.finetune.evaluate import Request
    from trelm_train.finetune.fit import Recipe, Setting
    from trelm_train.finetune.grid import Grid

    preset = presets[options["preset"]]
    epochs, steps = options["epochs"], options["steps"]
    if epochs and steps:
        raise ConfigError("--epochs and --steps: give one of them")
    if not epochs and not steps:
        epochs, steps = ((), (preset.steps,)) if preset.steps else ((preset.epochs,), ())
    # No range refuses NaN: every comparison with it is false.
    if not all(math.isfinite(rate) for rate in options["rates"]):
        raise ConfigError("--rate: must be a finite number, such as 3e-5")
    if max(options["seeds"]) > MAX_SEED:
        raise ConfigError(f"--seed {max(options['seeds'])}: give {MAX_SEED} or less")
    lengths = [{"epochs": count} for count in epochs] + [{"steps": count} for count in steps]
    settings = [
        Setting(rate=rate, **length)
        for rate in options["rates"] or (preset.rate,)
        for length in lengths
    ]
    recipe = Recipe(
        batch=options["batch"] or preset.batch,
        length=options["length"] or preset.length,
        reads_marks=options["pool"] == "entities",
        patience=options["patience"],
        precision=options["precision"],
    )
    return Request(
        model=options["model"],
        files={
            name: local_file(options[name])
            for name in ("train", "dev", "test", "data")
            if options[name] is not None
        },
        out=options["out"],
        # A value that is given twice counts once.
        grid=Grid(
            settings=tuple(dict.fromkeys(settings)), seeds=tuple(dict.fromkeys(options["seeds"]))
        ),
        recipe=recipe,
        limit=options["limit"],
        device=options["device"],
    )


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    from trelm_train.finetune.evaluate import readable

    click.echo(json.dumps(result, allow_nan=False) if as_json else readable(result))


@click.command("typing")
@_grid_options(TYPING_PRESETS)
@click.option(
    "--predict",
    type=click.Choice(["positive", "positive-or-best"]),
    default="positive",
    show_default=True,
    help="Labels that are predicted: those with a logit above 0, or the best one too (ERNIE's FIGER).",
)
def evaluate_typing(predict: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Fine-tune a model on entity typing, as in Open Entity and FIGER, and print F1 on the test rows.

    Rows are ERNIE's: sent, start, end, labels; a JSON list or JSON lines, .gz too. Every rate, number
    of epochs and seed is a training of its own; dev chooses, test is asked once.

    \b
    Examples:
      trelm-train evaluate typing --model runs/a/train/model --out typing \\
          --train OpenEntity/train.json --dev OpenEntity/dev.json --test OpenEntity/test.json
    A grid, from one file that is split:
      trelm-train evaluate typing --model runs/a/train/model --out typing --data rows.json.gz \\
          --rate 2e-5 --rate 5e-5 --epochs 5 --epochs 10
    """
    say_after_stop(FINISHED_KEPT)
    request = _request(TYPING_PRESETS, options)
    from trelm_train.finetune import evaluate

    result = evaluate.evaluate_typing(request, or_best=predict == "positive-or-best")
    _show(result, as_json=as_json)


@click.command("relation")
@_grid_options(RELATION_PRESETS)
@click.option(
    "--markers",
    type=click.Choice(["plain", "typed"]),
    default="plain",
    show_default=True,
    help="Markers of subject and object: the same for all rows, or named after the entities' types.",
)
@click.option(
    "--negative",
    help="Label that says that there is no relation; without it no_relation, NA or Other, if there is one.",
)
def evaluate_relation(markers: str, negative: str | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Fine-tune a model on relation classification, and print F1 on the test rows.

    Rows are in the form of TACRED, of SemEval-2010 task 8, or of FewRel, which is taken as plain
    classification. Every rate, number of epochs and seed is a training of its own; dev chooses, test
    is asked once.

    \b
    Examples:
      trelm-train evaluate relation --model runs/a/train/model --out relation --preset kepler \\
          --train tacred/train.json --dev tacred/dev.json --test tacred/test.json
    SemEval has no dev rows, so a tenth of its training rows chooses:
      trelm-train evaluate relation --model runs/a/train/model --out relation \\
          --train TRAIN_FILE.TXT --test TEST_FILE_FULL.TXT
    """
    say_after_stop(FINISHED_KEPT)
    request = _request(RELATION_PRESETS, options)
    from trelm_train.finetune import evaluate

    result = evaluate.evaluate_relations(request, negative=negative, is_typed=markers == "typed")
    _show(result, as_json=as_json)

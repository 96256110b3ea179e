"""Be the command `synth`: a flag for each setting of `SynthConfig`, whose meaning is its help.

Heavy imports happen when the command runs, so `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import typing

import click

from pipeline.synth.settings import SynthConfig
from schemas.command_line import say_after_stop

AFTER_STOP = "the folder is not complete without truth.json: remove it and start again"
# Flags that may be repeated are in the singular.
SINGULAR = {"relations": "relation"}
METAVARS = {"templates": "FILE", "general": "PATH", "model": "NAME", "relations": "P19"}


def setting_options() -> list[click.Parameter]:
    """Return a flag for each setting."""
    hints = typing.get_type_hints(SynthConfig)
    return [_option(item, hints[item.name]) for item in dataclasses.fields(SynthConfig)]


def _option(item: dataclasses.Field[typing.Any], kind: object) -> click.Option:
    name = SINGULAR.get(item.name, item.name)
    is_flag, is_multiple = kind is bool, kind not in (bool, int, float, str)
    meaning = item.metadata["meaning"]
    return click.Option(
        [f"--{name.replace('_', '-')}", item.name],
        default=item.default,
        show_default=not is_flag and item.default not in ("", ()),
        is_flag=is_flag,
        multiple=is_multiple,
        type=kind if kind in (int, float) else None,
        metavar=METAVARS.get(item.name),
        help=f"{meaning}; may be repeated." if is_multiple else f"{meaning}.",
    )


@click.command("synth")
@click.option(
    "--run", "run_folder", metavar="FOLDER", required=True, help="Run with a finished stage kb."
)
@click.option("--out", metavar="FOLDER", required=True, help="New folder to write the corpus to.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def synth_command(run_folder: str, out: str, as_json: bool, **settings: object) -> None:  # noqa: FBT001
    """Make a controlled corpus of a knowledge base: every sentence, link and fact is known.

    \b
    Facts of the KB become English sentences, by templates. Subjects occur by Zipf's law.
    The folder holds the documents with their links, gold links, probes by class for
    `trelm-train evaluate lama`, the truth in tables, and a configuration that runs the pipeline.
    docs/synth.md says what is guaranteed.

    \b
    trelm-pipeline kb --run runs/kb --dump dump.json.gz
    trelm-pipeline synth --run runs/kb --out runs/synth --sentences 5000 --subjects 1500
    trelm-pipeline run --config runs/synth/pipeline.toml
    Objects of one token, half of the words general text, a tenth of the links wrong:
      trelm-pipeline synth --run runs/kb --out runs/noisy --model bert-base-uncased \\
          --general wikitext.txt --corrupt-links 0.1
    """
    say_after_stop(AFTER_STOP)
    from pipeline.synth.synth import synthesise
    from pipeline.synth.totals_text import format_totals
    from schemas.settings import build

    totals = synthesise(run_folder, out, build(SynthConfig, settings, "synth"))
    click.echo(json.dumps(totals, indent=1) if as_json else format_totals(totals, out))


synth_command.params += setting_options()

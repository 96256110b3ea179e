"""Hold what the commands of `trelm-train` share: kinds of paths, options, and how a result is shown.

Nothing heavy is imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from schemas.command_line import LocationParam

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
# The same, or an address in a bucket.
LOCATION = LocationParam(path_type=Path, file_okay=False)
FILE_LOCATION = LocationParam(path_type=Path, dir_okay=False, exists=True)
FILE_TO_WRITE = LocationParam(path_type=Path, dir_okay=False)
MODEL_OPTION = click.option("--model", required=True, help="Name or folder of a masked LM.")
DEVICE_OPTION = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device that computes.",
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def show(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a result, as text or as one JSON object."""
    # NaN is no JSON; a measure that has no value is null.
    click.echo(json.dumps(result, allow_nan=False) if as_json else text)

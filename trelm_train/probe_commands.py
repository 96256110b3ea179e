"""Make the commands of `trelm-train evaluate` for probes in the files of other projects: ParaRel and
BEAR.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import click

from schemas.buckets import Location
from trelm_train.command_options import (
    DEVICE_OPTION,
    FILE_TO_WRITE,
    JSON_OPTION,
    LOCATION,
    MODEL_OPTION,
    show,
)


@click.command("paraphrases")
@MODEL_OPTION
@click.option(
    "--probes",
    type=LOCATION,
    required=True,
    help="Folder with P….jsonl files of facts (sub_label, obj_label).",
)
@click.option(
    "--patterns",
    type=LOCATION,
    required=True,
    help="Folder with P….jsonl files of patterns (pattern, with [X] and [Y]); the first is the base.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of facts per relation; 0 asks all.",
)
@click.option(
    "--items",
    "items_path",
    type=FILE_TO_WRITE,
    help="Parquet file for one row per fact and pattern: rank, best answer.",
)
@DEVICE_OPTION
@JSON_OPTION
def paraphrases(  # noqa: PLR0913
    model: str,
    device: str,
    probes: Location,
    patterns: Location,
    limit: int,
    items_path: Location | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Ask each fact in several ways. Print how often the answers are right, and how often they agree.

    \b
    Example, on the files of ParaRel:
      trelm-train evaluate paraphrases --model runs/a/train/model \\
          --probes pararel/data/trex_lms_vocab --patterns pararel/data/pattern_data/graphs_json
    """
    from schemas.bucket_copies import local_folder
    from trelm_train.evaluate.paraphrase_items import probe
    from trelm_train.evaluate.paraphrases import ParaphraseOptions, readable

    options = ParaphraseOptions(
        probes=local_folder(probes), patterns=local_folder(patterns), limit=limit
    )
    result = probe(model, device, options, items_path)
    show(result, readable(result), as_json=as_json)


@click.command("bear")
@MODEL_OPTION
@click.option(
    "--probes",
    type=LOCATION,
    required=True,
    help="Folder with metadata_relations.json and P….jsonl files of instances.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of instances per relation; 0 asks all.",
)
@click.option(
    "--items",
    "items_path",
    type=FILE_TO_WRITE,
    help="Parquet file for one row per instance and template: rank, best answer.",
)
@DEVICE_OPTION
@JSON_OPTION
def bear(
    model: str,
    device: str,
    probes: Location,
    limit: int,
    items_path: Location | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Put every answer into a statement, and take the likeliest. Print how often that is the true one.

    \b
    Example:
      trelm-train evaluate bear --model runs/a/train/model --probes BEAR
    """
    from schemas.bucket_copies import local_folder
    from trelm_train.evaluate.bear import probe, readable

    result = probe(model, device, local_folder(probes), limit=limit, items_path=items_path)
    show(result, readable(result), as_json=as_json)


PROBE_COMMANDS = (paraphrases, bear)

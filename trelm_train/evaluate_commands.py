"""Make the commands of `trelm-train evaluate` that ask a model as it is; `finetune_commands` has the
others.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from schemas.buckets import Location
from trelm_train.command_options import (
    DEVICE_OPTION,
    FILE,
    FILE_LOCATION,
    FILE_TO_WRITE,
    JSON_OPTION,
    LOCATION,
    MODEL_OPTION,
    show,
)


@click.command("mlm")
@MODEL_OPTION
@click.option(
    "--shards", type=LOCATION, help="Folder of a finished `trelm-pipeline shards`; or give --text."
)
@click.option(
    "--text",
    "text_path",
    type=FILE_LOCATION,
    help="Any UTF-8 text; its loss is measured on fixed masks too.",
)
@click.option(
    "--against",
    metavar="MODEL",
    help="The model that --model started from: what has been forgotten of --text.",
)
@click.option(
    "--sentences",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of sentences of the shards, and of pieces of the text, from the first; 0 takes all.",
)
@click.option(
    "--items",
    "items_path",
    type=FILE_TO_WRITE,
    help="Parquet file for one row per fact: rank, probabilities, how rare its entities are.",
)
@DEVICE_OPTION
@JSON_OPTION
def evaluate_mlm(as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Measure the masked-LM loss and the knowledge score. The masks of the validation split are fixed.

    \b
    Example:
      trelm-train evaluate mlm --model runs/a/train/model --shards runs/a/shards --json
    What the model has forgotten of a text, since it was bert-base-uncased:
      trelm-train evaluate mlm --model runs/a/train/model --text general.txt --against bert-base-uncased
    """
    from trelm_train.evaluate.mlm_command import MlmRequest, measure_all

    result, text = measure_all(MlmRequest(**options))
    show(result, text, as_json=as_json)


@click.command("lama")
@MODEL_OPTION
@click.option(
    "--probes",
    type=LOCATION,
    required=True,
    help="Folder of LAMA, or of one of its corpora: P….jsonl, Google_RE, Squad, ConceptNet.",
)
@click.option(
    "--relations",
    type=FILE_LOCATION,
    help="relations.jsonl: relation, template, label, type. Default: the file beside or above the probes.",
)
@click.option(
    "--common-vocab",
    type=FILE_LOCATION,
    help="File with one word per line; answers are ranked among these words only.",
)
@click.option(
    "--uhn",
    metavar="string|MODEL",
    help="string drops items whose object is part of the subject; the name or folder of a masked LM "
    "(published: bert-base-cased) also those that it answers from the name alone.",
)
@click.option(
    "--multi-token",
    type=click.Choice(["all-masks", "left-to-right"]),
    help="Rank objects of several tokens too, among the objects of their relation, beside LAMA's protocol.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of items per relation; 0 asks all.",
)
@click.option(
    "--items",
    "items_path",
    type=FILE_TO_WRITE,
    help="Parquet file for one row per question: rank, best answers, how rare its entities are.",
)
@click.option(
    "--run",
    "run_path",
    type=LOCATION,
    help="Run of trelm-pipeline that groups the scores: by frequency of the entities, by stated fact.",
)
@click.option(
    "--shards",
    type=LOCATION,
    help="Folder of a finished `trelm-pipeline shards`, in place of --run: frequencies alone.",
)
@DEVICE_OPTION
@JSON_OPTION
def evaluate_lama(
    model: str,
    device: str,
    items_path: Location | None,
    run_path: Location | None,
    shards: Location | None,
    as_json: bool,  # noqa: FBT001
    **options: Any,  # noqa: ANN401
) -> None:
    """Ask facts as cloze questions. Print P@1, P@10 and mean reciprocal rank, averaged over relations.

    \b
    Example:
      trelm-train evaluate lama --model runs/a/train/model --probes probes/TREx \\
          --relations probes/relations.jsonl --common-vocab common_vocab_cased.txt
    Rare entities and stated facts apart, and a row per question:
      trelm-train evaluate lama --model runs/a/train/model --probes probes/TREx --run runs/a \\
          --items after.parquet
    Without what the names give away:
      trelm-train evaluate lama --model runs/a/train/model --probes probes/TREx --uhn bert-base-cased
    """
    from schemas.bucket_copies import local_file, local_folder
    from trelm_train.evaluate.lama import Options, readable
    from trelm_train.evaluate.lama_items import ItemsFile, probe

    def local(path: Location | None) -> Path | None:
        return None if path is None else local_file(path)

    items_file = ItemsFile(path=items_path, run=run_path, shards=shards)
    probes: Location = options["probes"]
    asked = Options(
        probes=local_folder(probes),
        # A copy of a bucket's folder has another name.
        name="" if isinstance(probes, Path) else str(probes).rstrip("/").rpartition("/")[2],
        relations=local(options["relations"]),
        common_vocab=local(options["common_vocab"]),
        uhn=options["uhn"] or "",
        multi_token=options["multi_token"] or "",
        limit=options["limit"],
    )
    result = probe(model, device, asked, items_file)
    show(result, readable(result), as_json=as_json)


@click.command("common-vocab")
@click.option(
    "--model",
    "models",
    required=True,
    multiple=True,
    help="Name or folder of a masked LM; give one for each.",
)
@click.option(
    "--words",
    type=FILE,
    help="File with one word per line to choose from. Default: the models' vocabularies.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the words, one a line, sorted. Default: print them.",
)
@JSON_OPTION
def evaluate_common_vocab(
    models: tuple[str, ...],
    words: Path | None,
    out: Path | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """List the words that are one token of every model. `evaluate lama` then ranks all over the same.

    \b
    Example:
      trelm-train evaluate common-vocab --model bert-base-cased --model runs/a/train/model \\
          --out common.txt
    """
    from trelm_train.evaluate.common_vocab import make_common_vocab

    vocab = make_common_vocab(models, words, out)
    result = vocab.to_dict()
    if out is None:
        show(result | {"words": list(vocab.words)}, "\n".join(vocab.words), as_json=as_json)
        return
    lines = [f"{out}: {len(vocab.words)} words that are one token of every model"]
    lines += [f"  of {name}: {count}" for name, count in vocab.num_of_model.items()]
    if vocab.num_case_duplicates:
        lines.append(
            f"  {vocab.num_case_duplicates} differ from another one in case alone: one candidate to "
            + ", ".join(vocab.uncased_models)
        )
    show(result, "\n".join(lines), as_json=as_json)


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
def evaluate_paraphrases(  # noqa: PLR0913
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
def evaluate_bear(
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


EVALUATE_COMMANDS = (
    evaluate_mlm,
    evaluate_lama,
    evaluate_common_vocab,
    evaluate_paraphrases,
    evaluate_bear,
)

"""Export a trained model as a plain Hugging Face folder, with the memory bank beside it.

`OUT/` holds config, weights and tokenizer, which `AutoModelForMaskedLM.from_pretrained` loads with
no missing or unexpected key. `OUT/bank/` holds the written rows of the memory bank:
`bank.safetensors` (loadable memory-mapped) and `entities.parquet` (bank row, id and label), both in
ascending order of the row.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from schemas import buckets
from schemas.bucket_cache import link_into, work_folder
from schemas.bucket_copies import joined as join_location
from schemas.bucket_copies import local_file, local_folder, local_model, send_folder
from schemas.buckets import Location
from schemas.checksums import RUN_NAME, seal
from schemas.durable import partial_of, publish_folder
from schemas.errors import ConfigError, TrelmError
from schemas.run_lock import hold
from trelm_train.checkpoints.checkpoint import CHECKPOINTS, Checkpoint, load_checkpoint
from trelm_train.checkpoints.description import CONFIG_NAME, read_run
from trelm_train.checkpoints.model_card import CARD, TrainedModel, write_card
from trelm_train.config import load_config
from trelm_train.data.knowledge import Knowledge
from trelm_train.model.masked_lm import MaskedLm, load_pretrained

log = logging.getLogger(__name__)
# The folder of a run with the model it started from.
INITIAL = "initial"
BANK_FOLDER = "bank"
# Without it a folder is no model.
CONFIG_FILE = "config.json"
BANK_FILE = "bank.safetensors"
ENTITIES_FILE = "entities.parquet"
# The name under which safetensors writes before it renames.
UNFINISHED_WEIGHTS = ".tmp" + 6 * "[0-9A-Za-z]"


def export_model(model: MaskedLm, tokenizer_path: Path, out: Path) -> None:
    """Write the plain model and its tokenizer. Other files of the folder stay.

    Raises:
        TrelmError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        # What a killed program has left would be listed as a part of the model.
        for left in out.glob(UNFINISHED_WEIGHTS):
            if left.is_file():
                left.unlink()
        model.hf.save_pretrained(out)  # type: ignore[operator]
        for path in sorted(tokenizer_path.iterdir()):
            name = path.name
            # Files of the tokenizer, of any kind: tokenizer.json, tokenizer_config.json, vocab.txt,
            # special_tokens_map.json and the like.
            is_tokenizer = "token" in name or "vocab" in name or name == "merges.txt"
            if path.is_file() and is_tokenizer:
                shutil.copyfile(path, out / path.name)
    except (OSError, SafetensorError) as error:
        raise TrelmError(f"{out}: cannot write the model ({error})") from error


def entities_of(knowledge: Knowledge) -> pa.Table:
    """Return bank row, id (Q90 is 90) and label of every entity that has a row, in order of it."""
    entity = np.flatnonzero(knowledge.bank_row >= 0)
    # The file of the bank has rows in ascending order; names must follow it.
    entity = entity[np.argsort(knowledge.bank_row[entity])]
    columns = {
        "row": knowledge.bank_row[entity],
        "id": knowledge.ids[entity],
        "label": knowledge.labels.take(pa.array(entity)),
    }
    return pa.table(columns)


def write_entities(entities: pa.Table, folder: Path) -> None:
    """Write the names beside a run or an exported bank."""
    pq.write_table(entities, folder / ENTITIES_FILE, compression="zstd")


def export_bank(saved: Path, entities: pa.Table, out: Path) -> None:
    """Put a saved memory bank (its file) beside a model, with the names of its rows.

    Raises:
        TrelmError: the folder cannot be written.
    """
    folder = out / BANK_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(saved, folder / BANK_FILE)

        # Names of the rows that were written, no others: the same rows as in the bank.
        with safe_open(saved, framework="np") as bank:
            written = pc.is_in(entities["row"], value_set=pa.array(bank.get_tensor("row")))
        write_entities(entities.filter(written), folder)
        seal(folder)
    except (OSError, SafetensorError) as error:
        raise TrelmError(
            f"{folder}: cannot write the memory bank ({error}); make room and export again"
        ) from error


def export_checkpoint(path: Location, out: Location) -> int:
    """Turn a checkpoint of a run into a model folder, and return its step; needs no shards.

    Raises:
        ConfigError: not a checkpoint, or not in its run's folder; or `out` holds something.
    """
    if _is_taken(out):
        raise ConfigError(f"{out}: exists already; give a new or an empty folder as --out")
    with whole_model(out) as folder:
        return _export_to(folder, path)


def _is_taken(out: Location) -> bool:
    if not isinstance(out, Path):
        return bool(buckets.below(out, deep=True))
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


@contextmanager
def _local_run(path: Location) -> Iterator[tuple[Path, Path]]:
    """Give the folder of a checkpoint and that of its run; of one in a bucket what export needs.

    Raises:
        ConfigError: there is none.
        BucketError: it cannot be copied.
    """
    if isinstance(path, Path):
        # OUT/checkpoints/step-… lies two levels below its run.
        yield path, path.resolve().parent.parent
        return
    address = path.rstrip("/")
    run = address.rpartition("/")[0].rpartition("/")[0]
    with work_folder() as work:
        checkpoint = work / CHECKPOINTS / address.rpartition("/")[2]
        link_into(local_folder(address), checkpoint)
        if buckets.exists(f"{run}/{INITIAL}/{CONFIG_FILE}"):
            link_into(Path(local_model(f"{run}/{INITIAL}")), work / INITIAL)
            for name in (RUN_NAME, CONFIG_NAME):
                shutil.copyfile(local_file(f"{run}/{name}"), work / name)
        if (checkpoint / BANK_FILE).is_file():
            shutil.copyfile(local_file(f"{run}/{ENTITIES_FILE}"), work / ENTITIES_FILE)
        yield checkpoint, work


def _export_to(folder: Path, location: Location) -> int:
    with _local_run(location) as (path, run):
        return _export_from(path, run, folder)


def _export_from(path: Path, run: Path, folder: Path) -> int:
    checkpoint = load_checkpoint(path, ("model",))
    if not (run / INITIAL / CONFIG_FILE).is_file():
        raise ConfigError(
            f"{path}: outside its run (no {INITIAL} model in {run}); give OUT/checkpoints/step-…"
        )

    # The initial model gives the shape, the checkpoint the weights.
    model = load_pretrained(str(run / INITIAL), torch.device("cpu"))
    load_weights(model, checkpoint.tensors["model"])
    export_model(model, run / INITIAL, folder)
    if (path / BANK_FILE).is_file():
        export_bank(path / BANK_FILE, pq.read_table(run / ENTITIES_FILE), folder)
    try:
        write_card(folder, _described(checkpoint, run, has_bank=(path / BANK_FILE).is_file()))
    except ConfigError as error:
        # Settings of an older version, say: the model is whole without its card.
        log.warning("the model gets no card (%s): %s", CARD, error)
    return int(checkpoint.state["step"])


def _described(checkpoint: Checkpoint, run: Path, *, has_bank: bool) -> TrainedModel:
    """Return what the card of an exported checkpoint says.

    Raises:
        ConfigError: the run's description is damaged, or its settings are of another version.
    """
    state = checkpoint.state
    history = state["history"]
    return TrainedModel(
        run=read_run(run),
        config=load_config(run / CONFIG_NAME),
        step=int(state["step"]),
        tokens=int(state["tokens"]),
        before=history.get("validation_before") or {},
        # Only the end of a run is measured on the whole split.
        after={},
        has_bank=has_bank,
        summary={},
    )


@contextmanager
def whole_model(out: Location) -> Iterator[Path]:
    """Give a folder for a model that gets its final name when the block has ended well.

    It lies beside its final place. What a killed program left there is removed first. In a bucket
    the files are sent then, `config.json` as the last one.

    Raises:
        LockedError: another program makes the same one.
        TrelmError: it cannot be written; nothing is left.
    """
    if not isinstance(out, Path):
        with work_folder() as folder:
            yield folder
            seal(folder, apart=[BANK_FOLDER, CARD])
            send_folder(folder, out.rstrip("/"), last=CONFIG_FILE)
        return
    place = partial_of(out.resolve())
    folder = place / "model"
    try:
        with hold(place, "trelm-train"):
            try:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                yield folder
                seal(folder, apart=[BANK_FOLDER, CARD])
                publish_folder(folder, out, last=CONFIG_FILE)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        # One that a killed program has made is left by `hold`.
        with suppress(OSError):
            place.rmdir()
    except (OSError, SafetensorError) as error:
        raise TrelmError(
            f"{out}: cannot write the model ({error}); make room, or give another --out"
        ) from error


def find_bank(run: Location) -> Path:
    """Return the folder of the bank of a run or of an exported model; from a bucket a copy.

    Raises:
        ConfigError: there is none.
    """
    # A run has it under its exported model, an exported model beside its weights.
    for parts in (("model", BANK_FOLDER), (BANK_FOLDER,)):
        folder = join_location(run, *parts)
        if isinstance(folder, Path) and (folder / BANK_FILE).is_file():
            return folder
        if not isinstance(folder, Path) and buckets.exists(f"{folder}/{BANK_FILE}"):
            return local_folder(folder)

    raise ConfigError(
        f"{run}: no memory bank there; "
        "give the --out folder of a finished `trelm-train run` with memory on"
    )


@torch.no_grad()
def load_weights(model: MaskedLm, tensors: dict[str, Tensor]) -> None:
    """Put saved weights into a model of the same shape.

    Raises:
        ConfigError: names or shapes differ.
    """
    parameters = dict(model.hf.named_parameters())
    # Another family or another number of layers: copying the common weights would be silently
    # wrong.
    if parameters.keys() != tensors.keys():
        difference = sorted(parameters.keys() ^ tensors.keys())
        raise ConfigError(f"weights of another model: {difference[:3]}")

    wrong = next((name for name in tensors if tensors[name].shape != parameters[name].shape), "")
    if wrong:
        raise ConfigError(
            f"weights of another model: {wrong!r} has the shape {list(tensors[wrong].shape)}, and the "
            f"model {list(parameters[wrong].shape)}; give a checkpoint of this model"
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])

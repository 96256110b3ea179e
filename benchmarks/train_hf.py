"""Hugging Face's Trainer on the same sentences: what people continue masked-LM training with today.

`trainer` is its own loop with its own collator and masks. `same_batches` gives it our batches, a
sentence per padded row, with our masks, so that its losses can be compared with ours step by step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.train_data import training_rows
from schemas.freed_memory import keep_freed_memory
from trelm_train.config import load_config
from trelm_train.data.arrays import expand
from trelm_train.data.loader import BatchStream, Packing, Position
from trelm_train.data.shards import open_shards
from trelm_train.model.masked_lm import load_tokenizer, vocabulary_of
from trelm_train.optim import BETAS, EPSILON, rate_factor
from trelm_train.training.step_inputs import BatchPreparer, MicroBatch

NOT_A_TARGET = -100
WARM_STEPS = 2  # not timed: the first steps fill caches and allocate


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Sentences as lists of ids, as `datasets` would give them; with `blocks`, joined and cut as
    run_mlm.py does.
    """

    def __init__(self, rows: list[Any], width: int, *, blocks: bool) -> None:
        if blocks:
            joined = np.concatenate(rows)
            rows = [joined[at : at + width] for at in range(0, len(joined) - width + 1, width)]
        self.rows = [{"input_ids": row[:width].tolist()} for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows[number]


class Clock(TrainerCallback):
    """When each step ended, and how many real tokens it had."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time, when a GPU has done the step too."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.ends.append((time.perf_counter(), time.process_time()))


class Counting:
    """A collator that counts the tokens it gives."""

    def __init__(self, collate: Any) -> None:
        self.collate, self.tokens = collate, []

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        batch = self.collate(rows)
        self.tokens.append(int(batch["attention_mask"].sum()))
        self.places = batch["input_ids"].numel()
        return batch


def arguments(out: Path, steps: int, batch_size: int, **more: Any) -> TrainingArguments:
    """Defaults, but for what would write or report; on the processor, unless told otherwise."""
    more = {"use_cpu": True, **more}
    return TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
        **more,
    )


def trainer(out: Path, **request: Any) -> dict[str, Any]:
    """Take a number of steps; return seconds and tokens of those after the first two."""
    if request.get("keep_memory"):
        keep_freed_memory()
    torch.set_num_threads(request["threads"])
    model = AutoModelForMaskedLM.from_pretrained(request["model"], dtype=torch.float32)
    tokenizer = load_tokenizer(request["model"])
    rows = Rows(training_rows(request["shards"]), request["width"], blocks=request["blocks"])
    collate = Counting(DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.15))
    clock, steps = Clock(), request["steps"] + WARM_STEPS
    strategy = "group_by_length" if request["grouped"] else "random"
    args = arguments(
        out, steps, request["batch_size"], bf16=request["bf16"], train_sampling_strategy=strategy,
        remove_unused_columns=False, use_cpu=request.get("device", "cpu") == "cpu",
    )  # fmt: skip
    Trainer(
        model=model, args=args, train_dataset=rows, data_collator=collate, callbacks=[clock]
    ).train()
    (wall, cpu), (wall_end, cpu_end) = clock.ends[WARM_STEPS - 1], clock.ends[-1]
    tokens = sum(collate.tokens[WARM_STEPS:steps])
    return {
        "seconds": wall_end - wall,
        "cpu_seconds": cpu_end - cpu,
        "tokens": tokens,
        "steps": request["steps"],
    }


class OurBatches(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Our batches in our order, a sentence per padded row, with our masks."""

    def __init__(self, shards: str, sets: list[str]) -> None:
        self.shards, self.config = open_shards(Path(shards)), load_config(None, sets)
        tokenizer = load_tokenizer(str(self.shards.tokenizer_path))
        self.vocabulary = vocabulary_of(tokenizer, len(tokenizer))

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        train = self.config.train
        packing = Packing(max_tokens=train.max_tokens, batch_tokens=train.batch_tokens, limit=512)
        stream = BatchStream(self.shards, packing, seed=train.seed, pad_id=self.vocabulary.pad_id)
        make = BatchPreparer(config=self.config, vocabulary=self.vocabulary, planner=None)
        for here, _ in stream.positions(Position()):
            yield unpacked(make(stream.at(here), 0), self.vocabulary.pad_id)


def unpacked(micro: MicroBatch, pad_id: int) -> dict[str, torch.Tensor]:
    """One sentence per row, padded to the longest; labels at the targets."""
    batch = micro.batch
    lengths = batch.end_N - batch.start_N
    source = expand(batch.start_N, lengths)
    place = expand(np.arange(len(lengths)) * lengths.max(), lengths)
    labels = np.full(batch.input_ids_RS.size, NOT_A_TARGET, np.int64)
    labels[micro.masked.target_M] = micro.masked.gold_M
    columns = {}
    for name, values, empty in (
        ("input_ids", micro.input_ids_RS.reshape(-1), pad_id),
        ("labels", labels, NOT_A_TARGET),
        ("attention_mask", np.ones(batch.input_ids_RS.size, np.int64), 0),
    ):
        column = np.full((len(lengths), int(lengths.max())), empty, np.int64)
        column.reshape(-1)[place] = values[source]
        columns[name] = torch.from_numpy(column)
    return columns


class Losses(TrainerCallback):
    """The logged loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """Keep it."""
        if logs and "loss" in logs:
            self.values.append(logs["loss"])


class Unrounded(Trainer):
    """The Trainer, keeping each step's loss to all digits (it logs four)."""

    losses: list[float]

    def compute_loss(self, *args: Any, **more: Any) -> Any:
        """The loss as it goes into the backward pass."""
        loss = super().compute_loss(*args, **more)
        self.losses.append(float((loss[0] if isinstance(loss, tuple) else loss).detach()))
        return loss


def same_batches(out: Path, **request: Any) -> dict[str, Any]:
    """Losses of every step on our batches, with our optimiser's settings."""
    torch.set_num_threads(request["threads"])
    config = load_config(None, request["sets"]).train
    model = AutoModelForMaskedLM.from_pretrained(request["model"], dtype=torch.float32)
    args = arguments(
        out, config.steps, 1, learning_rate=config.learning_rate, weight_decay=config.weight_decay,
        adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPSILON, max_grad_norm=config.clip_norm,
        remove_unused_columns=False,
    )  # fmt: skip
    made = Unrounded(
        model=model,
        args=args,
        train_dataset=OurBatches(request["shards"], request["sets"]),
        data_collator=lambda rows: rows[0],
    )
    made.losses = []
    optimiser = (
        made.create_optimizer()
    )  # theirs; our schedule: their linear one starts with a step at rate 0
    made.lr_scheduler = LambdaLR(optimiser, lambda step: rate_factor(step, config))
    made.train()
    return {"losses": made.losses}

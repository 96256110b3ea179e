"""The training benchmark: the Trainer gets our sentences and masks unchanged; ours is measured
where it trains.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import train_hf, train_ours
from tests.trelm_train import world
from trelm_train.config import load_config
from trelm_train.data.loader import BatchStream, Packing, Position
from trelm_train.data.shards import open_shards
from trelm_train.model.masked_lm import vocabulary_of
from trelm_train.training.step_inputs import BatchPreparer

SETS = [
    "train.batch_tokens=256",
    "train.max_tokens=48",
    "train.steps=4",
    "routing.probe_facts=8",
    "train.validate=false",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, tokenizer = tmp_path_factory.mktemp("train"), world.make_tokenizer()
    shards = world.write_shards(
        folder / "shards",
        tokenizer,
        world.example_columns(tokenizer),
        world.knowledge_columns(tokenizer),
    )
    world.make_bert(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return {
        "shards": str(shards),
        "model": str(folder / "model"),
        "threads": 1,
        "tokenizer": tokenizer,
    }


def request(made: dict[str, Any], *sets: str) -> dict[str, Any]:
    return {"shards": made["shards"], "model": made["model"], "threads": 1, "sets": [*SETS, *sets]}


def test_the_trainer_gets_the_same_sentences_and_masks(made: dict[str, Any]) -> None:
    vocabulary = vocabulary_of(made["tokenizer"], len(made["tokenizer"]))
    stream = BatchStream(
        open_shards(Path(made["shards"])),
        Packing(max_tokens=48, batch_tokens=256, limit=64),
        seed=0,
        pad_id=0,
    )
    micro = BatchPreparer(config=load_config(None), vocabulary=vocabulary, planner=None)(
        stream.at(Position()), 0
    )
    columns = train_hf.unpacked(micro, 0)
    ids, labels, mask = (
        columns[name].numpy() for name in ("input_ids", "labels", "attention_mask")
    )
    batch = micro.batch
    assert len(ids) == len(batch.key_N)
    assert mask.sum() == batch.num_tokens
    flat = micro.input_ids_RS.reshape(-1)
    for row, (start, end) in enumerate(zip(batch.start_N, batch.end_N, strict=True)):
        assert ids[row][mask[row] == 1].tolist() == flat[start:end].tolist()
    chosen = labels != train_hf.NOT_A_TARGET
    assert labels[chosen].tolist() == micro.masked.gold_M.tolist()
    assert ids[chosen].tolist() == flat[micro.masked.target_M].tolist()


def test_rows_and_blocks() -> None:
    rows = [np.arange(3), np.arange(10, 15), np.arange(20, 24)]
    assert [row["input_ids"] for row in train_hf.Rows(rows, 4, blocks=False)] == [
        [0, 1, 2], [10, 11, 12, 13], [20, 21, 22, 23],
    ]  # fmt: skip
    assert [row["input_ids"] for row in train_hf.Rows(rows, 5, blocks=True)] == [
        [0, 1, 2, 10, 11],
        [12, 13, 14, 20, 21],
    ]


def test_ours_counts_the_steps_after_the_first(made: dict[str, Any], tmp_path: Path) -> None:
    found = train_ours.throughput(tmp_path, **request(made), steps=2)
    assert found["steps"] == 2
    assert 0 < found["tokens"] <= found["places"]
    assert found["seconds"] > 0
    assert found["refresh_cpu_s"] > 0


def test_losses_of_every_step(made: dict[str, Any], tmp_path: Path) -> None:
    losses = train_ours.losses(tmp_path, **request(made, *train_ours.PLAIN))["losses"]
    assert len(losses) == 4
    assert all(np.isfinite(losses))


def test_the_plan_is_that_of_the_run(made: dict[str, Any], tmp_path: Path) -> None:
    found = train_ours.planned(tmp_path, **request(made))
    assert found["planned_mb"] == found["plan"]["peak_memory_mb"] > found["plan"]["resident_mb"]

"""The training benchmark: the Trainer gets our sentences and masks unchanged; ours is measured
where it trains.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import harness, train_hf, train_ours, train_throughput
from benchmarks.harness import Measured, Variant
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


def setup_of(folder: Path, *, precision: str, quick: bool) -> train_throughput.Setup:
    return train_throughput.Setup(
        folder=folder, shards="", steps=2, curve_steps=2, rounds=1, quick=quick, dropout=0.1, precision=precision
    )  # fmt: skip


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_throughput, "random_model", lambda *_, **__: "model")


ENDS = ("", "_grouped", "_grouped_kept", "_blocks", "_float32")


@pytest.mark.usefixtures("no_models")
@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_all_variants_multiply_in_the_format_of_ours(
    tmp_path: Path,
    precision: str,
    quick: bool,  # noqa: FBT001
) -> None:
    variants = train_throughput.throughput_variants(
        setup_of(tmp_path, precision=precision, quick=quick), "mini"
    )
    names = {variant.name for variant in variants}
    assert len(names) == len(variants)
    assert {"ours", "hf_8", "hf_32", "hf_32_grouped", "hf_32_blocks"} <= names
    assert ("ours_float32" in names) == (precision == "bfloat16" and not quick)
    for variant in variants:
        wanted = "float32" if variant.name.endswith("float32") else precision
        if variant.name.startswith("ours"):
            assert f"train.precision={wanted}" in variant.arguments["sets"]
        else:
            assert variant.arguments["bf16"] == (wanted == "bfloat16")
            # The limit only multiplies: it has no rows.
            rows = variant.arguments.get("batch_size", "")
            assert variant.name in (train_throughput.LIMIT, *(f"hf_{rows}{end}" for end in ENDS))


def measured(seconds: float) -> Measured:
    result = {"tokens": 100, "places": 120, "steps": 2, "parts_s": {}}
    variant = Variant(name="any", target="none:none", arguments={})
    return Measured(
        variant=variant, seconds=[seconds], cpu_seconds=[seconds], rss_mb=1.0, results=[result]
    )


@pytest.mark.usefixtures("no_models")
def test_without_the_trainer_there_is_no_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Variant, "is_missing", property(lambda variant: bool(variant.needs)))
    monkeypatch.setattr(train_throughput, "measure", lambda *_: {"ours": measured(1.0)})
    (fields,) = train_throughput.throughput(
        setup_of(tmp_path, precision="float32", quick=False), "mini"
    )
    harness.emit(fields)
    assert "Infinity" not in capsys.readouterr().out
    assert fields["ratios"] == fields["cpu_ratios"] == fields["ratio_to_peers"] == {}
    assert fields["skipped"]["hf_8"] == "pip install accelerate"
    aim = fields["aims"]["cpu_ratios.to_default"]
    assert (aim["met"], aim["why"]) == (None, "pip install accelerate")
    assert fields["ok"]


@pytest.mark.usefixtures("no_models")
def test_the_default_is_eight_rows_in_the_same_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {
        "ours": 1.0, "hf_8": 4.0, "hf_32": 3.0, "hf_32_grouped": 2.0, "ours_float32": 3.0, "hf_8_float32": 6.0,
    }  # fmt: skip
    by_name = {name: measured(value) for name, value in seconds.items()}
    monkeypatch.setattr(train_throughput, "measure", lambda *_: by_name)
    (fields,) = train_throughput.throughput(
        setup_of(tmp_path, precision="bfloat16", quick=False), "mini"
    )
    assert fields["ratios"] == {
        "to_default": 4.0, "to_best": 2.0, "to_best_grouped": 2.0, "to_default_float32": 2.0,
    }  # fmt: skip
    assert fields["precision"] == "bfloat16"
    aim = fields["aims"]["cpu_ratios.to_default"]
    assert (aim["value"], aim["met"], fields["ok"]) == (4.0, False, False)


@pytest.mark.usefixtures("no_models")
def test_curves_without_the_trainer_are_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = measured(1.0)
    ours.results[0]["losses"] = [3.0, 2.0]
    monkeypatch.setattr(Variant, "is_missing", property(lambda variant: bool(variant.needs)))
    monkeypatch.setattr(train_throughput, "measure", lambda *_: {"ours": ours})
    setup = setup_of(tmp_path, precision="float32", quick=True)
    (fields,) = train_throughput.curves(setup, 0.0)
    assert "hf" not in fields
    assert "largest_difference" not in fields
    assert fields["aims"]["largest_difference"]["met"] is None

    hf = measured(1.0)
    hf.results[0]["losses"] = [3.0, 2.5]
    monkeypatch.setattr(train_throughput, "measure", lambda *_: {"ours": ours, "hf": hf})
    (fields,) = train_throughput.curves(setup, 0.0)
    assert fields["largest_difference"] == 0.5
    assert not fields["ok"], "curves are judged with --quick too"

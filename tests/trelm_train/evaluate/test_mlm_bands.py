"""Masked tokens and facts by band: the groups add up, by hand and by plain loops."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from tests.trelm_train import world
from tests.trelm_train.evaluate.broken import logits_by, zeroed
from trelm_train.cli import cli
from trelm_train.config import MaskingConfig
from trelm_train.data.knowledge import load_knowledge
from trelm_train.data.loader import (
    Batch,
    Packing,
    Position,
    assemble,
    sentences_from_lists,
    split_batches,
)
from trelm_train.data.masking import Vocabulary, mask_batch
from trelm_train.data.shards import Shards, open_shards
from trelm_train.evaluate.mlm import MASK_SEED, MlmTotals, add_split, near_rare, report_of
from trelm_train.evaluate.mlm_bands import (
    BAND_GROUPS,
    GROUPS,
    GroupTotals,
    facts_by_band,
    read_bands,
)
from trelm_train.evaluate.mlm_items import MlmMeasures, measure, readable
from trelm_train.model.masked_lm import MaskedLm

PACKING = Packing(max_tokens=64, batch_tokens=256, limit=64)
OLD_FIELDS = {
    "num_sentences", "num_masked", "loss", "accuracy", "num_entity_masked", "entity_loss",
    "num_near_rare_masked", "near_rare_loss", "num_facts", "cka_score",
}  # fmt: skip


def band_of(name: str) -> str | None:
    """Two countries are frequent, other places less so; of the people one is not listed."""
    if name in world.COUNTRIES[:2]:
        return "head"
    if name in world.COUNTRIES + world.TOWNS:
        return "torso"
    return None if name == "Joseph" else "tail"


@pytest.fixture(scope="module")
def banded_path(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world, with bands, and notes for the people alone; most sentences are validation."""
    knowledge = world.knowledge_columns(tokenizer)
    entities = world.ENTITIES
    knowledge["band"] = [band_of(name) for name in entities] + [None] * len(world.RELATIONS)
    knowledge["bank_row"] = [
        world.PEOPLE.index(name) if name in world.PEOPLE else None for name in entities
    ] + [None] * len(world.RELATIONS)
    examples = world.example_columns(tokenizer)
    examples["split"] = [
        "validation" if number % 8 else "train" for number in range(len(examples["split"]))
    ]
    folder = tmp_path_factory.mktemp("banded") / "shards"
    return world.write_shards(folder, tokenizer, examples, knowledge)


@pytest.fixture(scope="module")
def banded(banded_path: Path) -> Shards:
    return open_shards(banded_path)


def totals_of(model: MaskedLm, vocabulary: Vocabulary, shards: Shards) -> MlmTotals:
    sums = MlmTotals(groups=GroupTotals(read_bands(shards)))
    add_split(sums, model, vocabulary, shards, load_knowledge(shards), PACKING)
    return sums


def test_bands_are_those_of_the_rows(banded: Shards) -> None:
    names = [BAND_GROUPS[number] for number in read_bands(banded)]
    assert names[world.ROW["Ruritania"]] == "head"
    assert names[world.ROW["Zenda"]] == "torso"
    assert names[world.ROW["Flavia"]] == "tail"
    assert names[world.ROW["Joseph"]] == "none"
    assert names[world.ROW[world.LIVES]] == "none"


def test_groups_are_counted_again_token_by_token(
    model: MaskedLm, vocabulary: Vocabulary, banded: Shards
) -> None:
    """Sentence by sentence, by transformers' own forward pass."""
    sums = totals_of(model, vocabulary, banded)
    knowledge = load_knowledge(banded)
    losses: dict[str, list[float]] = defaultdict(list)
    for batch in split_batches(banded, PACKING, "validation", vocabulary.pad_id):
        masked = mask_batch(batch, MaskingConfig(), vocabulary, seed=MASK_SEED, epoch=0)
        is_near = near_rare(batch, knowledge)
        flat = masked.input_ids_RS.reshape(-1)
        for place, gold in zip(masked.target_M.tolist(), masked.gold_M.tolist(), strict=True):
            sentence = int(batch.segment_RS.reshape(-1)[place])
            start, end = int(batch.start_N[sentence]), int(batch.end_N[sentence])
            group = "near_rare" if is_near[place] else "other"
            for span, entity in enumerate(batch.span_entity_P.tolist()):
                if batch.span_start_P[span] <= place < batch.span_end_P[span]:
                    group = band_of(knowledge.label(entity)) or "none"
            with torch.no_grad():
                ids = torch.from_numpy(flat[start:end])[None]
                logits = model.hf(input_ids=ids).logits[0, place - start]
            losses[group].append(-float(logits.double().log_softmax(0)[gold]))

    assert sums.groups is not None
    groups = sums.groups.to_dict()
    assert set(groups) == set(GROUPS)
    for name, group in groups.items():
        assert group["n"] == len(losses[name])
        if group["n"]:
            assert group["loss"] == pytest.approx(np.mean(losses[name]), abs=1e-3)
    for name in ("head", "torso", "tail", "near_rare", "other"):
        assert groups[name]["n"] > 0, name


def test_groups_add_up_to_the_report(
    model: MaskedLm, vocabulary: Vocabulary, banded: Shards
) -> None:
    sums = totals_of(model, vocabulary, banded)
    assert sums.groups is not None
    groups, report = sums.groups.to_dict(), report_of(sums)
    total = {name: group["n"] * (group["loss"] or 0) for name, group in groups.items()}
    assert sum(group["n"] for group in groups.values()) == report.num_masked
    assert sum(total.values()) / report.num_masked == pytest.approx(report.loss)
    of_entities = sum(groups[name]["n"] for name in BAND_GROUPS)
    assert of_entities == report.num_entity_masked
    assert sum(total[name] for name in BAND_GROUPS) / of_entities == pytest.approx(
        report.entity_loss
    )
    assert groups["near_rare"]["n"] == report.num_near_rare_masked
    assert groups["near_rare"]["loss"] == pytest.approx(report.near_rare_loss)


def random_batch(random: np.random.Generator) -> Batch:
    """A sentence or two with mentions that do not overlap."""
    columns: dict[str, list[list[int]]] = {
        "ids": [], "words": [], "span_start": [], "span_end": [], "span_entity": [],
    }  # fmt: skip
    for _ in range(random.integers(1, 3)):
        length = int(random.integers(3, 12))
        borders = np.sort(random.choice(np.arange(1, length), random.integers(0, length), False))
        borders = borders[: len(borders) // 2 * 2]
        columns["ids"].append(random.integers(5, 9, length).tolist())
        columns["words"].append(list(range(1, length - 1)))
        columns["span_start"].append(borders[::2].tolist())
        columns["span_end"].append(borders[1::2].tolist())
        columns["span_entity"].append(random.integers(0, 6, len(borders) // 2).tolist())
    sentences = sentences_from_lists(columns)
    rows = [[number] for number in range(len(sentences))]
    return assemble(sentences, rows, Position(), 0)


def test_random_batches_are_added_up_as_by_plain_loops() -> None:
    random = np.random.default_rng(11)
    for _ in range(1000):
        band_of_row = random.integers(0, len(BAND_GROUPS), 6)
        totals = GroupTotals(band_of_row)
        plain: dict[str, list[tuple[float, bool]]] = {name: [] for name in GROUPS}
        for _ in range(2):
            batch = random_batch(random)
            size = batch.input_ids_RS.size
            target_M = np.flatnonzero(random.random(size) < 0.5)
            loss_M, is_right_M = random.random(len(target_M)), random.random(len(target_M)) < 0.5
            is_near = random.random(size) < 0.3
            totals.add(batch, is_near, target_M, loss_M, is_right_M)
            for place, loss, right in zip(target_M, loss_M, is_right_M, strict=True):
                group = "near_rare" if is_near[place] else "other"
                for span in range(len(batch.span_entity_P)):
                    if batch.span_start_P[span] <= place < batch.span_end_P[span]:
                        group = BAND_GROUPS[band_of_row[batch.span_entity_P[span]]]
                plain[group].append((float(loss), bool(right)))
        for name, group in totals.to_dict().items():
            values = plain[name]
            assert group["n"] == len(values)
            if not values:
                assert group["loss"] is group["accuracy"] is None
                continue
            assert group["loss"] == pytest.approx(sum(loss for loss, _ in values) / len(values))
            assert group["accuracy"] == sum(right for _, right in values) / len(values)


def test_facts_by_band_by_hand() -> None:
    bands = np.array([0, 2, 2, 3])
    rows = facts_by_band(bands, [(0, 2.0), (1, 1.0), (2, 4.0), (2, 4.0)])
    assert rows["head"] == {"n": 1, "cka_score": 2.0}
    assert rows["torso"] == {"n": 0, "cka_score": None}
    assert rows["tail"] == {"n": 3, "cka_score": pytest.approx(3)}
    assert rows["none"] == {"n": 0, "cka_score": None}


def test_zeroed_constant_and_random_models(
    model: MaskedLm, vocabulary: Vocabulary, banded: Shards
) -> None:
    def groups_of(some: MaskedLm) -> dict[str, dict[str, Any]]:
        groups = totals_of(some, vocabulary, banded).groups
        assert groups is not None
        return {name: group for name, group in groups.to_dict().items() if group["n"]}

    noise = torch.Generator().manual_seed(2)
    with logits_by(model, lambda logits: torch.randn(logits.shape, generator=noise)):
        random = groups_of(model)
    size = model.config.vocab_size
    num_right = sum(group["accuracy"] * group["n"] for group in random.values())
    num = sum(group["n"] for group in random.values())
    assert num_right <= num / size + 4 * (num / size) ** 0.5
    # One token to everything: right as often as that token is masked, here never.
    with logits_by(
        model, lambda logits: torch.zeros_like(logits).index_fill(1, torch.tensor([4]), 1)
    ):
        assert {group["accuracy"] for group in groups_of(model).values()} == {0}
    zero = groups_of(zeroed(model))
    assert len(zero) >= 5
    for group in zero.values():
        assert group["accuracy"] == 0
        assert group["loss"] == pytest.approx(math.log(size))


@pytest.fixture
def measures(model_path: Path, banded_path: Path) -> MlmMeasures:
    return measure(str(model_path), banded_path, "cpu")


def test_the_command_keeps_its_fields_and_adds_new_ones(
    model_path: Path, banded_path: Path, measures: MlmMeasures
) -> None:
    command = ["evaluate", "mlm", "--model", str(model_path), "--shards", str(banded_path), "--device", "cpu"]  # fmt: skip
    output = CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).stdout
    result = json.loads(output)
    assert result == measures.to_dict()
    assert result.keys() == OLD_FIELDS | {"masked_by_group", "facts_by_head", "facts_by_tail"}
    # Training, and comparisons, see the report alone.
    assert measures.report.to_dict().keys() == OLD_FIELDS
    text = CliRunner().invoke(cli, command, catch_exceptions=False).output
    assert text == readable(measures) + "\n"
    assert "near_rare" in text


def test_facts_by_band_are_those_of_the_rows(
    model_path: Path, banded_path: Path, measures: MlmMeasures, tmp_path: Path
) -> None:
    path = tmp_path / "items.parquet"
    measure(str(model_path), banded_path, "cpu", items_path=path)
    rows = pq.read_table(path).to_pylist()
    for side, by_band in (("sub", measures.facts_by_head), ("obj", measures.facts_by_tail)):
        for band, group in by_band.items():
            scores = [row["cka_score"] for row in rows if (row[f"{side}_band"] or "none") == band]
            assert group["n"] == len(scores)
            if scores:
                assert group["cka_score"] == pytest.approx(np.mean(scores))
    assert measures.facts_by_head["tail"]["n"] > 0
    assert measures.facts_by_tail["torso"]["n"] > 0
    num_facts = measures.report.num_facts
    assert sum(group["n"] for group in measures.facts_by_head.values()) == num_facts > 0

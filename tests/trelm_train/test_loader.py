from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trelm_train import world
from trelm_train.arrays import expand, uniform
from trelm_train.errors import TrelmError
from trelm_train.loader import (
    Batch,
    BatchStream,
    Packing,
    Position,
    assemble,
    pack,
    plan_batches,
    read_sentences,
    sentences_from_lists,
    split_batches,
)
from trelm_train.shards import Shards, open_shards

PACKING = Packing(max_tokens=48, batch_tokens=96, limit=64)


def epoch(stream: BatchStream, number: int = 0) -> list[Batch]:
    found = []
    for batch, _ in stream.iterate(Position(epoch=number)):
        if batch.position.epoch != number:
            return found
        found.append(batch)
    return found


def same(left: Batch, right: Batch) -> bool:
    return left.position == right.position and bool(np.array_equal(left.input_ids_RS, right.input_ids_RS))


def test_an_epoch_holds_every_training_sentence_once(shards: Shards) -> None:
    train = read_sentences(list(shards.row_groups), "train")
    keys = np.concatenate([batch.key_N for batch in epoch(BatchStream(shards, PACKING, seed=1, pad_id=0))])
    assert sorted(keys.tolist()) == sorted(train.key_N.tolist())
    validation = np.concatenate([batch.key_N for batch in split_batches(shards, PACKING, "validation", 0)])
    assert sorted([*keys.tolist(), *validation.tolist()]) == list(range(len(world.sentences())))


def test_order_depends_on_seed_and_epoch_only(shards: Shards) -> None:
    first, again = (BatchStream(shards, PACKING, seed=5, pad_id=0) for _ in range(2))
    other = BatchStream(shards, PACKING, seed=6, pad_id=0)
    assert all(same(a, b) for a, b in zip(epoch(first), epoch(again), strict=True))
    assert not all(same(a, b) for a, b in zip(epoch(first), epoch(other), strict=False))
    assert not np.array_equal(epoch(first)[0].key_N, epoch(first, 1)[0].key_N)


def test_any_batch_can_be_resumed(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trelm_train.loader.WINDOW_ROWS", 20)  # several windows
    stream = BatchStream(shards, PACKING, seed=2, pad_id=0)
    whole = list(islice(stream.iterate(Position()), 40))
    assert {batch.position.window for batch, _ in whole} >= {0, 1}
    for number, (_, following) in enumerate(whole[:-1]):
        fresh = BatchStream(shards, PACKING, seed=2, pad_id=0)
        assert same(next(fresh.iterate(following))[0], whole[number + 1][0])


def test_spans_words_and_facts_move_with_their_sentence(shards: Shards, batch: Batch) -> None:
    sentences = read_sentences(list(shards.row_groups), "train")
    row_of = {key: row for row, key in enumerate(sentences.key_N.tolist())}
    flat = batch.input_ids_RS.reshape(-1)
    for number, key in enumerate(batch.key_N.tolist()):
        row = row_of[key]
        assert flat[batch.start_N[number] : batch.end_N[number]].tolist() == sentences.ids.of(row).tolist()
        spans = np.flatnonzero(batch.span_sentence_P == number)
        starts = batch.span_start_P[spans] - batch.start_N[number]
        assert starts.tolist() == sentences.span_start.of(row).tolist()
        assert batch.span_ordinal_P[spans].tolist() == list(range(len(spans)))
        facts = [i for i, span in enumerate(batch.fact_head_F.tolist()) if span in spans]
        heads = batch.span_entity_P[batch.fact_head_F[facts]]
        assert heads.tolist() == sentences.span_entity.of(row)[sentences.fact_head.of(row)].tolist()
    words = batch.segment_RS.reshape(-1)[batch.word_start_W]
    assert np.array_equal(np.bincount(words), sentences.words.lengths(np.asarray([row_of[k] for k in batch.key_N])))


def test_padding_belongs_to_no_sentence(batch: Batch) -> None:
    padding = batch.segment_RS == -1
    assert batch.num_tokens == int((~padding).sum())
    assert not batch.input_ids_RS[padding].any()


@given(st.lists(st.integers(1, 70), max_size=80), st.integers(8, 64))
@settings(max_examples=60, deadline=None)
def test_packing_loses_nothing_and_respects_the_width(lengths: list[int], capacity: int) -> None:
    rows = pack(np.asarray(lengths, np.int64), capacity)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    for row in rows:
        assert sum(lengths[item] for item in row) <= capacity or len(row) == 1


def test_packing_is_tight() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 2000)
    rows = pack(lengths, 128)
    assert lengths.sum() / (128 * len(rows)) > 0.95


def test_a_long_sentence_does_not_widen_the_others() -> None:
    batches = plan_batches(np.asarray([10, 10, 60, 10], np.int64), PACKING)
    assert [[2]] in batches


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=20))
@settings(max_examples=50, deadline=None)
def test_expand_is_ranges(pairs: list[tuple[int, int]]) -> None:
    starts = np.asarray([start for start, _ in pairs], np.int64)
    lengths = np.asarray([length for _, length in pairs], np.int64)
    wanted = [i for start, length in pairs for i in range(start, start + length)]
    assert expand(starts, lengths).tolist() == wanted


def test_random_numbers_are_uniform_and_keyed() -> None:
    draw = uniform(1, "mask", 0, np.arange(20000, dtype=np.int64))
    assert abs(draw.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(draw[:-1], draw[1:])[0, 1]) < 0.02
    assert not np.array_equal(draw, uniform(2, "mask", 0, np.arange(20000, dtype=np.int64)))
    assert not np.array_equal(draw, uniform(1, "other", 0, np.arange(20000, dtype=np.int64)))


def test_too_long_for_the_model(shards: Shards) -> None:
    with pytest.raises(TrelmError, match="the model takes 8"):
        BatchStream(shards, Packing(max_tokens=8, batch_tokens=64, limit=8), seed=0, pad_id=0)


def test_an_empty_training_split(tokenizer: Any, tmp_path: Path) -> None:
    columns = world.example_columns(tokenizer)
    columns["split"] = ["validation"] * len(columns["split"])
    folder = world.write_shards(tmp_path / "s", tokenizer, columns, world.knowledge_columns(tokenizer))
    with pytest.raises(TrelmError, match="no training sentence"):
        BatchStream(open_shards(folder), PACKING, seed=0, pad_id=0)


def test_a_damaged_file(tokenizer: Any, tmp_path: Path) -> None:
    folder = world.write_shards(
        tmp_path / "s", tokenizer, world.example_columns(tokenizer), world.knowledge_columns(tokenizer)
    )
    path = folder / "examples-0.parquet"
    content = bytearray(path.read_bytes())
    content[4:3000] = b"\xff" * 2996  # the size and the footer stay
    path.write_bytes(content)
    with pytest.raises(TrelmError, match=r"examples-0.parquet: cannot be read"):
        BatchStream(open_shards(folder), PACKING, seed=0, pad_id=0)


def test_plain_lists_make_a_batch() -> None:
    sentences = sentences_from_lists({"ids": [[2, 7, 3], [2, 8, 9, 3]]})
    batch = assemble(sentences, [[1, 0]], Position(), 0)
    assert batch.input_ids_RS.tolist() == [[2, 8, 9, 3, 2, 7, 3]]
    assert batch.offset_RS.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert not len(batch.span_start_P)

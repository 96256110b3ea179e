import dataclasses
import json
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError, TrelmError
from tests.trelm_train import world
from trelm_train.data import loader
from trelm_train.data.arrays import (
    expand,
    fractions,
    generators,
    grouped,
    happens,
    next_bits,
    order_by_bits,
    random_bits,
    uniform,
)
from trelm_train.data.loader import (
    Batch,
    BatchStream,
    LoaderState,
    Packing,
    Position,
    assemble,
    in_steps,
    read_sentences,
    sentences_from_lists,
    share,
    split_batches,
)
from trelm_train.data.packing import LAYOUTS
from trelm_train.data.shards import Shards, open_shards

PACKING = Packing(max_tokens=48, batch_tokens=96, limit=64)
WINDOWS = Packing(max_tokens=48, batch_tokens=96, limit=64, window_rows=20)  # several of them
BUCKETS = dataclasses.replace(WINDOWS, layout="buckets")


def epoch(stream: BatchStream, number: int = 0) -> list[Batch]:
    found = []
    for batch, _ in stream.iterate(Position(epoch=number)):
        if batch.position.epoch != number:
            return found
        found.append(batch)
    return found


def same(left: Batch, right: Batch) -> bool:
    """Every field."""
    pairs = (
        (getattr(left, field.name), getattr(right, field.name))
        for field in dataclasses.fields(Batch)
    )
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


@pytest.mark.parametrize(
    "packing", [PACKING, WINDOWS, BUCKETS], ids=["packed", "windows", "buckets"]
)
def test_an_epoch_holds_every_training_sentence_once(shards: Shards, packing: Packing) -> None:
    train = read_sentences(list(shards.row_groups), "train")
    stream = BatchStream(shards, packing, seed=1, pad_id=0)
    for number in (0, 1, 7):
        keys = np.concatenate([batch.key_N for batch in epoch(stream, number)])
        assert sorted(keys.tolist()) == sorted(train.key_N.tolist())
    validation = np.concatenate(
        [batch.key_N for batch in split_batches(shards, packing, "validation", 0)]
    )
    assert sorted([*keys.tolist(), *validation.tolist()]) == list(range(len(world.sentences())))


def test_order_depends_on_seed_and_epoch_only(shards: Shards) -> None:
    first, again = (BatchStream(shards, PACKING, seed=5, pad_id=0) for _ in range(2))
    other = BatchStream(shards, PACKING, seed=6, pad_id=0)
    assert all(same(a, b) for a, b in zip(epoch(first), epoch(again), strict=True))
    assert not all(same(a, b) for a, b in zip(epoch(first), epoch(other), strict=False))
    assert not np.array_equal(epoch(first)[0].key_N, epoch(first, 1)[0].key_N)


@pytest.mark.parametrize("packing", [WINDOWS, BUCKETS], ids=LAYOUTS)
def test_any_batch_can_be_resumed(shards: Shards, packing: Packing) -> None:
    stream = BatchStream(shards, packing, seed=2, pad_id=0)
    whole = list(islice(stream.iterate(Position()), 40))
    assert {batch.position.window for batch, _ in whole} >= {0, 1}
    assert {batch.position.epoch for batch, _ in whole} >= {0, 1}
    for number, (_, following) in enumerate(whole[:-1]):
        fresh = BatchStream(shards, packing, seed=2, pad_id=0)
        batch, after = next(fresh.iterate(following))
        assert same(batch, whole[number + 1][0])
        assert after == whole[number + 1][1]


@pytest.mark.slow
@given(st.permutations(range(30)), st.sampled_from([WINDOWS, BUCKETS]))
@settings(max_examples=15)
def test_batches_in_any_order_are_those_of_the_stream(
    shards: Shards, order: list[int], packing: Packing
) -> None:
    """What was read before, kept or dropped, has no influence."""
    whole = [
        batch
        for batch, _ in islice(
            BatchStream(shards, packing, seed=2, pad_id=0).iterate(Position()), 30
        )
    ]
    stream = BatchStream(shards, packing, seed=2, pad_id=0)
    for number in order:
        assert same(stream.at(whole[number].position), whole[number])


@given(
    st.integers(1, 4), st.integers(1, 7), st.integers(0, 25), st.sampled_from([WINDOWS, BUCKETS])
)
@settings(max_examples=12)
def test_ranks_share_one_stream(
    shards: Shards, world_size: int, per_step: int, start: int, packing: Packing
) -> None:
    """Whatever their number, also over the border of epochs; a run may go on with another number of
    them.
    """
    alone = BatchStream(shards, packing, seed=4, pad_id=0)
    wanted = [batch for batch, _ in islice(alone.iterate(Position()), start, start + 6 * per_step)]
    position = Position() if not start else list(islice(alone.positions(Position()), start))[-1][1]
    ranks = [BatchStream(shards, packing, seed=4, pad_id=0) for _ in range(world_size)]
    found: list[Batch] = []
    for _ in range(2):
        for group, after in islice(in_steps(alone.positions(position), per_step), 3):
            position = after
            parts = [
                [ranks[r].at(here) for here in share(group, r, len(ranks))]
                for r in range(len(ranks))
            ]
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            found += [
                part[number]
                for number in range(len(parts[0]))
                for part in parts
                if number < len(part)
            ]
        ranks = ranks[:1]  # all but one are gone
    assert len(found) == len(wanted)
    assert all(same(left, right) for left, right in zip(found, wanted, strict=True))


@pytest.mark.parametrize("rank", [-1, 2])
def test_no_such_rank(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} of 2; wanted 0 to 1"):
        share([], rank, 2)


def test_positions_assemble_nothing_and_a_seek_reads_one_window(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Any] = []
    stream = BatchStream(shards, WINDOWS, seed=2, pad_id=0)
    original = loader.read_rows

    def counted(groups: Any) -> Any:
        reads.append(groups)
        return original(groups)

    monkeypatch.setattr(loader, "read_rows", counted)
    positions = [here for here, _ in islice(stream.positions(Position()), 200)]
    assert positions == sorted(set(positions))
    assert positions[-1].epoch > 2
    assert reads == []
    stream.at(positions[-1])
    assert len(reads) == 1


@pytest.mark.parametrize(
    "position", [Position(window=99), Position(index=99), Position(index=-1)], ids=str
)
def test_a_position_that_there_is_not(shards: Shards, position: Position) -> None:
    with pytest.raises(ValueError, match="no batch at Position"):
        BatchStream(shards, WINDOWS, seed=2, pad_id=0).at(position)


def test_threads_may_share_a_stream(shards: Shards) -> None:
    """The training loop's prefetch thread, and a look ahead from the loop itself."""
    stream = BatchStream(shards, WINDOWS, seed=2, pad_id=0)
    wanted = [
        batch
        for batch, _ in islice(
            BatchStream(shards, WINDOWS, seed=2, pad_id=0).iterate(Position()), 60
        )
    ]
    found: dict[int, list[Batch]] = {}

    def read(number: int) -> None:
        found[number] = [batch for batch, _ in islice(stream.iterate(Position()), 60)]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for batches in found.values():
        assert all(same(left, right) for left, right in zip(batches, wanted, strict=True))
    assert len(found) == 3


def test_a_state_survives_json(shards: Shards) -> None:
    stream = BatchStream(shards, BUCKETS, seed=2, pad_id=0)
    position = list(islice(stream.positions(Position()), 30))[-1][1]
    state = LoaderState.from_dict(json.loads(json.dumps(stream.state(position).to_dict())))
    assert state == stream.state(position)
    assert isinstance(state.position, Position)
    stream.check(state)
    for wrong in ({**state.to_dict(), "colour": 1}, {}):
        with pytest.raises(ConfigError, match="loader state"):
            LoaderState.from_dict(wrong)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fingerprint": "0" * 64}, "not the shards that this run was started with"),
        ({"seed": 9}, r"seed = 2 \(was 9\)"),
        ({"layout": "packed"}, r"layout = 'buckets' \(was 'packed'\)"),
        (
            {"max_tokens": 47, "batch_tokens": 95},
            r"max_tokens = 48 \(was 47\), batch_tokens = 96 \(was 95\)",
        ),
        ({"window_rows": 21}, r"window_rows = 20 \(was 21\)"),
        ({"order_version": 1}, "order_version"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_state_of_another_stream_is_refused(
    shards: Shards, changed: dict[str, Any], message: str
) -> None:
    stream = BatchStream(shards, BUCKETS, seed=2, pad_id=0)
    with pytest.raises(ConfigError, match=message):
        stream.check(dataclasses.replace(stream.state(Position()), **changed))


def test_spans_words_and_facts_move_with_their_sentence(shards: Shards, batch: Batch) -> None:
    sentences = read_sentences(list(shards.row_groups), "train")
    row_of = {key: row for row, key in enumerate(sentences.key_N.tolist())}
    flat = batch.input_ids_RS.reshape(-1)
    for number, key in enumerate(batch.key_N.tolist()):
        row = row_of[key]
        assert (
            flat[batch.start_N[number] : batch.end_N[number]].tolist()
            == sentences.ids.of(row).tolist()
        )
        spans = np.flatnonzero(batch.span_sentence_P == number)
        starts = batch.span_start_P[spans] - batch.start_N[number]
        assert starts.tolist() == sentences.span_start.of(row).tolist()
        assert batch.span_ordinal_P[spans].tolist() == list(range(len(spans)))
        facts = [i for i, span in enumerate(batch.fact_head_F.tolist()) if span in spans]
        heads = batch.span_entity_P[batch.fact_head_F[facts]]
        assert heads.tolist() == sentences.span_entity.of(row)[sentences.fact_head.of(row)].tolist()
    words = batch.segment_RS.reshape(-1)[batch.word_start_W]
    assert np.array_equal(
        np.bincount(words), sentences.words.lengths(np.asarray([row_of[k] for k in batch.key_N]))
    )


def test_padding_belongs_to_no_sentence(batch: Batch) -> None:
    padding = batch.segment_RS == -1
    assert batch.num_tokens == int((~padding).sum())
    assert not batch.input_ids_RS[padding].any()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=20))
@settings(max_examples=50)
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


def test_random_bits_of_a_generator() -> None:
    """Many numbers for one key: uniform, unlike those of the next key, true as often as they should
    be.
    """
    state = np.repeat(generators(1, "mask", np.arange(2, dtype=np.int64)), 20000)
    draw = fractions(next_bits(state, np.tile(np.arange(20000, dtype=np.int64), 2)))
    assert abs(draw[:20000].mean() - 0.5) < 0.01
    assert abs(np.corrcoef(draw[:20000], draw[20000:])[0, 1]) < 0.03
    assert len(np.unique(draw)) == 40000
    assert next_bits(state[:1], np.ones(1, np.int64)) == random_bits(1, "mask", 0), (
        "the first output"
    )
    for probability in (0.0, 0.15, 1.0):
        assert (
            abs(happens(random_bits(3, "x", np.arange(20000)), probability).mean() - probability)
            < 0.01
        )


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 99))
@settings(max_examples=40)
def test_orders(numbers: list[int], seed: int) -> None:
    values = np.asarray(numbers, np.int64)
    assert np.array_equal(grouped(values), np.argsort(values, kind="stable"))
    bits = random_bits(seed, "x", np.arange(len(numbers), dtype=np.int64))
    assert np.array_equal(order_by_bits(bits), np.argsort(bits))


def test_ties_go_by_place() -> None:
    assert order_by_bits(np.full(9, 7, np.uint64)).tolist() == list(range(9))


def test_too_long_for_the_model(shards: Shards) -> None:
    with pytest.raises(TrelmError, match="the model takes 8"):
        BatchStream(shards, Packing(max_tokens=8, batch_tokens=64, limit=8), seed=0, pad_id=0)


def test_an_empty_training_split(tokenizer: Any, tmp_path: Path) -> None:
    columns = world.example_columns(tokenizer)
    columns["split"] = ["validation"] * len(columns["split"])
    folder = world.write_shards(
        tmp_path / "s", tokenizer, columns, world.knowledge_columns(tokenizer)
    )
    with pytest.raises(TrelmError, match="no training sentence"):
        BatchStream(open_shards(folder), PACKING, seed=0, pad_id=0)


def test_a_damaged_file(tokenizer: Any, tmp_path: Path) -> None:
    folder = world.write_shards(
        tmp_path / "s",
        tokenizer,
        world.example_columns(tokenizer),
        world.knowledge_columns(tokenizer),
    )
    opened = open_shards(folder)
    path = folder / "examples-0.parquet"
    content = bytearray(path.read_bytes())
    content[4:3000] = b"\xff" * 2996  # the size and the footer stay
    path.write_bytes(content)
    with pytest.raises(TrelmError, match=r"examples-0.parquet: cannot be read"):
        BatchStream(opened, PACKING, seed=0, pad_id=0)


def test_plain_lists_make_a_batch() -> None:
    sentences = sentences_from_lists({"ids": [[2, 7, 3], [2, 8, 9, 3]]})
    batch = assemble(sentences, [[1, 0]], Position(), 0)
    assert batch.input_ids_RS.tolist() == [[2, 8, 9, 3, 2, 7, 3]]
    assert batch.offset_RS.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert not len(batch.span_start_P)
    assert (batch.num_tokens, batch.num_padded) == (7, 7)

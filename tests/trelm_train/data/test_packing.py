import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.array_types import I64, U64
from schemas.errors import ConfigError
from trelm_train.data.arrays import random_bits
from trelm_train.data.packing import (
    LAYOUTS,
    Packing,
    PackingPlan,
    fill_rows,
    make_packing_plan,
    pack,
    plan_batches,
)

PACKING = Packing(max_tokens=48, batch_tokens=96, limit=64)
LENGTHS = st.lists(st.integers(1, 70), max_size=80).map(
    lambda lengths: np.asarray(lengths, np.int64)
)


def bits_of(count: int, seed: int = 0) -> U64:
    return random_bits(seed, "test", np.arange(count, dtype=np.int64))


def natural_lengths(count: int) -> I64:
    """Of sentences: 30 tokens in the mean, some long."""
    lengths: I64 = np.clip(
        np.random.default_rng(0).lognormal(3.15, 0.55, count).astype(np.int64) + 2, 3, 200
    )
    return lengths


@given(LENGTHS, st.integers(8, 64))
@settings(max_examples=60)
def test_packing_loses_nothing_and_respects_the_width(lengths: I64, capacity: int) -> None:
    rows = pack(lengths, capacity)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    for row in rows:
        assert lengths[row].sum() <= capacity or len(row) == 1


@given(st.lists(st.integers(0, 30), min_size=2, max_size=24), st.integers(24, 90))
@settings(max_examples=80)
def test_a_histogram_is_filled_like_its_sentences(counts: list[int], capacity: int) -> None:
    """Best fit, longest first, sentence by sentence, needs as many rows."""
    counts[0] = 0
    row, num_rows = fill_rows(np.asarray(counts, np.int64), capacity)
    lengths = np.repeat(np.arange(len(counts)), counts)[::-1]
    rooms: list[int] = []
    for length in lengths.tolist():
        fitting = [(room, number) for number, room in enumerate(rooms) if room >= length]
        if not fitting:
            rooms.append(capacity)
        rooms[min(fitting)[1] if fitting else -1] -= length
    assert num_rows == len(rooms)
    assert sorted(capacity - np.bincount(row, weights=lengths, minlength=num_rows)) == sorted(rooms)


@given(LENGTHS, st.sampled_from(LAYOUTS), st.none() | st.integers(0, 1000))
@settings(max_examples=100)
def test_a_plan_has_every_sentence_once_within_the_budget(
    lengths: I64, layout: str, seed: int | None
) -> None:
    packing = Packing(max_tokens=48, batch_tokens=100, limit=70, layout=layout)
    plan = make_packing_plan(
        lengths, packing, None if seed is None else bits_of(len(lengths), seed)
    )
    batches = plan.lists()
    assert sorted(item for batch in batches for row in batch for item in row) == list(
        range(len(lengths))
    )
    for batch in batches:
        widths = [int(lengths[row].sum()) for row in batch]
        assert len(batch) == 1 or len(batch) * max(widths) <= 100
        assert all(
            len(row) == 1 or (layout == "packed" and width <= 48)
            for row, width in zip(batch, widths, strict=True)
        )
    for low in range(plan.num_batches):
        for high in range(low + 1, plan.num_batches + 1):
            assert plan.batches(low, high).lists() == batches[low:high]


def efficiency(plan: PackingPlan, lengths: I64) -> float:
    padded = sum(
        len(batch) * max(int(lengths[row].sum()) for row in batch) for batch in plan.lists()
    )
    return float(lengths.sum() / padded)


@pytest.mark.parametrize("batch_tokens", [1024, 4096, 32768])
@pytest.mark.parametrize(("layout", "at_least"), [("packed", 0.98), ("buckets", 0.955)])
def test_little_is_padded(layout: str, at_least: float, batch_tokens: int) -> None:
    packing = Packing(max_tokens=128, batch_tokens=batch_tokens, limit=512, layout=layout)
    lengths = natural_lengths(packing.rows_per_window)
    plan = make_packing_plan(lengths, packing, bits_of(len(lengths)))
    assert efficiency(plan, lengths) >= at_least
    assert len(pack(lengths, 128)) <= 1.01 * lengths.sum() / 128 + np.count_nonzero(lengths > 128)


def test_packed_batches_are_about_equal() -> None:
    """No small one at the end of each window."""
    lengths = np.full(130, 32, np.int64)  # 33 rows of 128, 8 to a batch at most
    sizes = [
        len(batch)
        for batch in plan_batches(lengths, Packing(max_tokens=128, batch_tokens=1024, limit=128))
    ]
    assert sizes == [6, 7, 6, 7, 7]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_says_nothing_about_the_length(layout: str) -> None:
    """Neither the place of a batch nor that of a row; and other bits give another order."""
    lengths = natural_lengths(8192)
    packing = Packing(max_tokens=128, batch_tokens=1024, limit=512, layout=layout)
    plan = make_packing_plan(lengths, packing, bits_of(len(lengths)))
    for values in (
        [
            float(np.mean([lengths[item] for row in batch for item in row]))
            for batch in plan.lists()
        ],
        [float(len(row)) for batch in plan.lists() for row in batch],
    ):
        if np.std(values) > 0:
            assert abs(np.corrcoef(values, np.arange(len(values)))[0, 1]) < 0.15
    numbers = plan.sentence_N.astype(np.float64)
    assert abs(np.corrcoef(numbers, np.arange(len(numbers)))[0, 1]) < 0.05
    again, other = (
        make_packing_plan(lengths, packing, bits_of(len(lengths), seed)) for seed in (0, 1)
    )
    assert np.array_equal(plan.sentence_N, again.sentence_N)
    assert not np.array_equal(plan.sentence_N, other.sentence_N)


def test_row_mates_change_with_the_bits() -> None:
    lengths = natural_lengths(2000)
    packing = Packing(max_tokens=128, batch_tokens=1024, limit=512)
    rows = [
        {
            tuple(sorted(row))
            for batch in make_packing_plan(lengths, packing, bits_of(2000, seed)).lists()
            for row in batch
        }
        for seed in (0, 1)
    ]
    assert len(rows[0] & rows[1]) < 0.1 * len(rows[0])


def test_a_long_sentence_does_not_widen_the_others() -> None:
    batches = plan_batches(np.asarray([10, 10, 60, 10], np.int64), PACKING)
    assert [[2]] in batches


def test_nothing_to_plan() -> None:
    for layout in LAYOUTS:
        packing = Packing(max_tokens=8, batch_tokens=8, limit=8, layout=layout)
        assert make_packing_plan(np.zeros(0, np.int64), packing, bits_of(0)).lists() == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layout": "bucket"}, "'bucket'; wanted packed or buckets"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"window_rows": -1}, "window_rows is -1"),
    ],
    ids=["layout", "width", "window"],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    settings_: dict[str, object] = {"max_tokens": 8, "batch_tokens": 8, "limit": 8, **wrong}
    with pytest.raises(ConfigError, match=message):
        Packing(**settings_)  # type: ignore[arg-type]

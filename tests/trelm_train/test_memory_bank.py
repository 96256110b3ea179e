import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm_train.config import MemoryConfig
from trelm_train.errors import ConfigError
from trelm_train.loader import Batch
from trelm_train.memory_bank import MANY, NEVER, MemoryBank, Notes, range_means, take_notes, window

H = 4


def notes(rows: list[int], sentences: list[int], local: torch.Tensor, global_: torch.Tensor | None = None) -> Notes:
    return Notes(
        row_O=np.asarray(rows, np.int64),
        sentence_O=np.asarray(sentences, np.int64),
        local_OH=local,
        global_OH=local if global_ is None else global_,
    )


def bank(decay: float = 0.1) -> MemoryBank:
    return MemoryBank(5, H, MemoryConfig(decay=decay))


def test_the_first_write_assigns() -> None:
    memory = bank()
    memory.write(notes([2], [7], torch.full((1, H), 3.0)))
    assert memory.local_BH[2].tolist() == [3.0] * H
    assert memory.count_B.tolist() == [0, 0, 1, 0, 0]


@given(st.integers(1, 6), st.floats(0.01, 0.9))
@settings(max_examples=30, deadline=None)
def test_equal_duplicates_weigh_as_much_as_updates_in_turn(times: int, decay: float) -> None:
    start, note = torch.full((1, H), 2.0), torch.full((1, H), -1.0)
    together, in_turn = bank(decay), bank(decay)
    for memory in (together, in_turn):
        memory.write(notes([1], [0], start))
    together.write(notes([1] * times, list(range(1, times + 1)), note.repeat(times, 1)))
    value = 2.0
    for _ in range(times):
        value = (1 - decay) * value + decay * -1.0
    assert together.local_BH[1].float().numpy() == pytest.approx([value] * H, abs=2e-3)
    assert int(together.count_B[1]) == times + 1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12, unique=True), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_occurrences_does_not_matter(pairs: list[tuple[int, int]], random: object) -> None:
    vectors = torch.randn(len(pairs), H, generator=torch.Generator().manual_seed(len(pairs)))
    order = list(range(len(pairs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    left, right = bank(), bank()
    for memory, numbers in ((left, list(range(len(pairs)))), (right, order)):
        for _ in range(2):
            memory.write(notes([pairs[i][0] for i in numbers], [pairs[i][1] for i in numbers], vectors[numbers]))
    for name, tensor in left.state().items():
        assert torch.equal(tensor, right.state()[name]), name


def test_the_global_note_is_the_mean_of_all_occurrences() -> None:
    memory = bank()
    memory.write(notes([0, 0], [1, 2], torch.zeros(2, H), torch.tensor([[1.0] * H, [2.0] * H])))
    memory.write(notes([0], [3], torch.zeros(1, H), torch.full((1, H), 6.0)))
    assert memory.global_BH[0].tolist() == [3.0] * H
    assert memory.read(np.asarray([0])).tolist() == [[1.5] * H], "beta = 0.5 of the global note, the local one is 0"


def test_no_self_note_in_any_epoch() -> None:
    memory = bank()
    row, source, other = np.asarray([3]), np.asarray([10]), np.asarray([11])
    assert not memory.seen(row, source)[0], "never written"
    for _ in range(3):  # the same sentence, epoch after epoch
        memory.write(notes([3], [10], torch.ones(1, H)))
        assert not memory.seen(row, source)[0]
        assert memory.seen(row, other)[0]
    memory.write(notes([3], [11], torch.ones(1, H)))
    assert memory.seen(row, source)[0]
    assert int(memory.source_B[3]) == MANY


def test_two_sentences_in_one_step_are_many() -> None:
    memory = bank()
    memory.write(notes([3, 3, 4, 4], [10, 11, 9, 9], torch.ones(4, H)))
    assert memory.source_B.tolist() == [NEVER, NEVER, NEVER, MANY, 9]


def test_rows_that_do_not_exist_are_never_seen() -> None:
    assert not bank().seen(np.asarray([-1]), np.asarray([0]))[0]
    assert not MemoryBank(0, H, MemoryConfig()).seen(np.asarray([-1]), np.asarray([0]))[0]


def test_nothing_to_write() -> None:
    memory = bank()
    memory.write(notes([], [], torch.zeros(0, H)))
    assert not memory.count_B.any()


def test_the_window_stays_inside_its_sentence_and_off_special_tokens(batch: Batch) -> None:
    spans = np.arange(len(batch.span_start_P))
    start, end = window(batch, spans, 100)
    sentence = batch.span_sentence_P
    assert np.array_equal(start, batch.start_N[sentence] + 1)
    assert np.array_equal(end, batch.end_N[sentence] - 1)
    near, far = window(batch, spans, 1)
    assert (near >= batch.span_start_P - 1).all()
    assert (far <= batch.span_end_P + 1).all()


def test_notes_are_true_means(batch: Batch) -> None:
    size = batch.input_ids_RS.size
    hidden = torch.arange(size, dtype=torch.float32).view(*batch.input_ids_RS.shape, 1).repeat(1, 1, H)
    hidden.requires_grad_()
    rows = np.where(np.arange(len(batch.span_start_P)) % 2 == 0, batch.span_entity_P, -1)
    taken = take_notes(batch, hidden, rows, 2)
    assert not taken.local_OH.requires_grad
    for number, span in enumerate(np.flatnonzero(rows >= 0).tolist()):
        start, end = (int(x[0]) for x in window(batch, np.asarray([span]), 2))
        assert float(taken.local_OH[number, 0]) == pytest.approx((start + end - 1) / 2, rel=1e-6)
        mention = (batch.span_start_P[span] + batch.span_end_P[span] - 1) / 2
        assert float(taken.global_OH[number, 0]) == pytest.approx(mention, rel=1e-6)


def test_range_means() -> None:
    states = torch.tensor([[1.0], [3.0], [8.0]])
    assert range_means(states, np.asarray([0, 2]), np.asarray([2, 3])).tolist() == [[2.0], [8.0]]


def test_a_bank_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="shape"):
        bank().load(MemoryBank(4, H, MemoryConfig()).state())

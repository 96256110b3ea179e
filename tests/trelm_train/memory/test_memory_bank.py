from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError
from tests.trelm_train.conftest import some_sentences
from trelm_train.config import MemoryConfig
from trelm_train.data.loader import Batch, BatchStream, Position, assemble
from trelm_train.data.packing import pack
from trelm_train.memory.memory_bank import (
    MANY,
    NEVER,
    MemoryBank,
    Notes,
    join_notes,
    note_window,
    range_means,
    take_notes,
)

H = 4


def notes(
    rows: list[int], sentences: list[int], local: torch.Tensor, global_: torch.Tensor | None = None
) -> Notes:
    return Notes(
        row_O=np.asarray(rows, np.int64),
        sentence_O=np.asarray(sentences, np.int64),
        epoch_O=np.zeros(len(rows), np.int64),
        start_O=np.arange(len(rows)),
        value_O2H=torch.stack([local, local if global_ is None else global_], dim=1),
    )


def note(memory: MemoryBank, row: int) -> list[list[float]]:
    """Local and global note of a row."""
    return memory.store.gather(np.asarray([row]))[0].float().tolist()


def bank(decay: float = 0.1) -> MemoryBank:
    return MemoryBank(5, H, MemoryConfig(decay=decay))


def test_the_first_write_assigns() -> None:
    memory = bank()
    memory.write(notes([2], [7], torch.full((1, H), 3.0)))
    assert note(memory, 2) == [[3.0] * H] * 2
    assert memory.count_B.tolist() == [0, 0, 1, 0, 0]


@given(st.integers(1, 6), st.floats(0.01, 0.9))
@settings(max_examples=30)
def test_equal_duplicates_weigh_as_much_as_updates_in_turn(times: int, decay: float) -> None:
    start, later = torch.full((1, H), 2.0), torch.full((1, H), -1.0)
    together = bank(decay)
    together.write(notes([1], [0], start))
    together.write(notes([1] * times, list(range(1, times + 1)), later.repeat(times, 1)))
    value = 2.0
    for _ in range(times):
        value = (1 - decay) * value + decay * -1.0
    assert note(together, 1)[0] == pytest.approx([value] * H, abs=2e-3)
    assert int(together.count_B[1]) == times + 1


Occurrence = tuple[int, int, int, int]
OCCURRENCES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 1), st.integers(0, 9)),
    min_size=1, max_size=12, unique=True,
)  # fmt: skip


def occurrences(names: list[Occurrence], values: torch.Tensor, chosen: list[int]) -> Notes:
    """Some of the occurrences (row, sentence, epoch, start), in the given order."""
    columns = np.asarray([names[i] for i in chosen], np.int64).reshape(-1, 4)
    return Notes.from_tensors(torch.from_numpy(columns), values[chosen])


@given(OCCURRENCES, st.integers(1, 4), st.randoms())
@settings(max_examples=40)
def test_neither_order_nor_split_changes_a_bit(
    names: list[Occurrence], parts: int, random: object
) -> None:
    """Micro-batches and ranks in any number and order, some of them empty: the same bank to the
    last bit.
    """
    values = torch.randn(len(names), 2, H, generator=torch.Generator().manual_seed(len(names)))
    order = list(range(len(names)))
    random.shuffle(order)  # type: ignore[attr-defined]
    left, right = bank(), bank()
    for _ in range(2):
        left.write(occurrences(names, values, list(range(len(names)))))
        right.write(
            join_notes([occurrences(names, values, order[part::parts]) for part in range(parts)])
        )
    for name, tensor in left.state().items():
        assert torch.equal(tensor, right.state()[name]), name


def test_a_long_group_is_added_in_one_order() -> None:
    """Float32 sums depend on their order: 300 occurrences of one row would differ if they were not
    sorted first.
    """
    names = [(0, sentence, 0, 3) for sentence in range(300)]
    values = (
        torch.randn(300, 2, H, generator=torch.Generator().manual_seed(1))
        * 10 ** torch.arange(300).fmod(7)[:, None, None]
    )
    shuffled = torch.randperm(300, generator=torch.Generator().manual_seed(2)).tolist()
    left, right = bank(), bank()
    left.write(occurrences(names, values, list(range(300))))
    right.write(occurrences(names, values, shuffled))
    assert torch.equal(left.state()["note"], right.state()["note"])
    plain, other = values.sum(0), values[shuffled].sum(0)
    assert not torch.equal(plain, other), "the case can fail"


def test_the_global_note_is_the_mean_of_all_occurrences() -> None:
    memory = bank()
    memory.write(notes([0, 0], [1, 2], torch.zeros(2, H), torch.tensor([[1.0] * H, [2.0] * H])))
    memory.write(notes([0], [3], torch.zeros(1, H), torch.full((1, H), 6.0)))
    assert note(memory, 0)[1] == [3.0] * H
    assert memory.read(np.asarray([0])).tolist() == [[1.5] * H], (
        "beta = 0.5 of the global note, the local one is 0"
    )


def test_no_self_note_in_any_epoch() -> None:
    memory = bank()
    row, source, other = np.asarray([3]), np.asarray([10]), np.asarray([11])
    assert not memory.readable(row, source)[0], "never written"
    for _ in range(3):  # the same sentence, epoch after epoch
        memory.write(notes([3], [10], torch.ones(1, H)))
        assert not memory.readable(row, source)[0]
        assert memory.readable(row, other)[0]
    memory.write(notes([3], [11], torch.ones(1, H)))
    assert memory.readable(row, source)[0]
    assert int(memory.source_B[3]) == MANY


def test_two_sentences_in_one_step_are_many() -> None:
    memory = bank()
    memory.write(notes([3, 3, 4, 4], [10, 11, 9, 9], torch.ones(4, H)))
    assert memory.source_B.tolist() == [NEVER, NEVER, NEVER, MANY, 10], "key + 1"


def test_rows_that_do_not_exist_are_never_seen() -> None:
    assert not bank().readable(np.asarray([-1]), np.asarray([0]))[0]
    assert not MemoryBank(0, H, MemoryConfig()).readable(np.asarray([-1]), np.asarray([0]))[0]


def test_nothing_to_write() -> None:
    memory = bank()
    memory.write(notes([], [], torch.zeros(0, H)))
    assert not memory.count_B.any()


def test_the_window_stays_inside_its_sentence_and_off_special_tokens(batch: Batch) -> None:
    spans = np.arange(len(batch.span_start_P))
    start, end = note_window(batch, spans, 100)
    sentence = batch.span_sentence_P
    assert np.array_equal(start, batch.start_N[sentence] + 1)
    assert np.array_equal(end, batch.end_N[sentence] - 1)
    near, far = note_window(batch, spans, 1)
    assert (near >= batch.span_start_P - 1).all()
    assert (far <= batch.span_end_P + 1).all()


def test_notes_are_true_means(batch: Batch) -> None:
    size = batch.input_ids_RS.size
    hidden = (
        torch.arange(size, dtype=torch.float32).view(*batch.input_ids_RS.shape, 1).repeat(1, 1, H)
    )
    hidden.requires_grad_()
    rows = np.where(np.arange(len(batch.span_start_P)) % 2 == 0, batch.span_entity_P, -1)
    taken = take_notes(batch, hidden, rows, 2)
    assert not taken.value_O2H.requires_grad
    for number, span in enumerate(np.flatnonzero(rows >= 0).tolist()):
        start, end = (int(x[0]) for x in note_window(batch, np.asarray([span]), 2))
        assert float(taken.value_O2H[number, 0, 0]) == pytest.approx(
            (start + end - 1) / 2, rel=1e-6
        )
        mention = (batch.span_start_P[span] + batch.span_end_P[span] - 1) / 2
        assert float(taken.value_O2H[number, 1, 0]) == pytest.approx(mention, rel=1e-6)


def test_a_batch_may_name_nobody_with_a_row(batch: Batch) -> None:
    hidden = torch.randn(*batch.input_ids_RS.shape, H)
    nobody = np.full(len(batch.span_entity_P), -1)
    taken = take_notes(batch, hidden, nobody, 2)
    assert taken.value_O2H.shape == (0, 2, H)
    memory = bank()
    memory.write(taken)
    assert not memory.count_B.any()


def test_range_means() -> None:
    states = torch.tensor([[1.0], [3.0], [8.0]])
    assert range_means(states, np.asarray([0, 2]), np.asarray([2, 3])).tolist() == [[2.0], [8.0]]


def filled(num_rows: int, config: MemoryConfig, folder: Path | None = None) -> MemoryBank:
    """Rows 1 and 3 written by two sentences, row 4 by one."""
    memory = MemoryBank(num_rows, H, config, folder=folder)
    memory.write(
        notes(
            [1, 1, 3, 3, 4],
            [5, 6, 5, 6, 5],
            torch.randn(5, H, generator=torch.Generator().manual_seed(3)),
        )
    )
    return memory


@pytest.mark.parametrize("storage", ["ram", "file", "device"])
def test_the_state_holds_written_rows_only(storage: str, tmp_path: Path) -> None:
    saved = filled(9, MemoryConfig(storage=storage), tmp_path).state()
    assert saved["row"].tolist() == [1, 3, 4]
    assert saved["note"].shape == (3, 2, H)
    assert saved["note"].dtype == torch.float16
    assert saved["source"].tolist() == [MANY, MANY, 6]
    other = filled(9, MemoryConfig(storage=storage), tmp_path)
    other.write(notes([0, 3], [8, 9], torch.ones(2, H)))  # ran on after the checkpoint
    other.load(saved)
    again = other.state()
    assert all(torch.equal(again[name], saved[name]) for name in saved)
    assert note(other, 0) == [[0.0] * H] * 2, (
        "nothing is left of what was written after the checkpoint"
    )
    assert not other.readable(np.asarray([0]), np.asarray([77]))[0]
    other.write(notes([0], [8], torch.full((1, H), 5.0)))
    assert note(other, 0) == [[5.0] * H] * 2, "a first write again"


def test_only_written_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full tmpfs, reading a hole of a mapped file is a deadly signal."""
    memory, asked = bank(), []
    good = memory.store.gather
    monkeypatch.setattr(
        memory.store, "gather", lambda rows: asked.append(rows.tolist()) or good(rows)
    )
    memory.write(notes([1], [5], torch.ones(1, H)))
    memory.write(notes([1, 2], [5, 5], torch.ones(2, H)))
    assert asked == [[1, 1]]


def test_an_empty_bank_is_saved_too() -> None:
    memory = bank()
    memory.load(MemoryBank(5, H, MemoryConfig()).state())
    assert not len(memory.state()["row"])


@pytest.mark.parametrize("storage", ["file", "device"])
def test_every_storage_does_the_same(storage: str, tmp_path: Path) -> None:
    left, right = (
        filled(9, MemoryConfig(storage="ram")),
        filled(9, MemoryConfig(storage=storage), tmp_path),
    )
    for memory in (left, right):
        memory.write(notes([4, 1, 8], [9, 9, 9], torch.arange(3 * H).view(3, H).float()))
    for name, tensor in left.state().items():
        assert torch.equal(tensor, right.state()[name]), name
    rows = np.asarray([8, 1, 1, 4])
    assert torch.equal(left.read(rows), right.read(rows))


def test_ranks_exchange_tensors() -> None:
    sent = notes([4, 2], [7, 8], torch.randn(2, H))
    names, values = sent.to_tensors()
    got = Notes.from_tensors(names, values)
    for field in ("row_O", "sentence_O", "epoch_O", "start_O"):
        assert np.array_equal(getattr(got, field), getattr(sent, field))
    assert torch.equal(got.value_O2H, sent.value_O2H)


def test_notes_of_half_precision_states_are_float32(batch: Batch) -> None:
    hidden = torch.randn(*batch.input_ids_RS.shape, H).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        taken = take_notes(batch, hidden, batch.span_entity_P, 2)
    assert taken.value_O2H.dtype == torch.float32
    whole = take_notes(batch, hidden.float(), batch.span_entity_P, 2)
    assert torch.equal(taken.value_O2H, whole.value_O2H)


def test_a_note_does_not_depend_on_the_packing(stream: BatchStream) -> None:
    """Means of a sentence's own states are the same bits wherever it is packed."""
    sentences = some_sentences(stream)
    rows = pack(sentences.ids.lengths(np.arange(len(sentences))), 48)
    states = torch.randn(len(sentences), 64, H, generator=torch.Generator().manual_seed(0))

    def by_name(rows: list[list[int]]) -> dict[tuple[int, ...], torch.Tensor]:
        packed = assemble(sentences, rows, Position(), 0)
        order = np.asarray([item for row in rows for item in row])
        hidden = states[order[np.maximum(packed.segment_RS, 0)], packed.offset_RS]
        names, values = take_notes(packed, hidden, packed.span_entity_P, 3).to_tensors()
        return {tuple(name): value for name, value in zip(names.tolist(), values, strict=True)}

    together, alone = by_name(rows), by_name([[item] for row in reversed(rows) for item in row])
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[name], alone[name]) for name in together)


def test_a_bank_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="fewer than 4 rows"):
        MemoryBank(4, H, MemoryConfig()).load(filled(5, MemoryConfig()).state())
    with pytest.raises(ConfigError, match="need size 5"):
        MemoryBank(9, 5, MemoryConfig()).load(filled(5, MemoryConfig()).state())

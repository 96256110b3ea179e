import numpy as np
import torch

from trelm_train.finetune.batches import by_length, epoch_order, padded
from trelm_train.finetune.marking import Encoded


def test_an_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    lengths = np.random.default_rng(0).integers(5, 120, 1000)
    first = epoch_order(lengths, 8, seed=1, epoch=0)
    assert sorted(np.concatenate(first).tolist()) == list(range(1000))
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in epoch_order(lengths, 8, seed=1, epoch=0)]  # fmt: skip
    others = [epoch_order(lengths, 8, seed=1, epoch=1), epoch_order(lengths, 8, seed=2, epoch=0)]
    assert all(np.concatenate(other).tolist() != np.concatenate(first).tolist() for other in others)

    # Grouped by length there is less padding than in a random order, which pads to nearly the longest.
    width = sum(int(lengths[batch].max()) * len(batch) for batch in first)
    assert lengths.sum() / width > 0.9
    # And the batches do not go from short to long.
    widths = np.asarray([lengths[batch].max() for batch in first])
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.3


def test_evaluation_goes_by_length() -> None:
    batches = by_length(np.asarray([9, 3, 7, 5]), 3)
    assert [batch.tolist() for batch in batches] == [[1, 3, 2], [0]]


def test_rows_are_padded_and_masked() -> None:
    rows = [
        Encoded(ids=np.arange(5, 5 + size, dtype=np.int32), marks=(mark,), is_cut=False, is_span_cut=False, is_beyond=False)
        for size, mark in ((3, 1), (20, 2), (40, 3))
    ]  # fmt: skip
    one, two = padded(rows, [np.asarray([1, 0]), np.asarray([2])], 7, 42, torch.device("cpu"))
    # To a multiple of 16, but no more than the model reads.
    assert (one.ids_RS.shape, two.ids_RS.shape) == ((2, 32), (1, 42))
    assert one.ids_RS[1].tolist() == [5, 6, 7] + [7] * 29
    assert one.mask_RS.sum(1).tolist() == [20, 3]
    assert one.marks_RP.tolist() == [[2], [1]]
    assert two.numbers.tolist() == [2]

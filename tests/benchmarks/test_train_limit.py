"""The limit of training multiplies what a step multiplies, on real tokens only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import train_limit
from benchmarks.train_limit import StepProducts, step_flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counts_the_multiplications_that_it_does(dtype: torch.dtype) -> None:
    lengths = np.full(10, 20)
    work = StepProducts(64, 2, 101, lengths, "cpu", dtype)
    with FlopCounterMode(display=False) as counter:
        work.products()

    # The products take no gradient of the first layer's input, and the head 1 token in 7.
    counted, attention = counter.get_total_flops(), 3 * 2 * 4 * 64 * 10 * 20**2
    saved = 200 * 2 * 64 * 3 * 64
    assert counted == pytest.approx(step_flops(64, 2, 101, lengths) - attention - saved, rel=0.02)


def test_fills_a_batch_with_whole_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_limit, "training_rows", lambda _: [range(30), range(40), range(50)])
    monkeypatch.setattr(train_limit, "load_tokenizer", lambda _: range(101))
    monkeypatch.setattr(train_limit, "keep_freed_memory", lambda: True)

    found = train_limit.products(
        tmp_path, shards="", model="", tokens=100, hidden=64, layers=1, bf16=False, threads=1, steps=3
    )  # fmt: skip

    assert found["tokens"] == 3 * 70
    assert found["cpu_seconds"] > 0

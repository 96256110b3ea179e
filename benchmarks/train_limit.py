"""Run the matrix products of a training step and nothing else: the limit of its speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.train_data import training_rows
from schemas.freed_memory import keep_freed_memory
from trelm_train.model.encoder import sentence_attention
from trelm_train.model.masked_lm import load_tokenizer

# Of the tokens, those that the head is asked at.
TARGETS = 0.15
WARM_PASSES = 2


def products(out: Path, **request: Any) -> dict[str, Any]:  # noqa: ARG001 - every variant gets a folder
    """Return seconds and tokens of steps that only multiply: `tokens` real ones, nothing padded.

    Attention's own products are left out: at the mean length of a sentence they are a hundredth.
    """
    keep_freed_memory()
    torch.set_num_threads(request["threads"])
    lengths = np.asarray([len(row) for row in training_rows(request["shards"])])
    lengths = lengths[np.cumsum(lengths) <= request["tokens"]]
    work = StepProducts(
        request["hidden"], request["layers"], len(load_tokenizer(request["model"])), lengths, "cpu",
        torch.bfloat16 if request["bf16"] else torch.float32,
    )  # fmt: skip
    steps = request["steps"]
    wall, cpu = _timed(work.products, steps, "cpu")
    return {
        "seconds": wall, "cpu_seconds": cpu, "tokens": int(lengths.sum()) * steps, "steps": steps,
    }  # fmt: skip


def step_flops(hidden: int, layers: int, vocabulary: int, lengths: np.ndarray) -> float:
    """Count the multiplications and additions of a step: forward, and twice that backward.

    A layer has 12 h² weights; attention takes 4 n h per token of a sentence of n tokens; the head is
    asked at 15 % of the tokens.
    """
    tokens = float(lengths.sum())
    attention = 4.0 * hidden * float((lengths.astype(np.float64) ** 2).sum())
    head = TARGETS * tokens * 2 * (hidden * hidden + hidden * vocabulary)
    return 3 * (layers * (tokens * 24 * hidden * hidden + attention) + head)


class StepProducts:
    """Hold weights and one batch of states."""

    def __init__(
        self,
        hidden: int,
        layers: int,
        vocabulary: int,
        lengths: np.ndarray,
        device: str,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        def weight(rows: int, columns: int) -> Tensor:
            # Each product keeps the size of what it gets, so nothing overflows.
            made = torch.randn(rows, columns, device=device, dtype=dtype)
            return (made / math.sqrt(columns)).requires_grad_()

        shapes = [
            (3 * hidden, hidden),
            (hidden, hidden),
            (4 * hidden, hidden),
            (hidden, 4 * hidden),
        ]
        self.layers = [[weight(*shape) for shape in shapes] for _ in range(layers)]
        self.head = [weight(hidden, hidden), weight(vocabulary, hidden)]
        self.heads = hidden // 64
        tokens = int(lengths.sum())
        self.states = torch.randn(tokens, hidden, device=device, dtype=dtype)
        self.targets = torch.arange(0, tokens, round(1 / TARGETS), device=device)
        borders = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        self.borders, self.longest = torch.from_numpy(borders).to(device), int(lengths.max())

    def with_attention(self) -> None:
        """Run one step."""
        self._step(self._attention)

    def products(self) -> None:
        """Run one step without attention: its output is taken to be the values."""
        self._step(lambda _q, _k, v: v)

    def _attention(self, *qkv: Tensor) -> Tensor:
        split = (flat.view(len(flat), self.heads, -1) for flat in qkv)
        return sentence_attention(*split, self.borders, self.longest).flatten(1)

    def _step(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        states = self.states
        for qkv, out, up, down in self.layers:
            mixed = attend(*linear(states, qkv).chunk(3, dim=1))
            states = linear(linear(linear(mixed, out), up), down)
        transform, decoder = self.head
        logits = linear(linear(states[self.targets], transform), decoder)
        torch.autograd.backward(logits, torch.ones_like(logits))
        for weight in [*self.head, *(one for layer in self.layers for one in layer)]:
            weight.grad = None


def seconds_per_call(step: Callable[[], object], steps: int, device: str) -> float:
    """Return the seconds of one step: the mean of some, after two that warm up."""
    return _timed(step, steps, device)[0] / steps


def _timed(step: Callable[[], object], steps: int, device: str) -> tuple[float, float]:
    """Return the wall clock and the processor time of some steps, after two that warm up."""
    for _ in range(WARM_PASSES):
        step()
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    _wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

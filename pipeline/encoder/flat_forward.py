"""Run the encoder of a BERT or RoBERTa over rows of tokens, on a processor. Imports torch, lazily.

The tokens of a batch lie end to end in arrays with a fixed number of rows, whatever the lengths of
their sequences. Rows that are left over hold what they like. Only attention looks at sequences: it
takes those of one length at a time. Everything else takes all rows at once. So

- Every matrix product has the same shape. For bfloat16, oneDNN compiles a kernel per shape, which
  took 2 to 20 ms where the product took 0.2 to 4: with a batch per length, most of the time.
- All arrays are made once per thread. Arrays made anew are given back to the system and come back
  one page fault at a time.
- What a row gives does not depend on the other rows, to the last bit.

The library's own forward pass (transformers) is the same arithmetic, one batch of one shape after
the other, but for padding tokens within a text, which RoBERTa's gives another place; the tokenizer makes
none of a text. It stays in use on graphics cards.

Legend: R rows, T tokens of a batch (at most R), B sequences of one length n, d the width of the
model, h its heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from pipeline.arrays.runs import offsets_of, spread
from pipeline.encoder.sequences import Sequences
from pipeline.encoder.tokenizer import NUM_SPECIAL
from schemas.array_types import F32, I64

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True)
class FlatBatch:
    """Hold the tokens of some sequences, special ones included, the longest sequence first."""

    # Shape (T,).
    ids: I64
    # Shape (T,): place in the own sequence, from 0.
    places: I64
    # Pairs (B, n): so many sequences of n tokens each, in order.
    groups: list[tuple[int, int]]

    @classmethod
    def of(cls, sequences: Sequences, frame: tuple[int, int]) -> FlatBatch:
        """Return sequences that are sorted by length, the longest first, with their special tokens.

        Args:
            sequences: without special tokens.
            frame: ids of the opening and the closing special token.
        """
        lengths = sequences.lengths + NUM_SPECIAL
        offsets = offsets_of(lengths)
        ids = np.empty(int(offsets[-1]), np.int64)
        ids[offsets[:-1]], ids[offsets[1:] - 1] = frame
        ids[spread(offsets[:-1] + 1, sequences.lengths)] = sequences.ids
        values, counts = np.unique(-lengths, return_counts=True)
        groups = list(zip(counts.tolist(), (-values).tolist(), strict=True))
        return cls(ids, spread(np.zeros_like(lengths), lengths), groups)

    def parts(self) -> Iterator[tuple[slice, int, int]]:
        """Yield the rows of each group, with its number of sequences and their length."""
        start = 0
        for count, length in self.groups:
            stop = start + count * length
            yield slice(start, stop), count, length
            start = stop


class FlatForward:
    """Run a frozen encoder. Threads may share it: each takes a workspace of its own."""

    def __init__(self, model: Any, frame: tuple[int, int], dtype: Any) -> None:  # noqa: ANN401 - torch's
        """Take over the weights of a loaded model.

        Args:
            model: an encoder that `can_run` accepts, its weights in float32.
            frame: ids of the opening and the closing special token.
            dtype: torch's number format of matrix products. Layer norms and the sums between the
                layers are float32.
        """
        self._frame, self._dtype = frame, dtype
        self._embeddings = _Embeddings.of(model)
        activation = str(model.config.hidden_act)
        self._layers = [_Layer.of(layer, activation, dtype) for layer in model.encoder.layer]
        self._widths = int(model.config.hidden_size), int(model.config.intermediate_size)
        self._longest = len(self._embeddings.places)
        self._free: SimpleQueue[_Workspace] = SimpleQueue()

    @staticmethod
    def can_run(config: Any) -> bool:  # noqa: ANN401 - a model's settings
        """Return whether a model has the layers that are written out here."""
        return (
            config.model_type in FAMILIES
            and not getattr(config, "is_decoder", False)
            and getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
        )

    def batches(self, sequences: Sequences, budget: int) -> Iterator[I64]:
        """Yield rows of `sequences` that fill a batch of `budget` tokens, the longest first."""
        num_rows = self._num_rows(budget)
        order = sequences.longest_first()
        ends = np.cumsum(sequences.lengths[order] + NUM_SPECIAL)
        start, tokens = 0, 0
        while start < len(order):
            stop = int(np.searchsorted(ends, tokens + num_rows, side="right"))
            yield order[start:stop]
            start, tokens = stop, int(ends[stop - 1])

    def means(self, sequences: Sequences, batch: I64, budget: int) -> F32:
        """Return the mean of the last layer over each sequence of a batch, without special tokens.

        Shape (sequences of the batch, d), in their order. Batch and budget as in `batches`.
        """
        import torch

        tokens = FlatBatch.of(sequences.take(batch), self._frame)
        with torch.inference_mode(), self._workspace(self._num_rows(budget)) as space:
            states = self._run(tokens, space)
            means = [
                states[rows].view(count, length, -1)[:, 1:-1].mean(1)
                for rows, count, length in tokens.parts()
            ]
            return np.asarray(torch.cat(means).numpy())

    def _num_rows(self, budget: int) -> int:
        """Return R. It must not follow from the data: the shape decides on the last bits."""
        return max(budget, self._longest)

    @contextlib.contextmanager
    def _workspace(self, num_rows: int) -> Iterator[_Workspace]:
        """Lend a workspace; there are as many as threads that ever ran at once."""
        try:
            space = self._free.get_nowait()
        except Empty:
            space = None
        if space is None or len(space.states) != num_rows:
            space = _Workspace(num_rows, self._widths, self._dtype)
        try:
            yield space
        finally:
            self._free.put(space)

    def _run(self, batch: FlatBatch, space: _Workspace) -> Any:  # noqa: ANN401 - a tensor
        """Return the states of the last layer, shape (R, d), of which the first T count."""
        self._embeddings.write(batch, space)
        for layer in self._layers:
            _product(layer.attention_in, space.low(), space.joined)
            self._attend(batch, layer.num_heads, space)
            _product(layer.attention_out, space.attended, space.change)
            space.add_change()
            space.normalise(layer.attention_norm)

            _product(layer.inner, space.low(), space.inner)
            layer.activate(space.inner)
            _product(layer.outer, space.inner, space.change)
            space.add_change()
            space.normalise(layer.norm)
        return space.states

    def _attend(self, batch: FlatBatch, num_heads: int, space: _Workspace) -> None:
        """Write what attention makes of queries, keys and values; each sequence sees itself only."""
        from torch.nn.functional import scaled_dot_product_attention

        for rows, count, length in batch.parts():
            queries, keys, values = (
                space.joined[rows].view(count, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
            )
            found_Bhnd = scaled_dot_product_attention(queries, keys, values)
            space.attended[rows].view(count, length, num_heads, -1).copy_(
                found_Bhnd.transpose(1, 2)
            )


class _Workspace:
    """Hold the arrays of one thread; all have R rows."""

    def __init__(self, num_rows: int, widths: tuple[int, int], dtype: Any) -> None:  # noqa: ANN401
        import torch

        width, inner_width = widths

        def array(columns: int, kind: Any = dtype) -> Any:  # noqa: ANN401
            # Zeros: what lies in rows that no token uses must be numbers, since NaN is slow.
            return torch.zeros(num_rows, columns, dtype=kind)

        self.states, self._spare = array(width, torch.float32), array(width, torch.float32)
        # The states in the format of products; the states themselves where that is float32.
        self._low = None if dtype is torch.float32 else array(width)
        # Queries, keys and values.
        self.joined, self.attended = array(3 * width), array(width)
        self.inner, self.change = array(inner_width), array(width)
        self._moments = array(1, torch.float32), array(1, torch.float32)

    def low(self) -> Any:  # noqa: ANN401 - a tensor
        """Return the states in the number format of products."""
        return self.states if self._low is None else self._low.copy_(self.states)

    def add_change(self) -> None:
        """Add what a part of a layer has made to the states."""
        self.states.add_(self.change)

    def normalise(self, norm: Any) -> None:  # noqa: ANN401 - torch's LayerNorm
        """Normalise the states by a layer norm."""
        from torch import ops

        outputs = dict(zip(("out0", "out1", "out2"), (self._spare, *self._moments), strict=True))
        ops.aten.native_layer_norm.out(
            self.states, list(norm.normalized_shape), norm.weight, norm.bias, norm.eps, **outputs
        )
        self.states, self._spare = self._spare, self.states

    def look_up(self, words: Any, ids: I64, places_table: Any, places: I64) -> None:  # noqa: ANN401
        """Write the sum of each token's two embeddings."""
        import torch

        size = len(ids)
        torch.index_select(words, 0, torch.from_numpy(ids), out=self.states[:size])
        torch.index_select(places_table, 0, torch.from_numpy(places), out=self._spare[:size])
        self.states[:size] += self._spare[:size]


@dataclass(frozen=True)
class _Embeddings:
    """Hold the embeddings: of words, and of places with the first type's added."""

    words: Any
    places: Any
    norm: Any

    @classmethod
    def of(cls, model: Any) -> _Embeddings:  # noqa: ANN401 - a model
        found = model.embeddings
        # RoBERTa counts its places from the padding token's id + 1 on.
        first = 0 if model.config.model_type == "bert" else int(model.config.pad_token_id) + 1
        places = found.position_embeddings.weight[first:] + found.token_type_embeddings.weight[0]
        return cls(found.word_embeddings.weight.detach(), places.detach(), found.LayerNorm)

    def write(self, batch: FlatBatch, space: _Workspace) -> None:
        space.look_up(self.words, batch.ids, self.places, batch.places)
        space.normalise(self.norm)


@dataclass(frozen=True)
class _Layer:
    """Hold the weights of a layer: products as pairs of a matrix (inputs, outputs) and a bias."""

    attention_in: tuple[Any, Any]
    attention_out: tuple[Any, Any]
    attention_norm: Any
    inner: tuple[Any, Any]
    outer: tuple[Any, Any]
    norm: Any
    num_heads: int
    # The usual one, which torch puts in place.
    is_gelu: bool
    activation: Any

    @classmethod
    def of(cls, layer: Any, activation: str, dtype: Any) -> _Layer:  # noqa: ANN401 - a layer of a model
        attention = layer.attention.self
        return cls(
            attention_in=_joined([attention.query, attention.key, attention.value], dtype),
            attention_out=_joined([layer.attention.output.dense], dtype),
            attention_norm=layer.attention.output.LayerNorm,
            inner=_joined([layer.intermediate.dense], dtype),
            outer=_joined([layer.output.dense], dtype),
            norm=layer.output.LayerNorm,
            num_heads=int(attention.num_attention_heads),
            is_gelu=activation == "gelu",
            activation=layer.intermediate.intermediate_act_fn,
        )

    def activate(self, values: Any) -> None:  # noqa: ANN401 - a tensor
        """Put the activation of each value in its place."""
        from torch import ops

        if self.is_gelu:
            ops.aten.gelu_(values)
        else:
            values.copy_(self.activation(values))


def _joined(linears: list[Any], dtype: Any) -> tuple[Any, Any]:  # noqa: ANN401 - layers, a format
    """Return the product that gives the results of all linear layers side by side."""
    import torch

    weights, biases = zip(
        *((linear.weight.detach(), linear.bias.detach()) for linear in linears), strict=True
    )
    # One alone is not copied.
    weight, bias = (
        (torch.cat(parts) if len(parts) > 1 else parts[0]).to(dtype) for parts in (weights, biases)
    )
    return weight.t(), bias


def _product(product: tuple[Any, Any], values: Any, out: Any) -> None:  # noqa: ANN401 - tensors
    import torch

    weight, bias = product
    torch.addmm(bias, values, weight, out=out)

"""Run the encoder in training: every layer as a whole but the last, and of the last what is read.

The head reads the states of masked tokens, CKA those of some mentions, the memory bank those around
mentions, and only the head and CKA want a gradient. So the projection and the feed-forward of the
last layer run on the rows that are read, and are recorded for the backward pass on the rows that
need a gradient. In a model of four layers the last one is a quarter of the encoder's work, and
three quarters of that are saved. Rows that are not read are zeros. Values and gradients are those
of the library's own forward pass.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.array_types import I64, Bools
from trelm_train.data.batches import Batch
from trelm_train.model.dropout import drop
from trelm_train.model.families import Family, Packed
from trelm_train.model.precision import rows_to_add, working_dtype

# Legend: R packed rows, S tokens per row, N = R·S tokens, Q rows that are read, H hidden size,
# h heads, D size of a head.


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPositions:
    """Hold the flat positions whose last states are read, ascending, none of them in both fields.

    Those in `learned` get a gradient, those in `noted` do not.
    """

    learned: Tensor
    noted: Tensor


def read_positions(learned_N: Bools, noted_N: Bools, device: torch.device) -> ReadPositions:
    """Turn two marks per token into positions; a token with both marks is learned."""
    # A state that gets a gradient can be noted too: notes are taken from the same tensor.
    only_noted: I64 = np.flatnonzero(noted_N & ~learned_N)
    return ReadPositions(
        learned=torch.from_numpy(np.flatnonzero(learned_N)).to(device),
        noted=torch.from_numpy(only_noted).to(device),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """Say how attention is computed: over whole rows with a mask, or by sentence without one."""

    # Of the attention weights.
    dropout: float
    # By sentence: flat start of every sentence and every run of padding, and the end; int32.
    borders: Tensor | None = None
    # By sentence: tokens of the longest run.
    longest: int = 0


def varlen_attention(batch: Batch, device: torch.device) -> Attention:
    """Attend sentence by sentence; runs of padding count as sentences, which are never read."""
    ends = np.asarray([0, batch.input_ids_RS.size], np.int64)
    borders = np.unique(np.concatenate([ends, batch.start_N, batch.end_N]))
    return Attention(
        dropout=0.0,
        borders=torch.from_numpy(borders.astype(np.int32)).to(device),
        longest=int(np.diff(borders).max(initial=0)),
    )


def encode_reads(
    family: Family, packed: Packed, read: ReadPositions, attention: Attention
) -> Tensor:
    """Compute last hidden states in training mode, as R x S x H; zeros where nothing is read."""
    hidden_NH = _between_products(family, family.embed(packed).flatten(0, 1))
    top = len(family.layers) - 1
    for layer in range(top):
        mixed_NH = _mixed(family, layer, packed, hidden_NH, attention)
        attended_NH = family.join(layer, mixed_NH, hidden_NH)
        hidden_NH = family.from_neurons(layer, family.neurons(layer, attended_NH), attended_NH)

    # Attention of the last layer is for all tokens, since each one may be seen by a row that is
    # read. What follows runs twice: with a graph, and without one.
    mixed_NH = _mixed(family, top, packed, hidden_NH, attention)
    learned_QH = _top_layer(family, mixed_NH, hidden_NH, read.learned)
    zeros_NH = learned_QH.new_zeros(len(hidden_NH), learned_QH.shape[1])
    states_NH = zeros_NH.index_copy(0, read.learned, learned_QH)

    if len(read.noted):
        with torch.no_grad():
            noted_QH = _top_layer(family, mixed_NH, hidden_NH, read.noted)
        states_NH = states_NH.index_copy(0, read.noted, noted_QH.to(states_NH.dtype))

    return states_NH.view(*packed.input_ids_RS.shape, -1)


def _between_products(family: Family, hidden_NH: Tensor) -> Tensor:
    """Return the states that enter the first layer, in the number format of the products.

    Everything between two products then has this format too: sums, dropout and the results of
    LayerNorm, which computes in float32. Otherwise each product casts its input, and each gradient is
    cast back. Where states are summed from layer to layer without a LayerNorm, they stay in float32.
    """
    # On GPUs LayerNorm returns float32 in any case.
    if hidden_NH.device.type != "cpu" or not family.normalises_sums:
        return hidden_NH
    return hidden_NH.to(working_dtype(hidden_NH))


def _top_layer(family: Family, mixed_NH: Tensor, hidden_NH: Tensor, rows: Tensor) -> Tensor:
    """Compute the last layer after its attention, for some rows."""
    top = len(family.layers) - 1
    # The first row stands in for those that are added; they get no gradient.
    filled = F.pad(rows, (0, rows_to_add(rows, working_dtype(mixed_NH))))
    attended_QH = family.join(
        top, mixed_NH.index_select(0, filled), hidden_NH.index_select(0, filled)
    )
    states_QH = family.finish(
        family.from_neurons(top, family.neurons(top, attended_QH), attended_QH)
    )
    return states_QH[: len(rows)]


def _mixed(
    family: Family, layer: int, packed: Packed, hidden_NH: Tensor, attention: Attention
) -> Tensor:
    """Compute the attention of a layer, with dropout of its weights, as N x H."""
    rotation = family.rotation(layer, packed)
    queries_NH = family.queries(layer, hidden_NH, rotation)
    keys_NH, values_NH = family.keys_values(layer, hidden_NH, rotation)

    if attention.borders is not None:
        q_NhD, k_NhD, v_NhD = (
            flat.view(len(flat), family.num_heads, -1) for flat in (queries_NH, keys_NH, values_NH)
        )
        mixed_NhD = sentence_attention(q_NhD, k_NhD, v_NhD, attention.borders, attention.longest)
        return mixed_NhD.flatten(1)

    mask_R1SS = family.mask(layer, packed)
    if attention.dropout <= 0:
        return family.mix(queries_NH, (keys_NH, values_NH), mask_R1SS)

    rows, _, tokens, _ = mask_R1SS.shape
    q, k, v = (
        flat.view(rows, tokens, family.num_heads, -1).transpose(1, 2)
        for flat in (queries_NH, keys_NH, values_NH)
    )
    if q.device.type != "cpu":
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask_R1SS, dropout_p=attention.dropout
        )
    else:
        # On processors the library's dropout is slow (see `dropout`), so the steps are spelt out.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        # A sum, since its backward pass does nothing: weights of 0 have no gradient.
        weights = torch.softmax(scores.add_(_barrier(mask_R1SS, scores.dtype)), -1)
        mixed = drop(weights, attention.dropout) @ v

    return mixed.transpose(1, 2).reshape(rows * tokens, -1)


def _barrier(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a token is seen, and minus infinity where it is not."""
    # The logarithm of 1 and 0. As bytes: filling by a mask of booleans takes five times as long.
    return mask.view(torch.uint8).to(dtype).log_()


def sentence_attention(
    q_NhD: Tensor, k_NhD: Tensor, v_NhD: Tensor, borders: Tensor, longest: int
) -> Tensor:
    """Attend within each run of tokens, as N x heads x D.

    On a GPU it uses the library's kernel; elsewhere it takes one sentence after the other, which is
    slow, so that it can be tested.
    """
    if q_NhD.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        attended = varlen_attn(q_NhD, k_NhD, v_NhD, borders, borders, longest, longest)
        assert isinstance(attended, Tensor)
        return attended

    pieces = []
    for start, end in itertools.pairwise(borders.tolist()):
        q, k, v = (flat[start:end].transpose(0, 1) for flat in (q_NhD, k_NhD, v_NhD))
        pieces.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(pieces)

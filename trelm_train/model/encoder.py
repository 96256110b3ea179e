"""The encoder in training: the whole of every layer but the last, and of the last only what is read.

The head reads the states of masked tokens, CKA those of some mentions, the memory bank those around mentions, and only the
first two want a gradient. So the last layer's projection and feed-forward run on the rows that are read, and are recorded
for the backward pass on the rows that need one: a quarter of the encoder's work in a model of four layers, three quarters
of it saved. Rows that nobody reads are zeros. Values and gradients are those of the library's own forward pass.
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

# Legend: R packed rows, S tokens per row, N = R·S tokens, Q rows that are read, H hidden size, h heads, D size of a head.


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPositions:
    """Flat positions whose last states are read, ascending: those that get a gradient, and the others."""

    learned: Tensor
    noted: Tensor


def read_positions(learned_N: Bools, noted_N: Bools, device: torch.device) -> ReadPositions:
    """From two marks per token; a token with both is learned."""
    only_noted: I64 = np.flatnonzero(noted_N & ~learned_N)
    return ReadPositions(
        learned=torch.from_numpy(np.flatnonzero(learned_N)).to(device),
        noted=torch.from_numpy(only_noted).to(device),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """How attention is computed: over whole rows with a mask, or sentence by sentence without one."""

    dropout: float  # of its weights
    borders: Tensor | None = (
        None  # varlen: flat start of every sentence and every run of padding, and the end; int32
    )
    longest: int = 0  # varlen: of them


def varlen_attention(batch: Batch, device: torch.device) -> Attention:
    """Attention sentence by sentence; padding is sentences too, which nobody reads."""
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
    """Last hidden states in training mode, as R x S x H; zeros where nothing is read."""
    shape = packed.input_ids_RS.shape
    hidden_NH = family.embed(packed).flatten(0, 1)
    last = len(family.layers) - 1
    for layer in range(last):
        attended_NH = family.join(
            layer, _mixed(family, layer, packed, hidden_NH, attention), hidden_NH
        )
        hidden_NH = family.from_neurons(layer, family.neurons(layer, attended_NH), attended_NH)
    mixed_NH = _mixed(family, last, packed, hidden_NH, attention)
    learned_QH = _top(family, mixed_NH, hidden_NH, read.learned)
    out_NH = learned_QH.new_zeros(len(hidden_NH), learned_QH.shape[1]).index_copy(
        0, read.learned, learned_QH
    )
    if len(read.noted):
        with torch.no_grad():
            noted_QH = _top(family, mixed_NH, hidden_NH, read.noted)
        out_NH = out_NH.index_copy(0, read.noted, noted_QH.to(out_NH.dtype))
    return out_NH.view(*shape, -1)


def _top(family: Family, mixed_NH: Tensor, hidden_NH: Tensor, rows: Tensor) -> Tensor:
    """The last layer after its attention, for some rows."""
    last = len(family.layers) - 1
    attended_QH = family.join(last, mixed_NH.index_select(0, rows), hidden_NH.index_select(0, rows))
    return family.finish(family.from_neurons(last, family.neurons(last, attended_QH), attended_QH))


def _mixed(
    family: Family, layer: int, packed: Packed, hidden_NH: Tensor, attention: Attention
) -> Tensor:
    """Attention of a layer, with dropout of its weights."""
    rotation = family.rotation(layer, packed)
    queries_NH = family.queries(layer, hidden_NH, rotation)
    keys_NH, values_NH = family.keys_values(layer, hidden_NH, rotation)
    if attention.borders is not None:
        heads = [
            flat.view(len(flat), family.num_heads, -1) for flat in (queries_NH, keys_NH, values_NH)
        ]
        return sentence_attention(
            heads[0], heads[1], heads[2], attention.borders, attention.longest
        ).flatten(1)
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
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
        weights = torch.softmax(scores.masked_fill(~mask_R1SS, -torch.inf), -1)
        mixed = drop(weights, attention.dropout) @ v
    return mixed.transpose(1, 2).reshape(rows * tokens, -1)


def sentence_attention(
    q_NhD: Tensor, k_NhD: Tensor, v_NhD: Tensor, borders: Tensor, longest: int
) -> Tensor:
    """Attention within each run of tokens, as N x heads x D.

    On a GPU the library's kernel for it; elsewhere one sentence after the other, slow, so that it can be tested.
    """
    if q_NhD.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(q_NhD, k_NhD, v_NhD, borders, borders, longest, longest)
        assert isinstance(out, Tensor)
        return out
    parts = []
    for start, end in itertools.pairwise(borders.tolist()):
        q, k, v = (flat[start:end].transpose(0, 1) for flat in (q_NhD, k_NhD, v_NhD))
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(parts)

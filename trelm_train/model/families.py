"""Describe the model families once: BERT and RoBERTa, and ModernBERT.

Attribution, routing and the sparse FFN reach a layer only through this description. In BERT and
RoBERTa LayerNorm follows each block and positions are embedded. ModernBERT normalises before each
block, gates its neurons (two rows of W_in each), has no biases, turns queries and keys by their
position, and lets most layers see a window of neighbours only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Legend: R packed rows, S tokens per packed row, N tokens, Q asking tokens, H hidden size, h heads,
# D size of a head, I inner size, M masked positions, V vocabulary, K selected neurons, J rows of
# W_in that they own.


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """Hold a batch as tensors on the device of the model."""

    input_ids_RS: Tensor
    position_ids_RS: Tensor
    # True where a token may see another one.
    mask_R1SS: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Ffn:
    """Say where the neurons of one layer are.

    Neuron i owns row i of W_in (if gated also row I + i) and column i of W_out.
    """

    w_in: nn.Linear
    w_out: nn.Linear
    inner_size: int

    @property
    def rows_per_neuron(self) -> int:
        """Return the rows of W_in per neuron: 1, or 2 if the neurons are gated."""
        return self.w_in.out_features // self.inner_size

    def rows(self, index_K: Tensor) -> Tensor:
        """Return the rows of W_in that some neurons own, as J = K x rows per neuron."""
        # Block by block: all activated rows, then all gates.
        copies = range(self.rows_per_neuron)
        return torch.cat([index_K + self.inner_size * copy for copy in copies])


# Cosines and sines, each N x D; None where positions are embedded.
Rotation = tuple[Tensor, Tensor] | None


class Family(ABC):
    """Reach the pieces of one masked language model, the same way for every family."""

    # What comes before a word in the middle of a sentence.
    word_prefix = ""
    # Whether LayerNorm follows each sum of states, so that roundings do not add up over layers.
    normalises_sums = False

    def __init__(self, hf: Any) -> None:  # noqa: ANN401 - a model of transformers, which is untyped
        self.hf, self.config = hf, hf.config
        # The model without its prediction head: `bert`, `roberta` or `model`.
        self.base: Any = getattr(hf, hf.base_model_prefix)
        self.num_heads: int = self.config.num_attention_heads
        self.inner_size: int = self.config.intermediate_size

    @property
    @abstractmethod
    def layers(self) -> list[Any]:
        """Return the encoder layers, lowest first."""

    @property
    def position_offset(self) -> int:
        """Return the position of a sentence's first token."""
        return 0

    @abstractmethod
    def inputs(self, packed: Packed) -> dict[str, Any]:
        """Return the keyword arguments of the base model for packed rows."""

    @abstractmethod
    def embed(self, packed: Packed) -> Tensor:
        """Compute input embeddings after LayerNorm, as R x S x H."""

    @abstractmethod
    def head_states(self, hidden_MH: Tensor) -> Tensor:
        """Apply the prediction head up to its last linear map, as M x H."""

    @property
    @abstractmethod
    def decoder(self) -> nn.Linear:
        """Return the last linear map of the prediction head."""

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """Apply the prediction head, as M x V."""
        logits_MV: Tensor = self.decoder(self.head_states(hidden_MH))
        return logits_MV

    @abstractmethod
    def ffn(self, layer: int) -> Ffn:
        """Return the feed-forward network of a layer."""

    def mask(self, layer: int, packed: Packed) -> Tensor:  # noqa: ARG002
        """Say which tokens a token of this layer sees, as R x 1 x S x S."""
        return packed.mask_R1SS

    def rotation(self, layer: int, packed: Packed) -> Rotation:  # noqa: ARG002
        """Return what turns queries and keys, R·S x D each; None where positions are embedded."""
        return None

    @abstractmethod
    def queries(self, layer: int, hidden_NH: Tensor, rotation: Rotation) -> Tensor:
        """Compute queries of all heads from the states that enter a layer, as N x H."""

    @abstractmethod
    def keys_values(
        self, layer: int, hidden_NH: Tensor, rotation: Rotation
    ) -> tuple[Tensor, Tensor]:
        """Compute keys and values of all heads from the states that enter a layer, N x H each."""

    def mix(
        self, queries_QH: Tensor, keys_values: tuple[Tensor, Tensor], mask_R1QS: Tensor
    ) -> Tensor:
        """Attend with all heads over the tokens of each row, as Q x H; Q: the rows of the mask."""
        rows, _, asking, tokens = mask_R1QS.shape

        def by_head(flat: Tensor, length: int) -> Tensor:
            return flat.view(rows, length, self.num_heads, -1).transpose(1, 2)

        # The library wants rows x heads x tokens x size of a head.
        q_RhQD = by_head(queries_QH, asking)
        k_RhSD, v_RhSD = (by_head(flat, tokens) for flat in keys_values)
        mixed_RhQD = F.scaled_dot_product_attention(q_RhQD, k_RhSD, v_RhSD, attn_mask=mask_R1QS)
        return mixed_RhQD.transpose(1, 2).reshape(rows * asking, -1)

    @abstractmethod
    def join(self, layer: int, mixed_NH: Tensor, hidden_NH: Tensor) -> Tensor:
        """End the attention block: projection, and what entered the layer; as N x H."""

    @abstractmethod
    def neurons(self, layer: int, attended_H: Tensor) -> Tensor:
        """Compute FFN neurons after the activation (gated: times the gate), as … x I."""

    @abstractmethod
    def from_neurons(self, layer: int, inner_I: Tensor, attended_H: Tensor) -> Tensor:
        """Compute the output of a layer from its neurons and its attention block, as … x H."""

    def finish(self, hidden_H: Tensor) -> Tensor:
        """Turn the output of the last layer into the last hidden states."""
        return hidden_H

    def kind(self, name: str) -> str:
        """Return the kind of a parameter by its name.

        It is one of norm, embeddings, attention, out_bias, ffn and head.
        """
        # The order of the tests matters: LayerNorms stand inside embeddings, attention and layers,
        # and attention has an output of its own inside a layer.
        lower = name.lower()
        if "norm" in lower:
            return "norm"
        if "embeddings" in lower:
            return "embeddings"
        if ".attention." in lower or ".attn." in lower:
            return "attention"
        if ".layer." in lower or ".layers." in lower:
            # The bias of W_out belongs to no neuron, so it is neither routed nor part of the FFN.
            return "out_bias" if lower.endswith((".output.dense.bias", ".mlp.wo.bias")) else "ffn"
        return "head"


class Bert(Family):
    """Reach the pieces of BERT, with LayerNorm after each block."""

    normalises_sums = True

    @property
    def layers(self) -> list[Any]:
        """Return the encoder layers, lowest first."""
        return list(self.base.encoder.layer)

    def inputs(self, packed: Packed) -> dict[str, Any]:
        """Return the arguments with token types: the library's default gathers them by position."""
        return {
            "input_ids": packed.input_ids_RS,
            "attention_mask": packed.mask_R1SS,
            "position_ids": packed.position_ids_RS,
            "token_type_ids": torch.zeros_like(packed.input_ids_RS),
        }

    def embed(self, packed: Packed) -> Tensor:
        """Add word, position and type embeddings, and normalise them."""
        embedded_RSH: Tensor = self.base.embeddings(
            input_ids=packed.input_ids_RS,
            position_ids=packed.position_ids_RS,
            token_type_ids=torch.zeros_like(packed.input_ids_RS),
        )
        return embedded_RSH

    def head_states(self, hidden_MH: Tensor) -> Tensor:
        """Apply the prediction head up to its last linear map, as M x H."""
        states_MH: Tensor = self.hf.cls.predictions.transform(hidden_MH)
        return states_MH

    @property
    def decoder(self) -> nn.Linear:
        """Return the last linear map of the prediction head."""
        linear: nn.Linear = self.hf.cls.predictions.decoder
        return linear

    def ffn(self, layer: int) -> Ffn:
        """Return `intermediate.dense` and `output.dense`."""
        block = self.layers[layer]
        return Ffn(
            w_in=block.intermediate.dense, w_out=block.output.dense, inner_size=self.inner_size
        )

    def queries(self, layer: int, hidden_NH: Tensor, rotation: Rotation) -> Tensor:  # noqa: ARG002
        """Project once; positions are embedded."""
        queries_NH: Tensor = self.layers[layer].attention.self.query(hidden_NH)
        return queries_NH

    def keys_values(
        self,
        layer: int,
        hidden_NH: Tensor,
        rotation: Rotation,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Project twice; positions are embedded."""
        attention = self.layers[layer].attention.self
        return attention.key(hidden_NH), attention.value(hidden_NH)

    def join(self, layer: int, mixed_NH: Tensor, hidden_NH: Tensor) -> Tensor:
        """Apply projection, residual and LayerNorm."""
        attended_NH: Tensor = self.layers[layer].attention.output(mixed_NH, hidden_NH)
        return attended_NH

    def neurons(self, layer: int, attended_H: Tensor) -> Tensor:
        """Apply W_in and the activation."""
        inner_I: Tensor = self.layers[layer].intermediate(attended_H)
        return inner_I

    def from_neurons(self, layer: int, inner_I: Tensor, attended_H: Tensor) -> Tensor:
        """Apply W_out, residual and LayerNorm."""
        hidden_H: Tensor = self.layers[layer].output(inner_I, attended_H)
        return hidden_H


class Roberta(Bert):
    """Reach the pieces of RoBERTa: BERT with positions that start after the padding id."""

    word_prefix = " "

    @property
    def position_offset(self) -> int:
        """Return one past the padding id: positions up to it are reserved."""
        return int(self.config.pad_token_id) + 1

    def head_states(self, hidden_MH: Tensor) -> Tensor:
        """Apply the prediction head up to its last linear map, as M x H."""
        head = self.hf.lm_head
        states_MH: Tensor = head.layer_norm(F.gelu(head.dense(hidden_MH)))
        return states_MH

    @property
    def decoder(self) -> nn.Linear:
        """Return the last linear map of the prediction head."""
        linear: nn.Linear = self.hf.lm_head.decoder
        return linear


class ModernBert(Family):
    """Reach the pieces of ModernBERT.

    It has LayerNorm before each block, gated neurons, rotary positions, and windows in most layers.
    """

    word_prefix = " "

    @property
    def layers(self) -> list[Any]:
        """Return the encoder layers, lowest first."""
        return list(self.base.layers)

    def inputs(self, packed: Packed) -> dict[str, Any]:
        """Return the arguments with one mask per kind of layer.

        Masks in a dictionary are those that the library uses unchanged.
        """
        # Two masks at most: whole sentences, and windows.
        masks = {kind: self._mask(kind, packed) for kind in set(self.config.layer_types)}
        return {
            "input_ids": packed.input_ids_RS,
            "attention_mask": masks,
            "position_ids": packed.position_ids_RS,
        }

    def embed(self, packed: Packed) -> Tensor:
        """Normalise word embeddings; positions come in by rotation."""
        embedded_RSH: Tensor = self.base.embeddings(input_ids=packed.input_ids_RS)
        return embedded_RSH

    def head_states(self, hidden_MH: Tensor) -> Tensor:
        """Apply the prediction head up to its last linear map, as M x H."""
        states_MH: Tensor = self.hf.head(hidden_MH)
        return states_MH

    @property
    def decoder(self) -> nn.Linear:
        """Return the last linear map of the prediction head."""
        linear: nn.Linear = self.hf.decoder
        return linear

    def ffn(self, layer: int) -> Ffn:
        """Return `mlp.Wi` (its lower half is activated, its upper half gates) and `mlp.Wo`."""
        mlp = self.layers[layer].mlp
        return Ffn(w_in=mlp.Wi, w_out=mlp.Wo, inner_size=self.inner_size)

    def mask(self, layer: int, packed: Packed) -> Tensor:
        """Show a token the whole sentence, or a window of it."""
        return self._mask(self.config.layer_types[layer], packed)

    def _mask(self, kind: str, packed: Packed) -> Tensor:
        """Return the mask of one kind of layer, as R x 1 x S x S."""
        if kind == "full_attention":
            return packed.mask_R1SS

        # Positions start again in every sentence, but tokens of other sentences are masked already.
        position_RS = packed.position_ids_RS
        distance_RSS = (position_RS[:, :, None] - position_RS[:, None, :]).abs()
        return packed.mask_R1SS & (distance_RSS <= self.config.sliding_window)[:, None]

    def rotation(self, layer: int, packed: Packed) -> Rotation:
        """Return cosines and sines of the layer's kind, by the position in the sentence."""
        kind = self.config.layer_types[layer]
        weight = self.base.embeddings.tok_embeddings.weight

        # In bfloat16 the angles of far positions would lose their digits.
        with torch.autocast(packed.position_ids_RS.device.type, enabled=False):
            cos, sin = self.base.rotary_emb(weight, packed.position_ids_RS, kind)
        return cos.flatten(0, 1), sin.flatten(0, 1)

    def queries(self, layer: int, hidden_NH: Tensor, rotation: Rotation) -> Tensor:
        """Apply the first third of the projection, and turn the result."""
        size = hidden_NH.shape[-1]
        return self._turned(self._project(layer, hidden_NH, slice(0, size)), rotation)

    def keys_values(
        self, layer: int, hidden_NH: Tensor, rotation: Rotation
    ) -> tuple[Tensor, Tensor]:
        """Apply the other two thirds of the projection, and turn the keys."""
        size = hidden_NH.shape[-1]
        keys, values = self._project(layer, hidden_NH, slice(size, 3 * size)).chunk(2, dim=-1)
        return self._turned(keys, rotation), values

    def _project(self, layer: int, hidden_NH: Tensor, rows: slice) -> Tensor:
        """Apply some rows of the joint projection of queries, keys and values."""
        block = self.layers[layer]
        bias = block.attn.Wqkv.bias
        return F.linear(
            block.attn_norm(hidden_NH),
            block.attn.Wqkv.weight[rows],
            None if bias is None else bias[rows],
        )

    def _turned(self, x_NH: Tensor, rotation: Rotation) -> Tensor:
        assert rotation is not None
        return _turn(x_NH.view(len(x_NH), self.num_heads, -1), rotation).flatten(1)

    def join(self, layer: int, mixed_NH: Tensor, hidden_NH: Tensor) -> Tensor:
        """Apply projection and residual."""
        attn = self.layers[layer].attn
        # LayerNorm has been applied before the block, so the residual is the state itself.
        return hidden_NH + attn.out_drop(attn.Wo(mixed_NH))

    def neurons(self, layer: int, attended_H: Tensor) -> Tensor:
        """Multiply the activated half by the gate."""
        block = self.layers[layer]
        # One projection gives both halves, 2 I wide.
        activated, gate = block.mlp.Wi(block.mlp_norm(attended_H)).chunk(2, dim=-1)
        return block.mlp.act(activated) * gate

    def from_neurons(self, layer: int, inner_I: Tensor, attended_H: Tensor) -> Tensor:
        """Apply W_out and residual."""
        mlp = self.layers[layer].mlp
        return attended_H + mlp.Wo(mlp.drop(inner_I))

    def finish(self, hidden_H: Tensor) -> Tensor:
        """Apply the last LayerNorm."""
        normalised_H: Tensor = self.base.final_norm(hidden_H)
        return normalised_H


def _turn(x_NhD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate by position (Su et al. 2021): the halves of a head are the coordinates of each plane.

    Computed in float32.
    """
    # The same angle for all heads.
    cos, sin = (table_ND[:, None] for table_ND in rotation)
    low, high = x_NhD.float().chunk(2, dim=-1)
    turned = torch.cat((low, high), -1) * cos + torch.cat((-high, low), -1) * sin
    return turned.to(x_NhD.dtype)


FAMILIES: dict[str, type[Family]] = {"bert": Bert, "roberta": Roberta, "modernbert": ModernBert}

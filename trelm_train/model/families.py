"""What a model family is made of, said once: BERT and RoBERTa, and ModernBERT.

Attribution, routing and the sparse FFN reach a layer only through this description. In BERT and RoBERTa LayerNorm follows
each block and positions are embedded; ModernBERT normalises before each block, gates its neurons (two rows of W_in each),
has no biases, turns queries and keys by their position, and lets most layers see a window of neighbours only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Legend: R packed rows, S tokens per packed row, N tokens, Q asking tokens, H hidden size, D size of a head, I inner size,
# M asked positions, V vocabulary, K selected neurons, J rows of W_in that they own.


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A batch as tensors on the model's device."""

    input_ids_RS: Tensor
    position_ids_RS: Tensor
    mask_R1SS: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Ffn:
    """Where the neurons of one layer are: neuron i owns row i of W_in (gated: and row I + i) and column i of W_out."""

    w_in: nn.Linear
    w_out: nn.Linear
    inner_size: int

    @property
    def rows_per_neuron(self) -> int:
        """Rows of W_in per neuron: 1, or 2 if the neurons are gated."""
        return self.w_in.out_features // self.inner_size

    def rows(self, index_K: Tensor) -> Tensor:
        """The rows of W_in that some neurons own, as J = K x rows per neuron."""
        return torch.cat([index_K + self.inner_size * part for part in range(self.rows_per_neuron)])


Rotation = tuple[Tensor, Tensor] | None  # cosines and sines, each N x D


class Family(ABC):
    """The parts of one masked language model."""

    word_prefix = ""  # what comes before a word in the middle of a sentence

    def __init__(self, hf: Any) -> None:  # noqa: ANN401
        self.hf, self.config = hf, hf.config
        self.base: Any = getattr(hf, hf.base_model_prefix)
        self.num_heads: int = self.config.num_attention_heads
        self.inner_size: int = self.config.intermediate_size

    @property
    @abstractmethod
    def layers(self) -> list[Any]:
        """The encoder layers, lowest first."""

    @property
    def position_offset(self) -> int:
        """Position of a sentence's first token."""
        return 0

    @abstractmethod
    def inputs(self, packed: Packed) -> dict[str, Any]:
        """Keyword arguments of the base model for packed rows."""

    @abstractmethod
    def embed(self, packed: Packed) -> Tensor:
        """Input embeddings after LayerNorm, as R x S x H."""

    @abstractmethod
    def logits(self, hidden_MH: Tensor) -> Tensor:
        """The prediction head, as M x V."""

    @abstractmethod
    def ffn(self, layer: int) -> Ffn:
        """The feed-forward network of a layer."""

    def mask(self, layer: int, packed: Packed) -> Tensor:  # noqa: ARG002
        """Which tokens a token of this layer sees, as R x 1 x S x S."""
        return packed.mask_R1SS

    def rotation(self, layer: int, packed: Packed) -> Rotation:  # noqa: ARG002
        """How queries and keys are turned, as R·S x D each; None where positions are embedded."""
        return None

    @abstractmethod
    def queries(self, layer: int, hidden_NH: Tensor, rotation: Rotation) -> Tensor:
        """Queries of all heads from the states that enter a layer, as N x H."""

    @abstractmethod
    def keys_values(
        self, layer: int, hidden_NH: Tensor, rotation: Rotation
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all heads from the states that enter a layer, as N x H each."""

    def mix(
        self, queries_QH: Tensor, keys_values: tuple[Tensor, Tensor], mask_R1QS: Tensor
    ) -> Tensor:
        """Attention of all heads over the tokens of each row, as Q x H; Q runs over the rows of the mask."""
        rows, _, asking, tokens = mask_R1QS.shape
        q, k, v = (
            flat.view(rows, length, self.num_heads, -1).transpose(1, 2)
            for flat, length in (
                (queries_QH, asking),
                (keys_values[0], tokens),
                (keys_values[1], tokens),
            )
        )
        return (
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask_R1QS)
            .transpose(1, 2)
            .reshape(rows * asking, -1)
        )

    @abstractmethod
    def join(self, layer: int, mixed_NH: Tensor, hidden_NH: Tensor) -> Tensor:
        """The end of the attention block: projection, and what entered the layer; as N x H."""

    @abstractmethod
    def neurons(self, layer: int, attended_H: Tensor) -> Tensor:
        """FFN neurons after the activation (gated: the product with the gate), as … x I."""

    @abstractmethod
    def from_neurons(self, layer: int, inner_I: Tensor, attended_H: Tensor) -> Tensor:
        """The output of a layer from its neurons and its attention block, as … x H."""

    def finish(self, hidden_H: Tensor) -> Tensor:
        """From the last layer's output to the last hidden states."""
        return hidden_H

    def kind(self, name: str) -> str:
        """What a parameter of this name belongs to: norm, embeddings, attention, out_bias, ffn or head."""
        lower = name.lower()
        if "norm" in lower:
            return "norm"
        if "embeddings" in lower:
            return "embeddings"
        if ".attention." in lower or ".attn." in lower:
            return "attention"
        if ".layer." in lower or ".layers." in lower:
            return "out_bias" if lower.endswith((".output.dense.bias", ".mlp.wo.bias")) else "ffn"
        return "head"


class Bert(Family):
    """BERT: LayerNorm after each block."""

    @property
    def layers(self) -> list[Any]:
        """The encoder layers, lowest first."""
        return list(self.base.encoder.layer)

    def inputs(self, packed: Packed) -> dict[str, Any]:
        """Token types are given because the library's default gathers them by position."""
        return {
            "input_ids": packed.input_ids_RS,
            "attention_mask": packed.mask_R1SS,
            "position_ids": packed.position_ids_RS,
            "token_type_ids": torch.zeros_like(packed.input_ids_RS),
        }

    def embed(self, packed: Packed) -> Tensor:
        """Word, position and type embeddings, normalised."""
        out_RSH: Tensor = self.base.embeddings(
            input_ids=packed.input_ids_RS,
            position_ids=packed.position_ids_RS,
            token_type_ids=torch.zeros_like(packed.input_ids_RS),
        )
        return out_RSH

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """The prediction head, as M x V."""
        out_MV: Tensor = self.hf.cls(hidden_MH)
        return out_MV

    def ffn(self, layer: int) -> Ffn:
        """`intermediate.dense` and `output.dense`."""
        block = self.layers[layer]
        return Ffn(
            w_in=block.intermediate.dense, w_out=block.output.dense, inner_size=self.inner_size
        )

    def queries(self, layer: int, hidden_NH: Tensor, rotation: Rotation) -> Tensor:  # noqa: ARG002
        """One projection; positions are embedded."""
        out_NH: Tensor = self.layers[layer].attention.self.query(hidden_NH)
        return out_NH

    def keys_values(
        self,
        layer: int,
        hidden_NH: Tensor,
        rotation: Rotation,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Two projections; positions are embedded."""
        attention = self.layers[layer].attention.self
        return attention.key(hidden_NH), attention.value(hidden_NH)

    def join(self, layer: int, mixed_NH: Tensor, hidden_NH: Tensor) -> Tensor:
        """Projection, residual, LayerNorm."""
        out_NH: Tensor = self.layers[layer].attention.output(mixed_NH, hidden_NH)
        return out_NH

    def neurons(self, layer: int, attended_H: Tensor) -> Tensor:
        """W_in and the activation."""
        out_I: Tensor = self.layers[layer].intermediate(attended_H)
        return out_I

    def from_neurons(self, layer: int, inner_I: Tensor, attended_H: Tensor) -> Tensor:
        """W_out, residual, LayerNorm."""
        out_H: Tensor = self.layers[layer].output(inner_I, attended_H)
        return out_H


class Roberta(Bert):
    """RoBERTa: BERT with positions that start after the padding id."""

    word_prefix = " "

    @property
    def position_offset(self) -> int:
        """Positions up to the padding id are reserved."""
        return int(self.config.pad_token_id) + 1

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """The prediction head, as M x V."""
        out_MV: Tensor = self.hf.lm_head(hidden_MH)
        return out_MV


class ModernBert(Family):
    """ModernBERT: LayerNorm before each block, gated neurons, rotary positions, windows in most layers."""

    word_prefix = " "

    @property
    def layers(self) -> list[Any]:
        """The encoder layers, lowest first."""
        return list(self.base.layers)

    def inputs(self, packed: Packed) -> dict[str, Any]:
        """One mask per kind of layer: given as a table, the library leaves them as they are."""
        masks = {kind: self._mask(kind, packed) for kind in set(self.config.layer_types)}
        return {
            "input_ids": packed.input_ids_RS,
            "attention_mask": masks,
            "position_ids": packed.position_ids_RS,
        }

    def embed(self, packed: Packed) -> Tensor:
        """Word embeddings, normalised; positions come in by rotation."""
        out_RSH: Tensor = self.base.embeddings(input_ids=packed.input_ids_RS)
        return out_RSH

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """The prediction head, as M x V."""
        out_MV: Tensor = self.hf.decoder(self.hf.head(hidden_MH))
        return out_MV

    def ffn(self, layer: int) -> Ffn:
        """`mlp.Wi`, whose lower half is activated and whose upper half gates, and `mlp.Wo`."""
        mlp = self.layers[layer].mlp
        return Ffn(w_in=mlp.Wi, w_out=mlp.Wo, inner_size=self.inner_size)

    def mask(self, layer: int, packed: Packed) -> Tensor:
        """The whole sentence, or a window of it."""
        return self._mask(self.config.layer_types[layer], packed)

    def _mask(self, kind: str, packed: Packed) -> Tensor:
        if kind == "full_attention":
            return packed.mask_R1SS
        distance_RSS = (
            packed.position_ids_RS[:, :, None] - packed.position_ids_RS[:, None, :]
        ).abs()
        return packed.mask_R1SS & (distance_RSS <= self.config.sliding_window)[:, None]

    def rotation(self, layer: int, packed: Packed) -> Rotation:
        """Cosines and sines of the layer's kind, by the position in the sentence."""
        kind = self.config.layer_types[layer]
        with torch.autocast(packed.position_ids_RS.device.type, enabled=False):
            cos, sin = self.base.rotary_emb(
                self.base.embeddings.tok_embeddings.weight, packed.position_ids_RS, kind
            )
        return cos.flatten(0, 1), sin.flatten(0, 1)

    def queries(self, layer: int, hidden_NH: Tensor, rotation: Rotation) -> Tensor:
        """The first third of the projection, turned."""
        return self._turned(
            self._project(layer, hidden_NH, slice(0, hidden_NH.shape[-1])), rotation
        )

    def keys_values(
        self, layer: int, hidden_NH: Tensor, rotation: Rotation
    ) -> tuple[Tensor, Tensor]:
        """The other two thirds; keys are turned."""
        size = hidden_NH.shape[-1]
        keys, values = self._project(layer, hidden_NH, slice(size, 3 * size)).chunk(2, dim=-1)
        return self._turned(keys, rotation), values

    def _project(self, layer: int, hidden_NH: Tensor, part: slice) -> Tensor:
        block = self.layers[layer]
        bias = block.attn.Wqkv.bias
        return F.linear(
            block.attn_norm(hidden_NH),
            block.attn.Wqkv.weight[part],
            None if bias is None else bias[part],
        )

    def _turned(self, x_NH: Tensor, rotation: Rotation) -> Tensor:
        assert rotation is not None
        return _turn(x_NH.view(len(x_NH), self.num_heads, -1), rotation).flatten(1)

    def join(self, layer: int, mixed_NH: Tensor, hidden_NH: Tensor) -> Tensor:
        """Projection and residual."""
        attn = self.layers[layer].attn
        return hidden_NH + attn.out_drop(attn.Wo(mixed_NH))

    def neurons(self, layer: int, attended_H: Tensor) -> Tensor:
        """The activated half times the gate."""
        block = self.layers[layer]
        activated, gate = block.mlp.Wi(block.mlp_norm(attended_H)).chunk(2, dim=-1)
        return block.mlp.act(activated) * gate

    def from_neurons(self, layer: int, inner_I: Tensor, attended_H: Tensor) -> Tensor:
        """W_out and residual."""
        mlp = self.layers[layer].mlp
        return attended_H + mlp.Wo(mlp.drop(inner_I))

    def finish(self, hidden_H: Tensor) -> Tensor:
        """The last LayerNorm."""
        out_H: Tensor = self.base.final_norm(hidden_H)
        return out_H


def _turn(x_NhD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (Su et al. 2021): halves of a head are the two coordinates of each plane; float32 inside."""
    cos, sin = (table_ND[:, None] for table_ND in rotation)
    low, high = x_NhD.float().chunk(2, dim=-1)
    turned = torch.cat((low, high), -1) * cos + torch.cat((-high, low), -1) * sin
    return turned.to(x_NhD.dtype)


FAMILIES: dict[str, type[Family]] = {"bert": Bert, "roberta": Roberta, "modernbert": ModernBert}

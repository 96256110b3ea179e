"""Dynamic knowledge routing: which neurons are trained, chosen anew every so many steps (TRELM, Yan et al. 2024).

Policies, all through `Router.neurons`: `ig` (by attribution), `random` (as many, fixed for the run), `top_layers` (as
many, from the top layer down), `ffn_all` (every neuron); `full` trains everything and has no router. In `ig` an
example votes for the neurons with at least `threshold` of its largest attribution; votes are smoothed from refresh to
refresh; the top share of all neurons is taken, ties by summed attribution, then at random from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trelm_train.arrays import I64, expand, uniform
from trelm_train.attribution import Quadrature, Targets, attribute, quadrature
from trelm_train.config import RoutingConfig
from trelm_train.errors import TrelmError
from trelm_train.loader import Batch, BatchStream, Position
from trelm_train.masking import Vocabulary
from trelm_train.model import MaskedLm

# Legend: L layers, I inner size, E examples, P spans.


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One entity hidden in each sentence that has one: all its mentions are masked, one of them is asked."""

    input_ids_RS: I64
    targets: Targets


def make_probe(batch: Batch, vocabulary: Vocabulary, *, seed: int, limit: int) -> Probe | None:
    """A probe of a training batch: tails of facts before other mentions; None if no sentence has a mention."""
    if not len(batch.span_start_P):
        return None
    key_P = batch.key_N[batch.span_sentence_P]
    draw_P = uniform(seed, "probe", key_P, batch.span_ordinal_P)
    draw_P[batch.fact_tail_F] -= 1.0
    order = np.lexsort((draw_P, batch.span_sentence_P))
    asked = order[np.unique(batch.span_sentence_P[order], return_index=True)[1]][:limit]
    scale = int(batch.span_entity_P.max()) + 1
    same_P = np.isin(
        batch.span_sentence_P * scale + batch.span_entity_P,
        batch.span_sentence_P[asked] * scale + batch.span_entity_P[asked],
    )
    ids = batch.input_ids_RS.copy()
    ids.reshape(-1)[expand(batch.span_start_P[same_P], (batch.span_end_P - batch.span_start_P)[same_P])] = (
        vocabulary.mask_id
    )
    lengths = (batch.span_end_P - batch.span_start_P)[asked]
    position = expand(batch.span_start_P[asked], lengths)
    targets = Targets(
        position_T=position,
        example_T=np.repeat(np.arange(len(asked)), lengths),
        gold_T=batch.input_ids_RS.reshape(-1)[position],
        num_examples=len(asked),
    )
    return Probe(input_ids_RS=ids, targets=targets)


def votes(attribution_ELI: Tensor, threshold: float) -> Tensor:
    """How many examples keep each neuron: attribution positive and at least `threshold` of the example's largest."""
    largest_E = attribution_ELI.flatten(1).max(1).values.clamp(min=0)
    kept = (attribution_ELI >= threshold * largest_E[:, None, None]) & (attribution_ELI > 0)
    return kept.sum(0).float()


def top_neurons(scores_SLI: list[Tensor], count: int, *, first_layer: int, seed: int) -> dict[int, Tensor]:
    """The `count` best neurons of the layers from `first_layer` up; later scores break ties of earlier ones."""
    num_layers, inner = scores_SLI[0].shape
    flat = [score.numpy().astype(np.float64)[first_layer:].reshape(-1) for score in scores_SLI]
    tie = uniform(seed, "tie", np.arange(len(flat[0]), dtype=np.int64))
    order = np.lexsort((tie, *(-score for score in reversed(flat))))
    return by_layer(np.sort(order[:count]) + first_layer * inner, num_layers, inner)


def by_layer(flat: I64, num_layers: int, inner: int) -> dict[int, Tensor]:
    """Sorted flat neuron numbers as sorted indices per layer."""
    layer = flat // inner
    return {number: torch.from_numpy(flat[layer == number] % inner) for number in range(num_layers)}


class Router:
    """Chooses neurons; keeps the smoothed votes of `ig`."""

    def __init__(self, config: RoutingConfig, model: MaskedLm, vocabulary: Vocabulary, *, seed: int) -> None:
        self.config, self.model, self.vocabulary, self.seed = config, model, vocabulary, seed
        self.first_layer = max(0, model.num_layers - config.layer_budget) if config.layer_budget else 0
        self.rule: Quadrature = quadrature(config.rule, config.points)
        self.votes_LI: Tensor | None = None
        self.strength_LI: Tensor | None = None

    @property
    def count(self) -> int:
        """Neurons to select: the share of all of them, as far as the layer budget has room."""
        allowed = (self.model.num_layers - self.first_layer) * self.model.inner_size
        wanted = round(self.config.share * self.model.num_layers * self.model.inner_size)
        return allowed if self.config.policy == "ffn_all" else min(allowed, max(1, wanted))

    def due(self, step: int) -> bool:
        """Whether neurons must be chosen before this step."""
        return step == 0 or (self.config.policy == "ig" and step % self.config.refresh_every == 0)

    def neurons(self, stream: BatchStream, position: Position) -> dict[int, Tensor]:
        """Sorted neuron indices by layer.

        Raises:
            TrelmError: the policy needs mentions and the shards have none.
        """
        layers, inner, count = self.model.num_layers, self.model.inner_size, self.count
        first = self.first_layer * inner
        if self.config.policy == "ig":
            self.refresh(stream, position)
            assert self.votes_LI is not None
            assert self.strength_LI is not None
            return top_neurons([self.votes_LI, self.strength_LI], count, first_layer=self.first_layer, seed=self.seed)
        if self.config.policy == "random":
            draw = uniform(self.seed, "path", np.arange(first, layers * inner, dtype=np.int64))
            return by_layer(np.sort(np.argsort(draw)[:count]) + first, layers, inner)
        return by_layer(np.arange(layers * inner - count, layers * inner), layers, inner)

    def refresh(self, stream: BatchStream, position: Position) -> None:
        """Attribution over a probe set from the upcoming batches, smoothed into the votes."""
        shape = (self.model.num_layers, self.model.inner_size)
        votes_LI, strength_LI, facts = torch.zeros(shape), torch.zeros(shape), 0
        for batch, following in stream.iterate(position):
            probe = make_probe(batch, self.vocabulary, seed=self.seed, limit=self.config.probe_facts - facts)
            if probe is not None:
                packed = self.model.pack(batch, probe.input_ids_RS)
                attribution_ELI = attribute(self.model, packed, probe.targets, self.rule, self.first_layer)
                votes_LI += votes(attribution_ELI, self.config.threshold)
                strength_LI += attribution_ELI.clamp(min=0).sum(0)
                facts += probe.targets.num_examples
            if facts >= self.config.probe_facts or following.epoch > position.epoch + 1:
                break
        if not facts:
            raise TrelmError(
                f"{stream.shards.path}: routing.policy = 'ig' needs linked mentions, and there are none; "
                "use --set routing.policy=random, or full"
            )
        self.votes_LI = self._smooth(self.votes_LI, votes_LI / facts)
        self.strength_LI = self._smooth(self.strength_LI, strength_LI / facts)

    def _smooth(self, old: Tensor | None, new: Tensor) -> Tensor:
        return new if old is None else self.config.smoothing * old + (1 - self.config.smoothing) * new

    def state(self) -> dict[str, Tensor]:
        """The smoothed scores."""
        if self.votes_LI is None or self.strength_LI is None:
            return {}
        return {"votes": self.votes_LI, "strength": self.strength_LI}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up saved scores."""
        self.votes_LI, self.strength_LI = tensors.get("votes"), tensors.get("strength")


def whole_parameters(model: MaskedLm, config: RoutingConfig) -> dict[str, torch.nn.Parameter]:
    """Freeze everything but what is trained as a whole, and return that by name.

    With a router: nothing, or what the switches name. The decoder is tied to the embeddings and frozen with them.
    """
    chosen = {}
    for name, parameter in model.hf.named_parameters():
        trained = config.policy == "full" or _switched_on(name, config)
        parameter.requires_grad_(trained)
        if trained:
            chosen[name] = parameter
    return chosen


def _switched_on(name: str, config: RoutingConfig) -> bool:
    if "LayerNorm" in name or "layer_norm" in name:
        return config.train_layer_norm
    if "embeddings" in name:
        return config.train_embeddings
    if ".attention." in name:
        return config.train_attention
    if ".layer." in name:
        return config.train_head and name.endswith(".output.dense.bias")
    return config.train_head

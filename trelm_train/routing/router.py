"""Route knowledge: choose the neurons that are trained, again and again (TRELM, Yan et al. 2024).

All policies go through `Router.neurons`: `ig` (by attribution), `random` (as many, fixed for the
run), `top_layers` (as many, from the top layer down), `ffn_all` (every neuron). `full` trains
everything and has no router. In `ig` an example votes for the neurons with at least `threshold` of
its largest attribution; votes are smoothed from refresh to refresh; the neurons with the most votes
are chosen, ties by summed attribution, then at random from the seed.

With a background weight, plain sentences vote too, and a neuron that many of them vote for counts
less: TF-IDF, in sparse memory finetuning (Lin et al. 2025) over memory slots, here over neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schemas.array_types import I64
from schemas.errors import TrelmError
from trelm_train.config import RoutingConfig
from trelm_train.data.arrays import uniform
from trelm_train.data.loader import BatchStream, Position
from trelm_train.data.masking import Vocabulary
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.ranks import ALONE, Ranks
from trelm_train.routing.attribution import attribute, make_estimator
from trelm_train.routing.probes import BACKGROUND, MENTION, TAIL, Probe, chunks, upcoming_probes

# Legend: L layers, I inner size, E examples, S scores.

# Attributions are summed in whole numbers of this unit.
UNIT = 2.0**-30
# Mean length of a sentence with a mention.
PROBE_TOKENS = 35
# Cost of a fact in a fixed or exact context, in full steps of the same sentences.
FIXED_COST, EXACT_COST = 0.85, 3.4
# Cost of a step with routing, in full steps.
ROUTED_STEP = 0.65
# Share of the training time that routing should not exceed.
MAX_ROUTING_SHARE = 0.05
# What shards need for each kind of probe, and what to do without it.
_NEEDS = {
    MENTION: "routing.policy = 'ig' needs linked mentions, and there are none; "
    "use --set routing.policy=random, or full",
    TAIL: "routing.probe_at = 'tail' needs sentences that state facts, and there are none; "
    "use --set routing.probe_at=mention",
    BACKGROUND: "routing.background_weight needs sentences without a mention, and there are none; "
    "use --set routing.background_weight=0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Hold sums over examples as whole numbers: ranks add theirs in any order, to the same bits.

    `counts` has 2 L I + 1 int64: the votes of every neuron, its positive attributions in units of
    `UNIT`, and the number of examples.
    """

    counts: Tensor

    def means(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        """Return mean vote and mean positive attribution per example, and the number of examples.

        The means are L x I each; `shape` is (L, I).
        """
        # Votes, then attributions, then the number of examples, as `tally` has put them together.
        size, num_examples = shape[0] * shape[1], int(self.counts[-1])
        sums = self.counts[:-1].double() / max(1, num_examples)
        return (
            sums[:size].view(shape).float(),
            (sums[size:] * UNIT).view(shape).float(),
            num_examples,
        )


def tally(attribution_ELI: Tensor, threshold: float) -> Tally:
    """Count votes and attributions of some examples."""
    # Sums of floats depend on their order, and so on the number of ranks; sums of integers do not.
    strength_LI = (attribution_ELI.double().clamp(min=0) / UNIT).round().long().sum(0)
    votes_LI = votes(attribution_ELI, threshold).long()
    num_examples = torch.tensor([len(attribution_ELI)])
    return Tally(counts=torch.cat([votes_LI.flatten(), strength_LI.flatten(), num_examples]))


def votes(attribution_ELI: Tensor, threshold: float) -> Tensor:
    """Count the examples that vote for each neuron, as L x I.

    An example votes where the attribution is positive and at least `threshold` of its largest.
    """
    # An example whose attributions are all negative votes for nothing.
    largest_E = attribution_ELI.flatten(1).max(1).values.clamp(min=0)
    is_high = attribution_ELI >= threshold * largest_E[:, None, None]
    return (is_high & (attribution_ELI > 0)).sum(0).float()


def rarity(background_LI: Tensor, num_background: int, weight: float) -> Tensor:
    """Return the factor of each neuron's scores: ln((N + 1) / (n + 1)) to the power of `weight`.

    N is the number of background probes, and n = N `background_LI` of them vote for the neuron. It
    falls to 0 where all of them do, and is 1 everywhere for weight 0.
    """
    # In float64, so that equal votes give equal float32 factors on every rank.
    used_LI = background_LI.double() * num_background
    return ((num_background + 1) / (used_LI + 1)).log().clamp(min=0).pow(weight).float()


def top_neurons(
    scores_SLI: list[Tensor], count: int, *, first_layer: int, seed: int
) -> dict[int, Tensor]:
    """Return the `count` best neurons of the layers from `first_layer` up.

    Later scores break ties of earlier ones, and a hash of the seed breaks what is left.
    """
    num_layers, inner = scores_SLI[0].shape
    flat = [score.numpy().astype(np.float64)[first_layer:].reshape(-1) for score in scores_SLI]
    tie = uniform(seed, "tie", np.arange(len(flat[0]), dtype=np.int64))

    # The last key of `lexsort` counts most, so the scores go in reverse.
    order = np.lexsort((tie, *(-score for score in reversed(flat))))
    return by_layer(np.sort(order[:count]) + first_layer * inner, num_layers, inner)


def by_layer(flat: I64, num_layers: int, inner: int) -> dict[int, Tensor]:
    """Turn sorted flat neuron numbers into sorted indices per layer."""
    layer = flat // inner
    return {number: torch.from_numpy(flat[layer == number] % inner) for number in range(num_layers)}


class Router:
    """Choose neurons, and keep the smoothed votes of `ig`."""

    def __init__(
        self, config: RoutingConfig, model: MaskedLm, vocabulary: Vocabulary, *, seed: int
    ) -> None:
        self.config, self.model, self.vocabulary, self.seed = config, model, vocabulary, seed
        # A layer budget counts from the top: the backward pass then ends early.
        self.first_layer = (
            max(0, model.num_layers - config.layer_budget) if config.layer_budget else 0
        )
        self.estimator = make_estimator(
            config.rule, config.points, precision=config.precision, context=config.context
        )
        self.votes_LI: Tensor | None = None
        self.strength_LI: Tensor | None = None
        # Mean vote of the background probes, and how many the latest refresh had.
        self.background_LI: Tensor | None = None
        self.num_background = 0

    @property
    def count(self) -> int:
        """Return how many neurons to select: a share of all, as the layer budget allows."""
        allowed = (self.model.num_layers - self.first_layer) * self.model.inner_size
        if self.config.policy == "ffn_all":
            return allowed

        share = round(self.config.share * self.model.num_layers * self.model.inner_size)
        return min(allowed, max(1, share))

    def due(self, step: int) -> bool:
        """Say whether neurons must be chosen before this step."""
        # Other policies choose once: their choice does not depend on the weights.
        return step == 0 or (self.config.policy == "ig" and step % self.config.refresh_every == 0)

    def neurons(
        self, stream: BatchStream, position: Position, ranks: Ranks = ALONE
    ) -> dict[int, Tensor]:
        """Choose neurons: sorted indices by layer, the same on every rank.

        `position` is that of the whole run.

        Raises:
            TrelmError: the policy needs mentions and the shards have none.
        """
        layers, inner, count = self.model.num_layers, self.model.inner_size, self.count

        if self.config.policy == "ig":
            self.refresh(stream, position, ranks)
            return top_neurons(self.scores(), count, first_layer=self.first_layer, seed=self.seed)

        if self.config.policy == "random":
            lowest = self.first_layer * inner
            draw = uniform(self.seed, "path", np.arange(lowest, layers * inner, dtype=np.int64))
            drawn = np.sort(np.argsort(draw, kind="stable")[:count])
            return by_layer(drawn + lowest, layers, inner)

        # The topmost neurons, for `top_layers` and `ffn_all` alike.
        return by_layer(np.arange(layers * inner - count, layers * inner), layers, inner)

    def refresh(self, stream: BatchStream, position: Position, ranks: Ranks = ALONE) -> None:
        """Attribute probe sets from the upcoming batches, and smooth the result into the votes.

        Raises:
            TrelmError: the shards have nothing that the probes ask for.
        """
        kinds = (self.config.probe_at, *((BACKGROUND,) if self.config.background_weight else ()))
        counts = [
            self.count_votes(self._probes(kind, stream, position), stream, ranks).counts
            for kind in kinds
        ]
        # Summed over the ranks, so that all of them choose the same neurons.
        counts = [counted.to(self.model.device) for counted in counts]
        ranks.sum_tensors(counts)

        shape = (self.model.num_layers, self.model.inner_size)
        means = [Tally(counts=counted.cpu()).means(shape) for counted in counts]
        self.votes_LI = self._smooth(self.votes_LI, means[0][0])
        self.strength_LI = self._smooth(self.strength_LI, means[0][1])
        if len(kinds) > 1:
            # How strong the background's attributions are has no say: they come from other answers.
            self.background_LI = self._smooth(self.background_LI, means[1][0])
            self.num_background = means[1][2]

    def _probes(self, kind: str, stream: BatchStream, position: Position) -> list[Probe]:
        """Return as many probes of a kind as the settings say, from the batches to come."""
        probes = upcoming_probes(
            stream.iterate(position),
            self.vocabulary,
            seed=self.seed,
            limit=self.config.probe_facts,
            start=position,
            kind=kind,
        )
        if not probes:
            raise TrelmError(f"{stream.shards.path}: {_NEEDS[kind]}")
        return probes

    def scores(self) -> list[Tensor]:
        """Return what neurons are chosen by, after a refresh: votes, then attributions."""
        assert self.votes_LI is not None
        assert self.strength_LI is not None
        if self.background_LI is None:
            return [self.votes_LI, self.strength_LI]

        weight = self.config.background_weight
        factor_LI = rarity(self.background_LI, self.num_background, weight)
        return [self.votes_LI * factor_LI, self.strength_LI * factor_LI]

    def count_votes(self, probes: list[Probe], stream: BatchStream, ranks: Ranks = ALONE) -> Tally:
        """Count this rank's share of the probes: every `ranks.size`-th chunk."""
        num_neurons = self.model.num_layers * self.model.inner_size
        counts = torch.zeros(2 * num_neurons + 1, dtype=torch.int64)

        # Every rank makes all chunks, which is cheap, and attributes its own.
        all_chunks = chunks(probes, stream.packing, self.vocabulary.pad_id)
        for number, (batch, targets) in enumerate(all_chunks):
            if number % ranks.size == ranks.rank:
                packed = self.model.pack(batch)
                attribution_ELI = attribute(
                    self.model, packed, targets, self.estimator, self.first_layer
                )
                counts += tally(attribution_ELI, self.config.threshold).counts

        return Tally(counts=counts)

    def _smooth(self, old: Tensor | None, new: Tensor) -> Tensor:
        if old is None:
            return new
        return self.config.smoothing * old + (1 - self.config.smoothing) * new

    def state(self) -> dict[str, Tensor]:
        """Return the smoothed scores by name; nothing before the first refresh."""
        if self.votes_LI is None or self.strength_LI is None:
            return {}
        scores = {"votes": self.votes_LI, "strength": self.strength_LI}
        if self.background_LI is not None:
            scores["background"] = self.background_LI
        return scores

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on with saved scores."""
        self.votes_LI, self.strength_LI = tensors.get("votes"), tensors.get("strength")
        self.background_LI = tensors.get("background")


def attribution_share(config: RoutingConfig, tokens_per_step: int) -> float:
    """Estimate the share of the training time that attribution will take.

    The figures are those of docs/routing.md for 12 layers.
    """
    if config.policy != "ig":
        return 0.0

    # Everything in tokens of full steps, per step.
    cost = FIXED_COST if config.context == "fixed" else EXACT_COST
    probe_tokens = PROBE_TOKENS * cost * config.points
    # The background has as many probes as the facts.
    num_probes = config.probe_facts * (2 if config.background_weight else 1)
    refresh = num_probes * probe_tokens / config.refresh_every
    return refresh / (refresh + ROUTED_STEP * tokens_per_step)


def whole_parameters(model: MaskedLm, config: RoutingConfig) -> dict[str, torch.nn.Parameter]:
    """Freeze everything but what is trained as a whole, and return that by name.

    With a router that is nothing, or what the switches name. The decoder is tied to the embeddings
    and frozen with them.
    """
    whole = {}
    for name, parameter in model.hf.named_parameters():
        is_trained = config.policy == "full" or _switched_on(model.family.kind(name), config)
        parameter.requires_grad_(is_trained)
        if is_trained:
            whole[name] = parameter
    return whole


def _switched_on(kind: str, config: RoutingConfig) -> bool:
    """Say whether the settings train parameters of this kind; FFN weights go through the router."""
    switches = {
        "norm": config.train_layer_norm,
        "embeddings": config.train_embeddings,
        "attention": config.train_attention,
        "out_bias": config.train_head,
        "head": config.train_head,
    }
    return switches.get(kind, False)

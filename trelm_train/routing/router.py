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

from schemas.array_types import I64
from trelm_train.config import RoutingConfig
from trelm_train.data.arrays import uniform
from trelm_train.data.loader import BatchStream, Position
from trelm_train.data.masking import Vocabulary
from trelm_train.errors import TrelmError
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.ranks import ALONE, Ranks
from trelm_train.routing.attribution import attribute, make_estimator
from trelm_train.routing.probes import Probe, chunks, upcoming_probes

# Legend: L layers, I inner size, E examples.

UNIT = 2.0**-30  # of summed attributions
PROBE_TOKENS = 35  # of a sentence with a mention, in the mean
FIXED_COST, EXACT_COST = 0.85, 3.4  # of a fact, in full steps of the same sentences
ROUTED_STEP = 0.65  # of a full step
MAX_ROUTING_SHARE = 0.05  # share of the training time that routing should not exceed


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Sums over examples as whole numbers: ranks add theirs in any order and get the same bits.

    `counts` holds the votes of every neuron, then its positive attributions in units of `UNIT`, then the examples.
    """

    counts: Tensor  # int64, 2 L I + 1

    def means(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        """Mean vote and mean positive attribution per example, as L x I each, and the number of examples."""
        size, num_examples = shape[0] * shape[1], int(self.counts[-1])
        sums = self.counts[:-1].double() / max(1, num_examples)
        return (
            sums[:size].view(shape).float(),
            (sums[size:] * UNIT).view(shape).float(),
            num_examples,
        )


def tally(attribution_ELI: Tensor, threshold: float) -> Tally:
    """What some examples say."""
    strength_LI = (attribution_ELI.double().clamp(min=0) / UNIT).round().long().sum(0)
    votes_LI = votes(attribution_ELI, threshold).long()
    return Tally(
        counts=torch.cat(
            [votes_LI.flatten(), strength_LI.flatten(), torch.tensor([len(attribution_ELI)])]
        )
    )


def votes(attribution_ELI: Tensor, threshold: float) -> Tensor:
    """How many examples keep each neuron: attribution positive and at least `threshold` of the example's largest."""
    largest_E = attribution_ELI.flatten(1).max(1).values.clamp(min=0)
    kept = (attribution_ELI >= threshold * largest_E[:, None, None]) & (attribution_ELI > 0)
    return kept.sum(0).float()


def top_neurons(
    scores_SLI: list[Tensor], count: int, *, first_layer: int, seed: int
) -> dict[int, Tensor]:
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

    def __init__(
        self, config: RoutingConfig, model: MaskedLm, vocabulary: Vocabulary, *, seed: int
    ) -> None:
        self.config, self.model, self.vocabulary, self.seed = config, model, vocabulary, seed
        self.first_layer = (
            max(0, model.num_layers - config.layer_budget) if config.layer_budget else 0
        )
        self.how = make_estimator(
            config.rule, config.points, precision=config.precision, context=config.context
        )
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

    def neurons(
        self, stream: BatchStream, position: Position, ranks: Ranks = ALONE
    ) -> dict[int, Tensor]:
        """Sorted neuron indices by layer, the same on every rank; `position` is that of the whole run.

        Raises:
            TrelmError: the policy needs mentions and the shards have none.
        """
        layers, inner, count = self.model.num_layers, self.model.inner_size, self.count
        first = self.first_layer * inner
        if self.config.policy == "ig":
            self.refresh(stream, position, ranks)
            assert self.votes_LI is not None
            assert self.strength_LI is not None
            return top_neurons(
                [self.votes_LI, self.strength_LI],
                count,
                first_layer=self.first_layer,
                seed=self.seed,
            )
        if self.config.policy == "random":
            draw = uniform(self.seed, "path", np.arange(first, layers * inner, dtype=np.int64))
            return by_layer(np.sort(np.argsort(draw, kind="stable")[:count]) + first, layers, inner)
        return by_layer(np.arange(layers * inner - count, layers * inner), layers, inner)

    def refresh(self, stream: BatchStream, position: Position, ranks: Ranks = ALONE) -> None:
        """Attribution over a probe set from the upcoming batches, smoothed into the votes."""
        probes = upcoming_probes(
            stream.iterate(position),
            self.vocabulary,
            seed=self.seed,
            limit=self.config.probe_facts,
            start=position,
        )
        if not probes:
            raise TrelmError(
                f"{stream.shards.path}: routing.policy = 'ig' needs linked mentions, and there are none; "
                "use --set routing.policy=random, or full"
            )
        counts = self.count_votes(probes, stream, ranks).counts.to(self.model.device)
        ranks.sum_tensors([counts])
        votes_LI, strength_LI, _ = Tally(counts=counts.cpu()).means(
            (self.model.num_layers, self.model.inner_size)
        )
        self.votes_LI = self._smooth(self.votes_LI, votes_LI)
        self.strength_LI = self._smooth(self.strength_LI, strength_LI)

    def count_votes(self, probes: list[Probe], stream: BatchStream, ranks: Ranks = ALONE) -> Tally:
        """This rank's share of the probes, counted: every `ranks.size`-th chunk."""
        counts = torch.zeros(
            2 * self.model.num_layers * self.model.inner_size + 1, dtype=torch.int64
        )
        for number, (batch, targets) in enumerate(
            chunks(probes, stream.packing, self.vocabulary.pad_id)
        ):
            if number % ranks.size == ranks.rank:
                attribution_ELI = attribute(
                    self.model, self.model.pack(batch), targets, self.how, self.first_layer
                )
                counts += tally(attribution_ELI, self.config.threshold).counts
        return Tally(counts=counts)

    def _smooth(self, old: Tensor | None, new: Tensor) -> Tensor:
        return (
            new if old is None else self.config.smoothing * old + (1 - self.config.smoothing) * new
        )

    def state(self) -> dict[str, Tensor]:
        """The smoothed scores."""
        if self.votes_LI is None or self.strength_LI is None:
            return {}
        return {"votes": self.votes_LI, "strength": self.strength_LI}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up saved scores."""
        self.votes_LI, self.strength_LI = tensors.get("votes"), tensors.get("strength")


def attribution_share(config: RoutingConfig, tokens_per_step: int) -> float:
    """About what share of the training time attribution will take, by the figures of docs/routing.md for 12 layers."""
    if config.policy != "ig":
        return 0.0
    a_fact = (
        PROBE_TOKENS * (FIXED_COST if config.context == "fixed" else EXACT_COST) * config.points
    )
    refresh = config.probe_facts * a_fact / config.refresh_every
    return refresh / (refresh + ROUTED_STEP * tokens_per_step)


def whole_parameters(model: MaskedLm, config: RoutingConfig) -> dict[str, torch.nn.Parameter]:
    """Freeze everything but what is trained as a whole, and return that by name.

    With a router: nothing, or what the switches name. The decoder is tied to the embeddings and frozen with them.
    """
    chosen = {}
    for name, parameter in model.hf.named_parameters():
        trained = config.policy == "full" or _switched_on(model.family.kind(name), config)
        parameter.requires_grad_(trained)
        if trained:
            chosen[name] = parameter
    return chosen


def _switched_on(kind: str, config: RoutingConfig) -> bool:
    switches = {
        "norm": config.train_layer_norm,
        "embeddings": config.train_embeddings,
        "attention": config.train_attention,
        "out_bias": config.train_head,
        "head": config.train_head,
    }
    return switches.get(kind, False)

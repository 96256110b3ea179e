"""Time and compare ways to attribute, for `benchmarks.routing`: ours, captum's, the published
procedure.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.routing_data import (
    Work,
    generated_probes,
    kit_facts,
    probe_chunks,
    random_bert,
    trained_model,
)
from benchmarks.routing_step import full
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.routing.attribution import (
    Cut,
    Estimator,
    Targets,
    Walk,
    attribute,
    evaluating,
    make_estimator,
)
from trelm_train.routing.probes import Probe

REFERENCE = ("midpoint", 20)
METHODS: dict[str, tuple[str, int, str, str]] = {  # rule, points, precision, context
    "midpoint 1, fixed context": ("midpoint", 1, "float32", "fixed"),
    "gauss_legendre 2, fixed context": ("gauss_legendre", 2, "float32", "fixed"),
    "midpoint 1": ("midpoint", 1, "float32", "exact"),
    "midpoint 2": ("midpoint", 2, "float32", "exact"),
    "gauss_legendre 2": ("gauss_legendre", 2, "float32", "exact"),
    "left 20 (published)": ("left", 20, "float32", "exact"),
    "midpoint 1, bfloat16": ("midpoint", 1, "bfloat16", "exact"),
    "midpoint 1, fixed context, bfloat16": ("midpoint", 1, "bfloat16", "fixed"),
    "midpoint 20, fixed context": ("midpoint", 20, "float32", "fixed"),
}


def cost(  # noqa: PLR0913
    out: Path,  # noqa: ARG001 -- the harness gives it
    kind: str,
    shape: str,
    facts: int,
    points: int = 1,
    precision: str = "float32",
    context: str = "exact",
    first_layer: int = 0,
) -> dict[str, Any]:
    """Seconds per fact. `kind`: step (a full training step of the same sentences), ours, published
    or captum.
    """
    torch.set_num_threads(1)
    model = random_bert(shape, 0.0)
    model.hf.eval()
    probes = generated_probes(facts)
    run = {
        "step": lambda: _steps(model, probes, precision),
        "ours": lambda: _ours(
            model,
            probes,
            make_estimator("midpoint", points, precision=precision, context=context),
            first_layer,
        ),
        "published": lambda: _each(model, probes, published),
        "captum": lambda: _each(model, probes, captum),
    }[kind]
    timed = run()  # a warm-up, and what is timed
    start, cpu_start = time.perf_counter(), time.process_time()
    timed()
    return {
        "seconds": (time.perf_counter() - start) / facts,
        "cpu_seconds": (time.process_time() - cpu_start) / facts,
        "tokens": sum(len(probe.input_ids) for probe in probes),
    }


def _steps(model: MaskedLm, probes: list[Probe], precision: str) -> Callable[[], None]:
    """Full training steps over the probes' sentences, at 15 % of the tokens as targets."""
    takes = []
    for packed, _ in probe_chunks(model, probes):
        size = packed.input_ids_RS.numel()
        at = torch.arange(0, size, 7)
        gold = packed.input_ids_RS.flatten()[at]
        work = Work(packed=packed, target=at, gold=gold, num_tokens=size)
        takes.append(full(model, work, precision, {}))
    takes[0]()

    def run() -> None:
        for take in takes:
            take()

    return run


def _ours(
    model: MaskedLm, probes: list[Probe], how: Estimator, first_layer: int
) -> Callable[[], None]:
    made = probe_chunks(model, probes)
    attribute(model, *made[-1], how, first_layer)

    def run() -> None:
        for packed, targets in made:
            attribute(model, packed, targets, how, first_layer)

    return run


def _each(
    model: MaskedLm, probes: list[Probe], one: Callable[[MaskedLm, Any, Targets], Tensor]
) -> Callable[[], None]:
    made = [probe_chunks(model, [probe])[0] for probe in probes]
    one(model, *made[0])

    def run() -> None:
        for packed, targets in made:
            one(model, packed, targets)

    return run


def published(model: MaskedLm, packed: Any, targets: Targets) -> Tensor:  # noqa: ANN401
    """Per layer, one batch of 20 copies of the sentence, i / 20 of the neurons at the mask in copy
    i; as L x I.

    Kinder than the published code in one point: the vocabulary head runs on the masked rows only.
    """
    copies, layers = 20, []
    at = torch.from_numpy(targets.position_T)
    gold = torch.from_numpy(targets.gold_T)
    many = type(packed)(
        input_ids_RS=packed.input_ids_RS.expand(copies, -1),
        position_ids_RS=packed.position_ids_RS.expand(copies, -1),
        mask_R1SS=packed.mask_R1SS.expand(copies, -1, -1, -1),
    )
    alpha = torch.arange(copies)[:, None, None] / copies
    with evaluating(model, "float32"):
        for layer in range(model.num_layers):
            kept: list[Tensor] = []

            def scale(
                _module: object, inputs: tuple[Tensor], kept: list[Tensor] = kept
            ) -> tuple[Tensor]:
                neurons = inputs[0][0, at].detach()
                scaled = (alpha * neurons).requires_grad_()
                kept.extend((neurons, scaled))
                return (inputs[0].index_copy(1, at, scaled),)

            handle = model.family.ffn(layer).w_out.register_forward_pre_hook(scale)
            try:
                hidden = model.encode(many)[:, at]
                log_p = torch.log_softmax(model.logits(hidden), -1).gather(
                    2, gold.expand(copies, -1)[..., None]
                )
                gradient = torch.autograd.grad(log_p.sum((1, 2)).exp().sum(), kept[1])[0]
            finally:
                handle.remove()
            layers.append((kept[0] * gradient.mean(0)).sum(0))
    return torch.stack(layers)


def captum(model: MaskedLm, packed: Any, targets: Targets) -> Tensor:  # noqa: ANN401
    """Captum's integrated gradients, 20 midpoints, each layer's neurons at the mask from zero; as L
    x I.
    """
    from captum.attr import IntegratedGradients

    layers = []
    with evaluating(model, "float32"):
        walk = Walk(model, packed, targets)
        for cut in walk.cuts():

            def f(many: Tensor, cut: Cut = cut) -> Tensor:
                return torch.cat(
                    [walk.probabilities(cut, v.view(cut.neurons_TI.shape)) for v in many]
                )

            found = IntegratedGradients(f).attribute(
                cut.neurons_TI.reshape(1, -1),
                n_steps=20,
                method="riemann_middle",
                internal_batch_size=1,
            )
            layers.append(found.view(cut.neurons_TI.shape).sum(0).float())
    return torch.stack(layers)


def fidelity(out: Path, model: str, facts: int) -> dict[str, Any]:  # noqa: ARG001
    """Compare each method with the 20-step integral on a trained model.

    Returns overlaps, completeness, the noise of sampling, and the difference from captum, which is
    None where captum is not installed.
    """
    torch.set_num_threads(1)
    has_captum = importlib.util.find_spec("captum") is not None
    loaded, tokenizer = trained_model(model)
    made = probe_chunks(loaded, kit_facts(tokenizer, facts))
    exact = attributions(loaded, made, make_estimator(*REFERENCE))
    table = {}
    for name, (rule, points, precision, context) in METHODS.items():
        found = attributions(
            loaded, made, make_estimator(rule, points, precision=precision, context=context)
        )
        table[name] = {
            "top_1": overlap(found.sum(0), exact.sum(0), 0.01),
            "top_10": overlap(found.sum(0), exact.sum(0), 0.1),
            "per_fact_top_10": float(
                np.mean(
                    [overlap(left, right, 0.1) for left, right in zip(found, exact, strict=True)]
                )
            ),
        }
    half = len(exact) // 2
    return {
        "shape": [loaded.num_layers, loaded.hidden_size],
        "mean_p": float(probabilities(loaded, made).mean()),
        "table": table,
        "sampling_top_10": overlap(exact[:half].sum(0), exact[half:].sum(0), 0.1),
        "completeness_worst": float(incompleteness(loaded, made, exact).max()),
        "captum_largest_difference": captum_difference(loaded, made) if has_captum else None,
    }


def attributions(model: MaskedLm, made: list[tuple[Any, Targets]], how: Estimator) -> Tensor:
    """All facts' attributions, as E x L x I."""
    return torch.cat([attribute(model, *chunk, how) for chunk in made])


def overlap(left: Tensor, right: Tensor, share: float) -> float:
    """Share of the best neurons (positive attribution, summed over facts) that both have."""
    count = round(left.numel() * share)
    best = [set(scores.flatten().topk(count).indices.tolist()) for scores in (left, right)]
    return len(best[0] & best[1]) / count


def probabilities(model: MaskedLm, made: list[tuple[Any, Targets]]) -> Tensor:
    """P of each fact."""
    found = []
    for packed, targets in made:
        with evaluating(model, "float32"), torch.no_grad():
            walk = Walk(model, packed, targets)
            cut = next(iter(walk.cuts(model.num_layers - 1)))
            found.append(walk.probabilities(cut, cut.neurons_TI))
    return torch.cat(found)


def incompleteness(model: MaskedLm, made: list[tuple[Any, Targets]], exact: Tensor) -> Tensor:
    """|sum Attr - (P(v) - P(0))| over max(|P(v) - P(0)|, .01), as E x L."""
    done, rows = 0, []
    for packed, targets in made:
        attributed = exact[done : done + targets.num_examples]
        done += targets.num_examples
        with evaluating(model, "float32"), torch.no_grad():
            walk = Walk(model, packed, targets)
            layers = []
            for cut in walk.cuts():
                nothing = torch.zeros_like(cut.neurons_TI)
                gain = walk.probabilities(cut, cut.neurons_TI) - walk.probabilities(cut, nothing)
                missing = (attributed[:, cut.layer].sum(-1) - gain).abs()
                layers.append(missing / gain.abs().clamp(min=0.01))
        rows.append(torch.stack(layers, 1))
    return torch.cat(rows)


def captum_difference(model: MaskedLm, made: list[tuple[Any, Targets]]) -> float:
    """Largest difference from captum's integral with the same 20 midpoints, over the largest
    attribution; 4 facts.
    """
    packed, targets = made[0]
    worst = 0.0
    for example in range(min(4, targets.num_examples)):
        rows = np.flatnonzero(targets.example_T == example)
        one = Targets(
            position_T=targets.position_T[rows],
            example_T=np.zeros(len(rows), np.int64),
            gold_T=targets.gold_T[rows],
            num_examples=1,
        )
        ours = attribute(model, packed, one, make_estimator(*REFERENCE))[0]
        worst = max(
            worst, float((captum(model, packed, one) - ours).abs().max() / ours.abs().max())
        )
    return worst

"""Report a finished run: `summary.json`, its readable form, and the knowledge path."""

from __future__ import annotations

from typing import Any

import torch

from trelm_train.checkpoints.checkpoint import CHECKPOINTS, list_checkpoints
from trelm_train.checkpoints.export import INITIAL
from trelm_train.config import ASK_MENTIONS, Config
from trelm_train.reporting.metrics import peak_rss_mb
from trelm_train.training.session import Session

# Timers that count as training.
TRAINING = ("data", "injection", "forward_backward", "optimiser", "memory", "attribution")


def describe(session: Session) -> str:
    """Describe what is about to be trained, in one line."""
    config, components = session.request.config, session.components
    rows = 0 if components.bank is None else len(components.bank.count_B)
    contrast = config.cka.form if config.cka.enabled else "off"
    injection = config.injection.policy if components.injector is not None else "none"

    return (
        f"{session.shards.num_sentences:,} sentences, {len(session.knowledge):,} knowledge rows; "
        f"asked {'mentions' if config.facts.ask == ASK_MENTIONS else 'facts'} "
        f"{config.facts.policy if config.facts.enabled else 'none'}, "
        f"injection {injection}, {rows:,} memory rows, CKA {contrast}, "
        f"routing {_routing_of(config)}, learning rate {config.train.learning_rate:g}; "
        f"{config.train.steps:,} steps on {components.model.device.type}"
    )


def _routing_of(config: Config) -> str:
    """Name the routing policy, and the layers it is limited to."""
    budget = config.routing.layer_budget
    is_limited = budget and config.routing.policy != "full"
    return config.routing.policy + (f" in the upper {budget} layers" if is_limited else "")


def knowledge_path_of(session: Session) -> dict[str, Any]:
    """Return the knowledge path: which neurons of each layer are trained."""
    sparse = session.components.sparse
    rows = {} if sparse is None else sparse.rows
    model = session.components.model

    return {
        "policy": session.request.config.routing.policy,
        "step": session.history.get("routed_at"),
        "inner_size": model.inner_size,
        "layers": [
            rows[layer].index_K.tolist() if layer in rows else []
            for layer in range(model.num_layers)
        ],
    }


@torch.no_grad()
def changed_share(session: Session) -> float:
    """Return the share of the model's weights that differ from the initial ones."""
    from safetensors import safe_open

    changed = total = 0
    path = session.request.folder / INITIAL / "model.safetensors"
    with safe_open(path, framework="pt") as initial:
        # Tied weights are saved under one name only.
        saved = set(initial.keys())
        for name, parameter in session.components.model.hf.named_parameters():
            total += parameter.numel()
            if name in saved:
                changed += int((initial.get_tensor(name) != parameter.cpu()).sum())

    return changed / total


def summarise(session: Session, validation_after: dict[str, Any] | None) -> dict[str, Any]:
    """Return the figures of a run; seconds are wall-clock, by component."""
    seconds = session.components.timers.seconds
    # Evaluation and checkpoints are left out, so that speed means the speed of training.
    training = sum(seconds.get(name, 0.0) for name in TRAINING)
    # Means of the first and of the latest logged interval.
    start, end = session.history.get("first", {}), session.history.get("last", {})
    components, history = session.components, session.history
    bank = components.bank
    latest = list_checkpoints(session.request.folder / CHECKPOINTS)[-1]

    return {
        "steps": session.step,
        "epochs": session.position.epoch,
        "tokens": session.tokens,
        "loss_first": start.get("loss"),
        "loss_last": end.get("loss"),
        "mlm_loss_first": start.get("mlm_loss"),
        "mlm_loss_last": end.get("mlm_loss"),
        "fact_loss_first": start.get("fact_loss"),
        "fact_loss_last": end.get("fact_loss"),
        "cka_loss_first": start.get("cka_loss"),
        "cka_loss_last": end.get("cka_loss"),
        "injected_per_step_last": end.get("injected"),
        "facts_per_step_last": end.get("facts"),
        "validation_before": history.get("validation_before"),
        "validation_after": validation_after,
        "best": history.get("best"),
        "skipped_steps": history.get("skipped_steps", 0),
        "num_weights": sum(parameter.numel() for parameter in components.model.hf.parameters()),
        "trained_per_step_share": components.trained_share,
        "weights_updated_share": changed_share(session),
        "tokens_per_s": session.tokens / training if training else 0.0,
        "training_s": training,
        "seconds": {name: round(value, 4) for name, value in sorted(seconds.items())},
        "attribution_share": seconds.get("attribution", 0.0) / training if training else 0.0,
        "memory_share": seconds.get("memory", 0.0) / training if training else 0.0,
        "peak_rss_mb": peak_rss_mb(),
        "bank_rows_written": 0 if bank is None else int((bank.count_B > 0).sum()),
        "model": session.request.place_of("model"),
        "checkpoint": session.request.place_of(f"{CHECKPOINTS}/{latest.name}"),
    }


def readable(summary: dict[str, Any]) -> str:
    """Return the summary as a few lines of text."""
    lines = [
        f"{summary['steps']} steps, {summary['tokens']:,} tokens, "
        f"{summary['tokens_per_s']:,.0f} tokens/s",
        f"training loss        {_change(summary['loss_first'], summary['loss_last'])}",
    ]
    if summary["fact_loss_last"]:
        change = _change(summary["fact_loss_first"], summary["fact_loss_last"])
        lines.append(f"  of asked facts     {change}")

    # Both are missing with `train.validate = false`.
    old, new = summary["validation_before"], summary["validation_after"]
    if old and new:
        lines += [
            f"validation MLM loss  {_change(old['loss'], new['loss'])}  "
            f"({new['num_masked']} tokens)",
            f"  on entities        {_change(old['entity_loss'], new['entity_loss'])}",
            f"knowledge score      {_change(old['cka_score'], new['cka_score'])}",
        ]

    lines += [
        f"weights updated      {summary['weights_updated_share']:.1%}",
        f"seconds              {summary['training_s']:.1f} "
        f"(attribution {summary['attribution_share']:.1%}, memory {summary['memory_share']:.1%}), "
        f"peak memory {summary['peak_rss_mb']:,.0f} MB",
        f"model                {summary['model']}",
    ]
    return "\n".join(lines)


def _change(old: float | None, new: float | None) -> str:
    return f"{_number(old)} -> {_number(new)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"

"""Configuration: one frozen dataclass per component, read from one TOML file, changed by `--set section.key=value`.

Unknown keys are errors that name the nearest known one (`schemas.settings`). The resolved copy lies beside every output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from schemas.settings import build, key, load_toml, with_overrides
from schemas.shards import POLICIES

ROUTING_POLICIES = ("ig", "random", "top_layers", "ffn_all", "full")
STORAGES = ("auto", "ram", "file", "device")
RULES = ("midpoint", "gauss_legendre", "left")
LOGGERS = ("tensorboard", "wandb", "mlflow")
OPERATIONAL = {
    "train.keep_checkpoints", "train.async_checkpoint", "train.loggers", "train.profile", "train.checkpoint_every",
    "train.log_every", "train.validate", "train.check_plan", "memory.storage", "memory.ram_share", "memory.folder",
    "evaluation",
}  # fmt: skip
# These may differ when a run is resumed: they change nothing that is learned. A section's name stands for all of it.


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The loop: how long, how fast, how often to save."""

    steps: int = key(1000, "optimiser steps")
    seed: int = key(0, "of order, masks, sampling and dropout")
    learning_rate: float = key(1e-4, "peak, after the warm-up")
    weight_decay: float = key(0.01, "not on biases and LayerNorm")
    warmup_share: float = key(0.06, "of all steps, from 0 up to the peak")
    schedule: str = key("linear", "from the peak down: linear, cosine, or constant")
    final_rate_share: float = key(0.0, "of the peak, where linear and cosine end")
    clip_norm: float = key(1.0, "largest norm of the whole gradient")
    skip_sigma: float = key(
        6.0,
        "deviations above the mean of earlier steps from which a step is skipped; 0: only if not finite",
    )
    batch_tokens: int = key(4096, "padded tokens of a batch: what memory must hold at once")
    micro_batches: int = key(1, "batches per optimiser step, over all ranks together")
    max_tokens: int = key(128, "width of a packed row; a longer sentence gets a row of its own")
    layout: str = key(
        "packed",
        "of a batch: packed rows, or buckets of rows with one sentence each, of similar length",
    )
    precision: str = key(
        "auto",
        "of matrix products: float32, bfloat16, or auto (bfloat16 where the processor or GPU multiplies it)",
    )
    dropout: float = key(
        -1.0, "of hidden states and attention; -1: as the model's own configuration says"
    )
    attention: str = key(
        "sdpa", "sdpa: block-diagonal mask; varlen: no mask, lengths instead (CUDA)"
    )
    compile: bool = key(False, "torch.compile of the encoder; gains on GPUs, nothing on processors")
    deterministic: bool = key(
        False, "only algorithms that give the same bits every time (GPUs are slower by it)"
    )
    checkpoint_every: int = key(500, "steps")
    keep_checkpoints: int = key(2, "so many of the newest, and the best one")
    async_checkpoint: bool = key(False, "write checkpoints in a thread while training goes on")
    log_every: int = key(10, "steps")
    loggers: tuple[str, ...] = key(
        ("tensorboard",), "beside metrics.jsonl: tensorboard, wandb, mlflow"
    )
    profile: str = key(
        "", "FIRST:LAST step to profile, written for a trace viewer to profile/; empty: none"
    )
    validate: bool = key(True, "evaluate before and after too")
    check_plan: bool = key(
        True, "refuse to start where memory or disk will not do (trelm-train inspect plan)"
    )
    device: str = key("auto", "auto, cpu or cuda")
    threads: int = key(0, "0: as torch decides")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What is measured while training goes on, each time the same questions."""

    every: int = key(0, "steps between evaluations; 0: none but those before and after")
    sentences: int = key(
        4096, "of the validation split, the first so many; bounds what an evaluation costs"
    )
    best: str = key(
        "",
        "measure whose best checkpoint is kept: loss, entity_loss, accuracy, cka_score, lama_p_at_1, …",
    )
    lama_probes: str = key("", "folder with P….jsonl; empty: no LAMA")
    lama_relations: str = key("", "relations.jsonl of the probes")
    lama_common_vocab: str = key("", "one word per line; empty: the whole vocabulary")
    lama_limit: int = key(50, "items per relation; 0: all")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig:
    """Masked-language-model targets: whole words, entities wholly or not at all."""

    probability: float = key(0.15, "share of the units (words, mentions) that are targets")
    mask_share: float = key(0.8, "of the targets: replaced by the mask token")
    random_share: float = key(0.1, "of the targets: replaced by a random token; the rest stays")


@dataclass(frozen=True, kw_only=True, slots=True)
class InjectionConfig:
    """Knowledge injection into the input embeddings of chosen mentions."""

    enabled: bool = key(True, "switch of the component")
    policy: str = key(
        "long-tail-important",
        "which mentions: none, all, high-frequency, low-frequency, importance, long-tail-important or klt",
    )
    strength: float = key(0.5, "lambda: share of the injected vector in the input embedding")
    triple_share: float = key(
        0.5, "alpha: share of the triple's vector, the rest comes from the memory bank"
    )
    masked_probability: float = key(0.5, "a span that is being predicted is injected this often")
    dropout: float = key(
        0.15, "sentences without any injection, as at fine-tuning and probing time"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """The memory bank of contextual notes."""

    enabled: bool = key(True, "switch of the component")
    decay: float = key(0.1, "gamma: weight of a new local note")
    window: int = key(8, "k tokens on either side of the mention")
    global_share: float = key(0.5, "beta: weight of the global note, the rest is the local one")
    storage: str = key(
        "auto",
        "of the notes: ram, file (sparse, in the run's folder), device, or auto: ram or file by size",
    )
    ram_share: float = key(
        0.25, "auto: a file when the notes of all rows exceed this share of main memory"
    )
    folder: str = key("", "of the file; empty: the run's folder")


@dataclass(frozen=True, kw_only=True, slots=True)
class CkaConfig:
    """Contrastive knowledge assessing."""

    enabled: bool = key(True, "switch of the component")
    mlm_share: float = key(0.5, "lambda_1: weight of the masked-LM loss, the rest is this one")
    temperature: float = key(0.07, "tau of InfoNCE")
    negatives: int = key(64, "false tails per fact")
    contrast: str = key("tail", 'or "relation": the same pair with wrong relations')
    fact_share: float = key(0.5, "sentences with facts that serve in a step; their tail is masked")


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingConfig:
    """Dynamic knowledge routing: which neurons are trained."""

    policy: str = key("ig", "ig, random, top_layers, ffn_all, or full (no routing)")
    share: float = key(0.10, "rho: of all FFN neurons")
    layer_budget: int = key(0, "only the topmost so many layers; 0: all")
    refresh_every: int = key(200, "steps")
    probe_facts: int = key(256, "examples per refresh")
    points: int = key(1, "evaluations per layer")
    rule: str = key("midpoint", "midpoint, gauss_legendre or left")
    context: str = key(
        "fixed",
        "other tokens' states while a neuron is scaled: fixed, or exact (several times dearer)",
    )
    precision: str = key(
        "float32", "of attribution's layers: float32 or bfloat16; the probability is always float32"
    )
    threshold: float = key(0.2, "of the largest attribution of an example")
    smoothing: float = key(0.9, "of the votes from refresh to refresh")
    learning_rate_scale: float = key(5.0, "small sets want more")
    train_attention: bool = key(False, "train it as a whole too")
    train_embeddings: bool = key(False, "and with them the tied decoder")
    train_layer_norm: bool = key(False, "train them as a whole too")
    train_head: bool = key(False, "the prediction head and the output biases")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything that decides a run, besides its paths."""

    train: TrainConfig = field(default_factory=TrainConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    injection: InjectionConfig = field(default_factory=InjectionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    cka: CkaConfig = field(default_factory=CkaConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def load_config(path: Path | None, sets: Sequence[str] = ()) -> Config:
    """Read a TOML file (none: the defaults), then apply `section.key=value` settings.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type or value out of range.
    """
    raw = load_toml(str(path)) if path is not None else {}
    where = str(path) if path is not None else "settings"
    config = build(Config, with_overrides(raw, sets), where)
    check(config)
    return config


_SHARES = (
    "train.warmup_share", "train.final_rate_share", "masking.probability", "masking.mask_share", "masking.random_share",
    "injection.strength",
    "injection.triple_share", "injection.masked_probability", "injection.dropout", "memory.decay", "memory.global_share",
    "memory.ram_share", "cka.mlm_share", "cka.fact_share", "routing.share", "routing.threshold", "routing.smoothing",
)  # fmt: skip
_POSITIVE = (
    "train.steps", "train.learning_rate", "train.clip_norm", "train.batch_tokens", "train.max_tokens",
    "train.micro_batches", "train.checkpoint_every", "train.keep_checkpoints", "train.log_every", "cka.temperature",
    "cka.negatives",
    "routing.refresh_every", "routing.probe_facts", "routing.points", "routing.learning_rate_scale", "routing.share",
)  # fmt: skip
_NOT_NEGATIVE = (
    "train.seed", "train.weight_decay", "train.threads", "train.skip_sigma", "memory.window", "routing.layer_budget",
    "evaluation.every", "evaluation.lama_limit",
)  # fmt: skip
_CHOICES = {
    "train.device": ("auto", "cpu", "cuda"),
    "train.schedule": ("linear", "cosine", "constant"),
    "train.layout": ("packed", "buckets"),
    "train.precision": ("auto", "float32", "bfloat16"),
    "train.attention": ("sdpa", "varlen"),
    "injection.policy": ("none", *POLICIES),
    "memory.storage": STORAGES,
    "cka.contrast": ("tail", "relation"),
    "routing.policy": ROUTING_POLICIES,
    "routing.rule": RULES,
    "routing.context": ("fixed", "exact"),
    "routing.precision": ("float32", "bfloat16"),
}


def check(config: Config) -> None:
    """Refuse values that make no sense, before any work.

    Raises:
        ConfigError: names the key, its value and what is allowed.
    """
    for names, is_right, wanted in (
        ((*_SHARES, *_POSITIVE, *_NOT_NEGATIVE), math.isfinite, "be a finite number"),
        (_SHARES, lambda value: 0 <= value <= 1, "lie between 0 and 1"),
        (_POSITIVE, lambda value: value > 0, "be greater than 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "not be negative"),
    ):
        for name in names:
            if not is_right(value_of(config, name)):
                raise ConfigError(f"{name} = {value_of(config, name)!r} must {wanted}")
    for name, choices in _CHOICES.items():
        if value_of(config, name) not in choices:
            raise ConfigError(
                f"{name} = {value_of(config, name)!r} must be one of {', '.join(choices)}"
            )
    if config.masking.mask_share + config.masking.random_share > 1:
        raise ConfigError("masking.mask_share + masking.random_share must not exceed 1")
    _check_train(config.train)
    _check_evaluation(config.evaluation)


def _check_train(train: TrainConfig) -> None:
    if train.dropout != -1.0 and not 0 <= train.dropout < 1:
        raise ConfigError(
            f"train.dropout = {train.dropout!r} must be -1 (the model's own), or lie from 0 to below 1"
        )
    for name in train.loggers:
        if name not in LOGGERS:
            raise ConfigError(f"train.loggers names {name!r}; known are {', '.join(LOGGERS)}")
    if train.profile:
        profiled_steps(train.profile)


def _check_evaluation(evaluation: EvaluationConfig) -> None:
    if evaluation.sentences < 1:
        raise ConfigError(f"evaluation.sentences = {evaluation.sentences!r} must be greater than 0")
    if bool(evaluation.lama_probes) != bool(evaluation.lama_relations):
        raise ConfigError(
            "evaluation.lama_probes and evaluation.lama_relations are given together, or not at all"
        )
    if evaluation.best and not evaluation.every:
        raise ConfigError(
            "evaluation.best needs evaluation.every: without evaluations no checkpoint is the best"
        )


def profiled_steps(text: str) -> tuple[int, int]:
    """First and last step of `FIRST:LAST`, counted from 1.

    Raises:
        ConfigError: not two such numbers.
    """
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ConfigError(f"train.profile = {text!r} must be FIRST:LAST, for example 11:15")
    return int(first), int(last)


def value_of(config: Config, name: str) -> Any:  # noqa: ANN401
    """The value of `section.key`."""
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)

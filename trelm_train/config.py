"""Declare the settings of training: one frozen dataclass per component, read from one TOML file.

`--set section.key=value` changes a setting. Unknown keys are errors that name the nearest known one
(`schemas.settings`). The resolved copy lies beside every output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from schemas.settings import build, key, load_toml, with_overrides
from schemas.shards import POLICIES

AUTO = "auto"
ROUTING_POLICIES = (AUTO, "ig", "random", "top_layers", "ffn_all", "full")
# Where attribution asks: at any linked mention, or at the hidden tails of facts alone.
PROBE_PLACES = ("mention", "tail")
# A layer budget that follows the depth of the model.
UPPER_HALF = -1
# From this depth on the FFN of the upper half alone learns more facts in the same time than all
# weights do, and forgets less, and contrast through the head teaches more facts (docs/evidence.md); in
# 2 layers the first learns next to none, and the second adds nothing.
DEEP = 6
# Goes up when the same settings, shards and seed train another model: then runs of a comparison that
# an older program made are made again. 2: tokens that read the same count as one where a hidden tail
# is looked for. 3: contrast through the head is on from 6 layers on.
TRAINING_VERSION = 3
# Measured at hidden size 384, where 1e-3 was the best of three rates for all weights. Wider models
# get lower rates; narrower ones no more than MAX_RATE, the best of three at 128.
RATE_AT, RATE, MAX_RATE = 384, 1e-3, 2e-3
FFN_SCALE, ROWS_SCALE = 2.0, 10.0
# A fact policy beside the bits of POLICIES: facts whose head no policy marks are asked too.
ALL_FACTS = "all"
# Where injection changes a mention: in the word embeddings, or in what enters the first layer.
AT_WORDS, AT_STATES = "words", "states"
# What is asked: the tails of facts that sentences state, or any linked mention.
ASK_TAILS, ASK_MENTIONS = "tails", "mentions"
CONTRAST_FORMS = ("head", "projection", "decoder")
STORAGES = ("auto", "ram", "file", "device")
RULES = ("midpoint", "gauss_legendre", "left")
LOGGERS = ("tensorboard", "wandb", "mlflow")
# These may differ when a run is resumed, because they change nothing that is learned. A section's
# name stands for all its settings.
OPERATIONAL = {
    "train.keep_checkpoints",
    "train.async_checkpoint",
    "train.loggers",
    "train.profile",
    "train.checkpoint_every",
    "train.log_every",
    "train.validate",
    "train.check_plan",
    "memory.storage",
    "memory.ram_share",
    "memory.folder",
    "evaluation",
    "card",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Configure the loop: how long, how fast, how often to save."""

    steps: int = key(1000, "Number of optimiser steps in the whole run")
    seed: int = key(0, "Seed of order, masks, sampling and dropout")
    learning_rate: float = key(
        0.0,
        "Peak learning rate, reached after the warm-up; 0 chooses it by the model's hidden size",
    )
    embedding_rate_scale: float = key(
        1.0,
        "Factor on the learning rate of the embeddings, and so of the tied decoder",
    )
    head_rate_scale: float = key(1.0, "Factor on the learning rate of the prediction head")
    weight_decay: float = key(
        0.01,
        "Weight decay of all trained weights except biases and LayerNorm",
    )
    warmup_share: float = key(0.06, "Share of all steps in which the rate rises from 0 to its peak")
    schedule: str = key("linear", "Course of the rate after its peak: linear, cosine or constant")
    final_rate_share: float = key(
        0.0,
        "Share of the peak rate at which the courses linear and cosine end",
    )
    clip_norm: float = key(
        1.0,
        "Norm of the whole gradient above which the gradient is scaled down to it",
    )
    skip_sigma: float = key(
        6.0,
        "Number of standard deviations above the mean of earlier steps, of a loss or of the gradient "
        "norm, from which a step is skipped; 0 skips only steps that are not finite",
    )
    batch_tokens: int = key(4096, "Padded tokens of a batch, which memory must hold at once")
    micro_batches: int = key(1, "Number of batches per optimiser step, over all ranks together")
    max_tokens: int = key(
        128,
        "Width of a packed row in tokens; a longer sentence gets a row to itself",
    )
    layout: str = key(
        "packed",
        "Layout of a batch: packed rows, or buckets of rows with one sentence each, of similar "
        "length",
    )
    precision: str = key(
        "auto",
        "Number format of matrix products: float32, bfloat16, or auto (bfloat16 where the "
        "processor or GPU multiplies it)",
    )
    dropout: float = key(
        -1.0,
        "Dropout of hidden states and attention; -1 takes what the model's own configuration says",
    )
    attention: str = key(
        "sdpa",
        "Way in which attention is computed: sdpa uses a block-diagonal mask, varlen the sentences' lengths "
        "instead (CUDA)",
    )
    compile: bool = key(
        False,
        "Compile the encoder with torch.compile, which gains time on GPUs and none on processors",
    )
    deterministic: bool = key(
        False,
        "Use only algorithms that give the same bits every time, which makes GPUs slower",
    )
    checkpoint_every: int = key(500, "Steps from one checkpoint to the next")
    keep_checkpoints: int = key(
        2,
        "Number of newest checkpoints that are kept, beside the best one",
    )
    async_checkpoint: bool = key(False, "Write checkpoints in a thread while training goes on")
    log_every: int = key(10, "Steps from one line of metrics to the next")
    loggers: tuple[str, ...] = key(
        ("tensorboard",),
        "Names of loggers beside metrics.jsonl: tensorboard, wandb, mlflow",
    )
    profile: str = key(
        "",
        "Steps to profile, FIRST:LAST, written for a trace viewer to profile/; empty profiles none",
    )
    validate: bool = key(True, "Evaluate before the first step and after the last one")
    check_plan: bool = key(
        True,
        "Refuse to start where memory or disk will not suffice (see `trelm-train inspect plan`)",
    )
    device: str = key("auto", "Device that computes: auto, cpu or cuda")
    threads: int = key(0, "Number of torch threads; 0 leaves the choice to torch")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Configure what is measured while training goes on; every time the same questions are asked."""

    every: int = key(
        0,
        "Steps from one evaluation to the next; 0 evaluates only before and after the run",
    )
    sentences: int = key(
        4096,
        "Number of sentences evaluated, the first of the validation split, which bounds what an "
        "evaluation costs",
    )
    best: str = key(
        "",
        "Measure whose best checkpoint is kept: loss, entity_loss, accuracy, cka_score, "
        "lama_p_at_1, …",
    )
    lama_probes: str = key("", "Folder with probes, P….jsonl; empty asks no LAMA probes")
    lama_relations: str = key(
        "",
        "Path of the probes' relations.jsonl, with a template per relation",
    )
    lama_common_vocab: str = key(
        "",
        "Path of a word list over which answers are ranked; empty ranks the whole vocabulary",
    )
    lama_limit: int = key(50, "Number of items per relation; 0 asks all")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig:
    """Configure the targets of the masked LM: whole words, and entities as a whole or not at all."""

    probability: float = key(0.15, "Share of the units (words and mentions) that are targets")
    mask_share: float = key(0.8, "Share of the targets that the mask token replaces")
    random_share: float = key(
        0.1,
        "Share of the targets that a random token replaces; the remaining targets stay as they are",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class InjectionConfig:
    """Configure the injection of knowledge into the input embeddings of chosen mentions."""

    enabled: bool = key(False, "Turn injection on or off")
    policy: str = key(
        "long-tail-important",
        "Policy that chooses mentions: none, all, high-frequency, low-frequency, importance, "
        "long-tail-important or klt",
    )
    strength: float = key(0.5, "Share of the injected vector in the input embedding (lambda)")
    place: str = key(
        AT_WORDS,
        "Place of injection: words (their embeddings, before positions are added and normalised), "
        "or states (what enters the first layer)",
    )
    triple_share: float = key(
        0.5,
        "Share of the triple's vector in what is injected (alpha); the memory bank gives the rest",
    )
    masked_probability: float = key(
        0.5,
        "Probability that a span is injected while it is being predicted",
    )
    dropout: float = key(
        0.15,
        "Share of sentences that get no injection, as at fine-tuning and probing time",
    )
    until: float = key(
        1.0,
        "Share of the run's steps, from the first one, in which mentions are injected; the memory "
        "bank is written to the end, since it is exported",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """Configure the memory bank of contextual notes, which injection reads."""

    enabled: bool = key(False, "Turn the memory bank on or off; without injection it is not kept")
    decay: float = key(0.1, "Weight of a new local note beside the older one (gamma)")
    window: int = key(8, "Tokens on either side of a mention that its local note averages (k)")
    global_share: float = key(
        0.5,
        "Weight of the global note in what is read (beta); the local note has the rest",
    )
    storage: str = key(
        "auto",
        "Place of the notes: ram, file (sparse, in the run's folder), device, or auto (ram or "
        "file, by size)",
    )
    ram_share: float = key(0.25, "Share of main memory above which auto takes a file for the notes")
    folder: str = key("", "Folder of the notes' file; empty stands for the run's folder")


@dataclass(frozen=True, kw_only=True, slots=True)
class FactsConfig:
    """Configure the facts that are asked: a stated fact's tail is hidden and must be predicted."""

    enabled: bool = key(
        True,
        "Ask facts: predict the hidden tail of a fact that a sentence states, through the LM head",
    )
    ask: str = key(
        ASK_TAILS,
        "Target of a question: tails (of stated facts), or mentions (any linked one: salient-span masking)",
    )
    share: float = key(
        1.0,
        "Share of the sentences with facts that ask for one in a step; the fact's tail is masked",
    )
    policy: str = key(
        ALL_FACTS,
        "Policy that chooses facts by the mention of their head: none, all, high-frequency, "
        "low-frequency, importance, long-tail-important or klt",
    )
    weight: float = key(1.0, "Weight of a hidden tail's token in the loss, beside other targets")
    statements: bool = key(
        True,
        "Ask the facts of statements too: facts of the KB that no sentence of the corpus states",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CkaConfig:
    """Configure contrastive knowledge assessing: a loss that compares a hidden tail with others."""

    enabled: bool | None = key(
        None,
        "Turn contrastive knowledge assessing on or off; left out, it is on for a model with 6 layers "
        "or more where tails of facts are asked and the form is head",
    )
    form: str = key(
        "head",
        "Form of the contrast: head compares the LM head's logits at the hidden tail, projection a "
        "state of the head's mention through a projection that is thrown away (the talk's form), "
        "decoder predicts the tail's tokens from that state and the relation (after DKPLM)",
    )
    mlm_share: float = key(
        0.5,
        "Weight of the masked-LM loss (lambda_1); the contrastive loss has the rest",
    )
    temperature: float = key(0.07, "Temperature of InfoNCE (tau) in the form projection, above 0")
    negatives: int = key(64, "Number of false tails per fact")
    contrast: str = key(
        "tail",
        "Candidates of the contrast: tail offers wrong tails, relation offers wrong relations of "
        "the same pair (in the form projection alone)",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingConfig:
    """Configure dynamic knowledge routing: which neurons are trained."""

    policy: str = key(
        AUTO,
        "Policy that chooses neurons: ig, random, top_layers, ffn_all, full (no routing), or auto "
        "(ffn_all in the upper half of a model with 6 layers or more, else full)",
    )
    share: float = key(0.10, "Share of all FFN neurons that are trained (rho)")
    layer_budget: int = key(
        0,
        "Number of topmost layers that neurons come from; 0 stands for all layers, -1 for the "
        "upper half",
    )
    refresh_every: int = key(200, "Steps from one choice of neurons to the next")
    probe_facts: int = key(256, "Number of facts that each choice of neurons is based on")
    probe_at: str = key(
        "mention",
        "Place that attribution asks at: mention (any linked mention, tails of facts first), or tail "
        "(tails of facts alone, as training asks them)",
    )
    background_weight: float = key(
        0.0,
        "Exponent, 0 to 1, of the factor by which a neuron counts less if plain sentences use it "
        "too; 0 turns this off, 1 is TF-IDF",
    )
    points: int = key(1, "Number of evaluations per layer in the attribution's integral")
    rule: str = key(
        "midpoint",
        "Rule of the attribution's integral: midpoint, gauss_legendre or left",
    )
    context: str = key(
        "fixed",
        "States of the other tokens while a neuron is scaled: fixed, or exact (which takes "
        "several times as long)",
    )
    precision: str = key(
        "float32",
        "Number format of attribution's layers, float32 or bfloat16; the probability is always "
        "float32",
    )
    threshold: float = key(
        0.2,
        "Share of an example's largest attribution from which a neuron gets its vote",
    )
    smoothing: float = key(0.9, "Weight of the earlier votes when new ones are counted, 0 to 1")
    learning_rate_scale: float = key(
        0.0,
        "Factor on the learning rate of chosen neurons; 0 chooses 2 for ffn_all and 10 for smaller "
        "sets, which want more",
    )
    train_attention: bool = key(False, "Train attention too, all of it")
    train_embeddings: bool = key(False, "Train the embeddings too, and with them the tied decoder")
    train_layer_norm: bool = key(False, "Train LayerNorm too, all of it")
    train_head: bool = key(False, "Train the prediction head too, and the output biases")


@dataclass(frozen=True, kw_only=True, slots=True)
class CardConfig:
    """Configure the card of the exported model: what only a person knows."""

    name: str = key("", "Name of the model, as its card gives it")
    license: str = key(
        "", "Licence of the exported model, as hubs name it (apache-2.0, cc-by-sa-4.0)"
    )
    language: str = key("", "Language of the text, as hubs name it (en)")
    text: str = key("", "Description of the text and of its licence, in words")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Hold everything that decides a run, besides its paths."""

    train: TrainConfig = field(default_factory=TrainConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    injection: InjectionConfig = field(default_factory=InjectionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    facts: FactsConfig = field(default_factory=FactsConfig)
    cka: CkaConfig = field(default_factory=CkaConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    card: CardConfig = field(default_factory=CardConfig)


# Settings that have another name now: the nearest name in their section means something else.
MOVED = {"cka.fact_share": "facts.share"}

# Settings of a preset, in the order in which they apply; a file and `--set` come after them.
PRESETS = {
    "fast": ("routing.policy=ffn_all", "routing.layer_budget=-1"),
    "full": ("routing.policy=full",),
    # What the talk describes. It teaches the exported model hardly any fact.
    "talk": (
        "facts.enabled=false",
        "facts.share=0.5",
        "cka.enabled=true",
        "cka.form=projection",
        "injection.enabled=true",
        "memory.enabled=true",
        "routing.policy=ig",
        "routing.learning_rate_scale=5",
        "train.learning_rate=1e-4",
    ),
}


def load_config(path: Path | None, sets: Sequence[str] = (), preset: str = "") -> Config:
    """Read a TOML file (none: the defaults), then apply `section.key=value` settings.

    A preset comes before both.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type or value out of range.
    """
    raw = load_toml(str(path)) if path is not None else {}
    source = str(path) if path is not None else "settings"
    base = with_overrides({}, PRESETS[preset]) if preset else {}
    for section, values in raw.items():
        # Only sections of settings can be joined; anything else is refused by `build`.
        is_section = isinstance(values, dict)
        base[section] = {**base.get(section, {}), **values} if is_section else values

    given = with_overrides(base, sets)
    _refuse_moved(given, source)
    config = build(Config, given, source)
    check(config)
    return config


def _refuse_moved(given: dict[str, Any], source: str) -> None:
    for old, new in MOVED.items():
        section, _, name = old.partition(".")
        values = given.get(section)
        if isinstance(values, dict) and name in values:
            raise ConfigError(
                f"{source}: {old} is now {new}; rename it. A run that was started with {old} had "
                "another objective, and cannot go on: start a new one"
            )


def settled(config: Config, *, num_layers: int, hidden_size: int) -> Config:
    """Return the settings with every automatic value chosen for a model of this size.

    The rate falls with the hidden size H as H^-1.5, from what was measured at 128 and 384; other
    sizes have not been scanned.
    """
    routing, train = config.routing, config.train
    if routing.policy == AUTO:
        is_deep = num_layers >= DEEP
        policy, budget = ("ffn_all", routing.layer_budget or UPPER_HALF) if is_deep else ("full", 0)
        routing = replace(routing, policy=policy, layer_budget=budget)
    if routing.layer_budget == UPPER_HALF:
        routing = replace(routing, layer_budget=max(1, num_layers // 2))
    if not routing.learning_rate_scale:
        is_all = routing.policy in ("ffn_all", "full")
        routing = replace(routing, learning_rate_scale=FFN_SCALE if is_all else ROWS_SCALE)

    cka = config.cka
    if cka.enabled is None:
        is_asked = config.facts.enabled and config.facts.ask == ASK_TAILS
        is_on = num_layers >= DEEP and is_asked and cka.form == CONTRAST_FORMS[0]
        cka = replace(cka, enabled=is_on)

    if not train.learning_rate:
        rate = min(MAX_RATE, RATE * (RATE_AT / hidden_size) ** 1.5)
        # Two digits: a rate that a person can read and give again.
        train = replace(train, learning_rate=float(f"{rate:.1e}"))
    return replace(config, routing=routing, train=train, cka=cka)


def with_automatic_of(config: Config, old: Config) -> Config:
    """Return the settings with automatic values taken from an older run's settled ones."""
    routing, train = config.routing, config.train
    if routing.policy == AUTO:
        routing = replace(routing, policy=old.routing.policy)
        # A shallow model gets all weights, whatever budget was given beside `auto`.
        if routing.layer_budget == 0 or routing.policy == "full":
            routing = replace(routing, layer_budget=old.routing.layer_budget)
    if routing.layer_budget == UPPER_HALF:
        routing = replace(routing, layer_budget=old.routing.layer_budget)
    if not routing.learning_rate_scale:
        routing = replace(routing, learning_rate_scale=old.routing.learning_rate_scale)
    if not train.learning_rate:
        train = replace(train, learning_rate=old.train.learning_rate)
    cka = config.cka
    if cka.enabled is None:
        cka = replace(cka, enabled=old.cka.enabled)
    return replace(config, routing=routing, train=train, cka=cka)


_SHARES = (
    "train.warmup_share",
    "train.final_rate_share",
    "masking.probability",
    "masking.mask_share",
    "masking.random_share",
    "injection.strength",
    "injection.triple_share",
    "injection.masked_probability",
    "injection.dropout",
    "injection.until",
    "memory.decay",
    "memory.global_share",
    "memory.ram_share",
    "cka.mlm_share",
    "facts.share",
    "routing.share",
    "routing.threshold",
    "routing.smoothing",
    "routing.background_weight",
)
_POSITIVE = (
    "train.steps",
    "train.clip_norm",
    "train.batch_tokens",
    "train.max_tokens",
    "train.micro_batches",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.log_every",
    "cka.temperature",
    "cka.negatives",
    "routing.refresh_every",
    "routing.probe_facts",
    "routing.points",
    "routing.share",
)
_NOT_NEGATIVE = (
    "train.seed",
    "train.weight_decay",
    "facts.weight",
    "train.threads",
    "train.skip_sigma",
    "memory.window",
    "train.learning_rate",
    "train.embedding_rate_scale",
    "train.head_rate_scale",
    "routing.learning_rate_scale",
    "evaluation.every",
    "evaluation.lama_limit",
)
# Of settings whose slips of the finger would hang or crash.
_HIGHEST = {
    "train.seed": 2**63 - 1,
    "train.threads": 1024,
    "train.micro_batches": 65_536,
    "train.steps": 10**12,
    "train.batch_tokens": 2**31 - 1,
    "train.max_tokens": 2**31 - 1,
    "memory.window": 2**31 - 1,
}
# A row holds a sentence's two special tokens and something between them.
_LOWEST = {"train.max_tokens": 8, "train.batch_tokens": 8}
_CHOICES = {
    "train.device": ("auto", "cpu", "cuda"),
    "train.schedule": ("linear", "cosine", "constant"),
    "train.layout": ("packed", "buckets"),
    "train.precision": ("auto", "float32", "bfloat16"),
    "train.attention": ("sdpa", "varlen"),
    "injection.policy": ("none", *POLICIES),
    "injection.place": (AT_WORDS, AT_STATES),
    "facts.policy": ("none", *POLICIES),
    "facts.ask": (ASK_TAILS, ASK_MENTIONS),
    "memory.storage": STORAGES,
    "cka.contrast": ("tail", "relation"),
    "cka.form": CONTRAST_FORMS,
    "routing.policy": ROUTING_POLICIES,
    "routing.rule": RULES,
    "routing.probe_at": PROBE_PLACES,
    "routing.context": ("fixed", "exact"),
    "routing.precision": ("float32", "bfloat16"),
}


def _check_bounds(config: Config) -> None:
    """Refuse numbers with which a run would hang or crash."""
    for name, highest in _HIGHEST.items():
        if value_of(config, name) > highest:
            raise ConfigError(f"{name} = {value_of(config, name)!r} must be {highest} or less")
    for name, lowest in _LOWEST.items():
        if value_of(config, name) < lowest:
            raise ConfigError(f"{name} = {value_of(config, name)!r} must be {lowest} or more")


def check(config: Config) -> None:
    """Refuse values that make no sense, before any work.

    Raises:
        ConfigError: names the key, its value and what is allowed.
    """
    for names, is_right, demand in (
        ((*_SHARES, *_POSITIVE, *_NOT_NEGATIVE), math.isfinite, "be a finite number"),
        (_SHARES, lambda value: 0 <= value <= 1, "lie between 0 and 1"),
        (_POSITIVE, lambda value: value > 0, "be greater than 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "not be negative"),
    ):
        for name in names:
            if not is_right(value_of(config, name)):
                raise ConfigError(f"{name} = {value_of(config, name)!r} must {demand}")

    _check_bounds(config)
    for name, choices in _CHOICES.items():
        if value_of(config, name) not in choices:
            raise ConfigError(
                f"{name} = {value_of(config, name)!r} must be one of {', '.join(choices)}"
            )
    if config.masking.mask_share + config.masking.random_share > 1:
        raise ConfigError("masking.mask_share + masking.random_share must not exceed 1")
    if config.routing.layer_budget < UPPER_HALF:
        raise ConfigError(
            f"routing.layer_budget = {config.routing.layer_budget!r} must be a number of layers, "
            "0 (all) or -1 (the upper half)"
        )
    if config.cka.contrast == "relation" and config.cka.form != "projection":
        raise ConfigError(
            "cka.contrast = 'relation' compares relations, which the LM head cannot name; "
            "add --set cka.form=projection, or use cka.contrast=tail"
        )
    if config.facts.ask == ASK_MENTIONS and config.cka.enabled:
        raise ConfigError(
            "facts.ask = 'mentions' asks what no fact is about, and contrast compares tails of "
            "facts; switch one off: --set cka.enabled=false, or facts.ask=tails"
        )
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
    """Return the first and the last step that `FIRST:LAST` names, counted from 1.

    Raises:
        ConfigError: not two such numbers.
    """
    start, _, end = text.partition(":")
    if not (start.isdecimal() and end.isdecimal() and 1 <= int(start) <= int(end)):
        raise ConfigError(f"train.profile = {text!r} must be FIRST:LAST, for example 11:15")
    return int(start), int(end)


def value_of(config: Config, name: str) -> Any:  # noqa: ANN401
    """Return the value of `section.key`."""
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)

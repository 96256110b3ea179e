"""Everything that a run consists of, built once, and its state as tensors and plain values."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.settings import to_dict, to_toml
from trelm_train.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from trelm_train.cka import Cka
from trelm_train.config import Config, load_config
from trelm_train.errors import ConfigError
from trelm_train.export import ENTITIES_FILE, INITIAL, entities_of, export_model, load_weights
from trelm_train.injection import Injector, make_anchor
from trelm_train.knowledge import Knowledge, load_knowledge
from trelm_train.loader import BatchStream, Packing, Position
from trelm_train.memory_bank import MemoryBank
from trelm_train.metrics import METRICS_NAME, Interval, Timers
from trelm_train.model import MaskedLm, check_tokenizer, load_pretrained, pick_device
from trelm_train.optim import Optimiser
from trelm_train.routing import Router, whole_parameters
from trelm_train.shards import Shards, open_shards
from trelm_train.sparse_ffn import SparseFfn
from trelm_train.step import Parts

log = logging.getLogger(__name__)
RUN_NAME = "run.json"
CONFIG_NAME = "config.toml"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """What `trelm-train run` was asked for."""

    shards: Path
    model: str
    out: Path
    config: Config


@dataclass(kw_only=True, slots=True)
class Session:
    """A run in progress: its parts, and where it stands."""

    request: RunRequest
    shards: Shards
    knowledge: Knowledge
    stream: BatchStream
    packing: Packing
    parts: Parts
    router: Router | None
    position: Position = field(default_factory=Position)
    step: int = 0
    tokens: int = 0
    skipped: int = 0
    interval: Interval = field(default_factory=Interval)
    history: dict[str, Any] = field(default_factory=dict)  # first and last losses, validation before


def start_run(request: RunRequest) -> Session:
    """Check everything, then lay out a new run's folder.

    Raises:
        ConfigError: the folder holds a run already, or an input is wrong.
    """
    if (request.out / RUN_NAME).exists() and latest_checkpoint(request.out / CHECKPOINTS) is not None:
        raise ConfigError(
            f"{request.out}: holds a run already; continue it with `trelm-train resume --out {request.out}`, "
            "or give another --out"
        )
    device = pick_device(request.config.train.device)
    shards = open_shards(request.shards)
    model = load_pretrained(request.model, device)
    session = _build(request, shards, model, request.model)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        (request.out / CONFIG_NAME).write_text(to_toml(request.config), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{request.out}: cannot write there ({error.strerror}); give another --out") from error
    (request.out / METRICS_NAME).unlink(missing_ok=True)  # of a run that ended before its first checkpoint
    export_model(model, shards.tokenizer_path, request.out / INITIAL)
    if session.parts.bank is not None:
        (request.out / ENTITIES_FILE).write_text(json.dumps(entities_of(session.knowledge)) + "\n", encoding="utf-8")
    run = {"shards": str(request.shards.resolve()), "model": request.model, "fingerprint": shards.fingerprint}
    (request.out / RUN_NAME).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    return session


def resume_run(out: Path, checkpoint: Path | None, moved_shards: Path | None = None) -> Session:
    """Take up a run at a checkpoint (none: at its start); the shards may lie elsewhere now.

    Raises:
        ConfigError: no run there, or its shards have changed.
    """
    if not (out / RUN_NAME).is_file():
        raise ConfigError(f"{out}: no run there; start one with `trelm-train run --out {out} …`")
    run = json.loads((out / RUN_NAME).read_text(encoding="utf-8"))
    config = load_config(out / CONFIG_NAME)
    shards_path = moved_shards or Path(run["shards"])
    request = RunRequest(shards=shards_path, model=run["model"], out=out, config=config)
    shards = open_shards(request.shards)
    if shards.fingerprint != run["fingerprint"]:
        raise ConfigError(f"{request.shards}: not the shards this run started with; restore them, or start a new run")
    model = load_pretrained(str(out / INITIAL), pick_device(config.train.device))
    session = _build(request, shards, model, str(out / INITIAL))
    if checkpoint is not None:
        restore(session, load_checkpoint(checkpoint))
    return session


def _build(request: RunRequest, shards: Shards, model: MaskedLm, model_name: str) -> Session:
    config, seed = request.config, request.config.train.seed
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    vocabulary = check_tokenizer(model_name, model, shards)
    knowledge = load_knowledge(shards)
    packing = Packing(
        max_tokens=min(config.train.max_tokens, model.max_tokens),
        batch_tokens=config.train.batch_tokens,
        limit=model.max_tokens,
    )
    stream = BatchStream(shards, packing, seed=seed, pad_id=vocabulary.pad_id)
    anchor = make_anchor(model.word_embeddings.weight, knowledge)
    cka = Cka(config.cka, knowledge, anchor, seed=seed).to(model.device) if config.cka.enabled else None
    torch.manual_seed(seed)
    injecting = config.injection.enabled and config.injection.policy != "none"
    if injecting:
        shards.check_policy(config.injection.policy)
    has_bank = injecting and config.memory.enabled and knowledge.num_bank_rows > 0
    routed = config.routing.policy != "full"
    whole = whole_parameters(model, config.routing)
    if cka is not None:
        whole |= dict(cka.named_parameters(prefix="cka"))
    parts = Parts(
        config=config,
        model=model,
        vocabulary=vocabulary,
        knowledge=knowledge,
        optimiser=Optimiser(whole, config.train),
        injector=Injector(config.injection, knowledge, anchor, seed=seed) if injecting else None,
        bank=MemoryBank(knowledge.num_bank_rows, model.hidden_size, config.memory) if has_bank else None,
        cka=cka,
        sparse=SparseFfn(model, config.train, rate_scale=config.routing.learning_rate_scale) if routed else None,
        timers=Timers(),
    )
    router = Router(config.routing, model, vocabulary, seed=seed) if routed else None
    return Session(
        request=request,
        shards=shards,
        knowledge=knowledge,
        stream=stream,
        packing=packing,
        parts=parts,
        router=router,
    )


def tensors_of(session: Session) -> dict[str, dict[str, Tensor]]:
    """Every tensor that a resumed run needs, in named groups."""
    parts = session.parts
    groups: dict[str, dict[str, Tensor]] = {"model": dict(parts.model.hf.named_parameters())}
    groups["optimiser"] = parts.optimiser.state()
    groups["random"] = {"cpu": torch.get_rng_state()}
    if parts.model.device.type == "cuda":
        groups["random"]["cuda"] = torch.cuda.get_rng_state()
    if parts.cka is not None:
        groups["cka"] = {"projection": parts.cka.projection.weight}
    if parts.bank is not None:
        groups["bank"] = parts.bank.state()
    if parts.sparse is not None and session.router is not None:
        groups["sparse"] = parts.sparse.state()
        groups["router"] = session.router.state()
    return {name: group for name, group in groups.items() if group}


def state_of(session: Session) -> dict[str, Any]:
    """Every plain value that a resumed run needs."""
    return {
        "step": session.step,
        "tokens": session.tokens,
        "skipped": session.skipped,
        "position": asdict(session.position),
        "fingerprint": session.shards.fingerprint,
        "config": to_dict(session.request.config),
        "interval": {"sums": session.interval.sums, "steps": session.interval.steps},
        "seconds": session.parts.timers.seconds,
        "history": session.history,
    }


def _check_config(checkpoint: Checkpoint, now: dict[str, dict[str, Any]]) -> None:
    before: dict[str, dict[str, Any]] = checkpoint.state["config"]
    changed = [
        f"{section}.{key}"
        for section, keys in now.items()
        for key, value in keys.items()
        if before[section][key] != value
    ]
    if changed:
        raise ConfigError(
            f"{checkpoint.path}: made with other settings ({', '.join(changed)} changed since); "
            f"restore them in {CONFIG_NAME}, or start a new run"
        )


def restore(session: Session, checkpoint: Checkpoint) -> None:
    """Put a session where a checkpoint left it.

    Raises:
        ConfigError: the checkpoint was made from other shards.
    """
    state, tensors, parts = checkpoint.state, checkpoint.tensors, session.parts
    if state["fingerprint"] != session.shards.fingerprint:
        raise ConfigError(f"{checkpoint.path}: made from other shards than {session.shards.path}")
    _check_config(checkpoint, to_dict(session.request.config))
    load_weights(parts.model, tensors["model"])
    parts.optimiser.load(tensors.get("optimiser", {}))
    if parts.cka is not None:
        with torch.no_grad():
            parts.cka.projection.weight.copy_(tensors["cka"]["projection"])
    if parts.bank is not None:
        parts.bank.load(tensors["bank"])
    if parts.sparse is not None and session.router is not None:
        parts.sparse.load(tensors.get("sparse", {}))
        session.router.load(tensors.get("router", {}))
    torch.set_rng_state(tensors["random"]["cpu"])
    if "cuda" in tensors["random"] and parts.model.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random"]["cuda"])
    session.step, session.tokens, session.skipped = state["step"], state["tokens"], state["skipped"]
    session.position = Position(**state["position"])
    session.interval = Interval(**state["interval"])
    session.history = state["history"]
    parts.timers.seconds.update(state["seconds"])

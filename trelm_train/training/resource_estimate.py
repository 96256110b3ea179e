"""What a run will need, known before its first step: memory and disk, measured where that is cheap and counted elsewhere.

Resident already: the process with its model, tables and memory bank. Counted: gradients, optimiser moments, the bank's file,
checkpoints. Measured: the activations that the forward pass keeps for the backward pass, on one and on two packed rows, from
which a batch is extrapolated; so any architecture, dropout, number format and routing is covered. On a GPU the model's own
share lies there, and only main memory and disk are compared with what the machine has.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trelm_train.config import MemoryConfig
from trelm_train.data.loader import Position, assemble, sentences_from_lists
from trelm_train.errors import ConfigError
from trelm_train.memory.bank_store import note_bytes, pick_storage, ranks_here
from trelm_train.model.encoder import Attention, encode_reads, read_positions
from trelm_train.model.precision import products
from trelm_train.reporting.metrics import rss_mb
from trelm_train.routing.probes import CHUNK_TOKENS
from trelm_train.routing.router import Router
from trelm_train.training.session import RunRequest, Session, prepare_run

MB = 1e6
FLOAT = 4  # bytes
MEMORY_INFO = Path("/proc/meminfo")
LOGIT_COPIES = 2  # logits and probabilities lie side by side at the head
PASSING_LAYERS = 2  # so many layers' activations are made and dropped while the others stay
STATES_PER_LAYER = (
    6  # of a token in attribution: what enters, keys, values, attention, what leaves, its mixture
)
WRITTEN_COPIES = 2  # of tensors while a checkpoint is written: its file is put together in memory
TOKENS_PER_MENTION = 8  # at least, in the mean
SPARE = 0.03  # of the estimate: what the allocator holds but nobody uses


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceEstimate:
    """Megabytes (10^6 bytes); `available` is what the machine would give."""

    resident_mb: float
    gradients_mb: float
    optimiser_mb: float
    activations_mb: float
    head_mb: float
    bank_mb: float
    checkpoint_mb: float
    peak_memory_mb: float
    available_memory_mb: float
    disk_mb: float
    available_disk_mb: float

    def to_dict(self) -> dict[str, float]:
        """Plain values, for JSON."""
        return asdict(self)


@contextmanager
def counted_activations(counts: list[int]) -> Iterator[None]:
    """Inside, the bytes of what autograd keeps are added to `counts[0]`, each storage once, parameters left out."""
    seen: set[int] = set()
    kept: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not (tensor.is_leaf and tensor.requires_grad) and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(tensor)
            counts[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def estimate_resources(session: Session, memory: MemoryConfig | None = None) -> ResourceEstimate:
    """Estimate what training this session will need; `memory` where the session's own bank is a stand-in.

    Several ranks of one machine count together.
    """
    num_trained, num_gathered = _trained(session)
    total = sum(parameter.numel() for parameter in session.components.model.hf.parameters())
    copies = FLOAT * num_gathered
    gradients, moments = (
        FLOAT * (num_trained + num_gathered),
        2 * FLOAT * (num_trained + num_gathered),
    )
    activations, head = _batch_bytes(session)
    bank_memory = _bank_memory_bytes(session, memory or session.request.config.memory)
    tensors = FLOAT * total + moments
    checkpoint = tensors + _bank_bytes(session)
    resident = rss_mb() * MB
    lasting = resident + copies + moments + bank_memory
    flat = gradients if session.components.ranks.size > 1 else 0  # what ranks sum is one tensor
    passing = activations * PASSING_LAYERS / _recorded_layers(session) + _attribution_bytes(session)
    stays = (
        lasting + gradients + flat + activations + passing
    )  # freed memory of a step is kept for the next one
    peak = stays + max(head, WRITTEN_COPIES * tensors)
    together = ranks_here()
    kept = (
        session.request.config.train.keep_checkpoints + 2
    )  # the best one, and one that is being written
    disk = checkpoint * kept + 2 * FLOAT * total + 2 * _bank_bytes(session)
    return ResourceEstimate(
        resident_mb=resident / MB,
        gradients_mb=(copies + gradients) / MB,
        optimiser_mb=moments / MB,
        activations_mb=activations / MB,
        head_mb=head / MB,
        bank_mb=_bank_bytes(session) / MB,
        checkpoint_mb=checkpoint / MB,
        peak_memory_mb=together * peak * (1 + SPARE) / MB,
        available_memory_mb=together * resident / MB + free_memory_mb(),
        disk_mb=disk / MB,
        available_disk_mb=(
            shutil.disk_usage(_existing(session.request.out)).free + _size(session.request.out)
        )
        / MB,
    )


def _trained(session: Session) -> tuple[int, int]:
    """Weights trained as a whole, and gathered ones (before the first selection their number is known already)."""
    whole = sum(value.numel() for value in session.components.optimiser.named.values())
    if session.router is None:
        return whole, 0
    return whole, session.router.count * (2 * session.components.model.hidden_size + 1)


def _size(folder: Path) -> int:
    """Bytes of a run's folder: what it holds already is part of what it needs."""
    return (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if folder.is_dir()
        else 0
    )


def _bank_bytes(session: Session) -> int:
    """Both notes of every row that may be written: all, or as many as the run will meet mentions at most."""
    if session.components.bank is None:
        return 0
    train = session.request.config.train
    met = train.steps * train.micro_batches * train.batch_tokens // TOKENS_PER_MENTION
    return note_bytes(
        min(session.knowledge.num_bank_rows, met), session.components.model.hidden_size
    )


def _bank_memory_bytes(session: Session, memory: MemoryConfig) -> int:
    """What a bank in main memory may grow to: its pages are taken when rows are written."""
    bank = session.components.bank
    if bank is None or pick_storage(memory, bank.num_rows, bank.hidden_size) != "ram":
        return 0
    return _bank_bytes(session)


def _batch_bytes(session: Session) -> tuple[float, float]:
    """Activations of a full batch, and of its head, in bytes: from a batch of one packed row and one of two."""
    components, train = session.components, session.request.config.train
    width = session.packing.max_tokens
    rows = max(1, train.batch_tokens // width)
    one, two = (_kept_bytes(session, count, width) for count in (1, 2))
    targets = session.request.config.masking.probability * rows * width
    head = LOGIT_COPIES * FLOAT * targets * components.model.config.vocab_size
    return float(one + (two - one) * (rows - 1)), head


def _recorded_layers(session: Session) -> int:
    """Layers whose activations are kept."""
    return session.components.model.num_layers - (
        session.router.first_layer if session.router is not None else 0
    )


def _attribution_bytes(session: Session) -> float:
    """What one chunk of probes takes: states of all layers, and the head on its answers."""
    model, router = session.components.model, session.router
    if router is None or router.config.policy != "ig":
        return 0.0
    states = model.num_layers * CHUNK_TOKENS * STATES_PER_LAYER * model.hidden_size
    answers = CHUNK_TOKENS / TOKENS_PER_MENTION / 2 * model.config.vocab_size * LOGIT_COPIES
    return float(FLOAT * (states + answers))


def _kept_bytes(session: Session, rows: int, width: int) -> int:
    """What the encoder's forward pass keeps for so many packed rows of usual sentences."""
    components = session.components
    lists = {"ids": [[components.vocabulary.mask_id] * (width // 4)] * (4 * rows)}
    packed = [list(range(4 * row, 4 * row + 4)) for row in range(rows)]
    batch = assemble(sentences_from_lists(lists), packed, Position(), components.vocabulary.pad_id)
    noted = np.full(batch.input_ids_RS.size, components.bank is not None)
    learned = np.arange(len(noted)) < session.request.config.masking.probability * len(noted)
    read, attention = (
        read_positions(learned, noted, components.model.device),
        Attention(dropout=components.attention_dropout),
    )
    counts = [0]
    components.model.hf.train()
    with (
        _routed(session),
        counted_activations(counts),
        products(components.dtype, components.model.device),
    ):
        encode_reads(components.model.family, components.model.pack(batch), read, attention)
    return counts[0]


def _stand_in(session: Session, router: Router) -> dict[int, torch.Tensor]:
    if router.config.policy != "ig":  # known without any attribution
        return router.neurons(session.stream, session.position)
    layers = range(router.first_layer, session.components.model.num_layers)
    return {layer: torch.arange(max(1, router.count // len(layers))) for layer in layers}


@contextmanager
def _routed(session: Session) -> Iterator[None]:
    """Inside, as many neurons are trained as will be; before the first selection evenly over the layers that may be."""
    sparse, router = session.components.sparse, session.router
    if sparse is None or router is None:
        yield
        return
    stand_in = not sparse.rows
    if stand_in:
        sparse.select(_stand_in(session, router))
    try:
        with sparse.patched():
            yield
    finally:
        if stand_in:
            sparse.select({})


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())


def free_memory_mb() -> float:
    """What the system would still give, in MB; unlimited where it does not say."""
    if not MEMORY_INFO.exists():
        return float("inf")
    lines = dict(line.split(":") for line in MEMORY_INFO.read_text(encoding="utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 / MB


def check_estimate(plan: ResourceEstimate, request: RunRequest) -> None:
    """Refuse a run that memory or disk will not do.

    Raises:
        ConfigError: says how much is missing, and what to lower.
    """
    if not request.config.train.check_plan:
        return
    if plan.peak_memory_mb > plan.available_memory_mb:
        raise ConfigError(
            f"this run would need about {plan.peak_memory_mb:,.0f} MB of memory, and {plan.available_memory_mb:,.0f} MB are "
            "free; lower train.batch_tokens (with more train.micro_batches), or --set train.check_plan=false to try anyway"
        )
    if plan.disk_mb > plan.available_disk_mb:
        raise ConfigError(
            f"{request.out}: this run would need about {plan.disk_mb:,.0f} MB of disk, and {plan.available_disk_mb:,.0f} MB "
            "are free there; lower train.keep_checkpoints, give another --out, or --set train.check_plan=false to try anyway"
        )


def estimate_request(request: RunRequest) -> ResourceEstimate:
    """The plan of a run that is not started; writes nothing, so a bank in a file is stood in for by one in memory."""
    memory = request.config.memory
    without_file = replace(
        request, config=replace(request.config, memory=replace(memory, storage="ram"))
    )
    return estimate_resources(prepare_run(without_file), memory)


def readable_estimate(plan: ResourceEstimate) -> str:
    """The plan in a few lines."""
    rows = [
        ("resident already", plan.resident_mb),
        ("gradients and copies", plan.gradients_mb),
        ("optimiser", plan.optimiser_mb),
        ("activations of a batch", plan.activations_mb),
        ("head of a batch", plan.head_mb),
        ("memory bank, full", plan.bank_mb),
        ("peak memory", plan.peak_memory_mb),
        ("  available", plan.available_memory_mb),
        ("one checkpoint", plan.checkpoint_mb),
        ("disk", plan.disk_mb),
        ("  available", plan.available_disk_mb),
    ]
    return "\n".join(f"{name:24} {value:12,.0f} MB" for name, value in rows)

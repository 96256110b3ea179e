"""Estimate what a run will need, before its first step: memory and disk.

The estimate measures where that is cheap and counts elsewhere. Resident already: the process with
its model, tables and memory bank. Counted: gradients, optimiser moments, the file of the bank,
checkpoints. Measured: the activations that the forward pass keeps for the backward pass, on one and
on two packed rows, from which a batch is extrapolated; so any architecture, dropout, number format
and routing is covered. On a GPU the model's own share lies there, and only main memory and disk are
compared with what the machine has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schemas.bucket_cache import cache_folder
from schemas.buckets import Location
from schemas.errors import ConfigError
from schemas.machine import free_disk, free_memory
from trelm_train.config import MemoryConfig
from trelm_train.data.loader import Position, assemble, sentences_from_lists
from trelm_train.memory.bank_store import note_bytes, pick_storage, ranks_here
from trelm_train.model.encoder import Attention, encode_reads, read_positions
from trelm_train.model.precision import exact_rows, products, rows_to_add
from trelm_train.reporting.metrics import rss_mb
from trelm_train.routing.probes import CHUNK_TOKENS
from trelm_train.routing.router import Router
from trelm_train.training.session import RunRequest, Session, prepare_run

MB = 1e6
# Bytes.
FLOAT = 4
# Batches on which the targets of a step are counted.
COUNTED_BATCHES = 4
# Logits and probabilities lie side by side at the head.
LOGIT_COPIES = 2
# Layers whose activations are made and dropped while the others stay.
PASSING_LAYERS = 2
# States of a token in attribution: what enters, keys, values, attention, what leaves, its mixture.
STATES_PER_LAYER = 6
# Copies of tensors while a checkpoint is written: its file is put together in memory.
WRITTEN_COPIES = 2
# At least, in the mean.
TOKENS_PER_MENTION = 8
# Share of the estimate that the allocator holds without a use.
SPARE = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceEstimate:
    """Hold an estimate in megabytes (10^6 bytes); `available` is what the machine would give."""

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
        """Return plain values, for JSON."""
        return asdict(self)


@contextmanager
def counted_activations(counts: list[int]) -> Iterator[None]:
    """Add the bytes of what autograd keeps to `counts[0]` inside a `with` block.

    Each storage counts once; parameters do not count.
    """
    addresses: set[int] = set()
    # Tensors are kept alive, so that no address is used a second time.
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        is_parameter = tensor.is_leaf and tensor.requires_grad
        if not is_parameter and storage.data_ptr() not in addresses:
            addresses.add(storage.data_ptr())
            alive.append(tensor)
            counts[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def estimate_resources(session: Session, memory: MemoryConfig | None = None) -> ResourceEstimate:
    """Estimate what training this session will need.

    Pass `memory` where the session's own bank is a stand-in. Several ranks of one machine count
    together.
    """
    num_trained, num_gathered = _trained(session)
    num_weights = sum(parameter.numel() for parameter in session.components.model.hf.parameters())
    copies = FLOAT * num_gathered
    gradients = FLOAT * (num_trained + num_gathered)
    moments = 2 * gradients
    activations, head = _batch_bytes(session)
    bank_memory = _bank_memory_bytes(session, memory or session.request.config.memory)

    tensors = FLOAT * num_weights + moments
    checkpoint = tensors + _bank_bytes(session)
    resident = rss_mb() * MB
    lasting = resident + copies + moments + bank_memory

    # What ranks sum is one tensor, a copy of all gradients.
    flat = 0 if session.components.ranks.is_alone else gradients
    passing = activations * PASSING_LAYERS / _recorded_layers(session) + _attribution_bytes(session)
    # The allocator keeps the freed memory of a step for the next one.
    stays = lasting + gradients + flat + activations + passing
    peak = stays + max(head, WRITTEN_COPIES * tensors)
    num_ranks = ranks_here()

    # Besides those of the settings: the best one, and one that is being written.
    num_checkpoints = session.request.config.train.keep_checkpoints + 2
    disk = checkpoint * num_checkpoints + 2 * FLOAT * num_weights + 2 * _bank_bytes(session)
    available_disk = _available_disk(session.request.out)

    return ResourceEstimate(
        resident_mb=resident / MB,
        gradients_mb=(copies + gradients) / MB,
        optimiser_mb=moments / MB,
        activations_mb=activations / MB,
        head_mb=head / MB,
        bank_mb=_bank_bytes(session) / MB,
        checkpoint_mb=checkpoint / MB,
        peak_memory_mb=num_ranks * peak * (1 + SPARE) / MB,
        available_memory_mb=num_ranks * resident / MB + free_memory() / MB,
        disk_mb=disk / MB,
        available_disk_mb=available_disk / MB,
    )


def _available_disk(out: Location) -> int:
    """Return the bytes for a run, which is written on this machine before it is sent to a bucket."""
    if isinstance(out, Path):
        return free_disk(out) + _size(out)
    return free_disk(cache_folder())


def _trained(session: Session) -> tuple[int, int]:
    """Return the number of weights trained as a whole, and of gathered ones.

    Before the first selection the number of gathered ones is known already.
    """
    whole = sum(value.numel() for value in session.components.optimiser.named.values())
    if session.router is None:
        return whole, 0
    return whole, session.router.count * (2 * session.components.model.hidden_size + 1)


def _size(folder: Path) -> int:
    """Return the bytes of a run's folder: what it holds already is part of what it needs."""
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _bank_bytes(session: Session) -> int:
    """Return the bytes of both notes of every row that may be written.

    These are all rows, or as many as the run will meet mentions at most.
    """
    if session.components.bank is None:
        return 0

    train = session.request.config.train
    # A row can only be written by a mention that a step meets.
    num_mentions = train.steps * train.micro_batches * train.batch_tokens // TOKENS_PER_MENTION
    num_rows = min(session.knowledge.num_bank_rows, num_mentions)
    return note_bytes(num_rows, session.components.model.hidden_size)


def _bank_memory_bytes(session: Session, memory: MemoryConfig) -> int:
    """Return what a bank in main memory may grow to: its pages are taken when rows are written."""
    bank = session.components.bank
    if bank is None or pick_storage(memory, bank.num_rows, bank.hidden_size) != "ram":
        return 0
    return _bank_bytes(session)


def _batch_bytes(session: Session) -> tuple[float, float]:
    """Return the bytes of the activations of a full batch, and of its head."""
    components, train = session.components, session.request.config.train
    width = session.packing.max_tokens
    rows = max(1, train.batch_tokens // width)

    # The difference between two rows and one is the cost of each further row.
    with exact_rows():
        one_row, two_rows = (_kept_bytes(session, count, width) for count in (1, 2))
    activations: float = one_row + (two_rows - one_row) * (rows - 1)
    # Rows that are added, so that products have few shapes: what one takes, and how many there are.
    num_added, num_added_to_one = (_num_added(session, count * width) for count in (rows, 1))
    if num_added_to_one:
        filled = _kept_bytes(session, 1, width)
        activations += (filled - one_row) * num_added / num_added_to_one

    logit_rows = _logit_share(session) * rows * width
    head = LOGIT_COPIES * FLOAT * logit_rows * components.model.config.vocab_size
    return float(activations), head


def _num_added(session: Session, num_tokens: int) -> int:
    """Return how many rows are added to those of so many tokens that are learned."""
    components, share = session.components, session.request.config.masking.probability
    learned = torch.empty(math.ceil(share * num_tokens), device=components.model.device)
    return rows_to_add(learned, components.dtype)


def _logit_share(session: Session) -> float:
    """Count the rows of logits per token on the run's next batches, and return the largest share.

    Masks and asked facts have a row per target. Contrast through the head has rows of its own at
    the hidden tails.
    """
    has_own_rows = session.request.config.cka.form == "head"
    shares = []
    positions = itertools.islice(session.stream.positions(session.position), COUNTED_BATCHES)
    for position, _ in positions:
        prepared = session.preparer(session.stream.at(position), 0)
        num_rows = len(prepared.masked.target_M)
        if prepared.cka is not None and has_own_rows:
            num_rows += int((prepared.cka.tail_end_G - prepared.cka.tail_start_G).sum())
        shares.append(num_rows / prepared.input_ids_RS.size)
    return max(shares)


def _recorded_layers(session: Session) -> int:
    """Return the number of layers whose activations are kept."""
    lowest = session.router.first_layer if session.router is not None else 0
    return session.components.model.num_layers - lowest


def _attribution_bytes(session: Session) -> float:
    """Return what one chunk of probes takes: states of all layers, and the head on its answers."""
    model, router = session.components.model, session.router
    if router is None or router.config.policy != "ig":
        return 0.0

    states = model.num_layers * CHUNK_TOKENS * STATES_PER_LAYER * model.hidden_size
    answers = CHUNK_TOKENS / TOKENS_PER_MENTION / 2 * model.config.vocab_size * LOGIT_COPIES
    return float(FLOAT * (states + answers))


def _kept_bytes(session: Session, rows: int, width: int) -> int:
    """Measure what the encoder's forward pass keeps for some packed rows of usual sentences."""
    components = session.components
    # Four sentences to a row.
    lists = {"ids": [[components.vocabulary.mask_id] * (width // 4)] * (4 * rows)}
    packed = [list(range(4 * row, 4 * row + 4)) for row in range(rows)]
    batch = assemble(sentences_from_lists(lists), packed, Position(), components.vocabulary.pad_id)

    # As many rows are learned as there are targets; with a bank all others are noted.
    noted = np.full(batch.input_ids_RS.size, components.bank is not None)
    learned = np.arange(len(noted)) < session.request.config.masking.probability * len(noted)
    read = read_positions(learned, noted, components.model.device)
    attention = Attention(dropout=components.attention_dropout)

    # The mode of training: dropout keeps masks for the backward pass, too.
    counts = [0]
    components.model.hf.train()
    with (
        _routed(session),
        counted_activations(counts),
        products(components.dtype, components.model.device),
    ):
        encode_reads(components.model.family, components.model.pack(batch), read, attention)
    return counts[0]


def _stand_in(session: Session, router: Router) -> dict[int, Tensor]:
    """Return as many neurons by layer as will be selected; for `ig` spread over the layers."""
    # Other policies need no attribution, so their own selection is known.
    if router.config.policy != "ig":
        return router.neurons(session.stream, session.position)

    # Any neurons will do: the memory depends on their number, not on their choice.
    layers = range(router.first_layer, session.components.model.num_layers)
    return {layer: torch.arange(max(1, router.count // len(layers))) for layer in layers}


@contextmanager
def _routed(session: Session) -> Iterator[None]:
    """Train as many neurons as will be trained inside a `with` block.

    Before the first selection they are spread evenly over the layers that may have some.
    """
    sparse, router = session.components.sparse, session.router
    if sparse is None or router is None:
        yield
        return

    has_selection = bool(sparse.rows)
    if not has_selection:
        sparse.select(_stand_in(session, router))
    try:
        with sparse.patched():
            yield
    finally:
        if not has_selection:
            sparse.select({})


def check_estimate(estimate: ResourceEstimate, request: RunRequest) -> None:
    """Refuse a run for which memory or disk is too small.

    Raises:
        ConfigError: says how much is missing, and what to lower.
    """
    if not request.config.train.check_plan:
        return

    if estimate.peak_memory_mb > estimate.available_memory_mb:
        raise ConfigError(
            f"this run would need about {estimate.peak_memory_mb:,.0f} MB of memory, and "
            f"{estimate.available_memory_mb:,.0f} MB are free; lower train.batch_tokens (with more "
            "train.micro_batches), or --set train.check_plan=false to try anyway"
        )
    if estimate.disk_mb > estimate.available_disk_mb:
        raise ConfigError(
            f"{request.folder}: this run would need about {estimate.disk_mb:,.0f} MB of disk, and "
            f"{estimate.available_disk_mb:,.0f} MB are free there; lower train.keep_checkpoints, "
            "give another --out, or --set train.check_plan=false to try anyway"
        )


def estimate_request(request: RunRequest) -> ResourceEstimate:
    """Estimate what a run will need without starting it.

    Nothing is written: a bank in memory stands in for one in a file.
    """
    memory = request.config.memory
    config = replace(request.config, memory=replace(memory, storage="ram"))
    return estimate_resources(prepare_run(replace(request, config=config)), memory)


def readable_estimate(estimate: ResourceEstimate) -> str:
    """Return the estimate as a few lines of text."""
    rows = [
        ("resident already", estimate.resident_mb),
        ("gradients and copies", estimate.gradients_mb),
        ("optimiser", estimate.optimiser_mb),
        ("activations of a batch", estimate.activations_mb),
        ("head of a batch", estimate.head_mb),
        ("memory bank, full", estimate.bank_mb),
        ("peak memory", estimate.peak_memory_mb),
        ("  available", estimate.available_memory_mb),
        ("one checkpoint", estimate.checkpoint_mb),
        ("disk", estimate.disk_mb),
        ("  available", estimate.available_disk_mb),
    ]
    return "\n".join(f"{name:24} {value:12,.0f} MB" for name, value in rows)

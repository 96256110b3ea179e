"""Estimate what a run will need before its first stage begins: disk and memory.

Rough: shares of the input that were measured on one real corpus (`examples/kit.toml`), so a factor
of two is nothing unusual. The estimate is compared with what is free: too little by more than this
factor is refused, and too little at all is said. A bucket, and the machines of a cluster, are not
asked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.engine import files
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.engine.local_listing import FileEntry
from schemas.amounts import GB, amount
from schemas.errors import ConfigError
from schemas.machine import free_disk, free_memory, usable_cores

# What a byte of a compressed file decodes to, by the ending: of Wikidata's JSON, and of text.
DECODED = {"gz": (8.0, 3.0), "zst": (9.0, 3.5), "bz2": (11.0, 3.6)}
# How far off an estimate may be.
MARGIN = 2.0
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """Say what a stage writes at its peak, scratch files included, and what a process takes."""

    # Bytes per byte of the decoded dumps, and per byte of the decoded corpus.
    of_dumps: float = 0.0
    of_corpus: float = 0.0
    # Bytes besides.
    at_least: float = 0.0
    memory_gb: float
    # Seconds of one core per decoded megabyte: of the dumps, and of the corpus (docs/scale.md).
    s_per_dump_mb: float = 0.0
    s_per_corpus_mb: float = 0.0


SHARES = {
    "kb": _Share(of_dumps=0.08, memory_gb=0.5, s_per_dump_mb=0.007),
    "titles": _Share(of_dumps=0.01, memory_gb=0.4, s_per_corpus_mb=0.05),
    "documents": _Share(of_corpus=0.5, memory_gb=0.4, s_per_corpus_mb=0.8),
    # Tables of a fixed size come to what follows the names.
    "index": _Share(of_dumps=0.3, at_least=17e6, memory_gb=0.7, s_per_dump_mb=0.003),
    "link": _Share(of_corpus=1.6, memory_gb=0.9, s_per_corpus_mb=5.0),
    "stats": _Share(of_corpus=0.4, memory_gb=0.4, s_per_corpus_mb=0.05),
    # With the kit's small model; one of base size takes 60 times as long.
    "importance": _Share(of_corpus=0.3, memory_gb=1.0, s_per_corpus_mb=2.0),
    "shards": _Share(of_corpus=1.2, memory_gb=1.4, s_per_corpus_mb=0.8),
}
# A worker process takes this long to start, its imports included, of one core.
START_S = 4.0
# Gigabytes of a worker's machine that its system takes.
SYSTEM_GB = 2
# Of these stages a process holds the model that its settings name.
MODEL_STAGES = ("importance",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """Hold an estimate for some stages, and what is free, in bytes."""

    stages: tuple[str, ...]
    disk: float
    free_disk: float
    memory: float
    free_memory: float

    @property
    def text(self) -> str:
        """Return the estimate in words."""
        return (
            f"{', '.join(self.stages)}: need roughly {amount(self.disk)} of disk "
            f"({amount(self.free_disk)} are free) and {amount(self.memory)} of memory "
            f"({amount(self.free_memory)} are free)"
        )


def worker_ram_gb(stage: str) -> int:
    """Return the gigabytes of memory that a stage asks of a machine of a service.

    Twice what a process takes at its peak, and the system's.
    """
    return SYSTEM_GB + math.ceil(2 * SHARES[stage].memory_gb)


def needs_of(config: RunConfig, stages: Sequence[str], settings: RunnerSettings) -> Needs:
    """Estimate what some stages of a run will need together; they run one after the other.

    Raises:
        StageError: an input is not there.
    """
    dumps, corpus = _decoded_inputs(config)
    shares = [SHARES[name] for name in stages]
    disk = sum(
        share.at_least + share.of_dumps * dumps + share.of_corpus * corpus for share in shares
    )
    memory = max((_memory_gb(name, config) for name in stages), default=0.0) * GB
    num_workers = settings.workers or usable_cores()
    return Needs(
        stages=tuple(stages),
        disk=disk,
        free_disk=free_disk(Path(config.run)),
        memory=memory * num_workers,
        free_memory=free_memory(),
    )


def suited_workers(stage: str, config: RunConfig, settings: RunnerSettings) -> RunnerSettings:
    """Return settings with one local worker, where `--workers 0` leaves the number to us and work is little.

    One worker is this process itself, which has nothing to start; two or more are processes of their
    own, which import everything again.

    Raises:
        StageError: an input is not there.
    """
    if not settings.is_local or settings.workers != 0:
        return settings
    share = SHARES[stage]
    dumps, corpus = _decoded_inputs(config)
    core_s = (share.s_per_dump_mb * dumps + share.s_per_corpus_mb * corpus) / 1e6
    return replace(settings, workers=1) if core_s < 2 * START_S else settings


def _decoded_inputs(config: RunConfig) -> tuple[float, float]:
    """Return about how many bytes the dumps decode to, and the corpus."""
    return (
        _decoded(files.find(config.kb.dumps), is_dump=True),
        _decoded(files.find(config.documents.inputs), is_dump=False),
    )


def _decoded(entries: Iterable[FileEntry], *, is_dump: bool) -> float:
    """Return about how many bytes some files decode to."""
    total = 0.0
    for entry in entries:
        of_dump, of_text = DECODED.get(entry.path.rpartition(".")[2].lower(), (1.0, 1.0))
        total += entry.num_bytes * (of_dump if is_dump else of_text)
    return total


def _memory_gb(stage: str, config: RunConfig) -> float:
    """Return what a process of a stage takes at its peak."""
    memory_gb = SHARES[stage].memory_gb
    if stage == "stats":
        memory_gb += config.stats.memory_gb
    if stage in MODEL_STAGES:
        # Read, and converted to the number format.
        memory_gb += 2 * _weights_bytes(config.importance.model) / GB
    return memory_gb


def _weights_bytes(model: str) -> int:
    """Return the bytes of a model's weights; of one that is given by its name nothing is known."""
    folder = Path(model)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def check_needs(needs: Needs, run: str) -> None:
    """Say what is needed; refuse a run for which there is far too little.

    Raises:
        ConfigError: says how much is missing, and what to do.
    """
    logger.info("%s", needs.text)
    advice = "; --set check_needs=false tries anyway"
    if needs.disk > MARGIN * needs.free_disk:
        raise ConfigError(
            f"{run}: {needs.text}; free space there, or give another --run folder{advice}"
        )
    if needs.memory > MARGIN * needs.free_memory:
        raise ConfigError(f"{run}: {needs.text}; lower --workers, or end other programs{advice}")
    if needs.disk > needs.free_disk:
        logger.warning("%s: the disk may become full; what is done by then is kept", run)
    if needs.memory > needs.free_memory:
        logger.warning("%s: the memory may not suffice; lower --workers", run)

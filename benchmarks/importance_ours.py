"""Run our side of `importance`, and the encoder alone: each function in a process of its own
(`benchmarks.child`).

Loading the model and a first forward pass are not timed. `whole_stage` is all of the stage but
Beam, files included. Used are insides of the stage's worker and of the encoder: when they change,
this follows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.linking_clock import Clock
from pipeline.config import ImportanceConfig
from pipeline.encoder.flat_forward import FlatBatch, FlatForward
from pipeline.encoder.library_forward import LibraryForward
from pipeline.encoder.sentence_encoder import SentenceEncoder, _load_encoder
from pipeline.encoder.sequences import Sequences
from pipeline.encoder.tokenizer import NUM_SPECIAL
from pipeline.engine.tables import RunPaths, read_table
from pipeline.engine.tasks import RowRange, Unit
from pipeline.engine.units import write_unit
from pipeline.engine.worker_threads import LOCAL_WORKERS
from pipeline.importance.stage import ImportanceWorker, _chunks
from pipeline.link.linked_sentences import LinkedReader, linked_units
from schemas import IMPORTANCE, REJECTS

# Of the encoder alone, tried: tokens of a batch, and what a batch holds.
BUDGETS = (1024, 2048, 4096, 8192)
FORMS = ("one length", "padded", "flat")
# A forward pass, and what it gets: one after the other.
Work = tuple[Callable[[Any], None], list[Any]]
WARM = np.arange(1000, 1030)


def whole_stage(  # noqa: PLR0913 - what a process is asked for
    out: Path,
    run: str,
    model: str,
    dtype: str,
    *,
    threads: int = 0,
    torch_threads: int = 1,
    scores: bool = False,
) -> dict[str, Any]:
    """Score all units of a run, one after the other.

    Args:
        out: an empty folder.
        run: with links.
        model: folder.
        dtype: float32 or bfloat16.
        threads: that take batches; 0 = one per core.
        torch_threads: of one operation.
        scores: whether the rows are in the answer.
    """
    import torch

    worker = _open(run, model, dtype, threads)
    torch.set_num_threads(torch_threads)
    folders(out)
    clock = Clock()
    reports = [
        write_unit(str(out), "importance", unit, worker.process)
        for unit in linked_units(worker.paths)
    ]
    taken = clock.taken()
    counters = {
        name: sum(one.counters.get(name, 0) for one in reports)
        for name in ("rows_out", "sequences", "rejects")
    }
    paths = [
        str(out / one.parts[IMPORTANCE.name].path)
        for one in reports
        if IMPORTANCE.name in one.parts
    ]
    rows = read_table(paths, IMPORTANCE).to_pydict() if scores else {}
    return {**taken, **counters, "rows": rows}


def folders(out: Path) -> None:
    """Make the folders that a unit's writer needs."""
    for name in ("_tmp", "_units", IMPORTANCE.name, REJECTS.name):
        (out / name).mkdir(parents=True, exist_ok=True)


def _open(run: str, model: str, dtype: str, threads: int) -> ImportanceWorker:
    config = ImportanceConfig(model=model, dtype=dtype, num_threads=threads, device="cpu")  # type: ignore[arg-type]
    worker = ImportanceWorker(paths=RunPaths(root=run), config=config)
    worker.encoder.encode(Sequences.of([WARM]), 4096)
    return worker


def processes(out: Path, run: str, model: str, dtype: str, count: int) -> dict[str, Any]:
    """Score by several processes with their share of the cores; starting them is not timed."""
    os.environ[LOCAL_WORKERS] = str(count)
    folders(out)
    units = linked_units(RunPaths(root=run))
    started = get_context("spawn")
    with (
        started.Manager() as manager,
        ProcessPoolExecutor(
            count, started, _start, (run, model, dtype, manager.Barrier(count))
        ) as pool,
    ):
        list(pool.map(_nothing, range(count)))  # all have opened their models
        clock = Clock()
        cpu_seconds = sum(pool.map(_one_unit, [str(out)] * len(units), units))
        seconds = clock.taken()["seconds"]
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


_workers: list[ImportanceWorker] = []  # of this process


def _start(run: str, model: str, dtype: str, all_ready: Any) -> None:  # noqa: ANN401 - a manager's barrier
    _workers.append(_open(run, model, dtype, 0))
    all_ready.wait()


def _nothing(number: int) -> int:
    return number


def _one_unit(out: str, unit: Unit[RowRange]) -> float:
    """Score a unit in a worker process and return the processor seconds that it took."""
    start = time.process_time()
    write_unit(out, "importance", unit, _workers[0].process)
    return time.process_time() - start


def encoder_alone(out: Path, run: str, model: str, dtype: str, *, tune: bool) -> dict[str, Any]:  # noqa: ARG001
    """Run forward passes over the stage's sequences, each different one once: batched before, as
    tensors, nothing read from them.

    How they are batched (of one length, padded, or flat as ours; and how large) and whether threads
    share an operation or take batches is tried on a quarter of them first.
    """
    worker = _open(run, model, dtype, 0)
    sequences, alone = _sequences(worker), EncoderAlone(worker.encoder)
    ways = [
        (budget, form, pooled)
        for budget in BUDGETS
        for form in FORMS
        for pooled in (False, True)
        # One thread has nothing to share.
        if worker.encoder.num_threads > 1 or not pooled
    ]
    part = sequences.take(np.arange(0, len(sequences), 4))
    best = (
        min(ways, key=lambda way: alone.run(part, *way)["seconds"])
        if tune
        else (4096, "flat", False)
    )
    taken = alone.run(sequences, *best)
    tokens = int(len(sequences.ids) + NUM_SPECIAL * len(sequences))
    way = dict(zip(("budget", "form", "pooled"), best, strict=True))
    return {**taken, "sequences": len(sequences), "tokens": tokens, "way": way}


def _sequences(worker: ImportanceWorker) -> Sequences:
    """Return all that the stage encodes, unit by unit."""
    parts, reader = [], LinkedReader(worker.paths)
    for unit in linked_units(worker.paths):
        linked = reader.read(unit)
        for chunk in _chunks(linked, worker.config.max_tokens):
            sequences = worker._plan(linked, chunk).sequences
            parts.append(sequences.take(sequences.distinct()[0]))
    rows = [
        part.ids[low:high]
        for part in parts
        for low, high in zip(part.offsets, part.offsets[1:], strict=False)
    ]
    return Sequences.of([row for row in rows if len(row)])


class EncoderAlone:
    """Run forward passes: the library's over batches of one length or padded ones, and the flat one."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        """Load the model again: the encoder keeps its weights in another form."""
        import torch

        self._encoder, self._frame = encoder, encoder.tokenizer.frame
        model = _load_encoder(encoder.model)
        if encoder.dtype == "bfloat16":
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(torch.bfloat16)
        self._library = LibraryForward(
            model, self._frame, "cpu", encoder.dtype == "bfloat16", "words"
        )

    def run(self, sequences: Sequences, budget: int, form: str, pooled: bool) -> dict[str, Any]:  # noqa: FBT001
        """Time one pass over all sequences; batches are made before."""
        import torch

        threads = self._encoder.num_threads if pooled else 1
        torch.set_num_threads(1 if pooled else self._encoder.num_threads)
        forward, batches = (self._flat if form == "flat" else self._by_library)(
            sequences, budget, form
        )
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(forward, batches[:threads]))
            clock = Clock()
            list(pool.map(forward, batches))
            return clock.taken()

    def _flat(self, sequences: Sequences, budget: int, form: str) -> Work:  # noqa: ARG002
        import torch

        flat = self._encoder._forward
        assert isinstance(flat, FlatForward)
        rows = flat._num_rows(budget)

        def forward(batch: FlatBatch) -> None:
            with torch.inference_mode(), flat._workspace(rows) as space:
                flat._run(batch, space)

        batches = flat.batches(sequences, budget)
        return forward, [FlatBatch.of(sequences.take(batch), self._frame) for batch in batches]

    def _by_library(self, sequences: Sequences, budget: int, form: str) -> Work:
        import torch

        def forward(batch: tuple[Any, Any]) -> None:
            with torch.inference_mode(), self._library.number_format():
                self._library.model(input_ids=batch[0], attention_mask=batch[1])

        return forward, list(_tensors(self._encoder, sequences, budget, form == "padded"))


def _tensors(
    encoder: SentenceEncoder,
    sequences: Sequences,
    budget: int,
    padded: bool,  # noqa: FBT001
) -> Iterator[tuple[Any, Any]]:
    """Yield ids and attention mask (none where nothing is padded) of batches, sorted by length."""
    import torch

    if not padded:
        for batch in sequences.batches(budget, NUM_SPECIAL):
            ids = np.pad(sequences.matrix(batch).astype(np.int64), ((0, 0), (1, 1)))
            ids[:, 0], ids[:, -1] = encoder.tokenizer.frame
            yield torch.from_numpy(ids), None
        return
    lengths = sequences.lengths
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        width = int(lengths[order[0]])
        batch, order = np.split(order, [max(budget // (width + NUM_SPECIAL), 1)])
        inside = np.arange(width) < lengths[batch, None]
        ids = np.zeros((len(batch), width + NUM_SPECIAL), np.int64)
        ids[:, 1:-1][inside] = sequences.take(batch).ids
        ids[:, 0] = encoder.tokenizer.frame[0]
        ids[np.arange(len(batch)), lengths[batch] + 1] = encoder.tokenizer.frame[1]
        mask = np.pad(inside, ((0, 0), (NUM_SPECIAL, 0)), constant_values=True)
        yield torch.from_numpy(ids), None if mask.all() else torch.from_numpy(mask.astype(np.int64))

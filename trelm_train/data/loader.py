"""Turn shards into batches, in an order that is a pure function of (seed, epoch, window, index).

1. Row groups are shuffled per epoch and read in windows of about `window_rows` rows, as flat
   columns (never row by row).
2. The sentences of a window are shuffled and planned into rows and batches (`packing`), which needs
   their lengths alone.
3. Planned sentences are assembled, some batches at a time (`batches`).

Every random choice is a hash, so a position (epoch, window, index) names a batch: a run resumes at
any batch without saved reader state, and any number of ranks can share one stream. The cost is the
columns of one window in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from schemas.array_types import I64
from schemas.errors import ConfigError, TrelmError
from schemas.freed_memory import keep_freed_memory
from trelm_train.data.arrays import order_by_bits, random_bits
from trelm_train.data.batches import Batch, Position, assemble, assemble_plan
from trelm_train.data.packing import (
    WINDOW_ROWS,
    Packing,
    PackingPlan,
    make_packing_plan,
    pack,
    plan_batches,
)
from trelm_train.data.sentences import (
    Sentences,
    in_file_order,
    read_outline,
    read_rows,
    read_sentences,
    sentences_from_ids,
    sentences_from_lists,
)
from trelm_train.data.shards import RowGroup, Shards

# Tokens that are assembled at once: few enough for the cache of a core, and enough for the cost of
# a call not to matter.
BLOCK_TOKENS = 65536
# Raised when the same settings give another order of batches.
ORDER_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderState:
    """Hold where a run stands in its stream, and what the stream depends on."""

    # Of the shards.
    fingerprint: str
    seed: int
    layout: str
    max_tokens: int
    batch_tokens: int
    window_rows: int
    order_version: int
    position: Position

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LoaderState:
        """Build a state from what `to_dict` returned.

        Raises:
            ConfigError: keys are missing or unknown.
        """
        try:
            return cls(**{**values, "position": Position(**values["position"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"loader state: {error}; it was saved by another version, start a new run"
            ) from error


def windows_of(groups: Iterable[RowGroup], window_rows: int) -> list[list[RowGroup]]:
    """Cut row groups into windows of consecutive ones, each of at least `window_rows` rows."""
    windows: list[list[RowGroup]] = []
    room = 0

    for group in groups:
        if room <= 0:
            windows.append([])
            room = window_rows
        # A window ends with the group that fills it: groups are never split, so a seek reads whole
        # ones.
        windows[-1].append(group)
        room -= group.num_rows

    return windows


class BatchStream:
    """Provide the endless stream of training batches of one shards folder.

    Threads may share it.

    Raises:
        TrelmError: no training sentence, or one that is longer than the model takes.
    """

    def __init__(self, shards: Shards, packing: Packing, *, seed: int, pad_id: int) -> None:
        self.shards, self.packing, self.seed, self.pad_id = shards, packing, seed, pad_id

        # Small caches serve the training loop and the router, which looks ahead of it, also where
        # the two stand in different windows.
        self._windows = lru_cache(maxsize=2)(self._make_windows)
        self._plan = lru_cache(maxsize=4)(self._make_plan)
        self._rows = lru_cache(maxsize=2)(self._read_rows)
        self._block = lru_cache(maxsize=2)(self._make_block)
        keep_freed_memory()

        # A sentence that is too long ends the run here, not when its window is read.
        check_lengths(np.asarray([shards.longest]), packing, shards)
        if not any(self._plan(0, window).num_batches for window in range(len(self._windows(0)))):
            raise TrelmError(
                f"{shards.path}: no training sentence in these shards; was the corpus empty?"
            )

    def positions(self, start: Position) -> Iterator[tuple[Position, Position]]:
        """Yield positions of batches from `start` on, each with the position that follows it.

        Nothing is assembled. The second position is where a run that has used the batch goes on.
        """
        epoch, window, index = start.epoch, start.window, start.index

        while True:
            if window >= len(self._windows(epoch)):
                # The stream has no end: after the last window comes the next epoch in another
                # order.
                epoch, window, index = epoch + 1, 0, 0

            for number in range(index, self._plan(epoch, window).num_batches):
                position = Position(epoch=epoch, window=window, index=number)
                yield position, Position(epoch=epoch, window=window, index=number + 1)

            window, index = window + 1, 0

    def at(self, position: Position) -> Batch:
        """Assemble the batch at a position that `positions` has named.

        Raises:
            ValueError: there is no batch.
        """
        epoch, window = position.epoch, position.window
        exists = (
            window < len(self._windows(epoch))
            and 0 <= position.index < self._plan(epoch, window).num_batches
        )
        if not exists:
            raise ValueError(f"no batch at {position}")

        # A batch is assembled together with its block, which the cache keeps for the batches that
        # follow.
        block, number = divmod(position.index, self._per_block)
        return self._block(epoch, window, block)[number]

    def iterate(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Yield batches from `start` on, each with the position that follows it."""
        for position, following in self.positions(start):
            yield self.at(position), following

    def state(self, position: Position) -> LoaderState:
        """Return what to save with a checkpoint, to go on at `position`."""
        return LoaderState(
            fingerprint=self.shards.fingerprint,
            seed=self.seed,
            layout=self.packing.layout,
            max_tokens=self.packing.max_tokens,
            batch_tokens=self.packing.batch_tokens,
            window_rows=self.packing.rows_per_window,
            order_version=ORDER_VERSION,
            position=position,
        )

    def check(self, state: LoaderState) -> None:
        """Refuse a saved state of another stream: its position would name other sentences here.

        Raises:
            ConfigError: names every setting that differs.
        """
        # Compared at the same position, so that only settings and shards can differ.
        saved, current = state.to_dict(), self.state(state.position).to_dict()
        if saved["fingerprint"] != current["fingerprint"]:
            raise ConfigError(
                f"{self.shards.path}: not the shards that this run was started with (fingerprint "
                f"{current['fingerprint'][:12]}, the run's is {saved['fingerprint'][:12]}); "
                "restore them, or start a new run"
            )

        changed = [
            f"{name} = {current[name]!r} (was {saved[name]!r})"
            for name in current
            if current[name] != saved[name]
        ]
        if changed:
            raise ConfigError(
                f"{self.shards.path}: batches would not be those this run was started with: "
                f"{', '.join(changed)}; set them back, or start a new run"
            )

    @property
    def _per_block(self) -> int:
        return max(1, BLOCK_TOKENS // self.packing.batch_tokens)

    def _make_windows(self, epoch: int) -> list[list[RowGroup]]:
        """Shuffle the row groups for an epoch and cut them into windows."""
        groups = self.shards.row_groups
        numbers = np.arange(len(groups), dtype=np.int64)
        # Row groups are shuffled only by their number, which the fingerprint of the shards fixes.
        order = order_by_bits(random_bits(self.seed, "groups", epoch, numbers))
        shuffled = (groups[number] for number in order.tolist())
        return windows_of(shuffled, self.packing.rows_per_window)

    def _make_plan(self, epoch: int, window: int) -> PackingPlan:
        """Plan the batches of a window from the lengths of its sentences."""
        outline = read_outline(self._windows(epoch)[window], "train")
        check_lengths(outline.length_N, self.packing, self.shards)
        # Bits by key, not by position: a sentence gets the same bits in any window.
        bits_N = random_bits(self.seed, "order", epoch, outline.key_N)
        plan = make_packing_plan(outline.length_N, self.packing, bits_N)
        return plan.renumbered(outline.row_N)

    def _read_rows(self, epoch: int, window: int) -> Sentences:
        return read_rows(self._windows(epoch)[window])

    def _make_block(self, epoch: int, window: int, block: int) -> list[Batch]:
        """Assemble the consecutive batches of one block."""
        plan, low = self._plan(epoch, window), block * self._per_block
        high = min(low + self._per_block, plan.num_batches)
        start = Position(epoch=epoch, window=window, index=low)
        return assemble_plan(self._rows(epoch, window), plan.batches(low, high), start, self.pad_id)


def in_steps(
    positions: Iterable[tuple[Position, Position]], size: int
) -> Iterator[tuple[list[Position], Position]]:
    """Group consecutive positions by `size`, each group with the position that follows it.

    One group is one optimiser step of all ranks together, however many there are.
    """
    remaining = iter(positions)
    # The stream is endless, so every group is full; only a finite iterable ends with a short one.
    while group := list(islice(remaining, size)):
        yield [position for position, _ in group], group[-1][1]


def share(positions: Iterable[Position], rank: int, world: int) -> Iterator[Position]:
    """Return the share of one rank: every `world`-th position.

    The shares of all ranks together are the positions, once each.

    Raises:
        ValueError: there is no such rank.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}; wanted 0 to {world - 1}")
    return islice(positions, rank, None, world)


def check_lengths(lengths: I64, packing: Packing, shards: Shards) -> None:
    """Refuse sentences that the model has no positions for.

    Raises:
        TrelmError: names the longest sentence and the limit.
    """
    longest = int(lengths.max(initial=0))
    if longest > packing.limit:
        raise TrelmError(
            f"{shards.path}: a sentence of {longest} tokens, but the model takes {packing.limit}; "
            "make the shards again with this model, or with shorter windows"
        )


def split_batches(shards: Shards, packing: Packing, split: str, pad_id: int) -> Iterator[Batch]:
    """Yield batches with every sentence of a split once, windows in file order."""
    windows = windows_of(in_file_order(shards.row_groups), packing.rows_per_window)

    for window, groups in enumerate(windows):
        outline = read_outline(groups, split)
        check_lengths(outline.length_N, packing, shards)
        plan = make_packing_plan(outline.length_N, packing).renumbered(outline.row_N)
        if plan.num_batches:
            yield from assemble_plan(read_rows(groups), plan, Position(window=window), pad_id)


__all__ = [
    "WINDOW_ROWS", "Batch", "BatchStream", "LoaderState", "Packing", "Position", "Sentences",
    "assemble", "check_lengths", "in_steps", "pack", "plan_batches", "read_sentences",
    "sentences_from_ids", "sentences_from_lists", "share", "split_batches", "windows_of",
]  # fmt: skip

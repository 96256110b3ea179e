"""Show the progress of a long run: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)
# Between two lines of a count, where no terminal is.
SELDOM_S = 20.0
# Shows a step's number and a line.
Show = Callable[[int, str], None]


def progress(done: int, steps: int, *, silent: bool) -> AbstractContextManager[Show]:
    """Open a `with` block around a function that shows a step's number and a line.

    `silent` is for all ranks but the first.
    """
    from rich.console import Console

    if silent:
        return nullcontext(lambda _step, _text: None)

    # Standard output is for results.
    console = Console(stderr=True)
    return bar(console, done, steps) if console.is_terminal else _lines(steps)


@contextmanager
def counting(total: int, noun: str) -> Iterator[Callable[[int], None]]:
    """Open a `with` block around a function that shows how many of some things are done.

    A bar on a terminal; elsewhere a line, but seldom.
    """
    from rich.console import Console

    # Standard output is for results.
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Seldom(total, noun)
        return
    with bar(console, 0, total) as show:
        show(0, noun)
        yield lambda done: show(done, noun)


class _Seldom:
    """Log how many things are done, where some time has passed since the last line."""

    def __init__(self, total: int, noun: str) -> None:
        self.total, self.noun, self.shown_at = total, noun, monotonic()

    def __call__(self, done: int) -> None:
        now = monotonic()
        if now - self.shown_at >= SELDOM_S:
            self.shown_at = now
            log.info("%d of %d %s", done, self.total, self.noun)


def line_of(means: dict[str, float], speed: dict[str, float]) -> str:
    """Format losses, tokens per second, padding, and the share of the weights that is updated.

    Losses of facts are shown where there are any.
    """
    fact_loss, cka_loss = means["fact_loss"], means["cka_loss"]
    facts = f"facts {fact_loss:.3f}  " if fact_loss else ""
    contrast = f"cka {cka_loss:.3f}  " if cka_loss else ""
    return (
        f"loss {means['loss']:.3f}  mlm {means['mlm_loss']:.3f}  {facts}{contrast}"
        f"{speed['tokens_per_s']:,.0f} tokens/s  padding {means['padding']:.1%}  "
        f"updated {means['trained_share']:.1%}"
    )


@contextmanager
def _lines(steps: int) -> Iterator[Show]:
    # One line each time the loop logs, for files and batch systems.
    yield lambda step, text: log.info("step %d/%d  %s", step, steps, text)


@contextmanager
def bar(console: Console, done: int, steps: int) -> Iterator[Show]:
    """Show a bar with the time that is left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("starting", total=steps, completed=done)
        yield lambda step, text: shown.update(task, completed=step, description=text)

"""Measure where the time of stage `link` goes: stop-watches around functions of the stage, named in
one table.

This is the one module that knows the stage's insides by name. A name that is gone is reported
(`missing`): otherwise its time would count, unnoticed, for the step around it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Step(NamedTuple):
    """Name a function as its callers reach it, and the step that its own time counts for."""

    step: str
    module: str
    name: str  # "function" or "Class.method"


# Time inside a nested function of the table counts for that one alone.
STEPS = (
    Step("annotation", "pipeline.link.spacy_annotator", "Annotator.annotate"),
    Step("detection", "pipeline.link.stage", "detect"),
    Step("features", "pipeline.link.stage", "batch_of"),
    Step("features", "pipeline.link.linker", "Linker.score"),
    Step("candidates", "pipeline.link.linker", "Linker._look_up"),
    Step("fuzzy", "pipeline.link.candidates", "fuzzy_candidates"),
    Step("disambiguation", "pipeline.link.linker", "Linker.decide"),
    Step("writing", "pipeline.link.stage", "sentence_rows"),
    Step("writing", "pipeline.link.stage", "link_rows"),
    Step("writing", "pipeline.engine.units", "UnitWriter.write"),
    Step("writing", "pipeline.engine.units", "UnitWriter.finish"),
)


class Watch:
    """Count seconds of processor time and calls by step."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.missing: list[str] = []
        self._running: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def inside(self, step: str) -> Iterator[None]:
        """Count time for this step, until a nested one."""
        self._switch()
        self._running.append(step)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def wrap(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time measured; of a generator that of its items."""

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            self.calls[step] += 1
            with self.inside(step):
                result = function(*arguments, **named)
            return self._items(step, result) if isinstance(result, Iterator) else result

        return timed

    def _items(self, step: str, items: Iterator[Any]) -> Iterator[Any]:
        while True:
            with self.inside(step):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


@contextlib.contextmanager
def timed_steps() -> Iterator[Watch]:
    """Put stop-watches into all functions of the table, until the end of the block."""
    watch = Watch()
    undo: list[Callable[[], None]] = []
    try:
        for step, module, name in STEPS:
            owner: Any = importlib.import_module(module)
            *classes, attribute = name.split(".")
            for part in classes:
                owner = getattr(owner, part, None)
            function = getattr(owner, attribute, None)
            if function is None:
                watch.missing.append(f"{module}:{name}")
                continue
            setattr(owner, attribute, watch.wrap(step, function))
            undo.append(functools.partial(setattr, owner, attribute, function))
        yield watch
    finally:
        for restore in undo:
            restore()

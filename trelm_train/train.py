"""The loop: `run` starts, `resume` continues, both end with an exported model and `summary.json`.

Per step: choose neurons anew when due; train; log; save. A first Ctrl-C or SIGTERM lets the step finish and saves.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from trelm_train.checkpoint import latest_checkpoint, save_checkpoint
from trelm_train.errors import TrelmError
from trelm_train.evaluate.mlm import evaluate_mlm
from trelm_train.export import entities_of, export_bank, export_model
from trelm_train.metrics import MetricLog
from trelm_train.report import describe, path_of, summarise
from trelm_train.session import (
    CHECKPOINTS,
    RunRequest,
    Session,
    resume_run,
    start_run,
    state_of,
    tensors_of,
)
from trelm_train.step import StepResult, train_step

log = logging.getLogger(__name__)
MAX_SKIPPED = 10  # steps in a row without a finite loss
MODEL = "model"
Show = Callable[[int, str], None]


class InterruptedRun(TrelmError):  # noqa: N818
    """A signal ended the run after a checkpoint; the exit code is 128 + the signal's number."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class Stop:
    """Set by the first SIGINT or SIGTERM; the loop reads it after each step."""

    def __init__(self) -> None:
        self.signum = 0

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle the signals inside, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        old = {number: signal.signal(number, self._set) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _set(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum:
            raise KeyboardInterrupt  # the second signal does not wait
        self.signum = signum


def run(request: RunRequest, stop: Stop | None = None) -> dict[str, Any]:
    """Train from the beginning; returns the summary."""
    session = start_run(request)
    log.info("%s", describe(session))
    if request.config.train.validate:
        session.history["validation_before"] = _validate(session)
    return _train(session, stop or Stop())


def resume(out: Path, stop: Stop | None = None, moved_shards: Path | None = None) -> dict[str, Any]:
    """Continue a run from its last checkpoint, or from its start if it has none; returns the summary."""
    checkpoint = latest_checkpoint(out / CHECKPOINTS)
    session = resume_run(out, checkpoint, moved_shards)
    log.info("continuing %s at step %d of %d", out, session.step, session.request.config.train.steps)
    if checkpoint is None and session.request.config.train.validate:
        session.history["validation_before"] = _validate(session)
    return _train(session, stop or Stop())


def _validate(session: Session) -> dict[str, Any]:
    parts = session.parts
    with parts.timers.measure("validation"):
        report = evaluate_mlm(parts.model, parts.vocabulary, session.shards, session.knowledge, session.packing)
    return report.to_dict()


def _train(session: Session, stop: Stop) -> dict[str, Any]:
    out, steps = session.request.out, session.request.config.train.steps
    metrics = MetricLog(out, after_step=session.step)
    try:
        with stop.listening(), _progress(session.step, steps) as show:
            _loop(session, metrics, stop, show)
    finally:
        metrics.close()
    with session.parts.timers.measure("checkpoint"):
        _save(session)
    validation = _validate(session) if session.request.config.train.validate else None
    export_model(session.parts.model, session.shards.tokenizer_path, out / MODEL)
    if session.parts.bank is not None:
        export_bank(session.parts.bank.state(), entities_of(session.knowledge), out / MODEL)
    _write_json(out / "routing.json", path_of(session))
    summary = summarise(session, validation)
    _write_json(out / "summary.json", summary)
    return summary


def _loop(session: Session, metrics: MetricLog, stop: Stop, show: Show) -> None:
    config, timers = session.request.config.train, session.parts.timers
    batches = session.stream.iterate(session.position)
    while session.step < config.steps:
        _route(session)
        with timers.measure("data"):
            batch, following = next(batches)
        result = train_step(session.parts, batch, session.step)
        session.position, session.step = following, session.step + 1
        _account(session, result)
        if session.step % config.log_every == 0 or session.step == config.steps:
            _log(session, metrics, show)
        if session.step % config.checkpoint_every == 0 or stop.signum:
            with timers.measure("checkpoint"):
                _save(session)
        if stop.signum:
            raise InterruptedRun(
                stop.signum,
                f"stopped after step {session.step} of {config.steps}, checkpoint saved; "
                f"continue with `trelm-train resume --out {session.request.out}`",
            )


def _route(session: Session) -> None:
    router, sparse = session.router, session.parts.sparse
    if router is None or sparse is None or not router.due(session.step):
        return
    with session.parts.timers.measure("attribution"):
        sparse.select(router.neurons(session.stream, session.position))
    session.history["routed_at"] = session.step
    _write_json(session.request.out / "routing.json", path_of(session))


def _account(session: Session, result: StepResult) -> None:
    session.skipped = 0 if result.applied else session.skipped + 1
    if session.skipped >= MAX_SKIPPED:
        raise TrelmError(
            f"step {session.step}: the loss was not finite in {MAX_SKIPPED} steps in a row; "
            "lower train.learning_rate and resume from the last checkpoint"
        )
    if not result.applied:
        log.warning("step %d: the loss or its gradient is not finite; nothing was changed", session.step)
        return
    session.tokens += result.num_tokens
    session.interval.add(
        {
            "loss": result.loss,
            "mlm_loss": result.mlm_loss,
            "cka_loss": result.cka_loss,
            "grad_norm": result.grad_norm,
            "tokens": float(result.num_tokens),
            "targets": float(result.num_targets),
            "facts": float(result.num_facts),
            "injected": float(result.num_injected),
        }
    )


def _log(session: Session, metrics: MetricLog, show: Show) -> None:
    if not session.interval.steps:  # every step of the interval was skipped
        return
    means = session.interval.means()
    session.history.setdefault("first", means)
    session.history["last"] = means
    metrics.write(session.step, means)
    show(session.step, f"loss {means['loss']:.3f}  mlm {means['mlm_loss']:.3f}  cka {means['cka_loss']:.3f}")


def _save(session: Session) -> None:
    save_checkpoint(
        session.request.out / CHECKPOINTS,
        session.step,
        tensors_of(session),
        state_of(session),
        keep=session.request.config.train.keep_checkpoints,
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _progress(done: int, steps: int) -> AbstractContextManager[Show]:
    from rich.console import Console

    console = Console(stderr=True)
    return _bar(console, done, steps) if console.is_terminal else _lines(steps)


@contextmanager
def _lines(steps: int) -> Iterator[Show]:
    yield lambda step, text: log.info("step %d/%d  %s", step, steps, text)


@contextmanager
def _bar(console: Any, done: int, steps: int) -> Iterator[Show]:  # noqa: ANN401
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=steps, completed=done)
        yield lambda step, text: progress.update(task, completed=step, description=text)

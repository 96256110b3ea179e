"""Run the training loop: `run` starts, `resume` continues.

Both end with an exported model and `summary.json`. Per step: choose neurons again when due; train;
log; evaluate; save. Batches are made ready ahead in a thread. A first Ctrl-C, SIGTERM or SIGUSR1
lets the step finish and saves. All ranks go through the same steps; the first one writes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from schemas import bucket_lock, run_lock
from schemas.buckets import Location
from schemas.checksums import seal
from schemas.durable import write_durably
from schemas.errors import ConfigError, TrelmError
from schemas.listing import a_few
from schemas.settings import to_dict, to_toml
from trelm_train.checkpoints.bucket_run import MODEL, RunFolder, opened
from trelm_train.checkpoints.checkpoint import (
    CHECKPOINTS,
    CheckpointWriter,
    latest_checkpoint,
)
from trelm_train.checkpoints.description import CONFIG_NAME, read_run
from trelm_train.checkpoints.export import (
    BANK_FILE,
    BANK_FOLDER,
    entities_of,
    export_bank,
    export_model,
)
from trelm_train.checkpoints.model_card import CARD, TrainedModel, write_card
from trelm_train.config import Config, load_config, with_automatic_of
from trelm_train.data.prefetch import prefetch
from trelm_train.ranks import Ranks, joined
from trelm_train.reporting.loggers import make_loggers
from trelm_train.reporting.metrics import MetricLog
from trelm_train.reporting.profiling import Profile
from trelm_train.reporting.progress import Show, line_of, progress
from trelm_train.routing.router import MAX_ROUTING_SHARE, attribution_share
from trelm_train.training.advice import frozen_warnings
from trelm_train.training.evaluation import Evaluator, write_evaluation
from trelm_train.training.report import describe, knowledge_path_of, summarise
from trelm_train.training.resource_estimate import check_estimate, estimate_resources
from trelm_train.training.session import (
    RunRequest,
    Session,
    changed_settings,
    resume_run,
    start_run,
    state_of,
    tensors_of,
    write_files,
)
from trelm_train.training.signals import InterruptedRun, Stop
from trelm_train.training.step import StepResult, train_step
from trelm_train.training.step_inputs import StepInputs, stream_step_inputs

log = logging.getLogger(__name__)
# Skipped steps in a row that end a run.
MAX_SKIPPED = 10
# Steps whose batches are ready before they are needed.
AHEAD = 2
PLAN_NAME = "plan.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tools:
    """Hold what the loop writes to, and what can stop it."""

    # None on all ranks but the first.
    metrics: MetricLog | None
    evaluator: Evaluator
    writer: CheckpointWriter
    show: Show
    stop: Stop
    profile: Profile
    clock: _Clock
    # The latest evaluation, and its step.
    latest: dict[str, Any] = field(default_factory=dict)


def run(request: RunRequest, stop: Stop | None = None) -> dict[str, Any]:
    """Train from the beginning and return the summary."""
    with opened(request.out) as place:
        return _run_in(place, request, stop)


def _run_in(place: RunFolder, request: RunRequest, stop: Stop | None) -> dict[str, Any]:
    with (
        _algorithms(request),
        joined(request.config.train.device) as ranks,
        _sole_writer(place.location, ranks),
    ):
        request = replace(request, out=place.folder, bucket=place.bucket)
        session = start_run(request, ranks)
        return _train(session, stop or Stop())


@contextmanager
def _sole_writer(out: Location, ranks: Ranks) -> Iterator[None]:
    """Hold a run's folder on the first rank, which is the one that writes.

    Raises:
        LockedError: another program holds it.
        ConfigError: the folder cannot be made or written.
    """
    if not ranks.is_first:
        yield
        return
    with ExitStack() as stack:
        try:
            if isinstance(out, Path):
                stack.enter_context(run_lock.hold(out, "trelm-train"))
            else:
                stack.enter_context(bucket_lock.hold(out, "trelm-train"))
        except OSError as error:
            raise ConfigError(
                f"{out}: cannot write there ({error.strerror}); give another --out"
            ) from error
        yield


def resume(
    out: Location, stop: Stop | None = None, moved_shards: Location | None = None
) -> dict[str, Any]:
    """Continue a run from its latest checkpoint and return the summary.

    A run without a checkpoint is continued from its start.
    """
    with opened(out) as place:
        if place.bucket is not None:
            place.bucket.fetch_description()
        return _resume_in(place, stop, moved_shards)


def _resume_in(
    place: RunFolder,
    stop: Stop | None,
    moved_shards: Location | None,
    settings: Config | None = None,
) -> dict[str, Any]:
    """Continue a run, with the settings of its folder or with others that may take their place."""
    with ExitStack() as stack:
        # The device is needed before the session is there: it decides how the ranks talk.
        device = settings.train.device if settings else _device_of(place.folder)
        ranks = stack.enter_context(joined(device))
        stack.enter_context(_sole_writer(place.location, ranks))
        if settings is not None and ranks.is_first:
            write_durably(place.folder / CONFIG_NAME, to_toml(settings))
        session = resume_run(place, _checkpoint_of(place, ranks), moved_shards, ranks, settings)
        stack.enter_context(_algorithms(session.request))
        log.info(
            "continuing %s at step %d of %d",
            place.location, session.step, session.request.config.train.steps,
        )  # fmt: skip
        return _train(session, stop or Stop())


def _checkpoint_of(place: RunFolder, ranks: Ranks) -> Path | None:
    """Return the checkpoint from which a run goes on, or None: the same one on all ranks."""
    if place.bucket is None:
        return latest_checkpoint(place.folder / CHECKPOINTS)
    # The first rank has the lock by now, so nobody adds one.
    return place.bucket.fetch(ranks.highest(place.bucket.latest_step() if ranks.is_first else -1))


def run_or_resume(request: RunRequest, stop: Stop | None = None) -> dict[str, Any]:
    """Continue the run in `request.out` if it has a checkpoint, else start it.

    This is for batch systems that start a job again with the same command.

    Raises:
        ConfigError: the run there has other settings or another model.
    """
    with opened(request.out) as place:
        if not _has_checkpoint(place):
            return _run_in(place, request, stop)

        if place.bucket is not None:
            place.bucket.fetch_description()
        old = load_config(place.folder / CONFIG_NAME)
        # What was chosen automatically when the run began stays.
        request = replace(request, config=with_automatic_of(request.config, old))
        changed = changed_settings(to_dict(old), to_dict(request.config))
        started = read_run(place.folder)
        # The model is no setting, but it decides what is learned just the same.
        changed += ["--model"] if started["model"] != request.model else []
        if changed:
            raise ConfigError(
                f"{request.out}: holds a run with other settings ({a_few(changed, shown=8)}); "
                "give the same ones, or another --out"
            )

        # Settings that may differ count as they are in this request.
        return _resume_in(place, stop, request.shards, request.config)


def _has_checkpoint(place: RunFolder) -> bool:
    if place.bucket is not None:
        return place.bucket.latest_step() >= 0
    return latest_checkpoint(place.folder / CHECKPOINTS) is not None


def _device_of(out: Path) -> str:
    path = out / CONFIG_NAME
    return load_config(path).train.device if path.is_file() else "auto"


@contextmanager
def _algorithms(request: RunRequest) -> Iterator[None]:
    """Allow only algorithms that give the same bits every time, if `train.deterministic` is set."""
    if not request.config.train.deterministic:
        yield
        return

    # cuBLAS is deterministic only with this workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_enabled = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_enabled)


def _train(session: Session, stop: Stop) -> dict[str, Any]:
    """Train a session to its end; return the summary on the first rank, elsewhere nothing."""
    ranks, config = session.components.ranks, session.request.config
    if ranks.is_first:
        log.info("%s", describe(session))
        _warn_of_costly_routing(config)
        for warning in frozen_warnings(config, session.components.model.num_layers):
            log.warning("%s", warning)
        estimate = estimate_resources(session)
        check_estimate(estimate, session.request)
        # Written before the first step: it explains a run that was killed for its memory.
        _write_json(session.request.folder / PLAN_NAME, estimate.to_dict())

    with ExitStack() as stack:
        tools = _tools(session, stop, stack)
        # A run that fails leaves the checkpoint that was under way.
        stack.callback(tools.writer.finish)
        _mark_best(session, tools)
        if config.train.validate and "validation_before" not in session.history:
            session.history["validation_before"] = _measure(session, tools)

        stack.enter_context(stop.listening())
        _loop(session, tools)
        _save(session, tools)
        tools.writer.close()
        if session.skipped and ranks.is_first:
            log.warning(
                "the last %d steps were skipped; look at the losses before you use this model",
                session.skipped,
            )
        validation = _measure(session, tools) if config.train.validate else None

    if not ranks.is_first:
        return {}
    return _finish(session, validation)


def _warn_of_costly_routing(config: Config) -> None:
    """Warn where attribution would take too large a share of the time."""
    tokens_per_step = config.train.batch_tokens * config.train.micro_batches
    share = attribution_share(config.routing, tokens_per_step)
    if share <= MAX_ROUTING_SHARE:
        return

    # Attribution takes share / (1 - share) of the time of the steps; an interval that is longer by
    # the quotient of that ratio and the allowed one is long enough.
    allowed = MAX_ROUTING_SHARE
    enough = math.ceil(config.routing.refresh_every * share / (1 - share) * (1 - allowed) / allowed)
    log.warning(
        "attribution will take about %.0f %% of the time with such small steps; "
        "routing.refresh_every=%d keeps it at 5 %%",
        100 * share,
        enough,
    )


def _tools(session: Session, stop: Stop, stack: ExitStack) -> _Tools:
    """Open everything that the loop writes to; the stack closes it."""
    request, config = session.request, session.request.config
    is_first = session.components.ranks.is_first

    metrics = None
    if is_first:
        loggers = make_loggers(config.train.loggers)
        # A logger that fails does so before the first step.
        for logger in loggers:
            logger.start(request.folder, to_dict(config), after_step=session.step)
        metrics = stack.enter_context(
            closing(MetricLog(request.folder, loggers, after_step=session.step))
        )

    writer = CheckpointWriter(
        request.folder / CHECKPOINTS,
        keep=config.train.keep_checkpoints,
        background=config.train.async_checkpoint,
        uploads=request.bucket,
    )
    show_line = stack.enter_context(progress(session.step, config.train.steps, silent=not is_first))
    profile = Profile(config.train.profile if is_first else "", request.folder)
    return _Tools(
        metrics=metrics,
        evaluator=Evaluator(session),
        writer=writer,
        show=show_line,
        stop=stop,
        profile=stack.enter_context(closing(profile)),
        clock=_Clock(session.tokens),
    )


def _finish(session: Session, validation: dict[str, Any] | None) -> dict[str, Any]:
    """Export the model and its bank, write the reports, and return the summary."""
    folder = session.request.folder
    export_model(session.components.model, session.shards.tokenizer_path, folder / MODEL)

    # The latest checkpoint was written after the last step: its bank is the final one.
    if session.components.bank is not None:
        checkpoint = latest_checkpoint(folder / CHECKPOINTS)
        assert checkpoint is not None
        export_bank(checkpoint / BANK_FILE, entities_of(session.knowledge), folder / MODEL)

    summary = summarise(session, validation)
    write_card(folder / MODEL, _described(session, summary))
    # The model's files; those of the bank have checksums of their own.
    seal(folder / MODEL, apart=[BANK_FOLDER, CARD])
    _write_json(folder / "routing.json", knowledge_path_of(session))
    _write_json(folder / "summary.json", summary)
    if session.request.bucket is not None:
        session.request.bucket.publish_end()
    return summary


def _described(session: Session, summary: dict[str, Any]) -> TrainedModel:
    """Return what the model's card says."""
    return TrainedModel(
        run=read_run(session.request.folder),
        config=session.request.config,
        step=session.step,
        tokens=session.tokens,
        before=summary["validation_before"] or {},
        after=summary["validation_after"] or {},
        has_bank=session.components.bank is not None,
        summary=summary,
    )


def _loop(session: Session, tools: _Tools) -> None:
    """Take all steps that are left.

    Raises:
        TrelmError: too many steps in a row were skipped.
        InterruptedRun: a signal asked for the end.
    """
    config, components = session.request.config, session.components
    all_inputs = stream_step_inputs(
        session.stream,
        session.position,
        components.ranks,
        config.train.micro_batches,
        session.preparer,
    )

    with prefetch(all_inputs, depth=AHEAD) as ready:
        while session.step < config.train.steps:
            tools.profile.before(session.step + 1)
            route(session)
            with components.timers.measure("data"):
                inputs = next(ready)
            _advance(session, inputs, train_step(components, inputs, session.step))
            if session.skipped >= MAX_SKIPPED:
                _give_up(session, tools)
            tools.profile.after(session.step)
            _after_step(session, tools)


def _advance(session: Session, inputs: StepInputs, result: StepResult) -> None:
    """Count a step, and remember what it measured."""
    session.position, session.step = inputs.following, session.step + 1
    # A skipped step has moved on in the stream, but has learned nothing.
    session.tokens += 0 if result.skipped else result.totals.tokens
    session.skipped = session.skipped + 1 if result.skipped else 0

    if result.skipped:
        session.history["why_skipped"] = result.skipped
        session.history["skipped_steps"] = session.history.get("skipped_steps", 0) + 1
        if session.components.ranks.is_first:
            log.warning("step %d: skipped, nothing was changed: %s", session.step, result.skipped)
        return

    session.interval.add(values_of(session, result))


def _give_up(session: Session, tools: _Tools) -> None:
    """Save and end a run whose steps are skipped again and again.

    Raises:
        TrelmError: in any case.
    """
    _save(session, tools)
    tools.writer.close()
    raise TrelmError(
        f"step {session.step}: {MAX_SKIPPED} steps in a row were skipped, the last because: "
        f"{session.history['why_skipped']}; checkpoint saved; a resumed run would repeat these "
        "steps with equal weights, so start a new run with a lower train.learning_rate, or with "
        "a higher train.skip_sigma if the data are the cause"
    )


def values_of(session: Session, result: StepResult) -> dict[str, float]:
    """Return what is logged of a step."""
    totals = result.totals
    # A step without facts has no loss of facts: a 0 would lower the mean.
    losses = {"fact_loss": result.fact_loss} if totals.asked else {}
    losses |= {"cka_loss": result.cka_loss} if totals.contrasted else {}
    return {
        "loss": result.loss,
        "mlm_loss": result.mlm_loss,
        **losses,
        "grad_norm": result.grad_norm,
        "learning_rate": result.rate,
        "tokens": float(totals.tokens),
        "padding": 1 - totals.tokens / totals.padded,
        "targets": float(totals.targets),
        "facts": float(totals.asked or totals.contrasted),
        "injected": float(result.num_injected),
        "trained_share": session.components.trained_share,
    }


def _after_step(session: Session, tools: _Tools) -> None:
    """Log, evaluate and save where it is due after a step.

    Raises:
        InterruptedRun: a signal asked for the end.
    """
    config = session.request.config
    # A checkpoint in the background gets its final name here, between two steps.
    tools.writer.poll()
    if session.step % config.train.log_every == 0 or session.step == config.train.steps:
        _log(session, tools)

    has_improved = False
    if config.evaluation.every and session.step % config.evaluation.every == 0:
        has_improved = tools.evaluator.improves(_measure(session, tools))

    # The ranks agree on the signal, so that all of them save or none.
    signum = session.components.ranks.highest(tools.stop.signum)
    if session.step % config.train.checkpoint_every == 0 or signum or has_improved:
        _save(session, tools)
    if has_improved:
        _mark_best(session, tools)

    if signum:
        tools.writer.close()
        raise InterruptedRun(
            signum,
            f"stopped after step {session.step} of {config.train.steps}, checkpoint saved; "
            f"continue with `trelm-train resume --out {session.request.out}`",
        )


def _mark_best(session: Session, tools: _Tools) -> None:
    """Mark the best checkpoint so far, if there is one.

    A resumed run does it again: it may have been killed between the checkpoint and its mark.
    """
    best = session.history.get("best")
    if best is not None and session.components.ranks.is_first:
        tools.writer.mark_best(best["step"], best["measure"], best["value"])


def _log(session: Session, tools: _Tools) -> None:
    """Write the means of the interval to the metrics and the screen."""
    # Nothing to average where every step of the interval was skipped.
    if not session.interval.steps:
        return

    means = {"fact_loss": 0.0, "cka_loss": 0.0, **session.interval.means()}
    # Kept for the summary, over resumes as well.
    session.history.setdefault("first", means)
    session.history["last"] = means
    if tools.metrics is None:
        return

    speed = {"tokens_per_s": tools.clock.rate(session.tokens)}
    tools.metrics.write(session.step, means, speed)
    tools.show(session.step, line_of(means, speed))


def _measure(session: Session, tools: _Tools) -> dict[str, Any]:
    """Evaluate on the first rank, while the others wait."""
    # The end of a run may be a step that was evaluated anyway.
    if tools.latest.get("step") == session.step:
        return dict(tools.latest["measures"])

    measures: dict[str, Any] = {}
    if session.components.ranks.is_first:
        with session.components.timers.measure("validation"):
            measures = tools.evaluator.measure()
        write_evaluation(session.request.folder, session.step, measures)
        if tools.metrics is not None:
            values = {f"eval/{name}": value for name, value in measures.items()}
            numbers = {name: value for name, value in values.items() if value is not None}
            tools.metrics.send_to_loggers(session.step, numbers)

    session.components.ranks.wait()
    # The time of an evaluation is not the time of steps.
    tools.clock.restart(session.tokens)
    tools.latest.update(step=session.step, measures=measures)
    return measures


def route(session: Session) -> None:
    """Choose neurons again if they are due."""
    router, sparse = session.router, session.components.sparse
    if router is None or sparse is None or not router.due(session.step):
        return

    ranks = session.components.ranks
    with session.components.timers.measure("attribution"):
        sparse.select(router.neurons(session.stream, session.position, ranks))

    session.history["routed_at"] = session.step
    if session.components.ranks.is_first:
        _write_json(session.request.folder / "routing.json", knowledge_path_of(session))


def _save(session: Session, tools: _Tools) -> None:
    """Write a checkpoint on the first rank."""
    if not session.components.ranks.is_first:
        return

    with session.components.timers.measure("checkpoint"):
        tools.writer.save(
            session.step,
            tensors_of(session),
            state_of(session),
            lambda folder: write_files(session, folder),
        )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_durably(path, json.dumps(value, indent=1) + "\n")


class _Clock:
    """Measure tokens per second since the previous measurement."""

    def __init__(self, tokens: int) -> None:
        self.restart(tokens)

    def restart(self, tokens: int) -> None:
        """Start a measurement at this number of tokens."""
        self.start, self.tokens = time.perf_counter(), tokens

    def rate(self, tokens: int) -> float:
        """Return the tokens per second since the start, and start again."""
        rate = (tokens - self.tokens) / max(time.perf_counter() - self.start, 1e-9)
        self.restart(tokens)
        return rate

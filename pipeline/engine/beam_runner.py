"""Turn command-line flags into a running graph, on any Beam runner.

`--runner=DirectRunner` (and nothing) means FnApiRunner, Beam's in-process runner: plain
DirectRunner may download and start another engine. Unknown flags are refused: Beam alone would only
warn and run locally.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    _BeamArgumentParser,
)
from apache_beam.portability.python_urns import SUBPROCESS_SDK
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import create_runner

from pipeline.engine import local_worker
from pipeline.engine.bucket_flags import honour_flags
from pipeline.engine.cluster import (
    DATAFLOW,
    check_options,
    check_places,
    check_runner,
    service_message,
)
from pipeline.engine.errors import StageError, message_in
from pipeline.engine.lost_workers import MESSAGE as LOST
from pipeline.engine.lost_workers import LostWorkers
from pipeline.engine.progress import (
    JobResult,
    MetricsPoller,
    ProgressAddress,
    ProgressReceiver,
    counts_in,
)
from pipeline.engine.progress_text import Workload, final_line
from pipeline.engine.worker_threads import LOCAL_WORKERS
from schemas.command_line import OWN_PACKAGES, Terminated
from schemas.errors import ConfigError
from schemas.machine import usable_cores

LOCAL_RUNNERS = {
    "",
    "directrunner",
    "direct",
    "switchingdirectrunner",
    "bundlebaseddirectrunner",
    "fnapirunner",
}
IN_PROCESS = "FnApiRunner"
# What a worker says that lacks a package.
MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True)
class RunnerSettings:
    """Say which runner, how many local processes, and which of Beam's own flags."""

    runner: str = ""
    workers: int = 1
    beam_flags: tuple[str, ...] = ()

    @property
    def is_dry(self) -> bool:
        """Say whether the job is only built (Dataflow's --dry_run)."""
        return any(flag.lower() in ("--dry_run", "--dry_run=true") for flag in self.beam_flags)

    @property
    def is_local(self) -> bool:
        """Say whether the graph runs in this process and its children."""
        return self.runner.lower() in LOCAL_RUNNERS

    @property
    def is_dataflow(self) -> bool:
        """Say whether the job goes to Dataflow."""
        return self.runner.lower() == DATAFLOW

    @property
    def is_template(self) -> bool:
        """Say whether the job is only described in a file, which a service starts by itself."""
        return any(flag.startswith("--template_location") for flag in self.beam_flags)

    @property
    def is_left_alone(self) -> bool:
        """Say whether nobody here waits for the job: it writes its manifest by itself."""
        return self.is_template or (
            not self.is_local and "--no_wait_until_finish" in self.beam_flags
        )

    @property
    def is_one_per_core(self) -> bool:
        """Say whether a worker's machine runs a process per core, as Dataflow does unless told."""
        flags = " ".join(self.beam_flags)
        return self.is_dataflow and "no_use_multiple_sdk_containers" not in flags


class _StrictParser(_BeamArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"Beam options: {message}")


def beam_options(settings: RunnerSettings) -> PipelineOptions:
    """Return Beam's options; every flag must be one that Beam knows.

    Raises:
        ConfigError: an unknown flag (with the nearest known one), a stray word, a bad value.
    """
    if settings.workers < 0:
        raise ConfigError(f"--workers {settings.workers}: give 0 (one per core) or more")
    flags = list(settings.beam_flags)
    _refuse_unknown(flags)

    runner = IN_PROCESS if settings.is_local else settings.runner
    flags.append(f"--runner={runner}")
    if settings.is_local:
        workers = settings.workers or usable_cores()
        # Also for one: the stage before may have had more.
        os.environ[LOCAL_WORKERS] = str(workers)
        if settings.workers != 1:
            flags += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    else:
        check_runner(settings.runner)
        _refuse_unknown_runner(settings.runner)
        if "--save_main_session" not in flags:
            # Our code is installed on the workers; pickling it would hide where it is missing.
            flags.append("--no_save_main_session")
        if settings.is_dataflow and not _has(flags, "--sdk_location"):
            # The image has Beam: nothing of it is staged.
            flags.append("--sdk_location=container")
    options = PipelineOptions(flags)
    check_options(settings.runner, options.get_all_options(), settings.workers)
    honour_flags(options)
    return options


def _has(flags: Sequence[str], name: str) -> bool:
    """Say whether a flag was given, in either of its forms."""
    return any(flag == name or flag.startswith(f"{name}=") for flag in flags)


def _refuse_unknown_runner(name: str) -> None:
    """Refuse a runner that Beam does not have, or whose packages are missing.

    Raises:
        ConfigError: names the runner, and those that there are.
    """
    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"--runner {name!r}: {text}; check the name") from error


def _refuse_unknown(flags: Sequence[str]) -> None:
    """Refuse a flag that Beam does not know: Beam itself would only warn, and run without it."""
    parser = _StrictParser(allow_abbrev=False, add_help=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    beam_names = sorted({name for action in parser._actions for name in action.option_strings})
    own_names = ["--runner", "--workers", "--run", "--config", "--set"]

    _, unknown = parser.parse_known_args(list(flags))
    for flag in unknown:
        name = flag.split("=")[0]
        near = difflib.get_close_matches(name, [*beam_names, *own_names], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"unknown option {name!r}{hint} "
            "(neither this program nor Beam knows it; --help lists the options)"
        )


def run_graph(
    settings: RunnerSettings,
    build: Callable[[beam.Pipeline, ProgressAddress | None], None],
    work: Workload,
) -> None:
    """Build and run a graph, wait for its end, show its progress, and log a last line about it.

    Raises:
        StageError: with the worker's message.
        KeyboardInterrupt: the user stopped it.
    """
    options = beam_options(settings)
    started_s = time.monotonic()

    if settings.is_local:
        with ProgressReceiver(work) as progress, LostWorkers() as lost:
            try:
                result = _run(options, lambda pipeline: build(pipeline, progress.address), work)
            except StageError:
                raise
            except (KeyboardInterrupt, Exception) as error:
                if lost.explains(error):
                    raise StageError(f"{work.stage}: {LOST}") from error
                raise
    else:
        if settings.is_dataflow:
            _name_job(options, work.stage)
        if settings.is_dry:
            _rehearse(options, lambda pipeline: build(pipeline, None))
            return
        if settings.is_dataflow:
            check_places(options.get_all_options())
        if settings.is_left_alone:
            _submit(options, lambda pipeline: build(pipeline, None), work)
            return
        result = _run(options, lambda pipeline: build(pipeline, None), work)

    if counts := counts_in(result):
        logger.info("%s", final_line(work, counts, time.monotonic() - started_s))


def _rehearse(options: PipelineOptions, build: Callable[[beam.Pipeline], None]) -> None:
    """Build and translate the graph, and run nothing (Dataflow's --dry_run)."""
    pipeline = beam.Pipeline(options=options)
    build(pipeline)
    pipeline.run()
    graph = pipeline.runner.proto_pipeline
    logger.info(
        "dry run: %d steps, %d bytes, nothing submitted",
        len(graph.components.transforms),
        graph.ByteSize(),
    )


def _name_job(options: PipelineOptions, stage: str) -> None:
    """Call a job after its stage and the time, unless the user has named it."""
    cloud = options.view_as(GoogleCloudOptions)
    cloud.job_name = cloud.job_name or time.strftime(f"trelm-{stage}-%Y%m%d-%H%M%S", time.gmtime())


def _submit(
    options: PipelineOptions, build: Callable[[beam.Pipeline], None], work: Workload
) -> None:
    """Submit a job, or write its description where a service looks for it, and do not wait."""
    result = _run(options, build, work, waits=False)
    place = options.view_as(GoogleCloudOptions).template_location
    if place:
        logger.info("%s: the job's description is in %s, for the service", work.stage, place)
        return
    # Of Dataflow; other runners have no such name for a job.
    name = getattr(result, "job_id", lambda: "")()
    logger.info(
        "%s: job %s submitted; it writes its output by itself, and the next command finds it",
        work.stage,
        name,
    )


class LocalRunner(FnApiRunner):  # type: ignore[misc]
    """Be Beam's local runner, whose worker processes are started by our own command."""

    def run_via_runner_api(self, graph: Any, options: PipelineOptions) -> Any:  # noqa: ANN401
        """Run a graph; where it names Beam's worker process, ours starts."""
        for environment in graph.components.environments.values():
            if environment.urn == SUBPROCESS_SDK:
                environment.payload = local_worker.command_line().encode()
        return super().run_via_runner_api(graph, options)


def _run(
    options: PipelineOptions,
    build: Callable[[beam.Pipeline], None],
    work: Workload,
    *,
    waits: bool = True,
) -> JobResult:
    """Run a graph to its end, or only start it elsewhere, and return Beam's result."""
    is_local = options.view_as(StandardOptions).runner == IN_PROCESS
    pipeline = beam.Pipeline(runner=LocalRunner() if is_local else None, options=options)
    result: Any = None
    try:
        build(pipeline)
        # On this machine `run` does all the work; elsewhere it only starts the job.
        result = pipeline.run()
        if not waits:
            return result
        with MetricsPoller(result, work):
            result.wait_until_finish()
    except KeyboardInterrupt:
        _say_that_it_goes_on(result, options)
        raise
    except Exception as error:
        # What happened in a worker arrives as the text of a RuntimeError: look there for what it
        # was.
        text = "".join(str(cause) for cause in (error, *_causes(error)))
        if "Terminated" in text:
            raise Terminated from error
        if "KeyboardInterrupt" in text:
            raise KeyboardInterrupt from error

        missing = MISSING_MODULE.search(text)
        if missing is not None and missing.group(1).partition(".")[0] in OWN_PACKAGES:
            raise StageError(
                f"{work.stage}: the workers lack this program ({missing.group(0)}); install the same version "
                "where they start, or give an image that has it (`trelm-pipeline image --help`)"
            ) from error
        if missing is not None:
            raise ModuleNotFoundError(missing.group(0), name=missing.group(1)) from error
        message = message_in(text) or service_message(error)
        if message is None:
            # No error for the user to act on, but a fault of the program: show all of it.
            raise
        raise StageError(message) from error
    return result


def _say_that_it_goes_on(result: Any, options: PipelineOptions) -> None:  # noqa: ANN401
    """Say how a job on Dataflow is stopped that goes on without this program."""
    if result is None or options.view_as(StandardOptions).runner.lower() != DATAFLOW:
        return
    cloud = options.view_as(GoogleCloudOptions)
    logger.warning(
        "the job goes on without this program; "
        "gcloud dataflow jobs cancel %s --project=%s --region=%s stops it",
        result.job_id(),
        cloud.project,
        cloud.region,
    )


def _causes(error: BaseException) -> list[BaseException]:
    """List what an error was raised from, the nearest first."""
    causes = []
    while error.__cause__ is not None:
        error = error.__cause__
        causes.append(error)
    return causes

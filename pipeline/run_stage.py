"""Run stages: plan one, skip it where it is up to date, build its graph, run it, say what it wrote."""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipeline import flow
from pipeline.cluster_paths import check_paths, paths_of
from pipeline.config import RunConfig
from pipeline.database.run_database import has_database, write_database
from pipeline.documents.corpus import files_of
from pipeline.documents.wiki_name import check_wiki
from pipeline.encoder.sentence_encoder import check_device
from pipeline.engine import files
from pipeline.engine.beam_runner import RunnerSettings, beam_options, run_graph
from pipeline.engine.errors import StageError
from pipeline.engine.graph import build_graph
from pipeline.engine.kept_listings import forget_listings
from pipeline.engine.progress_text import Workload
from pipeline.engine.sole_writer import holds, sole_writer
from pipeline.engine.stage import NOT_FINISHED, PreparedStage, StagePlan, prepare, why_needed
from pipeline.engine.stage_folders import SCRATCH, remove_older
from pipeline.engine.tables import CONFIG_NAME, RunPaths
from pipeline.link.weights import fitted_in_words, load_weights
from pipeline.needs import check_needs, needs_of, suited_workers, worker_ram_gb
from pipeline.shards.statements import share_in_words
from schemas.buckets import location_of
from schemas.errors import ConfigError
from schemas.occupied import PIPELINE, occupant
from schemas.run_lock import LOCK_NAME, LockedError
from schemas.settings import is_written_here, to_toml

# Kinds of characters that no name of a run's folder has: control characters, ends of lines.
CONTROL = frozenset(("Cc", "Zl", "Zp"))
logger = logging.getLogger("trelm")


def plan_stage(name: str, config: RunConfig) -> StagePlan:
    """Plan one stage: its inputs are checked and its units counted, nothing is done yet."""
    stage = flow.stage_named(name)
    make_plan: Callable[..., StagePlan] = importlib.import_module(stage.module).plan
    plan = make_plan(_section_of(stage, config), RunPaths(root=config.run))
    return replace(plan, max_reject_rate=config.max_reject_rate, root=config.run)


def _section_of(stage: flow.Stage, config: RunConfig) -> Any:  # noqa: ANN401 - each has its own type
    """Return the settings of a stage; some stand for those of another stage, unless told.

    Shards are made for the model of importance; importance takes for rare what is rare in shards.
    """
    section: Any = getattr(config, stage.section)
    if stage.name == "shards":
        section = replace(section, model=section.model or config.importance.model)
    if stage.name == "importance" and section.r_freq is None:
        section = replace(section, r_freq=config.shards.r_freq)
    return section


def _read_by(stage: flow.Stage, config: RunConfig) -> tuple[str, ...]:
    """Return the stages that a stage reads with these settings."""
    if stage.name == "importance" and config.importance.mentions == "needed":
        return (*stage.reads, "stats")
    return stage.reads


def check_stages(config: RunConfig, last: str) -> None:
    """Check what all stages up to one need from outside, so that nothing fails after hours for it.

    Raises:
        StageError, ConfigError: what is wrong, where, what to do.
    """
    stages = flow.stages_until(last)
    for stage in stages:
        check = getattr(importlib.import_module(stage.module), "check", None)
        if check is not None:
            check(_section_of(stage, config))

    if flow.stage_named("titles") in stages:
        # The knowledge base of this run will hold the titles of the wiki that its settings name.
        for entry, kind in files_of(config.documents).items():
            if kind == "wiki-xml":
                check_wiki(entry.path, config.kb.wiki)


def planned(
    config: RunConfig,
    settings: RunnerSettings,
    last: str = flow.STAGE_NAMES[-1],
    *,
    verify: bool = False,
) -> Iterator[tuple[str, str]]:
    """Yield each stage up to `last`, and why it would run; nothing where it would be skipped.

    Nothing is written. A stage that reads one that would run would run too.
    """
    stages = flow.stages_until(last)
    check_run(config, settings, [stage.name for stage in stages])
    check_stages(config, last)
    paths, will_run = RunPaths(root=config.run), set()
    for stage in stages:
        if not is_needed(stage, config):
            continue
        first = next((name for name in _read_by(stage, config) if name in will_run), "")
        if first:
            reason = f"{first} runs"
        else:
            reason = why_needed(plan_stage(stage.name, config), paths, verify=verify)
        if reason:
            will_run.add(stage.name)
        # A finished stage needs no device, and the machines of a cluster have other ones.
        if reason and stage.name == "importance" and settings.is_local:
            check_device(config.importance.device, "importance.device")
        yield stage.name, reason


def run_missing(
    config: RunConfig,
    settings: RunnerSettings,
    last: str = flow.STAGE_NAMES[-1],
    *,
    verify: bool = False,
) -> Iterator[tuple[str, bool]]:
    """Run every stage up to `last` that is missing, damaged or out of date; yield each name and
    whether it ran. The folder is held until the iterator is exhausted or closed.

    Args:
        config: of the run.
        settings: of the runner.
        last: the last stage.
        verify: whether every byte of what is there is compared with its checksum.
    """
    if settings.is_left_alone:
        raise ConfigError(
            "run waits for each stage before the next one; without waiting give a single stage: "
            "trelm-pipeline STAGE … --no_wait_until_finish"
        )
    needed = tuple(
        name for name, reason in planned(config, settings, last, verify=verify) if reason
    )
    if needed:
        announce(config, settings, needed)
    # Held from the first stage to the last: another program must not come in between two of them.
    with sole_writer(config.run) if needed and not settings.is_dry else contextlib.nullcontext():
        for stage in flow.stages_until(last):
            if is_needed(stage, config):
                # What was whole a moment ago is not read again.
                is_read = verify and stage.name in needed
                yield stage.name, run_stage(stage.name, config, settings, verify=is_read)


def announce(config: RunConfig, settings: RunnerSettings, stages: tuple[str, ...]) -> None:
    """Say what some stages will roughly need of this machine, where they run on it.

    Raises:
        ConfigError: there is far less.
    """
    if settings.is_dry or not settings.is_local or not files.is_local(config.run):
        return
    needs = needs_of(config, stages, settings)
    if config.check_needs:
        check_needs(needs, config.run)
    else:
        logger.info("%s", needs.text)


def run_command_stages(
    command: str, config: RunConfig, settings: RunnerSettings, *, redo: bool = False
) -> None:
    """Run the stages of one command, in order: `documents` runs `titles` first, where it is needed."""
    stages = [stage for stage in flow.STAGES if stage.command == command]
    # To see whether `titles` is needed, the corpus is looked at.
    _refuse_local_paths(config, settings, [stage.name for stage in stages])
    for stage in stages:
        if is_needed(stage, config):
            run_stage(stage.name, config, settings, redo=redo)
            if stage is not stages[-1] and _is_under_way(stage.name, config, settings):
                logger.info(
                    "%s: comes after %s; call again when its job has ended", command, stage.name
                )
                return


def _is_under_way(name: str, config: RunConfig, settings: RunnerSettings) -> bool:
    """Say whether a job that nobody waits for has yet to write a stage's output."""
    paths = RunPaths(root=config.run)
    return settings.is_left_alone and bool(why_needed(plan_stage(name, config), paths))


def is_needed(stage: flow.Stage, config: RunConfig) -> bool:
    """Say whether a stage has work in this run: `titles` only where the corpus has MediaWiki pages."""
    if stage.name != "titles":
        return True
    from pipeline.documents.corpus import files_of

    return "wiki-xml" in files_of(config.documents).values()


def run_stage(
    name: str,
    config: RunConfig,
    settings: RunnerSettings,
    *,
    redo: bool = False,
    verify: bool = False,
) -> bool:
    """Run one stage unless its output is there already, and whole; return whether it ran.

    Raises:
        StageError, ConfigError: what was wrong, where, what to do.
    """
    check_run(config, settings, [name])
    paths = RunPaths(root=config.run)
    plan = plan_stage(name, config)
    reason = why_needed(plan, paths, verify=verify)
    if not reason and not redo:
        logger.info("%s: up to date, skipped (%s)", name, rows_written(paths, name))
        if not settings.is_dry:
            _settle(plan, paths)
        return False

    with sole_writer(config.run):
        # Another program may have done it since.
        reason = why_needed(plan, paths, verify=verify)
        if not reason and not redo:
            return False
        if reason and reason != NOT_FINISHED:
            logger.info("%s: runs again: %s", name, reason)
            _forget_damaged(plan, paths, settings)
        return _run_planned(plan, config, settings, redo=redo)


def _settle(plan: StagePlan, paths: RunPaths) -> None:
    """End what a program was about to do that was killed when the stage's manifest stood already.

    Not where another program is at work: it ends with the same.
    """
    scratch = files.join(paths.stage(plan.name), plan.data_folder, SCRATCH)
    # A lock of this program is nothing that a killed one has left.
    left = [scratch, *([] if holds(paths.root) else [files.join(paths.root, LOCK_NAME)])]
    if has_database(paths) and not any(map(files.exists, left)):
        return
    with contextlib.suppress(LockedError), sole_writer(paths.root):
        remove_older(paths.stage(plan.name), plan.data_folder)
        _end_stage(plan, paths)


def _end_stage(plan: StagePlan, paths: RunPaths) -> None:
    """Do what the launcher does after a stage's manifest; it may be done twice."""
    write_database(paths)
    files.remove(files.join(paths.stage(plan.name), plan.data_folder, SCRATCH))


def _run_planned(
    plan: StagePlan, config: RunConfig, settings: RunnerSettings, *, redo: bool
) -> bool:
    """Run a stage whose folder this program holds; return whether it ran."""
    name, paths = plan.name, RunPaths(root=config.run)
    if redo and not settings.is_dry:
        # The manifest goes before the data: without its manifest an output does not exist.
        files.remove(paths.manifest_path(name))
        files.remove(files.join(paths.stage(name), plan.data_folder))
    started_s = time.monotonic()
    files.make_folder(config.run)
    prepared = prepare(plan, paths)
    files.write_bytes(files.join(config.run, CONFIG_NAME), to_toml(config).encode())

    try:
        run_graph(
            on_machines(name, suited_workers(name, config, settings)),
            lambda pipeline, address: build_graph(
                pipeline, prepared, address, is_one_per_core=settings.is_one_per_core
            ),
            _workload_of(prepared),
        )
    finally:
        # The inputs of the next stage may have changed meanwhile.
        forget_listings()
    if settings.is_dry or settings.is_left_alone:
        return False
    _end_stage(plan, paths)
    logger.info("%s: %s in %.1f s", name, rows_written(paths, name), time.monotonic() - started_s)
    return True


def on_machines(stage: str, settings: RunnerSettings) -> RunnerSettings:
    """Return settings that ask a service for the machines that a stage needs, unless they say which.

    A stage is a job of its own: a hint for the whole job makes one kind of worker, one for a step two.
    """
    if not settings.is_dataflow or any("min_ram" in flag for flag in settings.beam_flags):
        return settings
    hint = f"--resource_hint=min_ram={worker_ram_gb(stage)}GB"
    return replace(settings, beam_flags=(*settings.beam_flags, hint))


def _forget_damaged(plan: StagePlan, paths: RunPaths, settings: RunnerSettings) -> None:
    """Remove the manifest of an output that is up to date and damaged.

    Without it the output does not exist: a run that is killed while it mends goes on mending.
    """
    try:
        manifest = paths.manifest(plan.name)
    except StageError:
        # A damaged manifest is written over when the stage has finished.
        return
    is_damaged = manifest is not None and manifest.fingerprint == plan.fingerprint
    if is_damaged and not settings.is_dry:
        files.remove(paths.manifest_path(plan.name))


def check_run(config: RunConfig, settings: RunnerSettings, stages: Sequence[str]) -> None:
    """Refuse a run's folder that cannot work, and local paths that a cluster could not read.

    Args:
        config: of the run.
        settings: of the runner.
        stages: whose paths count.

    Raises:
        ConfigError: says which path.
    """
    if not config.run:
        raise ConfigError('no run folder; give --run FOLDER (or run = "…" in the configuration)')

    if any(unicodedata.category(character) in CONTROL for character in config.run):
        raise ConfigError(
            f"--run {config.run!r}: a run's folder may not have control characters or ends of lines in "
            "its name; choose another name"
        )
    _refuse_local_paths(config, settings, stages)

    # Lists of files are made with globs below the folder.
    if any(character in config.run for character in files.GLOB_CHARACTERS):
        raise ConfigError(
            f"--run {config.run!r}: a run's folder may not have any of {files.GLOB_CHARACTERS} "
            "in its name; choose another name"
        )

    holds = occupant(location_of(config.run))
    if holds not in ("", PIPELINE):
        raise ConfigError(
            f"--run {config.run!r}: holds {holds}, which must not be mixed with a run of "
            "trelm-pipeline; give another --run folder"
        )

    # The last command's settings are kept there; a person's own must not be written over.
    kept = files.join(config.run, CONFIG_NAME)
    content = files.read_if_there(kept)
    if content is not None and not is_written_here(content.decode(errors="replace")):
        raise ConfigError(
            f"{kept}: was not written by trelm-pipeline, which keeps the settings of a run there; "
            "move it, or give another --run folder"
        )


def _refuse_local_paths(config: RunConfig, settings: RunnerSettings, stages: Sequence[str]) -> None:
    """Refuse paths of this machine that the workers of some stages could not read.

    Raises:
        ConfigError: says which, and how to copy them.
    """
    # A dry run rehearses on a local run: nothing is submitted.
    if not settings.is_local and not settings.is_dry:
        options = beam_options(settings).get_all_options()
        check_paths(settings.runner, config.run, paths_of(stages, config), options)


def _workload_of(prepared: PreparedStage) -> Workload:
    return Workload(
        stage=prepared.plan.name,
        total=sum(unit.size for unit in prepared.pending),
        num_units=len(prepared.pending),
        measure=prepared.plan.measure,
        noun=prepared.plan.noun,
    )


def rows_written(paths: RunPaths, name: str) -> str:
    """Return the rows of a stage's tables, in words."""
    manifest = paths.manifest(name)
    if manifest is None:
        return "not finished"
    counts = [
        f"{table_name} {table.rows:,}"
        for table_name, table in manifest.tables.items()
        if table.rows or table_name != "rejects"
    ]
    if "statements" in manifest.counters:
        counts.append(share_in_words(manifest.counters))
    if "weights" in manifest.extra:
        try:
            about = load_weights(paths.artefact(name, "weights")).about
        except ConfigError:
            # The links are there all the same; the file only says where their weights came from.
            counts.append("its weights are damaged: --verify makes them again")
        else:
            counts += filter(None, [fitted_in_words(about)])
    return ", ".join(counts) or "index written"

"""Make one run in a process of its own: train, export, ask, write `result.json`.

The run is a normal one in its folder, and goes on from its checkpoint where one is there. The
result comes last, whole or not at all: a folder with a result of the right fingerprint is done.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.buckets import location_of
from schemas.command_line import set_up_logging
from schemas.durable import partial_of, publish, write_durably
from schemas.errors import TrelmError
from trelm_train.compare.experiment import Experiment
from trelm_train.compare.plan import Run
from trelm_train.compare.processes import become_job
from trelm_train.compare.questions import ask_paraphrases, ask_probes, text_loss
from trelm_train.compare.tasks import task_scores
from trelm_train.data.knowledge import load_knowledge
from trelm_train.data.loader import Packing
from trelm_train.data.shards import open_shards
from trelm_train.evaluate.mlm import evaluate_mlm
from trelm_train.model.masked_lm import (
    check_tokenizer,
    load_pretrained,
    load_tokenizer,
    pick_device,
)

RESULT, ANSWERS, FAILURE, TASK, LOG = (
    "result.json", "answers.parquet", "failure.txt", "task.json", "log.txt",
)  # fmt: skip
TASKS = "tasks"
# What a run leaves that no table needs.
BULKY = ("checkpoints", "initial", "model", TASKS)
NO_ANSWERS = pa.table(
    {
        "probes": pa.array([], pa.string()),
        "subject": pa.array([], pa.string()),
        "rank": pa.array([], pa.int64()),
    }
)
# Measures of `evaluate mlm` that a result keeps.
VALIDATION = ("loss", "entity_loss", "near_rare_loss", "accuracy", "cka_score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Hold what a worker needs to make one run."""

    experiment: Experiment
    run: Run
    # Of the experiment.
    root: Path
    fingerprint: str
    keep_models: bool

    @property
    def folder(self) -> Path:
        """Return the folder of the run."""
        return self.root / self.run.folder

    def result(self) -> dict[str, Any] | None:
        """Return the result if it is there, whole, and that of this task."""
        return read_result(self.folder / RESULT, self.fingerprint)


def read_result(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return a result that has the right fingerprint, or nothing."""
    try:
        run_result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_right = isinstance(run_result, dict) and run_result.get("fingerprint") == fingerprint
    return run_result if is_right and (path.parent / ANSWERS).is_file() else None


def work(task: Task) -> None:
    """Make a run in this process, which ends with 0, with 1 after a failure, or after a signal.

    A failure leaves its message in `failure.txt`.
    """
    folder = task.folder
    become_job(task.root)
    # The log is in the folder, so the folder comes first.
    _prepare_folder(task)
    _redirect(folder / LOG)
    set_up_logging(verbose=False)
    try:
        _make(task)
    except TrelmError as error:
        # A run that was asked to stop has saved; it has not failed.
        if error.exit_code <= 2:
            _fail(folder, error.message)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - other runs go on; the log has the traceback
        traceback.print_exc()
        _fail(folder, f"{type(error).__name__}: {error}")
        sys.exit(1)


def _fail(folder: Path, message: str) -> None:
    logging.getLogger(__name__).error("%s", message)
    (folder / FAILURE).write_text(message + "\n", encoding="utf-8")


def _prepare_folder(task: Task) -> None:
    """Make the folder; remove what a run of another fingerprint has left there.

    What no run has left ends the process with a message, and stays.
    """
    folder = task.folder
    described = {
        "fingerprint": task.fingerprint, "role": task.run.role, "arm": task.run.arm,
        "steps": task.run.steps, "planned_s": task.run.seconds,
    }  # fmt: skip

    path = folder / TASK
    # A kill may leave the task half written.
    others = set(folder.iterdir()) - {partial_of(path)} if folder.is_dir() else set()
    if others and not path.exists():
        sys.stderr.write(
            f"{folder}: holds files, and `compare` has made no run there; move them, or give "
            "another --out folder\n"
        )
        sys.exit(1)
    # A checkpoint of other settings or shards must not be continued.
    if folder.exists() and _fingerprint_in(path) != task.fingerprint:
        # Another name first: a kill half way must not leave a folder without its task.
        removed = folder.with_name(f".{folder.name}.removed")
        shutil.rmtree(removed, ignore_errors=True)
        folder.rename(removed)
        shutil.rmtree(removed)
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps(described, indent=1) + "\n")
    # Of an earlier try: what stands there afterwards is this one's.
    for name in (RESULT, FAILURE):
        (folder / name).unlink(missing_ok=True)


def _fingerprint_in(path: Path) -> str:
    """Return the fingerprint that a file holds; empty where it is torn or not there."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _redirect(path: Path) -> None:
    """Let standard output and standard error of this process go to the end of a file."""
    # What is still in the buffers belongs to the program above.
    sys.stdout.flush()
    sys.stderr.flush()
    # Appended: a run that goes on has the log of its first part above.
    log_file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log_file, number)
    os.close(log_file)


def _make(task: Task) -> None:
    """Train unless that is done, measure, write the result, remove what is bulky."""
    settings, run, folder = task.experiment.experiment, task.run, task.folder
    training: dict[str, Any] = {}
    model_name = settings.model
    if run.config is not None:
        training = _train(task)
        model_name = str(folder / "model")

    start = time.perf_counter()
    measures, answers = _measure(task, model_name)
    run_result = {
        "fingerprint": task.fingerprint,
        "role": run.role,
        "arm": run.arm,
        "rate": run.rate,
        "seed": run.seed,
        "budget": run.budget,
        "steps": run.steps,
        "planned_s": run.seconds,
        "flops": run.flops,
        "training": training,
        "measuring_s": time.perf_counter() - start,
        "measures": measures,
    }

    # Answers first: `result.json` says that the run is done.
    partial = partial_of(folder / ANSWERS)
    pq.write_table(answers, partial)
    publish(partial, folder / ANSWERS)
    # No NaN: the file would be no JSON, and a comparison with NaN says nothing.
    write_durably(folder / RESULT, json.dumps(run_result, indent=1, allow_nan=False) + "\n")

    # After the result: a kill before it must leave the checkpoint that the run goes on from.
    for name in BULKY:
        if name != "model" or not task.keep_models:
            shutil.rmtree(folder / name, ignore_errors=True)


def _train(task: Task) -> dict[str, Any]:
    """Train, or go on; return what it took."""
    from trelm_train.checkpoints.checkpoint import CHECKPOINTS, latest_checkpoint
    from trelm_train.training.session import RunRequest
    from trelm_train.training.train import run_or_resume

    settings, run, folder = task.experiment.experiment, task.run, task.folder
    assert run.config is not None

    is_resumed = latest_checkpoint(folder / CHECKPOINTS) is not None
    request = RunRequest(
        shards=location_of(task.experiment.shards_of(run.arm)),
        model=settings.model,
        out=folder,
        config=run.config,
        beside=(TASK, LOG),
    )
    start = time.process_time()
    summary = run_or_resume(request)
    return {
        "training_s": summary["training_s"],
        # Of the whole process: of a run that went on, the first part is not known.
        "processor_s": None if is_resumed else time.process_time() - start,
        "steps": summary["steps"],
        "tokens": summary["tokens"],
        "skipped_steps": summary["skipped_steps"],
        "loss_last": summary["loss_last"],
        "mlm_loss_last": summary["mlm_loss_last"],
        "seconds": summary["seconds"],
        "trained_per_step_share": summary["trained_per_step_share"],
        "peak_rss_mb": summary["peak_rss_mb"],
    }


def _measure(task: Task, model_name: str) -> tuple[dict[str, dict[str, float]], pa.Table]:
    """Ask a model everything; return measures by `probes/NAME`, `text/NAME` and the like."""
    experiment, settings = task.experiment, task.experiment.experiment
    # The untrained model has no settings; only the device is read.
    config = task.run.config or experiment.config(experiment.arm(settings.baseline))
    shards = open_shards(location_of(settings.shards))
    model = load_pretrained(model_name, pick_device(config.train.device))
    vocabulary = check_tokenizer(model_name, model, shards)
    tokenizer = load_tokenizer(str(shards.tokenizer_path))

    measures: dict[str, dict[str, float]] = {}
    tables = []
    for probes in experiment.probes:
        answers = ask_probes(model, tokenizer, probes)
        measures[f"probes/{probes.name}"] = answers.measures()
        tables.append(answers.table(probes.name))
    for facts in experiment.paraphrases:
        measures[f"paraphrases/{facts.name}"] = ask_paraphrases(model, tokenizer, facts)
    for text in experiment.texts:
        measures[f"text/{text.name}"] = text_loss(model, tokenizer, text)

    for task_set in experiment.tasks:
        measures[f"tasks/{task_set.name}"] = task_scores(
            task_set, model_name, task.folder / TASKS / task_set.name, config.train.device
        )

    if settings.validation_sentences:
        # Fixed, so that arms with other batches see the same questions.
        packing = Packing(
            max_tokens=min(128, model.max_tokens), batch_tokens=4096, limit=model.max_tokens
        )
        report = asdict(
            evaluate_mlm(
                model,
                vocabulary,
                shards,
                load_knowledge(shards),
                packing,
                max_sentences=settings.validation_sentences,
            )
        )
        validation = {name: report[name] for name in VALIDATION if report[name] is not None}
        measures["validation"] = validation
    # Without probes the file has no row, but is there.
    return measures, pa.concat_tables(tables) if tables else NO_ANSWERS

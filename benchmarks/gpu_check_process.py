"""Run a check in a process of its own: a new one, or a fork of one that has everything imported.

A new process is what a check gets on a GPU: CUDA does not survive a fork of a process that has asked
for it, and a library may ask when it is imported. Without a GPU nothing can go wrong there, and a
fork saves the four seconds of processor time that imports take.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import child
from benchmarks.harness import TooSlowError, Variant, VariantError, run_once

IMPORTED = (
    "benchmarks.gpu_check_speed", "benchmarks.gpu_check_facts", "transformers.models.bert.modeling_bert",
    "pipeline.encoder.sentence_encoder",
)  # fmt: skip


def in_new_process(variant: Variant, scratch: Path, limit_s: float) -> Mapping[str, Any]:
    """Run a variant in a new process and return its answer (`benchmarks.child`).

    Raises:
        VariantError: it failed, or took longer than its limit.
    """
    return run_once(variant, scratch, limit_s)


def in_fork(variant: Variant, scratch: Path, limit_s: float) -> Mapping[str, Any]:
    """Run a variant in a fork of a process with everything imported, and return its answer.

    Raises:
        VariantError: it failed, or took longer than its limit.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    with tempfile.TemporaryDirectory(dir=scratch, prefix="fork-") as folder:
        request = {
            "target": variant.target, "arguments": dict(variant.arguments), "core": None, "scratch": str(scratch),
        }  # fmt: skip
        process = context.Process(target=_work, args=(request, folder))
        process.start()
        try:
            process.join(limit_s)
            if process.is_alive():
                raise TooSlowError(
                    f"{variant.name} ({variant.target}) took more than {limit_s:.0f} s"
                )
        finally:
            # Whatever it has started ends with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
        if process.exitcode != 0:
            output = (Path(folder) / "output").read_text(encoding="utf-8", errors="replace")
            raise VariantError(
                f"{variant.name} ({variant.target}) failed (exit code {process.exitcode}):\n{output[-4000:]}"
            )
        answer: Mapping[str, Any] = json.loads(
            (Path(folder) / "answer.json").read_text(encoding="utf-8")
        )
    return answer


def _work(request: dict[str, Any], folder: str) -> None:
    """Be the process: its output and its answer go to a folder."""
    # A group of its own, so that its children can be ended with it.
    os.setsid()
    output = os.open(Path(folder) / "output", os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(output, number)
    answer = json.dumps(child.run(request), allow_nan=False)
    (Path(folder) / "answer.json").write_text(answer, encoding="utf-8")

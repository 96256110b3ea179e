"""Run the trainer in processes that find it imported: a new interpreter takes three seconds for that.

The first use starts one process that imports the trainer and does nothing else; each trainer is a fork of it. A pause or
a kill must therefore name a function where it is used: modules that took it by name have it already.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import signal
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.pausing import HOOK

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["trelm_train.cli", "trelm_train.training.train", "transformers.models.bert.modeling_bert"]
)

Place = tuple[str, str, int]  # a module, a function of it, and the number of the call


def start(
    arguments: list[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    killed_at: Place | None = None,
) -> ForkServerProcess:
    """Start `trelm-train`; its output goes to `stdout` and `stderr` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    process = CONTEXT.Process(
        target=_main, args=(arguments, folder, dict(environment or {}), killed_at)
    )
    process.start()
    return process


def _main(
    arguments: list[str], folder: Path, environment: dict[str, str], killed_at: Place | None
) -> None:
    import torch

    from trelm_train import cli

    os.environ.update(environment)
    torch.set_num_threads(1)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if killed_at:
        _kill_at(*killed_at)
    if "TRELM_TEST_PAUSE" in environment:
        hook = runpy.run_path(str(HOOK / "sitecustomize.py"))
        hook["pause_in"](importlib.import_module(hook["PAUSE"]["module"]))
    cli.main(arguments)


def _kill_at(module: str, name: str, call: int) -> None:
    """Have this process killed where it calls a function for the n-th time."""
    owner = importlib.import_module(module)
    whole, calls = getattr(owner, name), 0

    def killed(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*args)

    setattr(owner, name, killed)

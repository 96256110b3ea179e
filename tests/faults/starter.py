"""Start programs that find everything imported: a new interpreter takes four seconds for that.

`serve` imports both programs and does nothing else. Whoever connects sends one line of JSON; a fork does the work of the
program it names, and the answer is the fork's process number, then its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

HOOK = Path(__file__).parent / "hook"
PROGRAMS = {"trelm-pipeline": "pipeline.cli", "trelm-train": "trelm_train.cli"}
# What the programs import when they need it.
HEAVY = (
    "apache_beam.runners.portability.fn_api_runner.fn_runner",
    "spacy.lang.en",
    "spacy.pipeline.factories",
    "powerlaw",
    "transformers.models.bert.modeling_bert",
    "pipeline.run_stage",
    "pipeline.kb.stage",
    "pipeline.documents.titles_stage",
    "pipeline.documents.stage",
    "pipeline.index.stage",
    "pipeline.link.stage",
    "pipeline.stats.stage",
    "pipeline.importance.stage",
    "pipeline.shards.stage",
    "pipeline.encoder.sentence_encoder",
    "trelm_train.training.train",
    "trelm_train.init",
)


def serve(address: str) -> NoReturn:
    """Import everything, then start a program for everyone who connects. Ends with its parent."""
    parent = os.getppid()
    for module in (*PROGRAMS.values(), *HEAVY):
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    listener.settimeout(1.0)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            connection.settimeout(None)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _attend(connection)
        connection.close()
    os._exit(0)


def _attend(connection: socket.socket) -> NoReturn:
    """Start one program, and tell its number and its end."""
    with connection.makefile("rw") as stream:
        order = json.loads(stream.readline())
        pid = os.fork()
        if pid == 0:
            connection.close()
            _run(order)
        stream.write(f"{pid}\n")
        stream.flush()
        _, status, used = os.wait4(pid, 0)
        seconds = used.ru_utime + used.ru_stime
        stream.write(f"{os.waitstatus_to_exitcode(status)} {seconds:.3f}\n")
        stream.flush()
    os._exit(0)


def _run(order: dict[str, Any]) -> NoReturn:
    """Be the program."""
    code = 1
    try:
        # A group of its own: a kill strikes the program and its workers, and nobody else.
        os.setsid()
        os.chdir(order["cwd"])
        os.environ.update(order["environment"])
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if order["max_file_bytes"]:
            limit = order["max_file_bytes"]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        _use_few_threads()
        runpy.run_path(str(HOOK / "sitecustomize.py"))
        module = importlib.import_module(PROGRAMS[order["program"]])
        sys.argv = [order["program"], *order["words"]]
        module.main(order["words"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - it is shown as an interpreter would
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _use_few_threads() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    serve(sys.argv[1])

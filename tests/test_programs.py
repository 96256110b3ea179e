"""Both programs where the working folder has packages of the same names, and what they share on the command line."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import pipeline.cli
import trelm_train.cli
from schemas.command_line import INTERRUPTED, TERMINATED, WRONG_USAGE, Terminated, call
from schemas.errors import ConfigError, TrelmError
from tests.pausing import PATIENCE_S
from tests.pipeline.cases import ROOT, in_process, sample_arguments

BIN = Path(sys.executable).parent
PROGRAMS = {
    "trelm-pipeline": (pipeline.cli.cli, pipeline.cli.PROGRAM),
    "trelm-train": (trelm_train.cli.cli, trelm_train.cli.PROGRAM),
}


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A folder with a `schemas/`, a `pipeline/` and a `trelm_train/` of its own, none of them ours."""
    for name in ("schemas", "pipeline", "trelm_train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    return tmp_path


def run_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(words), cwd=folder, check=False, text=True, capture_output=True, timeout=PATIENCE_S
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_found_wherever_it_is_started(shadowed: Path, name: str) -> None:
    done = run_in(shadowed, str(BIN / name), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


@pytest.mark.slow
def test_the_documented_form_of_torchrun_works_there_and_the_other_does_not(shadowed: Path) -> None:
    """`-m` puts the working folder first on the path, so a package of the user's own hides ours."""
    torchrun = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    program = str(BIN / "trelm-train")
    done = run_in(shadowed, *torchrun, "--no-python", program, "run", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == 2, "one of each rank"
    hidden = run_in(shadowed, sys.executable, "-m", "trelm_train", "--help")
    assert "not ours" in hidden.stderr


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("words", [["-h"], ["--help"], ["-v", "-h"], ["run", "-v", "--help"]])
def test_both_take_the_same_flags(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    group, program = PROGRAMS[name]
    assert call(lambda: group.main(words, prog_name=name, standalone_mode=False), program) == 0
    assert f"Usage: {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (TrelmError("broken: do this"), 1, "Error: broken: do this"),
        (ConfigError("wrong: do that"), WRONG_USAGE, "Error: wrong: do that"),
        (click.UsageError("odd"), WRONG_USAGE, "Error: odd"),
        (PermissionError(13, "Permission denied", "x"), 1, "check the path, its permissions"),
        (ModuleNotFoundError("no", name="torch"), 1, "pip install 'trelm["),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted; "),
        (Terminated(), TERMINATED, "stopped; "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_both_end_alike(
    name: str, error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command
    def fail() -> None:
        raise error

    program = PROGRAMS[name][1]
    assert call(lambda: fail.main([], standalone_mode=False), program) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_missing_module_of_our_own_is_no_missing_extra() -> None:
    def fail() -> None:
        raise ModuleNotFoundError("no", name="pipeline.nothing")

    with pytest.raises(ModuleNotFoundError):
        call(fail, pipeline.cli.PROGRAM)


STUCK = """
import ctypes, sys
from schemas.command_line import Program, call

def stuck():
    print("waiting", flush=True)
    # Code below Python that waits, and waits again when a signal wakes it.
    libc, time = ctypes.CDLL(None), ctypes.c_uint(600)
    list(map(libc.sleep, [time] * 9))

sys.exit(call(stuck, Program(extra="x", after_stop="nothing was written")))
"""


@pytest.mark.slow
def test_a_program_that_hangs_below_python_ends_on_sigterm() -> None:
    """The handler cannot run there: a thread ends the program some seconds later."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == TERMINATED
    assert "stopped; " in said


INTERRUPTED_EARLY = """
import sys
import pipeline.cli as program

def interrupted(**options):
    import apache_beam

class HalfImported:
    '''As if the signal had come while Beam was being imported: importing it again fails.'''

    def find_spec(self, name, path=None, target=None):
        if name == "apache_beam":
            seen.append(name)
            raise KeyboardInterrupt if len(seen) == 1 else AttributeError("partially initialized")

seen = []
sys.meta_path.insert(0, HalfImported())
program.cli.commands["stats"].callback = interrupted
program.main(["stats", "--run", "x"])
"""


def test_an_interruption_while_beam_is_imported_is_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_EARLY],
        check=False,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == INTERRUPTED, done.stderr
    assert "interrupted; finished units are kept" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_line_that_a_library_writes_itself_is_not_written_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    library, ours = logging.getLogger("some_library"), logging.getLogger("trelm")
    handler = logging.StreamHandler(sys.stderr)
    library.addHandler(handler)
    try:
        assert (
            call(lambda: (library.warning("theirs"), ours.info("ours")), pipeline.cli.PROGRAM) == 0
        )
    finally:
        library.removeHandler(handler)
    said = capsys.readouterr().err
    assert (said.count("theirs"), said.count("ours")) == (1, 1)


@pytest.mark.slow
def test_a_package_that_a_worker_lacks_is_named(tmp_path: Path) -> None:
    done = in_process("run", "--until", "link", *sample_arguments(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'powerlaw':\n"
        "            raise ModuleNotFoundError(\"No module named 'powerlaw'\", name='powerlaw')\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "stats", "--run", str(tmp_path / "run")],
        check=False,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        },
    )
    assert done.returncode == 1
    assert (
        "powerlaw is not installed; install it with: pip install 'trelm[pipeline]'" in done.stderr
    )
    assert "Traceback" not in done.stderr


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    """Run some code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


@pytest.mark.slow
@pytest.mark.parametrize("program", ["pipeline", "trelm_train"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_loading_shows_no_trace(program: str, times: int) -> None:
    """The first second is spent in imports; a Ctrl-C there showed where."""
    code = (
        f"import signal, sys, threading, _thread, {program}.start as start\n"
        # A shell starts what runs in the background with interrupts ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == '{program}.cli':\n"
        f"            [_thread.interrupt_main() for _ in range({times})]\n"
        "            while True: pass\n"
        "sys.meta_path.insert(0, Slow())\n"
        "start.main()\n"
    )
    done = run_code(code)
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing was done\n")


def test_ctrl_c_again_while_the_program_ends_changes_nothing() -> None:
    code = (
        "import atexit, os, signal\n"
        "from schemas.command_line import INTERRUPTED, leave\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "leave(INTERRUPTED)\n"
    )
    done = run_code(code)
    assert (done.returncode, done.stderr) == (130, "")


WITHOUT_EXTRAS = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        names = ("apitools", "gcsfs", "s3fs", "google.cloud", "google.auth", "googleapiclient")
        if any(name == missing or name.startswith(missing + ".") for missing in names):
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Missing())
from pipeline.start import main
main()
"""


@pytest.mark.slow
def test_an_environment_without_extras_is_quiet(tmp_path: Path) -> None:
    """Beam warns through the root logger that it does not find what the extra gcp brings."""
    arguments = ["kb", *sample_arguments(tmp_path / "run"), "--workers", "2"]
    done = run_in(ROOT, sys.executable, "-c", WITHOUT_EXTRAS, *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if "kb: " not in line] == []
    done = run_in(ROOT, sys.executable, "-c", WITHOUT_EXTRAS, "-v", *arguments, "--redo")
    assert "apitools not found" in done.stderr, "with -v it is shown, so it is still there"

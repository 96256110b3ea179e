"""Let both programs behave alike on the command line: help, log lines, errors, exit codes.

Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration, 130 interrupted, 143
terminated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from schemas.buckets import CACHE, is_bucket
from schemas.errors import TrelmError

FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# Between a signal and the end of a program that does not react to it.
GRACE_S = 5.0
# Subcommands inherit both from their group.
HELP_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
# What stands in the path of Beam's modules.
BEAM = f"{os.sep}apache_beam{os.sep}"
OWN_LOGGERS = ("trelm", "trelm_train")
OWN_PACKAGES = ("pipeline", "trelm_train", "schemas")


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """Say what differs between the two programs."""

    # The extra that installs what it imports: pip install 'trelm[EXTRA]'.
    extra: str
    # What a user should know when a command was stopped, unless the command itself says something
    # else.
    after_stop: str
    # Signals that end it like SIGTERM.
    stop_signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)


@dataclass(kw_only=True, slots=True)
class _Invocation:
    """Hold what is known of the command that this process runs; a thread reads it too."""

    is_verbose: bool = False
    after_stop: str = ""
    # Whether a signal has come that ends the command.
    is_stopping: bool = False


_invocation = _Invocation()


class Terminated(KeyboardInterrupt):
    """Say that the process was asked to stop by a signal that is not Ctrl-C."""


class EchoHandler(logging.Handler):
    """Write log lines to the present standard error: a test or a progress bar may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, unless a library has a handler of its own that writes it."""
        if _is_of_beam(record) and not _invocation.is_verbose:
            return
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None and logger.parent is not None:
            if logger.handlers:
                return
            logger = logger.parent
        click.echo(self.format(record), err=True)


def _is_of_beam(record: logging.LogRecord) -> bool:
    """Say whether Beam has logged past its own loggers: which optional packages it does not find."""
    return record.name == "root" and BEAM in record.pathname


def set_up_logging(*, verbose: bool) -> None:
    """Show our own log lines with their time, warnings of other libraries, and with `verbose` debug
    lines.
    """
    root = logging.getLogger()
    if not any(isinstance(handler, EchoHandler) for handler in root.handlers):
        handler = EchoHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        root.addHandler(handler)

    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
    # Beam reports every failed attempt with three tracebacks; the error itself reaches the user
    # anyway.
    logging.getLogger("apache_beam").setLevel(logging.INFO if verbose else logging.CRITICAL)


def say_after_stop(text: str) -> None:
    """Set the text for a user whose command is stopped."""
    _invocation.after_stop = text


class LocationParam(click.Path):
    """Take a path of this machine, or an address in a bucket, which is given on as text."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 - as that of click
        """Return the address without a `/` at its end, or what `click.Path` makes of a path."""
        if isinstance(value, str) and is_bucket(value):
            return value.rstrip("/")
        return super().convert(value, param, ctx)


def _set_cache(_context: click.Context, _option: click.Parameter, value: Path | None) -> None:
    if value is not None:
        os.environ[CACHE] = str(value.absolute())


def add_cache_option(command: click.Command) -> None:
    """Give every command below a group the option --cache."""
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            add_cache_option(subcommand)
        return
    option = click.Option(
        ["--cache"],
        type=click.Path(path_type=Path, file_okay=False),
        expose_value=False,
        callback=_set_cache,
        help=f"Folder for copies of what lies in buckets; {CACHE} names it too.",
    )
    command.params.append(option)


def _remember_verbose(_context: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if value:
        _invocation.is_verbose = True
        set_up_logging(verbose=True)


def add_verbose_option(command: click.Command) -> None:
    """Give a command, and all commands below it, the option -v."""
    option = click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_remember_verbose,
        help="Show debug messages and full tracebacks.",
    )

    command.params.append(option)
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            add_verbose_option(subcommand)


def call(command: Callable[[], object], program: Program) -> int:
    """Run a command and return its exit code; errors that a user can act on become one message."""
    _invocation.is_verbose = False
    _invocation.after_stop = program.after_stop
    _invocation.is_stopping = False
    set_up_logging(verbose=False)

    with _stopped_by(program.stop_signals):
        try:
            command()
        except TrelmError as error:
            return _fail(error.message, error.exit_code)
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt) as error:
            # Click turns a KeyboardInterrupt, and so our own kind of it, into an Abort.
            cause = error.__cause__ if isinstance(error, click.Abort) else error
            is_terminated = isinstance(cause, Terminated)
            verb = "stopped" if is_terminated else "interrupted"
            click.echo(f"{verb}; {_invocation.after_stop}", err=True)
            return TERMINATED if is_terminated else INTERRUPTED
        except ModuleNotFoundError as error:
            # A module of our own that is missing is a fault of the program, which its traceback
            # shows best.
            if error.name is None or error.name.partition(".")[0] in OWN_PACKAGES:
                raise
            advice = f"install it with: pip install 'trelm[{program.extra}]'"
            return _fail(f"{error.name} is not installed; {advice}", FAILED)
        except OSError as error:
            return _fail(f"{error}; check the path, its permissions and the free space", FAILED)
    return 0


def _fail(message: str, code: int) -> int:
    if _invocation.is_verbose:
        click.echo(traceback.format_exc(), err=True)
    click.echo(f"Error: {message}", err=True)
    return code


@contextlib.contextmanager
def _stopped_by(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Turn signals into `Terminated` inside a `with` block; end the program if that has no effect."""
    previous = {number: signal.signal(number, _terminate) for number in signals}
    # A handler of Python runs between two of its instructions: not while a library's C++ code waits
    # for a network. The number of a signal arrives on this socket at once, and a thread sees it.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    previous_hook, threading.excepthook = threading.excepthook, _report_of_thread
    has_ended = threading.Event()
    watcher = threading.Thread(target=_end_if_stuck, args=(reader, has_ended), daemon=True)
    watcher.start()

    try:
        yield
    finally:
        has_ended.set()
        threading.excepthook = previous_hook
        signal.set_wakeup_fd(previous_wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        writer.close()
        watcher.join()
        reader.close()


def _report_of_thread(failure: threading.ExceptHookArgs) -> None:
    """Show what a thread failed with, unless the command is being stopped.

    A library's threads fail then, because the processes are gone that they talk to.
    """
    if _invocation.is_verbose or not _invocation.is_stopping:
        threading.__excepthook__(failure)


def _terminate(number: int, _frame: object) -> NoReturn:
    # Beam's worker processes would outlive this one for seconds, and hold it up while it ends.
    kill_children()
    raise Terminated(f"signal {number}")


def _end_if_stuck(reader: socket.socket, has_ended: threading.Event) -> None:
    """End the process where a signal of ours came and the program is still there some seconds later."""
    while number := reader.recv(1):
        # While a run of the trainer listens for itself, another handler is in place.
        handler = signal.getsignal(number[0])
        is_ours = handler is _terminate or handler is signal.default_int_handler
        _invocation.is_stopping |= is_ours
        if is_ours and not has_ended.wait(GRACE_S):
            verb, code = ("stopped", TERMINATED)
            if number[0] == signal.SIGINT:
                verb, code = ("interrupted", INTERRUPTED)
            kill_children()
            sys.stderr.write(f"{verb}; {_invocation.after_stop}\n")
            sys.stderr.flush()
            os._exit(code)


def kill_children() -> None:
    """End every process that this one has started, and theirs.

    What they had half written is never read.
    """
    for process in _descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _descendants(parent: int) -> list[int]:
    """List the processes below one, parents first, because a shell may stand between.

    The list is empty where the system names no children.
    """
    children = []
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(number) for number in listing.read_text().split()]
    return [*children, *(process for child in children for process in _descendants(child))]


def leave(code: int) -> NoReturn:
    """End the program with an exit code, after all that it has written is out.

    After an interruption no child is left, and no thread of a library is waited for.

    Raises:
        SystemExit: where no thread would hold the program.
    """
    is_stopped = code in (INTERRUPTED, TERMINATED)
    if is_stopped:
        # A second signal would end Python's own end with a trace, or with another exit code.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        kill_children()
    sys.stdout.flush()
    sys.stderr.flush()

    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if is_stopped and any(not thread.daemon for thread in threads):
        # Python would wait for these threads before it ends.
        os._exit(code)
    sys.exit(code)

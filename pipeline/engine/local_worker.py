"""Be a worker process of a local run: Beam's own worker, without its lines on the terminal.

While it is imported, Beam logs what it lacks and nobody uses, such as clients of Google's. The first
such line gives Python's logging a handler that prints all that follows; here it finds one that
prints nothing. What a worker logs reaches the program by Beam's own way.
"""

from __future__ import annotations

import logging
import shlex
import sys


def command_line() -> str:
    """Return the command that starts one, for a shell.

    -P: a folder of the user's own that is called like one of our packages must not hide it.
    """
    return f"{shlex.quote(sys.executable)} -P -m {__name__}"


def main() -> None:
    """Run Beam's worker until the program ends it."""
    logging.getLogger().addHandler(logging.NullHandler())
    from apache_beam.runners.worker.sdk_worker_main import main as work

    work(sys.argv)


if __name__ == "__main__":
    main()

"""Do a fault at a chosen change of a program's files. See tests/faults/programs.py.

Python tells about every file that is opened for writing, renamed or removed before it happens. These moments are
counted, over all processes of the program, as far as their path matches; at the chosen one the fault comes. Worker
processes import this module at their start, because its folder is on PYTHONPATH; without the environment variable
TRELM_TEST_FAULT it does nothing.
"""

import errno
import json
import os
import re
import signal
import sys
import time

FAULT = json.loads(os.environ.get("TRELM_TEST_FAULT", "null"))
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def watch() -> None:
    """Watch the changes of files from now on."""
    path = re.compile(FAULT["path"])
    is_inside = False

    def hook(event, arguments) -> None:
        nonlocal is_inside
        if event not in EVENTS or is_inside or not isinstance(arguments[0], str):
            return
        if event == "open" and not (arguments[2] or 0) & WRITES:
            return
        name = full_path(event, arguments)
        if not path.search(name):
            return
        is_inside = True
        try:
            come(event, name)
        finally:
            is_inside = False

    sys.addaudithook(hook)


def full_path(event, arguments) -> str:
    """Where a change happens: names may count from the working folder, or from an open one."""
    folder = os.getcwd()
    if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
        folder = os.readlink(f"/proc/self/fd/{arguments[1]}")
    return os.path.normpath(os.path.join(folder, arguments[0]))


def come(event, path) -> None:
    """Count a moment, and do the fault where it is the one."""
    handle = os.open(FAULT["count"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, f"{event} {path}\n".encode().ljust(256)[:256])
        number = os.lseek(handle, 0, os.SEEK_CUR) // 256
    finally:
        os.close(handle)
    at = FAULT.get("at") or 0
    if not at or number < at:
        return
    if FAULT["kind"] == "kill all":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    elif FAULT["kind"] == "kill one" and number == at:
        os.kill(os.getpid(), signal.SIGKILL)
    elif FAULT["kind"] == "full" and event in ("open", "os.mkdir"):
        # Full it stays: the program cannot go on by trying again.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    elif FAULT["kind"] == "stop" and number == at:
        open(FAULT["count"] + ".reached", "w").close()
        while not os.path.exists(FAULT["count"] + ".release"):
            time.sleep(0.01)


def clock_back(seconds) -> None:
    """Set the clock of this process back."""
    real = time.time
    time.time = lambda: real() - seconds


if FAULT and FAULT.get("path"):
    watch()
if FAULT and FAULT.get("clock_back_s"):
    clock_back(FAULT["clock_back_s"])

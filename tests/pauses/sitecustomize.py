"""Pause a program under test at a chosen call, so that a test can stop it there. See tests/pausing.py.

Python imports a module of this name at every start, in worker processes too, when its folder is on PYTHONPATH. Without
the environment variable TRELM_TEST_PAUSE it does nothing.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import uuid
from pathlib import Path

PAUSE = json.loads(os.environ.get("TRELM_TEST_PAUSE", "null"))


def pause() -> None:
    """Say that the program has come here, and wait until the test lets it go on."""
    folder = Path(PAUSE["folder"])
    (folder / "calls" / uuid.uuid4().hex).touch()
    if len(list((folder / "calls").iterdir())) < PAUSE["call"]:
        return
    try:
        (folder / "paused").touch(exist_ok=False)
    except FileExistsError:
        return  # another process, or an earlier call, was the one
    (folder / "reached").write_text("x")
    (folder / "release").read_text()


def wrap(function):
    """Give a function a pause before or after its work."""

    @functools.wraps(function)
    def paused(*args, **kwargs):
        if not PAUSE["after"]:
            pause()
        result = function(*args, **kwargs)
        if PAUSE["after"]:
            pause()
        return result

    return paused


def pause_in(module) -> None:
    """Wrap the function in a module that is loaded."""
    *classes, name = PAUSE["function"].split(".")
    owner = functools.reduce(getattr, classes, module)
    setattr(owner, name, wrap(getattr(owner, name)))


class Loader(importlib.abc.Loader):
    """Load a module as always, then wrap the function in it."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec):
        return self.loader.create_module(spec)

    def exec_module(self, module) -> None:
        self.loader.exec_module(module)
        pause_in(module)


class Finder(importlib.abc.MetaPathFinder):
    """Find the one module that holds the function."""

    def find_spec(self, name, path=None, target=None):
        if name != PAUSE["module"]:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader = Loader(spec.loader)
        return spec


if PAUSE:
    sys.meta_path.insert(0, Finder())
